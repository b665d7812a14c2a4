"""Agent-steps per second of RLlib on the same markets: naive, in the modes of `use_batched`, and native for scale;
and of a Gymnasium vector environment.

    python -m benchmarks.rllib_bridge [--quick] [--json PATH]

All programs are built and warmed up first, then run in turn, round after round, so that a slow phase of the machine
hits all of them; a figure is the best round. torch runs on one thread. `naive` is one `MarketMultiAgentEnv` per market
under RLlib's own runner; `native` is a scan of the markets with a copy of the same network, every output reduced.
"""

import argparse
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from benchmarks.throughput import market
from bridges.gymnasium_vector import MarketVectorEnv
from bridges.markets import compiled
from bridges.rllib import register_market, use_batched
from bridges.rllib.policy import ModulePolicy, distribution, export
from bridges.rllib.rollout import Actions, Collector
from bridges.rllib.seating import Seating
from jaxarena.core.reduce import total
from jaxarena.learn.rollout import Transition, collect

AGENTS = 8
NAME = "Benchmark"
EPOCHS = 2
MINIBATCH_ROWS = 4096


@dataclasses.dataclass
class Contestant:
    """One way to sample and to train."""

    mode: str
    markets: int
    steps: int  # per market and sample
    sample: Callable[[], Any]
    iterate: Callable[[], Any] | None = None
    sample_s: list[float] = dataclasses.field(default_factory=list)
    iterate_s: list[float] = dataclasses.field(default_factory=list)
    algorithm: Any = None

    @property
    def agent_steps(self) -> int:
        """Of one sample."""
        return self.markets * self.steps * AGENTS

    def run(self) -> None:
        """One round."""
        self.sample_s.append(_seconds(self.sample))
        if self.iterate is not None:
            self.iterate_s.append(_seconds(self.iterate))

    def row(self, native: float | None) -> dict[str, Any]:
        """The result."""
        share = None
        if self.mode.startswith("rollout"):
            share = connector_share(self.algorithm, self.sample, min(self.iterate_s))
        return {
            "mode": self.mode,
            "markets": self.markets,
            "agents": AGENTS,
            "sample_agent_steps_per_s": self.agent_steps / min(self.sample_s),
            "iteration_agent_steps_per_s": self.agent_steps / min(self.iterate_s) if self.iterate_s else None,
            "native_agent_steps_per_s": native,
            "learner_connector_share": share,
            "device": jax.devices()[0].device_kind,
        }


def everybody(*_: Any, **__: Any) -> str:
    """All agents follow one module."""
    return "trader"


def config_for(markets: int, steps: int) -> PPOConfig:
    """PPO with two layers of 64, not batched yet."""
    return (
        PPOConfig()
        .environment(f"jaxarena/{NAME}", disable_env_checking=True)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=markets, rollout_fragment_length=steps)
        .multi_agent(policies={"trader"}, policy_mapping_fn=everybody)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64], vf_share_layers=False))
        .training(
            train_batch_size_per_learner=markets * steps,
            minibatch_size=min(MINIBATCH_ROWS, markets * steps),
            num_epochs=EPOCHS,
        )
        .debugging(seed=0, log_level="ERROR")
    )


def contestant(mode: str, markets: int, steps: int, *, train: bool = True) -> Contestant:
    """`naive`, or `mode` or `mode+backend` of `use_batched`."""
    config = config_for(markets, steps)
    if mode != "naive":
        name, _, backend = mode.partition("+")
        use_batched(config, mode=name, policy_backend=backend or "auto")  # type: ignore[arg-type]
    algorithm = config.build_algo()
    runner = algorithm.env_runner
    return Contestant(
        mode,
        markets,
        steps,
        sample=lambda: runner.sample(num_timesteps=markets * steps, explore=True),
        iterate=algorithm.training_step if train else None,
        algorithm=algorithm,
    )


def native(markets: int, steps: int) -> Contestant:
    """A scan of the markets with a copy of the network; rewards and ends are recorded, observations are used up."""
    env, params = market(AGENTS, 1)
    seating = Seating(env, everybody)
    collector = Collector(seating, markets, Actions())
    group = seating.groups[0]
    config = config_for(markets, steps)
    spaces = {"trader": (seating.observation_spaces[group.agents[0]], seating.action_spaces[group.agents[0]])}
    module = config.get_multi_rl_module_spec(spaces=spaces, inference_only=True).build()
    policy = export(module["trader"], group.action_space, group.obs_size)

    def play(state: Any, policy: ModulePolicy, params: Any) -> Any:
        carry, obs, key, sums = state

        def act(key: jax.Array, obs: Any) -> Any:
            raw = distribution(group.action_space, policy.logits(group.observe(obs))).sample(key)
            return collector.environment_actions({group.name: raw}), ()

        def record(step: Transition) -> Any:
            return total(jnp.concatenate([step.reward["trader"], step.terminated["trader"], step.truncated["trader"]]))

        carry, obs, told = collect(collector.markets, params, act, carry, obs, key, steps, record)
        return carry, obs, jax.random.fold_in(key, 1), sums + told.sum()

    program = jax.jit(play, donate_argnums=0)
    obs, carry = jax.jit(collector.markets.reset)(jax.random.key(0), params)
    box = [(carry, obs, jax.random.key(1), jnp.zeros(()))]

    def sample() -> None:
        box[0] = jax.block_until_ready(program(box[0], policy, params))

    return Contestant("native", markets, steps, sample)


