"""A whole market against its oracle: every account, every unit, every step, through every kind of trouble."""

import dataclasses
import functools

import numpy as np
import pytest

from tests.reference import arena
from tests.reference.arena import BOLD, CAREFUL, MARKETS, RULES, STEPS, TRADER, play, quanta
from tests.reference.market import Market

FREE = dataclasses.replace(
    RULES,
    half_spread_bps=0.0,
    permanent=0.0,
    transient=0.0,
    linear_temporary=0.0,
    fee_bps=0.0,
    fixed_fee=0.0,
    borrow_rate=0.0,
    deposit_rate=0.0,
    short_fee=0.0,
)
COSTLY = dataclasses.replace(FREE, half_spread_bps=3.0, fee_bps=2.0, fixed_fee=0.01)
IMPACT = dataclasses.replace(FREE, permanent=0.125, transient=0.25, linear_temporary=0.0625)


@functools.cache
def wild_run():
    return play(arena.random_actions(0), seed=3)


def accounts(ledger):
    return [getattr(ledger, name) for name in ("agents", "exchange", "lender", "issuer", "dealer")]


def assert_audit_is_zero(ledger):
    cash = sum(
        quanta(account.cash).reshape(*quanta(ledger.exchange.cash).shape, -1).sum(-1) for account in accounts(ledger)
    )
    lots = ledger.agents.lots.sum(-2) + sum(account.lots for account in accounts(ledger)[1:])
    assert (cash == 0).all()
    assert (lots == 0).all()


def at(record, t, e):
    """Pick one step of one market out of a record."""
    if isinstance(record, dict):
        return {name: at(value, t, e) for name, value in record.items()}
    return record[t, e]


def replayed(record, e, rules=RULES):
    """Step the oracle along one market; yields the step, the oracle after it and its amounts."""
    oracle = None
    lots, called = record["info"]["lots"], record["info"]["liquidated"]
    for t in range(len(lots)):
        before = record["before"]
        if before["step"][t, e] == 0:
            oracle = Market(
                rules, quanta(before["ledger"].agents.cash)[t, e].tolist(), before["ledger"].agents.lots[t, e].tolist()
            )
        amounts = oracle.settle(
            lots[t, e].tolist(),
            called[t, e].tolist(),
            before["close"][t, e].tolist(),
            record["after"]["close"][t, e].tolist(),
        )
        yield t, oracle, amounts


@pytest.mark.parametrize("e", range(4))
def test_every_account_equals_its_own_oracle(e):
    record = wild_run()
    ledger = record["after"]["ledger"]
    for t, oracle, _ in replayed(record, e):
        assert quanta(ledger.agents.cash)[t, e].tolist() == oracle.cash, t
        assert ledger.agents.lots[t, e].tolist() == oracle.lots, t
        assert int(quanta(ledger.exchange.cash)[t, e]) == oracle.exchange_cash, t
        assert int(quanta(ledger.lender.cash)[t, e]) == oracle.lender_cash, t
        assert int(quanta(ledger.dealer.cash)[t, e]) == oracle.dealer_cash, t
        assert ledger.dealer.lots[t, e].tolist() == oracle.dealer_lots, t
        assert int(quanta(ledger.issuer.cash)[t, e]) == oracle.issuer_cash, t
        assert ledger.issuer.lots[t, e].tolist() == oracle.issuer_lots, t
        for house in (ledger.exchange, ledger.lender):
            assert not house.lots[t, e].any()
        assert record["after"]["mechanism"].net_lots[t, e].tolist() == oracle.net, t


def test_equity_equals_the_oracle_to_float_rounding():
    record = wild_run()
    for t, oracle, _ in replayed(record, 1):
        close = record["after"]["close"][t, 1].tolist()
        scale = 3e-6 * (np.abs(oracle.cash) + record["after"]["accounts"].gross[t, 1]) + 1.0
        for name in ("equity", "equity_mid"):
            expected = [getattr(oracle, name)(n, close) for n in range(len(oracle.cash))]
            assert (np.abs(record["info"][name][t, 1] - expected) <= scale).all(), (name, t)


