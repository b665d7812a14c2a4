"""A check that nothing an agent sees or decides depends on what has not happened yet."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core.draws import fold_in
from jaxarena.env.env import MarketEnv
from jaxarena.env.state import MarketParams
from jaxarena.market.history import HistoricalReplay


def assert_causal(env: MarketEnv, params: MarketParams, key: jax.Array, steps: int = 24, at: int = 12) -> None:
    """Perturb the future of an episode and check that the present does not move.

    Two episodes share everything up to bar `at`: keys, actions, recorded bars. After it, recorded bars
    are replaced (and everything derived from them is built again), and random processes draw from other
    keys. Observations up to bar `at`, rewards up to it, and the orders decided at it must be bit-equal,
    and something later must differ.

    Args:
        env: the environment.
        params: of `MarketEnv.build`.
        key: decides the episode and the perturbation.
        steps: length of the run; the episode must be longer.
        at: the last bar that both runs share.

    Raises:
        AssertionError: names the first step and the array that saw the future.
        ValueError: `at` and `steps` do not fit the episode.
    """
    if not 0 < at < steps <= int(params.episode_length):
        raise ValueError(
            f"assert_causal: need 0 < at < steps <= {int(params.episode_length)}, got at={at}, steps={steps}"
        )
    run = jax.jit(_run, static_argnames=("env", "steps", "at"))
    same, other = (_with_future(env, params, key, at, spread) for spread in (0.0, 0.02))
    first = run(env, same, key, jnp.uint32(0), steps, at)
    second = run(env, other, key, jnp.uint32(1), steps, at)
    changed = False
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
        different = ~np.all(_equal(a, b).reshape(steps, -1), axis=1)
        shared = at + 1 if "seen" in jax.tree_util.keystr(path) else at
        if different[:shared].any():
            when = int(np.argmax(different))
            raise AssertionError(f"{jax.tree_util.keystr(path)} at step {when} depends on bars after {at}")
        changed |= bool(different.any())
    if not changed:
        raise AssertionError("the perturbation changed nothing at all: this check could not have failed")


def _run(env: MarketEnv, params: MarketParams, key: jax.Array, future: jax.Array, steps: int, at: int) -> Any:
    """What is seen and decided at bars 0 .. steps - 1, and what is earned after each of them."""
    obs, state = env.reset(fold_in(key, 0), params)

    def body(carry: Any, t: jax.Array) -> tuple[Any, Any]:
        obs, state = carry
        step_key = fold_in(key, 1 + t)
        action = env.sample_actions(fold_in(step_key, 0))
        lots = env.decide(fold_in(fold_in(step_key, 1), 0), state, action, params).lots
        # Agents draw from the shared stream of this step; the process from the future's own after `at`.
        later = jnp.where(t >= at, future, 0)
        env_key = jax.lax.cond(later > 0, lambda: fold_in(step_key, 2), lambda: fold_in(step_key, 1))
        following, state, reward, terminated, truncated, _ = env.step_env(env_key, state, action, params)
        return (following, state), {
            "seen": {"obs": obs, "lots": lots},
            "earned": {"reward": reward, "terminated": terminated, "truncated": truncated},
        }

    return jax.lax.scan(body, (obs, state), jnp.arange(steps))[1]


def _with_future(env: MarketEnv, params: MarketParams, key: jax.Array, at: int, spread: float) -> MarketParams:
    """The market with recorded bars after bar `at` of this episode moved by a random walk of steps of `spread`.

    Itself if nothing is recorded. What is derived from bars is derived again.
    """
    process = params.process
    if not isinstance(process, HistoricalReplay):
        return params
    bars = process.warm_bars()
    assert bars is not None
    _, state = env.reset(fold_in(key, 0), params)
    later = int(process.bar_index(state.process)) + at + 1
    rng = np.random.default_rng(0)
    factor = np.ones(np.shape(bars.close))
    factor[later:] = np.exp(spread * rng.normal(size=factor[later:].shape).cumsum(0))
    prices = {
        name: np.asarray(getattr(bars, field), np.float64) * process.tick_size * factor
        for name, field in (("open_", "open"), ("high", "high"), ("low", "low"), ("close", "close"))
    }
    changed = process.with_bars(process.symbols, volume=np.asarray(bars.volume) * factor, **prices)
    return MarketEnv.build(params.replace(process=changed))[1]


def _equal(a: jax.Array, b: jax.Array) -> np.ndarray:
    x, y = np.asarray(a), np.asarray(b)
    if np.issubdtype(x.dtype, np.floating):
        return np.asarray((x == y) | (np.isnan(x) & np.isnan(y)))
    return np.asarray(x == y)
