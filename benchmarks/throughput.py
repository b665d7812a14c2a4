"""How many agent-steps per second: markets alone, with a policy, and in training, beside gymnax's CartPole.

    python -m benchmarks.throughput [--quick] [--json PATH]

Every program is compiled first (that time is reported apart), then all programs of a group are timed in
turn, round after round, so that a slow phase of the machine hits all of them alike; a row gives the
median. Every output of every step, observations included, is added into the carry, so that nothing can be
optimised away. Auto-reset and the exact ledger are on.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import reference_ppo
from jaxarena.core.draws import fold_in
from jaxarena.core.reduce import total
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import BarReturns, Indicators, MarketFlow, Portfolio
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.env.wrappers import Markets
from jaxarena.learn.ppo import PPO, PPOConfig
from jaxarena.learn.rollout import collect
from jaxarena.market.margin import RiskLimits
from jaxarena.market.processes import Gbm

CARTPOLE = "gymnax CartPole-v1"


@dataclasses.dataclass
class Program:
    """A compiled function from a state to the next one, and what a call of it amounts to."""

    name: str
    mode: str
    markets: int
    agents: int
    assets: int
    steps: int  # agent-steps of one call
    call: Callable[[Any], Any]
    state: Any
    compile_s: float = 0.0
    seconds: list[float] = dataclasses.field(default_factory=list)

    def compile(self) -> None:
        """Compile and run once."""
        start = time.perf_counter()
        self.call = jax.jit(self.call, donate_argnums=0).lower(self.state).compile()
        self.compile_s = time.perf_counter() - start
        self.state = jax.block_until_ready(self.call(self.state))

    def time(self) -> None:
        """Run once more and note the time."""
        start = time.perf_counter()
        self.state = jax.block_until_ready(self.call(self.state))
        self.seconds.append(time.perf_counter() - start)

    def row(self) -> dict[str, Any]:
        """The result."""
        return {
            "name": self.name,
            "mode": self.mode,
            "markets": self.markets,
            "agents": self.agents,
            "assets": self.assets,
            "agent_steps_per_s": self.steps / statistics.median(self.seconds),
            "compile_s": self.compile_s,
            "device": jax.devices()[0].device_kind,
        }


def market(agents: int, assets: int) -> tuple[MarketEnv, MarketParams]:
    """A Gaussian market with impact; every agent observes at least 64 floats."""
    observations = (BarReturns(length=max(1, 11 // assets)), Indicators(), MarketFlow(), Portfolio())
    role = Role(name="trader", count=agents, limits=RiskLimits(allow_short=True), observations=observations)
    env, params = MarketEnv.build(MarketParams(process=Gbm(n_assets=assets), roles=(role,)))
    if env.observation_space("trader").size < 64:
        raise AssertionError("the benchmark's observations must have at least 64 floats")
    return env, params


def env_only(agents: int, assets: int, num_markets: int, steps: int) -> Program:
    """Random actions, every output reduced into the carry."""
    env, params = market(agents, assets)
    markets = Markets(env, num_markets)

    def call(state: Any) -> Any:
        def step(state: Any, _: None) -> tuple[Any, None]:
            carry, key, sums = state
            obs, carry, reward, terminated, truncated, _info = markets.step(carry, markets.sample_actions(key), params)
            seen = total(obs["trader"].reshape(-1, num_markets))
            told = total(jnp.concatenate([reward["trader"], terminated["trader"], truncated["trader"]]))
            return (carry, fold_in(key, 1), sums + seen + told), None

        return jax.lax.scan(step, state, None, steps)[0]

    _, carry = jax.jit(markets.reset)(jax.random.key(0), params)
    state = (carry, jax.random.key(1), jnp.zeros(num_markets))
    return Program("jaxarena", "env", num_markets, agents, assets, steps * agents * num_markets, call, state)


def env_reset(agents: int, assets: int, num_markets: int, steps: int) -> Program:
    """Nothing but resets, every output reduced into the carry; a step of this row is a reset of all agents."""
    env, params = market(agents, assets)
    markets = Markets(env, num_markets)

    def call(state: Any) -> Any:
        def step(state: Any, _: None) -> tuple[Any, None]:
            key, sums = state
            # Adds zero, as the compiler cannot know: a reset without draws would otherwise be computed before the loop.
            nothing = (sums[0] > 3e38).astype(jnp.float32)
            obs, carry = markets.reset(
                key, jax.tree.map(lambda leaf: leaf + nothing if leaf.dtype == jnp.float32 else leaf, params)
            )
            numbers = [leaf for leaf in jax.tree.leaves(carry.market) if leaf.dtype == jnp.float32]
            kept = sum((total(leaf.reshape(-1, num_markets)) for leaf in numbers), jnp.zeros(num_markets))
            return (fold_in(key, 1), sums + total(obs["trader"].reshape(-1, num_markets)) + kept), None

        return jax.lax.scan(step, state, None, steps)[0]

    state = (jax.random.key(1), jnp.zeros(num_markets))
    return Program("jaxarena", "reset", num_markets, agents, assets, steps * agents * num_markets, call, state)


def env_and_policy(agents: int, assets: int, num_markets: int, steps: int) -> Program:
    """The collector with a 2 x 64 network that samples actions."""
    env, params = market(agents, assets)
    ppo = PPO(env, params, None, PPOConfig(), num_markets)
    start = jax.jit(ppo.init)(jax.random.key(0), params)
    act = ppo.policy({name: group.policy for name, group in start.groups.items()})

    def call(state: Any) -> Any:
        carry, obs, key, sums = state
        carry, obs, rewards = collect(ppo.markets, params, act, carry, obs, key, steps, lambda step: step.reward)
        return carry, obs, jax.random.fold_in(key, 1), sums + rewards["trader"].sum()

    state = (start.markets, start.obs, jax.random.key(1), jnp.zeros(()))
    return Program("jaxarena", "env+policy", num_markets, agents, assets, steps * agents * num_markets, call, state)


def training(agents: int, assets: int, num_markets: int, length: int, minibatches: int) -> Program:
    """Whole PPO updates: 2 x 64 network, 4 epochs."""
    env, params = market(agents, assets)
    config = PPOConfig(rollout_length=length, minibatches=minibatches, epochs=4, hidden=(64, 64))
    ppo = PPO(env, params, None, config, num_markets)
    state = jax.jit(ppo.init)(jax.random.key(0), params)

    def call(state: Any) -> Any:
        return ppo.update_chunk(state, params, 1, jnp.float32(1e6))[0]

    steps = length * agents * num_markets
    return Program("jaxarena", "train", num_markets, agents, assets, steps, call, state)


def cartpole(num_envs: int, steps: int) -> Program:
    """Gymnax's CartPole with its own `sample` per environment, observations reduced likewise."""
    import gymnax  # noqa: PLC0415 - slow to import

    env, params = gymnax.make("CartPole-v1")
    sample = jax.vmap(env.action_space(params).sample)

    def call(state: Any) -> Any:
        def step(state: Any, _: None) -> tuple[Any, None]:
            env_state, key, sums = state
            key, key_action, key_step = jax.random.split(key, 3)
            action = sample(jax.random.split(key_action, num_envs))
            keys = jax.random.split(key_step, num_envs)
            stepped = jax.vmap(env.step, in_axes=(0, 0, 0, None))(keys, env_state, action, params)
            obs, env_state, reward, terminated, truncated, _ = stepped
            return (env_state, key, sums + obs.sum(-1) + reward + terminated + truncated), None

        return jax.lax.scan(step, state, None, steps)[0]

    _, env_state = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(jax.random.key(0), num_envs), params)
    state = (env_state, jax.random.key(1), jnp.zeros(num_envs))
    return Program(CARTPOLE, "env", num_envs, 1, 0, steps * num_envs, call, state)


