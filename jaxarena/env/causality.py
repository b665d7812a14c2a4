"""A check that nothing an agent sees or decides depends on what has not happened yet."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core.draws import fold_in
from jaxarena.env.env import MarketEnv
from jaxarena.env.state import MarketParams
from jaxarena.market.history import HistoricalReplay

#: Other futures that a check compares with; a decision out of a few may survive one of them by luck.
FUTURES = 4


def assert_causal(env: MarketEnv, params: MarketParams, key: jax.Array, steps: int = 24, at: int = 12) -> None:
    """Perturb the future of an episode and check that the present does not move.

    Episodes with `FUTURES` other futures share everything up to bar `at`: keys, actions, recorded bars.
    After it, recorded bars are replaced (and everything derived from them is built again), and random
    processes draw from other keys. Observations up to bar `at`, rewards up to it, and the orders decided
    at it must be bit-equal, and something later must differ.

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
    later = _first_hidden_bar(env, params, key, at)
    told = [
        run(env, _with_future(params, later, future), key, jnp.uint32(future), steps, at)
        for future in range(FUTURES + 1)
    ]
    changed = [_compare(told[0], other, steps, at) for other in told[1:]]
    if not all(changed):
        raise AssertionError("the perturbation changed nothing at all: this check could not have failed")


def _compare(first: Any, second: Any, steps: int, at: int) -> bool:
    """Whether anything differs after bar `at`; nothing may before."""
    changed = False
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
        different = ~np.all(_equal(a, b).reshape(steps, -1), axis=1)
        shared = at + 1 if "seen" in jax.tree_util.keystr(path) else at
        if different[:shared].any():
            when = int(np.argmax(different))
            raise AssertionError(f"{jax.tree_util.keystr(path)} at step {when} depends on bars after {at}")
        changed |= bool(different.any())
    return changed


def _run(env: MarketEnv, params: MarketParams, key: jax.Array, future: jax.Array, steps: int, at: int) -> Any:
    """What is seen and decided at bars 0 .. steps - 1, and what is earned after each of them."""
    obs, state = env.reset(fold_in(key, 0), params)

    def body(carry: Any, t: jax.Array) -> tuple[Any, Any]:
        obs, state = carry
        step_key = fold_in(key, 1 + t)
        action = env.sample_actions(fold_in(step_key, 0))
        orders = env.decide(fold_in(fold_in(step_key, 1), 0), state, action, params).orders
        # Agents draw from the shared stream of this step; the process from the future's own after `at`.
        later = jnp.where(t >= at, future, 0)
        env_key = fold_in(step_key, 1 + later)
        following, state, reward, terminated, truncated, _ = env.step_env(env_key, state, action, params)
        return (following, state), {
            "seen": {"obs": obs, "orders": orders},
            "earned": {"reward": reward, "terminated": terminated, "truncated": truncated},
        }

    return jax.lax.scan(body, (obs, state), jnp.arange(steps))[1]


def _first_hidden_bar(env: MarketEnv, params: MarketParams, key: jax.Array, at: int) -> int:
    """The recorded row after bar `at` of this episode; 0 if nothing is recorded."""
    if not isinstance(params.process, HistoricalReplay):
        return 0
    start = jax.jit(lambda params: env.first_state(fold_in(key, 0), params).process)(params)
    return int(params.process.bar_index(start)) + at + 1


def _with_future(params: MarketParams, later: int, future: int) -> MarketParams:
    """The market with recorded bars from row `later` on at one half to all of their prices; `future` 0 leaves them.

    Itself if nothing is recorded. What is derived from bars is derived again.
    """
    process = params.process
    if not isinstance(process, HistoricalReplay):
        return params
    bars = process.warm_bars()
    assert bars is not None
    factor = np.ones(np.shape(bars.close))
    if future > 0:  # downwards, independently for every bar: inside the range of ticks, and larger than any real move
        factor[later:] = np.random.default_rng(future).uniform(0.5, 1.0, factor[later:].shape)
    prices = {
        name: np.maximum(np.asarray(getattr(bars, field), np.float64) * factor, 1.0) * process.tick_size
        for name, field in (("open_", "open"), ("high", "high"), ("low", "low"), ("close", "close"))
    }
    changed = process.with_bars(process.symbols, volume=np.asarray(bars.volume) * factor, **prices)
    return MarketEnv.build(params.replace(process=changed))[1]


def _equal(a: jax.Array, b: jax.Array) -> np.ndarray:
    x, y = np.asarray(a), np.asarray(b)
    if np.issubdtype(x.dtype, np.floating):
        return np.asarray((x == y) | (np.isnan(x) & np.isnan(y)))
    return np.asarray(x == y)
