"""Validation and preparation of a market, once, on the host.

Belongs here: every check that needs more than one component, and what is derived from parameters.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core.checks import expect_range
from jaxarena.core.money import MAX_QUANTA
from jaxarena.core.schema import nearest
from jaxarena.core.tree import as_arrays
from jaxarena.env.observations import Indicators, TimeLeft, ordered
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.market.indicators import scan_history, window_length
from jaxarena.market.processes import MAX_TICKS

if TYPE_CHECKING:
    from jaxarena.env.env import MarketEnv

_scan_history = jax.jit(scan_history, static_argnums=2)


def prepare(market: MarketParams) -> MarketParams:
    """Validate a market and return it as 32-bit arrays, indicators warmed up over recorded bars.

    Raises:
        ValueError: what is wrong, what is allowed, what to do.
    """
    _validate(market)
    _validate_per_asset(market)
    params = as_arrays(market.replace(warm_carries=None))
    history = params.process.warm_bars()
    if history is not None:
        rows = window_rows(params)
        params = params.replace(warm_carries=_scan_history(params.indicators, history, rows))
    return params


def window_rows(params: MarketParams) -> int:
    """Rows of the window of bars that serves every indicator, strategy and observation."""
    return window_length(params.indicators, max(role.lookback for role in params.roles))


def block_sizes(env: "MarketEnv", role: Role) -> list[tuple[str, int]]:
    """Name and size of each observation block of a role, in order."""
    params = env.default_params

    def sizes(key: jax.Array) -> list[jax.Array]:
        _, state = env.reset(key, params)
        market, account = env.market_view(state, params), env.account_view(role.name, state, params)
        return [block.observe(market, account) for block in ordered(role.observations)]

    shapes = jax.eval_shape(sizes, jax.random.key(0))
    return [(block.kind(), shape.shape[-1]) for block, shape in zip(ordered(role.observations), shapes, strict=True)]


def _validate(market: MarketParams) -> None:
    names = [role.name for role in market.roles]
    if not names:
        raise ValueError("market.roles: a market needs at least one role")
    if len(set(names)) != len(names):
        raise ValueError(f"market.roles: names must differ, got {names}")
    if not any(role.learned for role in market.roles):
        raise ValueError("market.roles: at least one role must be learned; leave out its 'strategy'")
    expect_range("market.episode_length", market.episode_length, 1, 2**30)
    expect_range("market.flow_memory", market.flow_memory, 0.0, 1.0)
    expect_range("market.risk_memory", market.risk_memory, 0.0, 1.0)
    expect_range("market.lot_multiplier", market.lot_multiplier, 1, 2**20)
    if market.horizon not in ("continuing", "terminal"):
        raise ValueError(
            f"market.horizon: got {market.horizon!r}; {nearest(market.horizon, ['continuing', 'terminal'])}"
        )
    for role in market.roles:
        if role.learned and not market.indicators and any(isinstance(block, Indicators) for block in role.observations):
            raise ValueError(
                f"roles.{role.name}.observations: 'indicators' needs market.indicators, which is empty; "
                "remove the block or add an indicator"
            )
        role.validate()
        _validate_horizon(market, role)
    for indicator in market.indicators:
        indicator.validate(f"market.indicators.{indicator.kind()}")
    market.mechanism.validate()
    market.costs.validate()
    market.financing.validate()
    market.process.validate(int(market.episode_length), window_rows(market))
    _validate_orders(market)
    _validate_money(market)


def _validate_per_asset(market: MarketParams) -> None:
    """One number for all assets, or one for each."""
    n_assets = len(market.process.asset_names)
    process = market.process.without_bars()
    parts = market.replace(process=process, warm_carries=None, financing=None, indicators=())
    for path, leaf in jax.tree_util.tree_leaves_with_path(as_arrays(parts)):
        if leaf.shape not in ((), (n_assets,)):
            raise ValueError(
                f"market{jax.tree_util.keystr(path)}: {leaf.shape[0]} numbers for {n_assets} assets; "
                "give one number for all, or one for each"
            )


def _validate_horizon(market: MarketParams, role: Role) -> None:
    sees_time = any(isinstance(block, TimeLeft) for block in role.observations)
    if role.learned and sees_time != (market.horizon == "terminal"):
        raise ValueError(
            f"roles.{role.name}.observations: 'time_left' belongs to a terminal horizon and only there, but "
            f"market.horizon is {market.horizon!r}; {'remove' if sees_time else 'add'} the block or change the horizon"
        )


def _validate_orders(market: MarketParams) -> None:
    """Roles must send orders that the mechanism takes, and not read what it does not show."""
    makes_price, mechanism = market.mechanism.makes_price, market.mechanism.kind()
    slots = [role.action.n_slots if role.learned else role.strategy.n_slots for role in market.roles]
    for role in market.roles:
        source = role.action if role.learned else role.strategy
        if source.quotes and not makes_price:
            raise ValueError(
                f"roles.{role.name}: {source.kind()!r} sends limit orders, which the mechanism {mechanism!r} does not "
                "take; use a call_auction or another action or strategy"
            )
        for term in role.rewards:
            if role.learned and term.needs_value and not makes_price:
                raise ValueError(
                    f"roles.{role.name}.rewards: {term.kind()!r} counts holdings at a hidden value, and the mechanism "
                    f"{mechanism!r} trades at prices from outside; use 'profit' or a call_auction"
                )
        for name in ("signal_noise_bps", "private_value_bps"):
            if getattr(role, name) is not None and not makes_price:
                raise ValueError(
                    f"roles.{role.name}.{name}: the mechanism {mechanism!r} trades at prices from outside, so there "
                    "is no hidden value; remove it or use a call_auction"
                )
        largest = int(np.max(np.asarray(role.limits.max_position_lots)))
        market.mechanism.validate_orders(sum(r.count for r in market.roles), max(slots), largest)


def _validate_money(market: MarketParams) -> None:
    """Exact integers must have room: lots in 32 bits over all agents, cash in 62 bits."""
    most = sum(role.count * int(role.limits.max_position_lots) for role in market.roles)
    if most >= 2**30:  # an order may turn a position around: twice as many lots
        raise ValueError(
            f"limits.max_position_lots: over all agents up to {most} lots of an asset, allowed are {2**30 - 1}; "
            "lower max_position_lots or the number of agents"
        )
    multiplier = int(np.max(np.asarray(market.lot_multiplier)))
    if most * MAX_TICKS * multiplier >= MAX_QUANTA:
        raise ValueError(
            f"market.lot_multiplier: {most} lots at {MAX_TICKS} ticks times {multiplier} exceed {MAX_QUANTA} quanta; "
            "lower lot_multiplier or limits.max_position_lots"
        )
    cash = sum(role.count * float(role.cash) for role in market.roles) * market.quanta_per_unit
    if cash >= MAX_QUANTA:
        raise ValueError(
            f"roles.cash: {cash:g} quanta in all, allowed are {MAX_QUANTA}; use coarser ticks or less cash"
        )
    for role in market.roles:
        if np.abs(np.asarray(jnp.asarray(role.lots))).max() > role.limits.max_position_lots:
            raise ValueError(f"roles.{role.name}.lots: more than limits.max_position_lots")
