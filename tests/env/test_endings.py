"""How episodes end: bankruptcy, the time limit, a terminal horizon, and what is told of each."""

import functools

import jax
import numpy as np
import pytest

from jaxarena.agents import BuyAndHold
from jaxarena.core.money import int_quanta
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import Portfolio, TimeLeft
from jaxarena.env.rewards import Profit
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.env.wrappers import Markets
from jaxarena.market.costs import Financing, ProportionalFees
from jaxarena.market.dealer import Dealer
from jaxarena.market.history import HistoricalReplay
from jaxarena.market.margin import RiskLimits

LENGTH, WARM = 10, 5
STEPS = 2 * LENGTH + 3
MARKETS = 4
FIRST, SECOND = 3, 6  # bars at which the price falls by half, after the start of the episode
BOLD = RiskLimits(max_leverage=5.0, allow_short=True, initial_margin=0.2, maintenance_margin=0.15)
NOTHING = np.float32(np.nan)  # not finite means: do nothing


def crashing():
    """One possible start; flat but for two crashes, and a little wiggle that tells bars apart."""
    level = np.full(LENGTH + WARM + 1, 100.0)
    for crash in (FIRST, SECOND):
        level[WARM + crash :] *= 0.5
    close = (level + 0.01 * np.arange(len(level)))[:, None]
    open_ = np.concatenate([close[:1], close[:-1] * np.where(close[1:] < 0.9 * close[:-1], 0.6, 1.001)])
    volume = np.full(close.shape, 1e6)
    return HistoricalReplay(liquidity_window=WARM).with_bars(
        ("X",), open_, np.maximum(open_, close), np.minimum(open_, close), close, volume
    )


@functools.cache
def markets():
    roles = (
        Role(name="bold", count=2, cash=50_000.0, limits=BOLD, observations=(Portfolio(),)),
        Role(name="rest", strategy=BuyAndHold(), observations=()),
        Role(name="wary", count=1, cash=50_000.0, limits=BOLD, observations=(Portfolio(),), rewards=(Profit(),)),
    )
    env, params = MarketEnv.build(
        MarketParams(process=crashing(), roles=roles, indicators=(), episode_length=LENGTH, lot_multiplier=1)
    )
    return Markets(env, MARKETS), params


def plans():
    """Full exposure at the first step means ruin at the first crash, at bar 4 ruin at the second.

    Market 0: one agent dies. 1: all die at the first crash. 2: half at the first, the rest at the second.
    3: nobody. In every market's later episodes nobody trades.
    """
    bold = np.full((STEPS, 2, 1, MARKETS), NOTHING, np.float32)
    wary = np.full((STEPS, 1, 1, MARKETS), NOTHING, np.float32)
    bold[0, 0, 0, 0] = 1.0
    bold[0, :, 0, 1] = wary[0, 0, 0, 1] = 1.0
    bold[0, :, 0, 2] = wary[4, 0, 0, 2] = 1.0
    return {"bold": bold, "wary": wary}


@functools.cache
def record():
    """Every leaf `[T, ..., E]`."""
    batch, params = markets()

    @jax.jit
    def play(params, key, actions):
        first, carry = batch.reset(key, params)

        def body(carry, action):
            obs, carry, reward, terminated, truncated, info = batch.step(carry, action, params)
            seen = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated}
            return carry, seen | {"info": info, "episode": carry.episode, "step": carry.market.step}

        return jax.lax.scan(body, carry, actions)[1] | {"first": first}

    return jax.tree.map(np.asarray, play(params, jax.random.key(0), plans()))


def alive(e):
    """Rows of the learned agents of market `e`: `bold 0, bold 1, wary` before each step."""
    acted = record()["info"]["acted"]
    return np.concatenate([acted["bold"][..., e], acted["wary"][..., e]], axis=1)


def ended(e, name="terminated"):
    return np.concatenate([record()[name]["bold"][..., e], record()[name]["wary"][..., e]], axis=1)


def resets(e):
    return np.flatnonzero(record()["info"]["reset"][:, e]).tolist()


def test_one_bankrupt_agent_is_terminated_once_and_the_others_play_on():
    """It is called after the first crash and dies when its position has been closed, one bar later."""
    dead = ended(0)[:LENGTH]
    assert np.argwhere(dead).tolist() == [[FIRST, 0]]
    assert alive(0)[:LENGTH, 0].tolist() == [True] * (FIRST + 1) + [False] * (LENGTH - FIRST - 1)
    assert alive(0)[:LENGTH, 1:].all()
    assert record()["info"]["liquidated"][FIRST, 0, 0]
    assert resets(0) == [LENGTH - 1, 2 * LENGTH - 1]