def cartpole_training(num_envs: int, length: int, minibatches: int) -> Program:
    """The PPO of `benchmarks.reference_ppo` on CartPole."""
    train, state = reference_ppo.prepare(num_envs, length, 1, 4, minibatches, (64, 64))
    return Program(CARTPOLE, "train", num_envs, 1, 0, length * num_envs, lambda s: train(s)[0], state)


def measure(programs: list[Program], rounds: int) -> list[dict[str, Any]]:
    """Compile all, then time them in turn."""
    for program in programs:
        program.compile()
    for _ in range(rounds):
        for program in programs:
            program.time()
    rows = [program.row() for program in programs]
    for row in rows:
        print(
            f"{row['name']:20s} {row['mode']:10s} E={row['markets']:5d} N={row['agents']:3d} A={row['assets']:3d} "
            f"{row['agent_steps_per_s'] / 1e6:9.3f} M agent-steps/s   compile {row['compile_s']:5.1f} s",
            flush=True,
        )
    return rows


def import_ratio(rounds: int) -> float:
    """Time of `import jaxarena` over that of `import jax, flax, optax`, each in fresh processes, medians."""

    def seconds(statement: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - start

    pairs = [(seconds("import jaxarena"), seconds("import jax, flax, optax")) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)


def run(quick: bool) -> list[dict[str, Any]]:
    """All groups; `quick` keeps the sizes of the headline figures and few rounds."""
    rounds, steps = (5, 32) if quick else (9, 64)
    print("markets alone")
    headline = [
        cartpole(4096, 2 * steps),
        env_only(8, 1, 4096, steps),
        env_only(8, 10, 1024, steps),
        env_reset(8, 1, 4096, steps),
    ]
    rows = measure(headline, rounds)
    base = rows[0]["agent_steps_per_s"]
    print(f"  1 asset x 8 agents, 4,096 markets: {rows[1]['agent_steps_per_s'] / base:.2f} x CartPole")
    print(f"  10 assets x 8 agents, 1,024 markets: {rows[2]['agent_steps_per_s'] / base:.2f} x CartPole")
    print(f"  a reset costs {rows[1]['agent_steps_per_s'] / rows[3]['agent_steps_per_s']:.2f} x a step")
    print(f"  import jaxarena takes {import_ratio(5):.2f} x import jax, flax, optax")
    if not quick:
        print("markets alone, by size")
        sizes = [
            (agents, assets, markets)
            for agents, assets in ((1, 1), (8, 1), (64, 1), (8, 10))
            for markets in (1, 64, 1024, 4096)
            if agents * assets * markets < 300_000
        ]
        for agents, assets, markets in sizes:
            rows += measure([env_only(agents, assets, markets, steps)], rounds)
    print("with a policy")
    rows += measure([env_and_policy(8, 1, 1024, 16 if quick else steps)], rounds)
    print("training, 4 epochs, 32,768 rows per minibatch")
    pair = measure([cartpole_training(1024, 128, 4), training(8, 1, 128, 128, 4)], 5)
    print(f"  {pair[1]['agent_steps_per_s'] / pair[0]['agent_steps_per_s']:.2f} x the reference PPO on CartPole")
    return rows + pair


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Agent-steps per second of markets, policies and training.")
    parser.add_argument("--quick", action="store_true", help="the headline sizes only, fewer rounds")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    rows = run(arguments.quick)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
