"""The yardstick for training speed: a plain one-file PPO on gymnax CartPole-v1.

The usual shape of PPO in JAX: environments first in memory, rows of a batch shuffled one by one,
every array gathered, a pytree optimiser. It shares no code with `jaxarena.learn`. Network, epochs
and rows per minibatch are arguments, so that a training run of ours can be put beside it.

    python -m benchmarks.reference_ppo --num_envs 1024 --rollout_length 128
"""

import argparse
import json
import time
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]


class Network(nn.Module):
    """Policy logits and value of CartPole, two separate perceptrons."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits `[..., 2]` and value `[...]` of observations `[..., 4]`."""
        outputs = []
        for size, gain in ((2, 0.01), (1, 1.0)):
            h = x
            for width in self.hidden:
                h = nn.tanh(nn.Dense(width, kernel_init=nn.initializers.orthogonal(2**0.5))(h))
            outputs.append(nn.Dense(size, kernel_init=nn.initializers.orthogonal(gain))(h))
        return outputs[0], outputs[1][..., 0]


class Row(NamedTuple):
    """One environment step."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array


def _advantages(rows: Row, last_value: jax.Array, gamma: float, lam: float) -> jax.Array:
    def step(state: tuple[jax.Array, jax.Array], row: Row) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        advantage, next_value = state
        alive = 1.0 - row.done
        delta = row.reward + gamma * next_value * alive - row.value
        advantage = delta + gamma * lam * alive * advantage
        return (advantage, row.value), advantage

    start = (jnp.zeros_like(last_value), last_value)
    return jax.lax.scan(step, start, rows, reverse=True, unroll=16)[1]


def make_update(
    env: Any,
    env_params: Any,
    network: Network,
    optimizer: optax.GradientTransformation,
    num_envs: int,
    rollout_length: int,
    epochs: int,
    minibatches: int,
    gamma: float = 0.99,
    lam: float = 0.95,
    clip_eps: float = 0.2,
) -> Any:
    """One PPO update as a function for `lax.scan`: state to (state, mean return of the episodes that ended)."""

    def apply(params: Any, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        return cast(tuple[jax.Array, jax.Array], network.apply(params, obs))

    batch_size = num_envs * rollout_length

    def act(state: Any, _: None) -> tuple[Any, tuple[Row, jax.Array, jax.Array]]:
        params, env_state, obs, total, key = state
        key, key_action, key_step = jax.random.split(key, 3)
        logits, value = apply(params, obs)
        action = jax.random.categorical(key_action, logits)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], axis=1)[:, 0]
        keys = jax.random.split(key_step, num_envs)
        next_obs, env_state, reward, terminated, truncated, _ = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
            keys, env_state, action, env_params
        )
        done = (terminated | truncated).astype(jnp.float32)
        total = total + reward
        row = Row(obs, action, log_prob, value, reward, done)
        return (params, env_state, next_obs, total * (1.0 - done), key), (row, total * done, done)

    def loss(params: Any, rows: Row, advantage: jax.Array, target: jax.Array) -> jax.Array:
        logits, value = apply(params, rows.obs)
        log_probs = jax.nn.log_softmax(logits)
        log_prob = jnp.take_along_axis(log_probs, rows.action[:, None], axis=1)[:, 0]
        ratio = jnp.exp(log_prob - rows.log_prob)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps) * advantage)
        near = rows.value + jnp.clip(value - rows.value, -clip_eps, clip_eps)
        critic = 0.5 * jnp.maximum(jnp.square(value - target), jnp.square(near - target))
        entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=1)
        return -surrogate.mean() + 0.5 * critic.mean() - 0.01 * entropy.mean()

    def update(state: Any, _: None) -> tuple[Any, jax.Array]:
        params, opt_state, env_state, obs, total, key = state
        (_, env_state, obs, total, key), (rows, returns, done) = jax.lax.scan(
            act, (params, env_state, obs, total, key), None, rollout_length
        )
        advantage = _advantages(rows, apply(params, obs)[1], gamma, lam)
        batch = jax.tree.map(lambda x: x.reshape(batch_size, *x.shape[2:]), (rows, advantage, advantage + rows.value))

        def minibatch(state: Any, part: Any) -> tuple[Any, None]:
            params, opt_state = state
            updates, opt_state = optimizer.update(jax.grad(loss)(params, *part), opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        def epoch(state: Any, key: jax.Array) -> tuple[Any, None]:
            order = jax.random.permutation(key, batch_size)
            dealt = jax.tree.map(lambda x: x[order].reshape(minibatches, -1, *x.shape[1:]), batch)
            return jax.lax.scan(minibatch, state, dealt)

        key, key_epochs = jax.random.split(key)
        (params, opt_state), _ = jax.lax.scan(epoch, (params, opt_state), jax.random.split(key_epochs, epochs))
        mean_return = returns.sum() / jnp.maximum(done.sum(), 1.0)
        return (params, opt_state, env_state, obs, total, key), mean_return

    return update


def prepare(
    num_envs: int = 1024,
    rollout_length: int = 128,
    updates: int = 10,
    epochs: int = 4,
    minibatches: int = 4,
    hidden: tuple[int, ...] = (64, 64),
    lr: float = 2.5e-4,
    seed: int = 0,
) -> tuple[Any, Any]:
    """The training function and its first state; the arguments are those of `run`.

    Raises:
        ValueError: minibatches do not divide the rollout.
    """
    import gymnax  # noqa: PLC0415  (slow to import)

    if (num_envs * rollout_length) % minibatches:
        raise ValueError(f"minibatches: got {minibatches}, which does not divide {num_envs} x {rollout_length}")
    env, env_params = gymnax.make("CartPole-v1")
    network = Network(hidden)
    schedule = optax.linear_schedule(lr, 0.0, updates * epochs * minibatches)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(schedule, eps=1e-5))
    key_params, key_reset, key_train = jax.random.split(jax.random.key(seed), 3)
    params = network.init(key_params, jnp.zeros((1, 4)))
    obs, env_state = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(key_reset, num_envs), env_params)
    state = (params, optimizer.init(params), env_state, obs, jnp.zeros(num_envs), key_train)
    update = make_update(env, env_params, network, optimizer, num_envs, rollout_length, epochs, minibatches)

    def train(state: Any) -> tuple[Any, jax.Array]:
        return jax.lax.scan(update, state, None, updates)

    return train, state


def run(
    num_envs: int = 1024,
    rollout_length: int = 128,
    updates: int = 10,
    epochs: int = 4,
    minibatches: int = 4,
    hidden: tuple[int, ...] = (64, 64),
    lr: float = 2.5e-4,
    seed: int = 0,
) -> dict[str, Any]:
    """Train twice the same way: once to compile and learn, once more to measure.

    Args:
        num_envs: CartPoles stepped together.
        rollout_length: steps per update.
        updates: updates per run; the second run goes on from the first.
        epochs: passes over each rollout.
        minibatches: per epoch; rows per minibatch are `num_envs * rollout_length / minibatches`.
        hidden: layers of policy and critic.
        lr: learning rate, falling to zero over the first run.
        seed: of everything.

    Returns:
        `env_steps_per_s` without compilation, `compile_s`, `returns` (mean return of the episodes that
        ended in each update of the first run), and the settings.

    Raises:
        ValueError: minibatches do not divide the rollout.
    """
    train, state = prepare(num_envs, rollout_length, updates, epochs, minibatches, hidden, lr, seed)
    start = time.perf_counter()
    compiled = jax.jit(train).lower(state).compile()
    compile_s = time.perf_counter() - start
    state, returns = jax.block_until_ready(compiled(state))
    start = time.perf_counter()
    jax.block_until_ready(compiled(state))
    elapsed = time.perf_counter() - start
    return {
        "env_steps_per_s": updates * num_envs * rollout_length / elapsed,
        "compile_s": compile_s,
        "returns": [float(value) for value in returns],
        "device": jax.devices()[0].device_kind,
        "num_envs": num_envs,
        "rollout_length": rollout_length,
        "epochs": epochs,
        "minibatch_rows": num_envs * rollout_length // minibatches,
        "hidden": list(hidden),
    }


def main() -> None:
    """Command line: print the result of `run` as JSON."""
    parser = argparse.ArgumentParser(description="Speed of a plain PPO on CartPole.")
    for name, value in {"num_envs": 1024, "rollout_length": 128, "updates": 10, "epochs": 4, "minibatches": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    arguments = vars(parser.parse_args())
    print(json.dumps(run(**arguments | {"hidden": tuple(arguments["hidden"])}), indent=2))


if __name__ == "__main__":
    main()