def test_the_time_limit_truncates_the_living_and_only_them():
    limit = LENGTH - 1
    assert ended(0, "truncated")[limit].tolist() == [False, True, True]
    assert ended(3, "truncated")[limit].all()
    assert not ended(3).any()
    for e in range(MARKETS):
        reset = record()["info"]["reset"][:, e]
        assert not ended(e, "truncated")[~reset].any()
        assert not (ended(e, "truncated") & ended(e)).any()


def test_the_market_resets_when_every_learned_agent_is_dead():
    """The scripted agent, ruined or not, does not keep it going."""
    assert resets(1)[0] == FIRST
    assert ended(1)[FIRST].all()
    assert not ended(1, "truncated")[: FIRST + 1].any()
    last = markets()[0].env.agent_slice("rest").start
    assert record()["info"]["equity"][FIRST, last, 1] > 0.2 * record()["info"]["equity"][0, last, 1]
    assert resets(2)[0] == SECOND
    assert np.argwhere(ended(2)[: SECOND + 1]).tolist() == [[FIRST, 0], [FIRST, 1], [SECOND, 2]]


def test_every_market_restarts_in_its_own_time():
    assert resets(1) == [FIRST, FIRST + LENGTH]
    assert resets(2) == [SECOND, SECOND + LENGTH]
    assert resets(3) == [LENGTH - 1, 2 * LENGTH - 1]
    assert record()["episode"][-1].tolist() == [2, 2, 2, 2]
    for e in range(MARKETS):
        for t in resets(e):
            assert record()["step"][t, e] == 0
            assert alive(e)[t + 1].all()


def test_dead_agents_earn_exactly_nothing_and_trade_nothing():
    for e in range(3):
        acted = np.concatenate([record()["info"]["acted"][r][..., e] for r in ("bold", "wary")], axis=1)
        reward = np.concatenate([record()["reward"][r][..., e] for r in ("bold", "wary")], axis=1)
        lots = record()["info"]["lots"][:, [0, 1, 3], 0, e]
        assert (~acted).any() == (e != 1)  # in market 1 all die on the step that resets
        assert (reward[~acted] == 0.0).all()
        assert (lots[~acted] == 0).all()


def test_the_final_observation_is_that_of_the_dead_and_the_next_one_is_fresh():
    """The final account is ruined and flat; the fresh one holds nothing but cash."""
    fresh = [1, 0, 0, 0, 1, 0, 0]
    for e, t in ((1, FIRST), (2, SECOND), (3, LENGTH - 1)):
        for role in ("bold", "wary"):
            np.testing.assert_allclose(record()["obs"][role][t, ..., e], record()["first"][role][..., e], atol=1e-6)
            np.testing.assert_allclose(record()["obs"][role][t, :, :, e], [fresh] * len(record()["obs"][role][t]))
    for e, t in ((1, FIRST), (2, SECOND)):
        final = np.concatenate([record()["info"]["final_observation"][r][t, ..., e] for r in ("bold", "wary")])
        assert (final[:, 2] == -10.0).all()  # growth is clipped there
        assert (final[:, 3] >= 4.9).all()  # drawdown times 5
        np.testing.assert_allclose(final[:, 1], 0.0)
    running = ~record()["info"]["reset"]
    for role in ("bold", "wary"):
        same = (record()["obs"][role] == record()["info"]["final_observation"][role]).all(axis=(1, 2))
        assert same[running].all()


def test_episode_statistics_are_the_sums_of_the_episode():
    for e in range(MARKETS):
        starts = [0, *(t + 1 for t in resets(e))]
        for role in ("bold", "wary"):
            reward, told = record()["reward"][role][..., e], record()["info"]["episode"]["return"][role][..., e]
            for begin, end in zip(starts, [*resets(e), STEPS - 1], strict=True):
                np.testing.assert_allclose(told[begin : end + 1], reward[begin : end + 1].cumsum(0), atol=1e-5)
        lengths = record()["info"]["episode"]["length"][:, e]
        ages = [t - max(s for s in starts if s <= t) + 1 for t in range(STEPS)]
        assert lengths.tolist() == ages
    assert record()["info"]["episode"]["return"]["wary"][FIRST, 0, 1] < -0.99  # profit over initial equity


# -- terminal ---------------------------------------------------------------------------------------


FEE, SPREAD = 0.001, 0.002


