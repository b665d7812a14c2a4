"""The one collector: plays policies in a batch of markets, for training and for evaluation.

Belongs here: the loop over steps. Does not belong here: what is learned from it.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxarena.core.tree import Record


class BatchedMarkets(Protocol):
    """Many markets stepped together, the market axis last in memory (`jaxarena.env.wrappers.Markets`)."""

    def reset(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        """Start every market: observations and carry. key: consumed."""

    def step(self, carry: Any, action: Any, params: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
        """Advance every market: obs, carry, reward, terminated, truncated, info."""


class Transition(Record):
    """One step of all markets; dictionaries are keyed by role."""

    obs: dict[str, jax.Array]  # [N_role, D_role, E] acted on
    action: dict[str, jax.Array]  # [N_role, (n,) E]
    extra: Any  # what the policy handed along
    carry: Any  # of the markets, after the step
    next_obs: dict[str, jax.Array]  # [N_role, D_role, E] after the step and, where it happened, the reset
    reward: dict[str, jax.Array]  # [N_role, E]
    terminated: dict[str, jax.Array]  # [N_role, E] bool
    truncated: dict[str, jax.Array]  # [N_role, E] bool
    info: dict[str, Any]


#: A policy: key and observations to actions by role, and anything it wants recorded. key: consumed.
Act = Callable[[jax.Array, dict[str, jax.Array]], tuple[dict[str, jax.Array], Any]]


def collect(
    markets: BatchedMarkets,
    params: Any,
    act: Act,
    carry: Any,
    obs: dict[str, jax.Array],
    key: jax.Array,
    num_steps: int,
    record: Callable[[Transition], Any],
) -> tuple[Any, dict[str, jax.Array], Any]:
    """Play `num_steps` steps in every market and stack what `record` takes from each.

    Only what `record` returns is stored, so an evaluation pays for the few series it reports and
    training for the rows it learns from. Step t uses `fold_in(key, t)`.

    Args:
        markets: the batch of markets.
        params: their parameters.
        act: the policy, stochastic or deterministic.
        carry: the markets' carry, from `markets.reset` or an earlier call.
        obs: the observations that belong to it.
        key: consumed.
        num_steps: T.
        record: picks from a `Transition` the tree to keep.

    Returns:
        The carry and observations to go on from, and the records with a leading axis `[T]`.
    """

    def step(state: tuple[Any, Any], t: jax.Array) -> tuple[tuple[Any, Any], Any]:
        carry, obs = state
        action, extra = act(jax.random.fold_in(key, t), obs)
        next_obs, carry, reward, terminated, truncated, info = markets.step(carry, action, params)
        transition = Transition(obs, action, extra, carry, next_obs, reward, terminated, truncated, info)
        return (carry, next_obs), record(transition)

    (carry, obs), records = jax.lax.scan(step, (carry, obs), jnp.arange(num_steps))
    return carry, obs, records


def values_where(needed: jax.Array, obs: jax.Array, critic: Callable[[jax.Array], jax.Array], width: int) -> jax.Array:
    """Values of the few markets that need them, `width` markets at a time; zero for the others.

    Episodes end in few markets at once, so evaluating the critic on all final observations would
    be almost entirely waste. The loop runs `ceil(needed / width)` times: usually none or once.

    Args:
        needed: `[E]` bool.
        obs: `[D, N, E]`.
        critic: maps `[D, N, width]` to values `[N, width]`.
        width: markets evaluated per turn.

    Returns:
        `[N, E]`.
    """
    markets = needed.shape[0]

    def turn(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, values = state
        chosen = jnp.nonzero(left, size=width, fill_value=markets)[0]
        part = critic(jnp.take(obs, chosen, axis=2, mode="clip"))
        return left.at[chosen].set(False, mode="drop"), values.at[:, chosen].set(part, mode="drop")

    start = (needed, jnp.zeros(obs.shape[1:], obs.dtype))
    return jax.lax.while_loop(lambda state: jnp.any(state[0]), turn, start)[1]