def stepped(markets: int, steps: int) -> tuple[Contestant, Contestant]:
    """One call per step with actions from outside: the compiled native step, and Gymnasium's vector environment."""
    env, params = market(AGENTS, 1)
    program = compiled(env, markets)
    envs = MarketVectorEnv((env, params), markets)
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.0, 1.0, (8, markets * AGENTS, 1)).astype(np.float32)
    native_actions = [{"trader": part.reshape(markets, AGENTS, 1).transpose(1, 2, 0).copy()} for part in actions]
    box = [program.reset(jax.random.key(0), params)[1]]

    def native() -> None:
        for t in range(steps):
            _, box[0], *_ = jax.block_until_ready(program.step(box[0], native_actions[t % 8], params))

    def gymnasium() -> None:
        for t in range(steps):
            envs.step(actions[t % 8])

    return Contestant("native calls", markets, steps, native), Contestant("gymnasium", markets, steps, gymnasium)


def connector_share(algorithm: Any, sample: Callable[[], Any], iteration_s: float) -> float:
    """Share of an iteration in which the learner's connector makes a train batch of a rollout."""
    learner = algorithm.learner_group._learner
    seconds = []
    for _ in range(5):
        rollout = sample()
        call = functools.partial(
            learner._learner_connector,
            rl_module=learner.module,
            batch={},
            episodes=rollout,
            shared_data={},
            metrics=learner.metrics,
        )
        seconds.append(_seconds(call))
    return min(seconds) / iteration_s


def run(quick: bool) -> list[dict[str, Any]]:
    """All contestants."""
    rounds = 3 if quick else 5
    many, steps = 1024, 32
    few = [
        contestant("naive", 64, 16 if quick else 64),
        contestant("episodes", 64, 16 if quick else 64),
        contestant("naive", many, 2, train=False),
        contestant("episodes", many, 8 if quick else steps, train=not quick),
    ]
    fast = [
        native(many, steps),
        contestant("rollout+jax", many, steps),
        contestant("rollout+torch", many, steps),
        contestant("fused", many, steps),
    ]
    everyone = fast + few + list(stepped(many, steps))
    for one in everyone:
        one.run()
        one.sample_s.clear()
        one.iterate_s.clear()
    for _ in range(rounds):
        for one in everyone:
            one.run()
    scan = fast[0].agent_steps / min(fast[0].sample_s)
    rows = [one.row(scan if one.markets == many else None) for one in everyone]
    for row in rows:
        iteration = row["iteration_agent_steps_per_s"]
        shown = f"iteration {iteration:9,.0f}" if iteration else ""
        if row["learner_connector_share"] is not None:
            shown += f"  connector {row['learner_connector_share']:.1%} of it"
        print(f"{row['mode']:14s} E={row['markets']:5d}  sampling {row['sample_agent_steps_per_s']:11,.0f}  {shown}")
    _print_ratios(rows)
    return rows


def _print_ratios(rows: list[dict[str, Any]]) -> None:
    """The figures that matter, as ratios of this run."""
    rates = {(row["mode"], row["markets"]): row["sample_agent_steps_per_s"] for row in rows}
    whole = {row["mode"]: row["iteration_agent_steps_per_s"] for row in rows if row["iteration_agent_steps_per_s"]}
    naive = max(rate for (mode, _), rate in rates.items() if mode == "naive")
    print(f"  rollout, policy in JAX: {rates['rollout+jax', 1024] / naive:.0f} x naive sampling")
    print(f"  rollout, policy in JAX: {rates['rollout+jax', 1024] / rates['native', 1024]:.2f} x the native scan")
    print(f"  rollout, policy in torch: {rates['rollout+torch', 1024] / naive:.0f} x naive sampling")
    print(f"  episodes: {rates['episodes', 64] / rates['naive', 64]:.1f} x naive sampling of 64 markets")
    print(f"  episodes: 1,024 markets at {rates['episodes', 1024] / rates['episodes', 64]:.2f} x the rate of 64")
    print(f"  gymnasium: {rates['gymnasium', 1024] / rates['native calls', 1024]:.2f} x native calls, one per step")
    for mode in ("rollout+jax", "fused"):
        print(f"  {mode}: {whole[mode] / whole['naive']:.1f} x naive whole iterations")


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Sampling and training speed of RLlib on jaxarena's markets.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter episodes")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
    register_market(NAME, lambda: market(AGENTS, 1))
    rows = run(arguments.quick)
    ray.shutdown()
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
