"""A small market with every kind of trouble in it, played by one compiled program for all tests."""

import functools

import jax
import numpy as np

from jaxarena.agents import Random
from jaxarena.core.money import int_quanta
from jaxarena.core.tree import as_arrays, where
from jaxarena.env.actions import TargetWeights, TradeFraction
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import MarketFlow, Portfolio
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.market.costs import Financing, LinearImpact, ProportionalFees
from jaxarena.market.dealer import Dealer
from jaxarena.market.margin import RiskLimits
from jaxarena.market.processes import Gbm
from tests.reference.market import Rules

#: Every run has this shape, so that one compilation serves all tests; episodes have ten steps.
STEPS, MARKETS = 120, 12
PENALTIES = {"careful": 50.0, "bold": 80.0, "trader": 30.0, "noise": 0.0}
EYES = (MarketFlow(), Portfolio())
RULES = Rules(
    half_spread_bps=3.0,
    # Powers of two keep the float32 rates exact over a short episode, whatever the compiler contracts.
    permanent=0.125,
    transient=0.25,
    decay=0.5,
    linear_temporary=0.0625,
    depth=4096.0,
    fee_bps=2.0,
    fixed_fee=0.01,
    borrow_rate=0.3,
    deposit_rate=0.05,
    short_fee=0.2,
    quanta_per_unit=10_000,
    tick_values=(1, 3),
    penalty_bps=(50.0,) * 2 + (80.0,) * 3 + (30.0,) * 2 + (0.0,) * 2,
)
CAREFUL, BOLD, TRADER, NOISE = slice(0, 2), slice(2, 5), slice(5, 7), slice(7, 9)


def roles():
    wild = RiskLimits(
        max_leverage=5.0, allow_short=True, initial_margin=0.2, maintenance_margin=0.15, ruin_fraction=0.02
    )
    wary = RiskLimits(max_leverage=2.0, allow_short=True)
    parts = [
        Role(name="careful", count=2, cash=20_000.0, action=TargetWeights(low=0.0), observations=EYES),
        Role(name="bold", count=3, cash=5_000.0, limits=wild, observations=EYES),
        Role(name="trader", count=2, cash=9_000.0, lots=(7, 2), limits=wary, action=TradeFraction(), observations=EYES),
        Role(name="noise", count=2, cash=20_000.0, strategy=Random(trade_probability=0.5), limits=wary),
    ]
    return tuple(
        role.replace(limits=role.limits.replace(liquidation_penalty_bps=PENALTIES[role.name])) for role in parts
    )


def market(rules=RULES, volatility=4.0, drift=0.0, noise=0.5, episode_length=10):
    """The market of `rules`; all of these numbers are traced, so they share one program."""
    impact = LinearImpact(
        permanent=rules.permanent,
        transient=rules.transient,
        decay=rules.decay,
        linear_temporary=rules.linear_temporary,
    )
    cast = [r.replace(strategy=Random(trade_probability=noise)) if r.name == "noise" else r for r in roles()]
    return MarketParams(
        process=Gbm(
            n_assets=2,
            volatility=volatility,
            drift=drift,
            mean_volume=rules.depth,
            periods_per_year=rules.steps_per_year,
            ticks_per_unit=rules.quanta_per_unit,
        ),
        roles=tuple(cast),
        mechanism=Dealer(half_spread_bps=rules.half_spread_bps, impact=impact),
        costs=ProportionalFees(fee_bps=rules.fee_bps, fixed_fee=rules.fixed_fee),
        financing=Financing(borrow_rate=rules.borrow_rate, deposit_rate=rules.deposit_rate, short_fee=rules.short_fee),
        indicators=(),
        episode_length=episode_length,
        lot_multiplier=rules.tick_values,
    )


@functools.cache
def arena():
    """The environment, built once."""
    return MarketEnv.build(market())[0]


def no_action():
    """Actions of the learned roles that trade nothing from a flat start: `[T, E, N_role, 2]` zeros."""
    env = arena()
    return {name: np.zeros((STEPS, MARKETS, env.num_agents(name), 2), np.float32) for name in env.learned_roles}


def random_actions(seed):
    """Uniform actions, and often the extreme ones."""
    env, rng = arena(), np.random.default_rng(seed)
    actions = {}
    for name in env.learned_roles:
        space, shape = env.action_space(name), (STEPS, MARKETS, env.num_agents(name), 2)
        sample = rng.uniform(space.low, space.high, shape)
        extreme = rng.choice([space.low, 0.0, space.high], shape)
        actions[name] = np.where(rng.random(shape) < 0.4, extreme, sample).astype(np.float32)
    return actions


@jax.jit
def _play(params, key, actions):
    env = arena()
    keys = jax.random.split(key, MARKETS)

    def one(key, state, action, params):
        obs, after, reward, terminated, truncated, info = env.step_env(key, state, action, params)
        _, fresh = env.reset(jax.random.fold_in(key, 99), params)
        keep = ("step", "close", "ledger", "accounts", "mechanism", "mid")
        seen = {
            "before": {name: getattr(state, name) for name in keep},
            "after": {name: getattr(after, name) for name in keep},
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "info": info,
            "obs": obs,
        }
        return where(info["reset"], fresh, after), seen

    def body(carry, inputs):
        state, t = carry
        step_keys = jax.vmap(lambda k: jax.random.fold_in(k, t))(keys)
        state, seen = jax.vmap(one, in_axes=(0, 0, 0, None))(step_keys, state, inputs, params)
        return (state, t + 1), seen

    _, start = jax.vmap(env.reset, in_axes=(0, None))(keys, params)
    _, record = jax.lax.scan(body, (start, 0), actions)
    return record


def play(actions, seed=0, **changes):
    """Play `[T, E]` steps of the market; every leaf of the record is `[T, E, ...]` in NumPy.

    `before` and `after` are the states around each step, before any reset.
    """
    record = _play(as_arrays(market(**changes)), jax.random.key(seed), actions)
    return jax.tree.map(np.asarray, record)


def quanta(money):
    """Exact int64 amounts of a Money of NumPy limbs."""
    return np.asarray(int_quanta(money), np.int64)
