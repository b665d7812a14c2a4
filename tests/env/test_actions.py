"""What each action map orders, against lots computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.core.spaces import Box, Discrete, MultiDiscrete
from jaxarena.env.actions import BuyHoldSell, LimitQuotes, OrderSlots, TargetExposure, TargetWeights, TradeFraction
from jaxarena.market.indicators import Window
from jaxarena.market.margin import RiskLimits
from jaxarena.market.views import AccountView, MarketView

EQUITY = 10_000.0  # quanta


def market(mid):
    mid = jnp.asarray(mid, jnp.float32)
    return MarketView(
        window=Window(bars=jnp.ones((1, 5, mid.size)), count=jnp.int32(1)),
        features=(),
        mid=mid,
        depth_lots=jnp.full(mid.shape, 1e6),
        flow=jnp.zeros(mid.shape),
        signal=None,
        step=jnp.int32(3),
        time_left=jnp.float32(0.5),
    )


def account(positions, equity=EQUITY, initial=EQUITY, **limits):
    """One row per list of positions; every other number is one for all agents, or one for each."""
    positions = jnp.asarray(positions, jnp.int32)
    n = positions.shape[0]

    def full(value):
        return jnp.asarray(np.broadcast_to(value, (n,)), np.asarray(value).dtype.name.replace("64", "32"))

    chosen = RiskLimits(**{"max_leverage": 1.0, "allow_short": True} | limits)
    return AccountView(
        positions=positions,
        cash=full(0.0),
        equity=full(equity),
        initial_equity=full(initial),
        peak_equity=full(np.maximum(equity, initial)),
        entry_price=jnp.ones(positions.shape, jnp.float32),
        limits=RiskLimits(**{name: full(getattr(chosen, name)) for name in RiskLimits.__dataclass_fields__}),
    )


def lots(action_map, action, mid, who):
    return np.asarray(jax.jit(action_map.lots)(jnp.asarray(action), market(mid), who)).tolist()


TWO = (100.0, 50.0)


def test_target_weights():
    cases = [
        ([0.5, 0.25], 1.0, [0, 0], [50, 50]),
        ([0.5, 0.25], 1.0, [10, -20], [40, 70]),  # the difference to what is held
        ([0.8, -0.8], 1.0, [0, 0], [50, -100]),  # sums to 1.6, scaled down to 1
        ([0.8, -0.1], 1.0, [0, 0], [80, -20]),  # sums to 0.9, left alone
        ([0.333, -0.333], 1.0, [0, 0], [33, -66]),  # rounded toward zero on both sides
        ([0.5, 0.25], 2.0, [0, 0], [100, 100]),
        ([0.5, 0.25], 9.0, [0, 0], [100, 100]),  # initial margin one half: a leverage of 2 at most
        ([0.0, 0.0], 1.0, [7, -9], [-7, 9]),
    ]
    weights, leverage, positions, expected = (list(column) for column in zip(*cases, strict=True))
    who = account(positions, max_leverage=leverage)
    assert lots(TargetWeights(), weights, TWO, who) == expected


def test_target_weights_follow_todays_equity_and_stop_at_the_position_limit():
    who = account([[0], [20], [20]], equity=[4_000.0, EQUITY, EQUITY], max_position_lots=[1_000, 30, 30])
    assert lots(TargetWeights(), [[1.0], [1.0], [-1.0]], [100.0], who) == [[40], [10], [-50]]


def test_target_weights_of_three_assets_for_two_agents():
    actions = np.array([[0.5, 0.25, -0.25], [1.0, 1.0, 1.0]], np.float32)
    got = lots(TargetWeights(), actions, (100.0, 50.0, 10.0), account([[0, 0, 0], [5, 0, 0]]))
    assert got == [[50, 50, -250], [33 - 5, 66, 333]]


def test_trade_fraction():
    cases = [
        ([0.5, 0.5], [0, 0], 1.0, [25, 50]),  # half of 10,000, half of it for each asset
        ([1.0, 1.0], [0, 0], 2.0, [100, 200]),
        ([1.0, 0.0], [40, 0], 1.0, [30, 0]),  # 6,000 of room, half of it for each asset
        ([-0.5, 0.0], [41, 0], 1.0, [-20, 0]),  # half of what is held
        ([-1.0, 0.0], [40, 0], 1.0, [-40, 0]),
        ([-0.5, -1.0], [0, 0], 1.0, [-25, -100]),  # not long: a short position of the room
        ([0.0, 0.5], [0, -21], 1.0, [0, 10]),  # half of the short position is bought back
        ([0.0, 1.0], [0, -20], 1.0, [0, 20]),
        ([0.0, -1.0], [0, -20], 1.0, [0, -90]),  # adds to the short position: 9,000 of room
        ([1.0, 1.0], [100, 20], 1.0, [0, 0]),  # over the limit: nothing may be opened
        ([-0.1, 0.0], [150, 0], 1.0, [-15, 0]),  # but positions may still be reduced
    ]
    fraction, positions, leverage, expected = (list(column) for column in zip(*cases, strict=True))
    who = account(positions, max_leverage=leverage)
    assert lots(TradeFraction(), fraction, TWO, who) == expected


def test_trade_fraction_of_one_asset_and_of_an_account_under_water():
    who = account([[0], [0]], equity=[EQUITY, -50.0])
    assert lots(TradeFraction(), [[0.25], [1.0]], [100.0], who) == [[25], [0]]


def test_trade_fraction_of_three_assets():
    got = lots(TradeFraction(), [[0.6, -1.0, 0.0]], (100.0, 50.0, 10.0), account([[0, 10, 30]]))
    room = EQUITY - 10 * 50.0 - 30 * 10.0
    assert got == [[int(0.6 * room / 3 / 100.0), -10, 0]]


def test_buy_hold_sell_means_fractions():
    """Of a position of 40 lots at 100 and -20 lots at 50: 5,000 of room, 2,500 of it for each asset."""
    choices = [[choice, choice] for choice in range(5)]
    expected = [[-40, -50], [-20, -25], [0, 0], [12, 10], [25, 20]]
    assert lots(BuyHoldSell(levels=2), choices, TWO, account([[40, -20]] * 5)) == expected


def test_buy_hold_sell_levels():
    assert BuyHoldSell(levels=3).space(2) == MultiDiscrete((7, 7))
    got = lots(BuyHoldSell(levels=4), [[choice] for choice in range(9)], [100.0], account([[0]] * 9))
    assert got == [[-100], [-75], [-50], [-25], [0], [25], [50], [75], [100]]
    with pytest.raises(ValueError, match=r"action\.levels"):
        BuyHoldSell(levels=0).validate("action")


def test_target_exposure_of_both_bases():
    who = account([[0]] * 6, equity=[EQUITY] * 3 + [5_000.0] * 3)
    choices, of_equity = [0, 1, 2] * 2, [[-100], [0], [100], [-50], [0], [50]]
    assert TargetExposure(n_levels=3).space(1) == Discrete(3)
    assert lots(TargetExposure(n_levels=3), choices, [100.0], who) == of_equity
    linear = TargetExposure(n_levels=3, basis="initial_equity")
    assert lots(linear, choices, [100.0], who) == [[-100], [0], [100]] * 2


def test_target_exposure_is_spread_equally_and_counts_what_is_held():
    action_map = TargetExposure(n_levels=5, low=0.0, high=2.0)
    who = account([[0, 0], [30, 10], [30, 10], [0, -10], [0, 0]])
    exposures = [0.0, 0.5, 1.0, 1.5, 2.0]
    expected = [
        [int(x * 50) - a, int(x * 100) - b] for x, (a, b) in zip(exposures, who.positions.tolist(), strict=True)
    ]
    assert lots(action_map, [0, 1, 2, 3, 4], TWO, who) == expected


def test_target_exposure_of_three_assets():
    got = lots(TargetExposure(n_levels=2), [0, 1], (100.0, 50.0, 10.0), account([[0, 0, 0]] * 2))
    assert got == [[-33, -66, -333], [33, 66, 333]]


# -- any action at all ------------------------------------------------------------------------------


def decide(action_map, action, mid, who):
    ordered, wrong = jax.jit(action_map.decide)(jnp.asarray(action), market(mid), who)
    assert ordered.lots.dtype == ordered.limit_ticks.dtype == wrong.dtype == jnp.int32
    assert ordered.lots.shape == ordered.limit_ticks.shape == (*who.positions.shape, 1)
    assert not ordered.limit_ticks.any()
    return np.asarray(ordered.lots[..., 0]).tolist(), np.asarray(wrong).tolist()


def test_numbers_that_are_not_finite_do_nothing_for_that_agent_only():
    actions = np.array([[np.nan, 0.5], [0.5, np.inf], [-np.inf, np.nan], [0.5, 0.25]], np.float32)
    for action_map in (TargetWeights(), TradeFraction()):
        ordered, wrong = decide(action_map, actions, TWO, account([[10, 10]] * 4))
        assert ordered[:3] == [[0, 0]] * 3
        assert ordered[3] == lots(action_map, actions[3:], TWO, account([[10, 10]]))[0] != [0, 0]
        assert wrong == [1, 1, 2, 0]


def test_numbers_outside_the_box_are_clipped_and_counted():
    who = account([[0, 0]] * 3)
    ordered, wrong = decide(TargetWeights(), [[50.0, 0.0], [0.25, -3.0], [1.0, -1.0]], TWO, who)
    assert ordered == [[100, 0], [20, -160], [50, -100]]
    assert wrong == [1, 1, 0]


def test_the_lower_end_of_the_box_is_a_choice():
    action_map = TargetWeights(low=0.0)
    assert action_map.space(2) == Box(0.0, 1.0, 2)
    assert decide(action_map, [[-0.5, 0.5]], TWO, account([[10, 0]])) == ([[-10, 100]], [1])
    with pytest.raises(ValueError, match=r"action\.low"):
        TargetWeights(low=0.5).validate("action")


@pytest.mark.parametrize("bad", [-1, 5, 2**30, -(2**31)])
def test_integers_outside_the_space_do_nothing(bad):
    who = account([[40, 0]] * 2)
    ordered, wrong = decide(BuyHoldSell(levels=2), np.array([[0, bad], [0, 2]], np.int32), TWO, who)
    assert (ordered, wrong) == ([[0, 0], [-40, 0]], [1, 0])
    ordered, wrong = decide(TargetExposure(n_levels=5), np.array([bad, 2], np.int32), TWO, who)
    assert (ordered, wrong) == ([[0, 0], [-40, 0]], [1, 0])


@pytest.mark.parametrize(("numbers", "name"), [({"low": 2.0, "high": -1.0}, "high"), ({"low": np.nan}, "low")])
def test_exposures_without_meaning_are_refused(numbers, name):
    with pytest.raises(ValueError, match=rf"action\.{name}"):
        TargetExposure(**numbers).validate("action")


@pytest.mark.parametrize(
    ("action", "chosen", "words"),
    [
        (TargetWeights(low=0.0), [-0.5, 0.3], ["target 0 % of limit", "target 30 % of limit"]),
        (TradeFraction(), [-0.25, 1.7], ["sell 25 %", "buy 100 %"]),
        (BuyHoldSell(levels=2), [1, 2], ["sell 50 %", "hold"]),
        (TargetExposure(n_levels=5), [1], ["exposure -0.50 x equity"] * 2),
        (
            LimitQuotes(nearest_bps=0.0, farthest_bps=20.0),
            [-1, 0, 1, -1] * 2,
            ["bid 10 at 0.0 bps, ask 0 at 10.0 bps"] * 2,
        ),
        (
            OrderSlots(slots=2),
            [0.5, -1, -1, 0.05, 0, -1, -0.3, 0.5, -1, 0, 0, 1],
            ["buy 5 at -30.0 bps, no order", "sell 3 at +15.0 bps, keep"],
        ),
    ],
)
def test_actions_are_said_in_words_for_each_asset(action, chosen, words):
    assert action.describe(np.asarray(chosen), 2) == words