def test_the_audit_is_zero_through_every_kind_of_trouble():
    """And all of the trouble occurred."""
    record = wild_run()
    assert_audit_is_zero(record["before"]["ledger"])
    assert_audit_is_zero(record["after"]["ledger"])
    lots, info = record["after"]["ledger"].agents.lots, record["info"]
    assert (lots < 0).any()
    assert info["liquidated"].any()
    assert record["terminated"]["bold"].any()
    assert record["truncated"]["careful"].any()
    assert info["reset"].sum() > MARKETS
    assert info["orders_trimmed"].any()
    assert (quanta(record["after"]["ledger"].agents.cash) < 0).any()
    deficits = [sum(amounts["deficits"]) for e in range(4) for _, _, amounts in replayed(record, e)]
    assert max(deficits) > 0
    partial = info["liquidated"] & record["after"]["accounts"].alive & (lots != 0).any(-1)
    assert partial.any()


def test_called_agents_are_those_below_maintenance_and_only_they():
    record = wild_run()
    before, margin = record["before"]["accounts"], np.array([0.25] * 2 + [0.15] * 3 + [0.25] * 4)
    ruin = np.array([0.01] * 2 + [0.02] * 3 + [0.01] * 4) * before.initial_equity
    low = (before.equity_mid < margin * before.gross) | (before.equity_mid <= ruin)
    expected = low & (before.gross > 0) & before.alive
    np.testing.assert_array_equal(record["info"]["liquidated"], expected)


def test_the_dead_do_not_act_and_do_not_rise():
    record = wild_run()
    alive, after = record["before"]["accounts"].alive, record["after"]["accounts"].alive
    assert not (after & ~alive).any()
    assert not record["info"]["lots"][~alive].any()
    assert not record["info"]["liquidated"][~alive].any()
    for name, rows in (("careful", CAREFUL), ("bold", BOLD), ("trader", TRADER)):
        np.testing.assert_array_equal(record["info"]["acted"][name], alive[..., rows])
        np.testing.assert_array_equal(record["terminated"][name], (alive & ~after)[..., rows])
        assert not record["reward"][name][~alive[..., rows]].any()
        assert np.isfinite(record["reward"][name]).all()


def test_one_bankrupt_agent_ends_and_the_others_play_on():
    record = wild_run()
    died = record["terminated"]["bold"].any(-1) & ~record["info"]["reset"]
    assert died.any()
    assert record["info"]["acted"]["careful"][1:][died[:-1]].all()


def test_cash_of_an_account_without_leverage_never_goes_below_zero():
    cash = quanta(wild_run()["after"]["ledger"].agents.cash)[..., CAREFUL]
    assert cash.min() >= 0
    assert cash.min() < 10_000_000  # and it was spent


def test_cash_of_an_account_without_leverage_stays_positive_in_a_crash_too():
    """Prices near one tick let an account hold more than the market's depth; selling that must not cost money."""
    rules = dataclasses.replace(RULES, fixed_fee=0.0)
    record = play(arena.random_actions(0), rules=rules, volatility=30.0)
    assert_audit_is_zero(record["after"]["ledger"])
    assert record["after"]["close"].min() == 1
    assert quanta(record["after"]["ledger"].agents.cash)[..., CAREFUL].min() >= 0


def test_limits_on_positions_hold():
    record = wild_run()
    assert (record["after"]["ledger"].agents.lots[..., CAREFUL, :] >= 0).all()
    mid, lots = record["before"]["mid"], record["info"]["lots"]
    positions = record["before"]["ledger"].agents.lots
    adds = (np.abs(positions + lots) > np.abs(positions)).any(-1)
    gross = (np.abs(positions + lots) * mid[:, :, None]).sum(-1)
    leverage = np.array([1.0] * 2 + [5.0] * 3 + [2.0] * 4)
    cash = quanta(record["before"]["ledger"].agents.cash)
    equity = cash + (positions * mid[:, :, None].astype(np.float64)).sum(-1)  # the fill is at the old close
    assert (gross <= leverage * equity * (1 + 1e-4))[adds].all()


# -- flat prices ------------------------------------------------------------------------------------


def round_trip(rules):
    """The first careful agent buys all it can of asset 0 and sells it again, at a flat price, alone."""
    actions = arena.no_action()
    actions["careful"][0, 0, 0] = [1.0, 0.0]
    record = play(actions, rules=rules, volatility=0.0, noise=0.0)
    cash = [int(quanta(record["before"]["ledger"].agents.cash)[0, 0, 0])]
    cash += quanta(record["after"]["ledger"].agents.cash)[:, 0, 0].tolist()
    return record, cash


