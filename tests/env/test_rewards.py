"""Reward terms by hand, and along recorded prices: buy-and-hold earns the log of its growth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxarena
from jaxarena.agents import Hold
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import Portfolio
from jaxarena.env.rewards import (
    ConcentrationPenalty,
    CostPenalty,
    DrawdownPenalty,
    LogReturn,
    Profit,
    Transition,
    VolatilityPenalty,
)
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.market.margin import RiskLimits
from jaxarena.market.processes import Gbm

TERMS = (
    LogReturn(weight=0.5),
    Profit(weight=2.0),
    VolatilityPenalty(weight=3.0),
    DrawdownPenalty(weight=0.25),
    ConcentrationPenalty(weight=0.01),
    CostPenalty(weight=4.0),
)
HANDMADE = {
    "equity_before": [1000.0, 1000.0, 2.0, 500.0],
    "equity": [1100.0, 900.0, -300.0, 500.0],
    "initial_equity": [1000.0, 500.0, 1000.0, 1000.0],
    "drawdown_before": [0.1, 0.0, 0.5, 0.5],
    "drawdown": [0.0, 0.1, 1.0, 0.5],
    "variance": [0.0004, 0.01, 0.0, 0.0],
    "weights": [[0.5, 0.5], [-1.0, 0.5], [0.0, 0.0], [2.0, -1.0]],
    "inventory": [[0.5, 0.5], [-1.0, 0.5], [0.0, 0.0], [0.2, -0.1]],
    "captured": [1.0, -2.0, 0.0, 3.0],
    "cost": [10.0, 0.0, 5.0, 1.0],
}


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        # The third account falls below 0.1 % of its start, where the logarithm stops.
        (LogReturn(weight=2.0), [2 * np.log(1.1), 2 * np.log(0.9), 2 * np.log(1.0 / 2.0), 0.0]),
        (Profit(weight=2.0), [0.2, -0.4, -0.604, 0.0]),
        (VolatilityPenalty(weight=3.0), [-0.0006, -0.015, 0.0, 0.0]),
        (DrawdownPenalty(weight=0.5), [0.0, -0.05, -0.25, 0.0]),
        (ConcentrationPenalty(weight=0.1), [-0.05, -0.125, 0.0, -0.5]),
        (CostPenalty(weight=4.0), [-0.04, 0.0, -0.02, -0.004]),
    ],
)
def test_each_term(term, expected):
    transition = Transition(**{name: jnp.asarray(values, jnp.float32) for name, values in HANDMADE.items()})
    np.testing.assert_allclose(term.value(transition), expected, rtol=1e-5, atol=1e-8)


def test_log_returns_telescope_through_the_floor():
    equity = np.array([1000.0, 3.0, -50.0, 0.5, 20.0], np.float32)
    rewards = [
        LogReturn().value(
            Transition(**{name: jnp.asarray(values, jnp.float32) for name, values in HANDMADE.items()}).replace(
                equity_before=equity[t : t + 1], equity=equity[t + 1 : t + 2], initial_equity=equity[:1]
            )
        )
        for t in range(4)
    ]
    assert np.isfinite(rewards).all()
    np.testing.assert_allclose(np.sum(rewards), np.log(20.0 / 1000.0), rtol=1e-6)


# -- along prices -----------------------------------------------------------------------------------


def play(env, params, key, actions):
    """One episode without auto-reset: the states around each step, rewards, and what was told."""

    @jax.jit
    def run(params, key, actions):
        _, start = env.reset(key, params)

        def body(state, step):
            t, action = step
            _, after, reward, *_, info = env.step_env(jax.random.fold_in(key, t), state, action, params)
            lots, cost = after.ledger.agents.lots, after.statistics.cost
            return after, (after.close, after.mid, lots, cost, reward, info)

        length = jax.tree.leaves(actions)[0].shape[0]
        return start, jax.lax.scan(body, start, (jnp.arange(length), actions))

    start, (last, rows) = run(params, key, actions)
    return jax.tree.map(np.asarray, (start, last, rows))


@functools.cache
def replayed():
    """A whole episode of the replay preset: one agent buys and holds, one trades, one is paid for all terms."""
    env, params = jaxarena.make("StockReplay-v0")
    trader = params.roles[0]
    cast = (trader.replace(count=2), trader.replace(name="mixed", count=1, rewards=TERMS))
    env, params = MarketEnv.build(params.replace(roles=cast))
    length = int(params.episode_length)
    rng = np.random.default_rng(0)
    actions = {
        "trader": rng.uniform(-1, 1, (length, 2, 3)).astype(np.float32),
        "mixed": rng.uniform(-1, 1, (length, 1, 3)).astype(np.float32),
    }
    actions["trader"][0, 0], actions["trader"][1:, 0] = 1.0, np.nan  # everything at once, then nothing
    return env, params, play(env, params, jax.random.key(2), actions)


def test_buy_and_hold_earns_the_log_of_its_growth_on_real_bars():
    _, params, (start, _, (close, _, lots, _, reward, info)) = replayed()
    held, traded = lots[-1, 0], info["lots"][:, 0]
    assert (held > 0).all()
    assert (traded[1:] == 0).all()
    index, rows = int(start.process.index), np.asarray(params.process.recording.ticks)
    np.testing.assert_array_equal(close[-1], rows[index + len(close), 3])
    buy = held * rows[index + 1, 0].astype(float) * 1.0001  # at the next open, half-spread on top
    sell = held * rows[index + len(close), 3].astype(float) * 0.9999
    cash = float(start.accounts.initial_equity[0]) - (buy * 1.0001).sum()
    expected = np.log((cash + sell.sum()) / float(start.accounts.initial_equity[0]))
    assert abs(expected) > 0.02
    np.testing.assert_allclose(reward["trader"][:, 0].sum(dtype=float), expected, atol=2e-5)
    np.testing.assert_allclose(info["episode"]["return"]["trader"][-1, 0], expected, atol=2e-5)


def test_any_trader_earns_the_log_of_its_growth():
    _, _, (start, _, (*_, reward, info)) = replayed()
    expected = np.log(info["equity"][-1, 1] / start.accounts.initial_equity[1])
    np.testing.assert_allclose(reward["trader"][:, 1].sum(dtype=float), expected, atol=2e-5)


def test_a_weighted_sum_of_all_terms_against_numpy():
    _, params, (start, _, (_, mid, lots, _, reward, info)) = replayed()
    index, rows = int(start.process.index), np.asarray(params.process.recording.ticks, float)
    initial = float(start.accounts.initial_equity[2])
    equity = np.concatenate([[initial], info["equity"][:, 2].astype(float)])
    growth = np.diff(np.log(equity))
    variance, variances = 0.0, []
    for r in growth:
        variance = 0.94 * variance + 0.06 * r**2
        variances.append(variance)
    drawdown = 1.0 - equity / np.maximum.accumulate(equity)
    weights = lots[:, 2] * mid / equity[1:, None]
    opens = rows[index + 1 : index + 1 + len(growth), 0]
    value = np.abs(info["lots"][:, 2]) * opens
    cost = (value * 1e-4 + (value + info["lots"][:, 2] * opens * 1e-4) * 1e-4).sum(-1)  # half-spread, then the fee
    expected = (
        0.5 * growth
        + 2.0 * np.diff(equity) / initial
        - 1.5 * np.array(variances)
        - 0.25 * np.maximum(np.diff(drawdown), 0.0)
        - 0.01 * (weights**2).sum(-1)
        - 4.0 * cost / initial
    )
    np.testing.assert_allclose(reward["mixed"][:, 0], expected, atol=3e-6)
    assert (cost > 0).all()


def test_a_ruined_agent_is_paid_the_floor_once_and_then_exactly_nothing():
    """Its log return stops at 0.1 % of the start; terms that would still be charged are not."""
    wild = RiskLimits(max_leverage=20.0, initial_margin=0.05, maintenance_margin=0.05, allow_short=True)
    role = Role(
        name="wild",
        count=12,
        limits=wild,
        cash=10_000.0,
        observations=(Portfolio(),),
        rewards=(LogReturn(), VolatilityPenalty(weight=1.0)),
    )
    market = MarketParams(
        process=Gbm(volatility=1.5), roles=(role, Role(name="quiet", strategy=Hold())), indicators=(), episode_length=80
    )
    env, params = MarketEnv.build(market)
    actions = {"wild": np.tile(np.linspace(-1, 1, 12, dtype=np.float32)[:, None], (60, 1, 1))}
    start, last, (*_, reward, info) = play(env, params, jax.random.key(0), actions)
    acted, paid = info["acted"]["wild"], reward["wild"]
    initial = float(start.accounts.initial_equity[0])
    equity = np.concatenate([np.full((1, 12), initial), info["equity"][:, :12].astype(float)])
    growth = np.diff(np.log(np.maximum(equity, 1e-3 * initial)), axis=0)
    variance, floored = np.zeros(12), 0
    for t in range(60):
        variance = 0.94 * variance + 0.06 * growth[t] ** 2
        expected = np.where(acted[t], growth[t] - 0.5 * variance, 0.0)
        np.testing.assert_allclose(paid[t], expected, atol=2e-4, rtol=1e-4)
        assert (paid[t][~acted[t]] == 0.0).all()
        assert (variance[~acted[t]] > 0).all()  # so that the penalty had something to charge
        floored += (acted[t] & (equity[t + 1] < 1e-3 * initial)).sum()
    assert floored > 0
    assert (~acted[-1]).sum() >= 2
    assert acted[-1].any()
    np.testing.assert_allclose(last.statistics.reward[:12], paid.sum(0), rtol=1e-5)
    assert (last.statistics.reward[12:] == 0.0).all()


def test_a_weight_that_is_not_a_number_is_refused_by_name():
    with pytest.raises(ValueError, match=r"roles\.odd\.rewards\.drawdown_penalty\.weight"):
        Role(name="odd", rewards=(LogReturn(), DrawdownPenalty(weight=float("nan")))).validate()