@functools.cache
def terminal():
    """The learned agents hold full leverage from the start, half of it short, and nothing."""
    roles = (
        Role(name="trader", count=3, cash=50_000.0, limits=BOLD, observations=(TimeLeft(), Portfolio())),
        Role(name="rest", strategy=BuyAndHold(), observations=()),
    )
    env, params = MarketEnv.build(
        MarketParams(
            process=crashing(),
            roles=roles,
            mechanism=Dealer(half_spread_bps=SPREAD * 1e4),
            costs=ProportionalFees(fee_bps=FEE * 1e4),
            financing=Financing(borrow_rate=0.0, deposit_rate=0.0, short_fee=0.0),
            indicators=(),
            episode_length=LENGTH,
            horizon="terminal",
        )
    )
    actions = np.tile(np.array([NOTHING, NOTHING, NOTHING], np.float32)[:, None], (LENGTH + 1, 1, 1))
    actions[0, :, 0] = [1.0, -0.1, 0.0]
    actions[5, 2, 0] = 0.2
    actions[LENGTH - 1, 1:, 0] = 1.0  # ignored: at the end everything closes

    @jax.jit
    def play(params, key, actions):
        first, state = env.reset(key, params)

        def body(state, action):
            obs, after, reward, terminated, truncated, info = env.step(key, state, {"trader": action}, params)
            told = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated, "info": info}
            return after, told | {"held": state.ledger.agents.lots, "cash": state.ledger.agents.cash}

        return jax.lax.scan(body, state, actions)[1] | {"first": first}

    return env, params, jax.tree.map(np.asarray, play(params, jax.random.key(0), actions))


def test_time_left_runs_from_one_to_zero_and_starts_again():
    env, _, told = terminal()
    assert env.observation_layout("trader")["time_left"] == slice(0, 1)
    assert (told["first"]["trader"][:, 0] == 1.0).all()
    left = told["info"]["final_observation"]["trader"][:LENGTH, :, 0]
    np.testing.assert_allclose(left, np.tile(1.0 - np.arange(1, LENGTH + 1)[:, None] / LENGTH, 3), atol=1e-6)
    assert (left[-1] == 0.0).all()
    np.testing.assert_allclose(told["obs"]["trader"][LENGTH - 1 :, 0, 0], [1.0, 0.9], atol=1e-6)


def test_a_terminal_horizon_terminates_every_living_agent_and_truncates_nobody():
    _, _, told = terminal()
    terminated = told["terminated"]["trader"]
    assert np.argwhere(terminated[:LENGTH]).tolist() == [[FIRST, 0], [LENGTH - 1, 1], [LENGTH - 1, 2]]
    assert not told["truncated"]["trader"].any()
    assert np.flatnonzero(told["info"]["reset"]).tolist() == [LENGTH - 1]
    assert told["info"]["acted"]["trader"][LENGTH].all()


def test_at_the_end_all_positions_close_through_the_mechanism_at_cost():
    """The scripted agent's too; what is left is cash after spread and fee."""
    _, params, told = terminal()
    held = told["held"][LENGTH - 1, :, 0]
    assert held[0] == 0
    assert held[1] < 0
    assert (held[2:] > 0).all()
    np.testing.assert_array_equal(told["info"]["lots"][LENGTH - 1, :, 0], -held)
    price = float(params.process.recording.ticks[WARM + LENGTH, 0, 0])
    value = held * price - np.abs(held) * price * SPREAD
    cash = np.asarray(int_quanta(told["cash"]), float)[LENGTH - 1]
    expected = cash + value - np.abs(value) * FEE
    np.testing.assert_allclose(told["info"]["equity"][LENGTH - 1], expected, rtol=1e-6)
    np.testing.assert_allclose(told["info"]["equity_mid"][LENGTH - 1], expected, rtol=1e-6)
    final = told["info"]["final_observation"]["trader"][LENGTH - 1]
    np.testing.assert_allclose(final[1:, [2, 6]], 0.0)  # no exposure
    np.testing.assert_allclose(final[1:, 1], 1.0, atol=1e-6)  # all cash


def test_rewards_of_a_terminal_episode_sum_to_the_log_of_what_is_left_in_cash():
    _, params, told = terminal()
    growth = told["info"]["equity"][LENGTH - 1, 1:3] / (50_000.0 * params.quanta_per_unit)
    assert (np.abs(np.log(growth)) > 0.01).all()
    np.testing.assert_allclose(told["reward"]["trader"][:LENGTH, 1:].sum(0), np.log(growth), atol=2e-5)


@pytest.mark.parametrize("horizon", ["forever", "Terminal", ""])
def test_unknown_horizons_are_refused(horizon):
    _, params, _ = terminal()
    with pytest.raises(ValueError, match=r"market\.horizon"):
        MarketEnv.build(params.replace(horizon=horizon))