def test_a_free_round_trip_at_a_flat_price_loses_nothing():
    record, cash = round_trip(FREE)
    assert record["info"]["lots"][0, 0, 0, 0] > 100
    assert cash[2] == cash[0]
    assert np.abs(record["reward"]["careful"][:, 0]).max() < 1e-6


def test_a_round_trip_at_a_flat_price_loses_two_fees_and_two_half_spreads():
    record, cash = round_trip(COSTLY)
    lots, ticks = int(record["info"]["lots"][0, 0, 0, 0]), int(record["before"]["close"][0, 0, 0])
    assert record["info"]["lots"][1, 0, 0].tolist() == [-lots, 0]
    value = lots * ticks
    half_spread = -(-value * 3 // 10_000)  # rounded up; the rate is float32, so allow its rounding
    fees = [-(-(value + side * half_spread) * 2 // 10_000) + 100 for side in (1, -1)]
    assert abs(cash[0] - cash[2] - 2 * half_spread - sum(fees)) <= 4
    oracle = [amounts for _, _, amounts in replayed(record, 0, COSTLY)]
    exact_fees = sum(amounts["fees"][0] for amounts in oracle[:2])
    assert cash[0] - cash[2] == exact_fees - sum(sum(amounts["cash"][0]) for amounts in oracle[:2])


def test_buying_with_all_cash_succeeds_after_fees():
    """A decision on the fraction 1 leaves cash for less than one lot, besides the reserve for rounding."""
    record, cash = round_trip(dataclasses.replace(COSTLY, tick_values=(1, 1)))
    price = int(record["before"]["close"][0, 0, 0])
    assert 0 <= cash[1] < price + 1e-5 * cash[0]


def test_long_profit_is_minus_short_profit_before_costs():
    actions = arena.no_action()
    actions["bold"][0, :, 0, 0], actions["bold"][0, :, 1, 0] = 0.1, -0.1
    actions["bold"][1:10, :, :2] = np.nan  # not finite means do nothing
    record = play(actions, rules=FREE, volatility=0.6, noise=0.0, seed=5)
    assert (record["info"]["lots"][0, :, 2, 0] > 0).all()
    assert not record["info"]["lots"][1:10, :, 2:4].any()
    ledger, close = record["after"]["ledger"], record["after"]["close"].astype(np.int64)
    equity = quanta(ledger.agents.cash) + (ledger.agents.lots * close[:, :, None] * [1, 3]).sum(-1)
    profit = (equity - 50_000_000)[:10]
    assert (profit[..., 2] == -profit[..., 3]).all()
    assert (profit[5, :, 2] != 0).all()


def test_doing_nothing_in_a_flat_market_earns_nothing():
    """Also with holdings from the start: they are marked the same way before and after."""
    record = play(arena.no_action(), rules=COSTLY, volatility=0.0, noise=0.0)
    for name in ("careful", "bold", "trader"):
        np.testing.assert_allclose(record["reward"][name], 0.0, atol=1e-6)


def test_one_trader_cannot_raise_its_marked_equity_by_trading_at_a_flat_price():
    rng = np.random.default_rng(2)
    actions = arena.no_action()
    actions["bold"][:, :, 0] = rng.uniform(-1, 1, (STEPS, MARKETS, 2)) * rng.choice(
        [0.01, 0.3, 1.0], (STEPS, MARKETS, 1)
    )
    record = play(actions, rules=IMPACT, volatility=0.0, noise=0.0)
    assert (record["info"]["lots"][:, :, 2] != 0).mean() > 0.5
    assert not record["info"]["lots"][:, :, [0, 1, 3, 4, 5, 6, 7, 8]].any()
    start = 50_000_000
    assert record["info"]["equity"][:, :, 2].max() <= start * (1 + 1e-6)
    assert record["info"]["equity"][:, :, 2].min() < start * 0.99


def test_a_coalition_gains_nothing_at_a_flat_price_once_it_is_closed_out():
    """All accounts together, closed through the dealer, never hold more than they began with."""
    record = play(arena.random_actions(4), rules=IMPACT, volatility=0.0, noise=0.0)
    ledger, close = record["after"]["ledger"], record["after"]["close"]
    mechanism = record["after"]["mechanism"]
    held = ledger.agents.lots.sum(-2)
    move = 0.125 * mechanism.net_lots / 4096.0 + mechanism.transient
    closing = close * (1.0 + move - (0.5 * 0.375 + 0.0625) * held / 4096.0)
    # Shares that came from the issuer were never bought from the dealer: value them at the untouched price.
    endowed = -ledger.issuer.lots
    closing_endowed = close * (1.0 + move - (0.5 * 0.375 + 0.0625) * (held - endowed) / 4096.0)
    cash = quanta(ledger.agents.cash).sum(-1) + quanta(ledger.lender.cash)
    total = cash + ((held - endowed) * closing_endowed * [1, 3]).sum(-1)
    start = -quanta(ledger.issuer.cash)
    assert (closing > 0).all()
    assert (total <= start * (1 + 1e-9)).all()
    assert (total < start * (1 - 1e-5)).any()


# -- falling prices ---------------------------------------------------------------------------------


def crash(fall_per_step, hold=0.99):
    """One bold agent holds `hold` times its greatest leverage while the price falls by a fixed share per step."""
    actions = arena.no_action()
    actions["bold"][0, 0, 0, 0] = hold
    actions["bold"][1:, 0, 0] = np.nan
    drift = 252.0 * np.log(1.0 - fall_per_step)
    return play(actions, rules=COSTLY, volatility=0.0, noise=0.0, drift=float(drift))


def test_forced_liquidation():
    """At leverage 4.95 a fall of 10 % leaves 11 % of margin: what is above the limit is sold, at a penalty."""
    record = crash(0.10)
    lots, called = record["info"]["lots"][:, 0, 2, 0], record["info"]["liquidated"][:, 0, 2]
    assert lots[0] > 0
    assert called[1]
    assert lots[1] < 0
    assert not called[0]
    amounts = [amounts for _, _, amounts in replayed(record, 0, COSTLY)]
    value = abs(sum(amounts[1]["cash"][2]))
    assert abs(amounts[1]["penalties"][2] - value * 80 / 10_000) <= 1 + 1e-6 * value
    assert amounts[0]["penalties"][2] == 0


def test_partial_liquidation_is_not_terminated():
    record = crash(0.09, hold=0.9)
    alive, lots = record["after"]["accounts"].alive[:, 0, 2], record["after"]["ledger"].agents.lots[:, 0, 2, 0]
    first = int(np.argmax(record["info"]["liquidated"][:, 0, 2]))
    assert record["info"]["liquidated"][first, 0, 2]
    assert 0 < lots[first] < lots[first - 1]
    assert alive[first]
    assert not record["terminated"]["bold"][first, 0, 0]
    accounts_after = record["after"]["accounts"]
    target = 5.0 * accounts_after.equity_mid[first - 1, 0, 2] / record["before"]["mid"][first, 0, 0]
    assert lots[first] <= target + 1


def test_a_deficit_is_borne_by_the_lender():
    """A fall of 40 % at leverage 4.95 costs more than the account has; the lender loses the rest, and nobody else."""
    record = crash(0.40)
    assert record["terminated"]["bold"][1, 0, 0]
    ledger = record["after"]["ledger"]
    cash = quanta(ledger.agents.cash)[1, 0]
    assert cash[2] == 0
    assert not ledger.agents.lots[1, 0, 2].any()
    lender = int(quanta(ledger.lender.cash)[1, 0])
    deficits = [amounts["deficits"] for _, _, amounts in replayed(record, 0, COSTLY)]
    assert lender == -deficits[1][2] < -50_000_000
    others = [0, 1, 3, 4, 5, 6, 7, 8]
    np.testing.assert_array_equal(cash[others], quanta(record["before"]["ledger"].agents.cash)[0, 0, others])
    assert_audit_is_zero(ledger)


def test_equity_is_exact_for_big_contracts():
    """A contract of 5,000 shares at 1,000,000 ticks is worth more than 2**31 quanta."""
    rules = dataclasses.replace(FREE, tick_values=(5_000, 5_000))
    record = play(arena.no_action(), rules=rules, volatility=0.0, noise=0.0)
    value = 90_000_000 + (7 + 2) * int(record["before"]["close"][0, 0, 0]) * 5_000
    np.testing.assert_allclose(record["before"]["accounts"].equity_mid[0, 0, 5], value, rtol=1e-6)
    np.testing.assert_allclose(record["after"]["accounts"].equity_mid[1, 0, 5], value, rtol=1e-6)
