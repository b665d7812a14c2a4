"""Observation blocks against NumPy, along a recorded path that the agents move, their books kept by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.core.money import int_quanta
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import BarReturns, Indicators, MarketFlow, Portfolio, Signal, TimeLeft
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.market.costs import Financing, LinearImpact, ProportionalFees
from jaxarena.market.dealer import Dealer
from jaxarena.market.history import HistoricalReplay
from jaxarena.market.indicators import Rsi, VwapDistance
from jaxarena.market.margin import RiskLimits
from jaxarena.market.processes import PlantedSignal

STEPS, WARM, SHOWN, LEVERAGE = 9, 24, 3, 2.0
SPREAD, FEE = 5e-4, 2e-4
PERMANENT, TRANSIENT, DECAY, TEMPORARY = 0.3, 0.2, 0.5, 0.1
MEMORY = 0.8
BLOCKS = (Portfolio(), MarketFlow(), BarReturns(length=SHOWN), Indicators())  # on purpose not in the order seen

#: Weights that the two agents aim for: add in two steps, close in part, flip from long to short, close, reopen.
WEIGHTS = np.array(
    [
        [[0.2, 0.0], [-0.1, 0.0]],
        [[0.5, 0.1], [-0.4, 0.1]],
        [[0.2, 0.1], [-0.1, 0.2]],
        [[-0.3, 0.2], [0.3, -0.2]],
        [[-0.6, 0.2], [0.3, -0.6]],
        [[0.0, 0.0], [0.0, -0.1]],
        [[0.3, -0.3], [0.0, 0.9]],
        [[0.3, -0.3], [0.5, 0.5]],
        [[1.0, 0.0], [-1.0, 0.0]],
    ],
    np.float32,
)


@functools.cache
def bars():
    """Open, high, low, close and volume of `STEPS + WARM + 1` bars of two assets: only one start is possible."""
    rng = np.random.default_rng(1)
    close = [50.0, 20.0] * np.exp(rng.normal(0, 0.03, (STEPS + WARM + 1, 2)).cumsum(0))
    open_ = close * np.exp(rng.normal(0, 0.02, close.shape))
    high, low = np.maximum(open_, close) * 1.01, np.minimum(open_, close) * 0.99
    return open_, high, low, close, rng.uniform(2e3, 9e3, close.shape)


@functools.cache
def recorded():
    role = Role(
        name="trader",
        count=2,
        cash=40_000.0,
        limits=RiskLimits(max_leverage=LEVERAGE, allow_short=True, maintenance_margin=0.1),
        observations=BLOCKS,
    )
    return MarketEnv.build(
        MarketParams(
            process=HistoricalReplay(liquidity_window=WARM).with_bars(("X", "Y"), *bars()),
            roles=(role,),
            mechanism=Dealer(
                half_spread_bps=SPREAD * 1e4,
                impact=LinearImpact(permanent=PERMANENT, transient=TRANSIENT, decay=DECAY, linear_temporary=TEMPORARY),
            ),
            costs=ProportionalFees(fee_bps=FEE * 1e4),
            financing=Financing(borrow_rate=0.0, deposit_rate=0.0, short_fee=0.0),
            indicators=(Rsi(), VwapDistance()),
            episode_length=STEPS,
            flow_memory=MEMORY,
        )
    )


@functools.cache
def played():
    """Observations before every step and after the last one `[T + 1, 2, D]`, what was filled, and the states."""
    env, params = recorded()

    @jax.jit
    def play(params, key, actions):
        obs, state = env.reset(key, params)

        def body(state, action):
            obs, state, *_, info = env.step_env(key, state, {"trader": action}, params)
            return state, (obs["trader"], info["lots"], state.ledger.agents, state.features)

        return obs["trader"], state.features, jax.lax.scan(body, state, actions)[1]

    first, features, (obs, lots, agents, later) = play(params, jax.random.key(0), WEIGHTS)
    seen = np.concatenate([np.asarray(first)[None], np.asarray(obs)])
    features = [np.concatenate([np.asarray(a)[None], np.asarray(b)]) for a, b in zip(features, later, strict=True)]
    return seen, np.asarray(lots), np.asarray(int_quanta(agents.cash), float), np.asarray(agents.lots), features


def slices(name):
    return played()[0][..., recorded()[0].observation_layout("trader")[name]]


class Books:
    """The same market in float64 NumPy: the dealer's price, traded bars, and each account. Prices in ticks."""

    def __init__(self):
        _, params = recorded()
        scale = params.process.ticks_per_unit
        ticks = [np.round(x * scale) for x in bars()[:4]]
        volume = bars()[4]
        self.depth = volume[: WARM + 1][-WARM:].mean(0)  # up to and including the bar of the start
        self.rows = [np.stack([x[t] for x in ticks] + [volume[t]]) for t in range(WARM + 1)]  # as traded
        self.moves, self.flows = [np.zeros(2)], [np.zeros(2)]
        self.prices = []  # paid or received per lot, [T, N, A]
        self.closes = [ticks[3][WARM]]
        net, transient, flow = np.zeros(2), np.zeros(2), np.zeros(2)
        for t, lots in enumerate(played()[1]):
            row = WARM + 1 + t
            x, before = lots.sum(0) / self.depth, self.moves[-1]
            rate = before + (0.5 * (PERMANENT + TRANSIENT) + TEMPORARY) * x
            self.prices.append(ticks[0][row] * (1 + rate + np.sign(lots) * SPREAD))
            net, transient = net + lots.sum(0), DECAY * (transient + TRANSIENT * x)
            after = PERMANENT * net / self.depth + transient
            traded = [
                ticks[0][row] * (1 + before),
                ticks[1][row] * (1 + np.maximum(before, after)),
                ticks[2][row] * (1 + np.minimum(before, after)),
                ticks[3][row] * (1 + after),
            ]
            self.rows.append(np.stack([np.round(x) for x in traded] + [volume[row] + np.abs(lots).sum(0)]))
            self.moves.append(after)
            self.closes.append(ticks[3][row])
            flow = MEMORY * flow + x
            self.flows.append(flow)

    @functools.cached_property
    def positions(self):
        return np.concatenate([np.zeros((1, 2, 2)), played()[1].cumsum(0)])

    @functools.cached_property
    def cash(self):
        """From fills and fees, `[T + 1, N]`."""
        value = -np.array(self.prices) * played()[1]
        fees = FEE * np.abs(value)
        start = 40_000.0 * recorded()[1].quanta_per_unit
        return start + np.concatenate([np.zeros((1, 2)), (value - fees).sum(-1).cumsum(0)])

    def mid(self, t):
        return self.closes[t] * (1 + self.moves[t])

    @functools.cached_property
    def equity(self):
        """Marked net of closing alone, `[T + 1, N]`."""
        rows = []
        for t, held in enumerate(self.positions):
            own = -(0.5 * (PERMANENT + TRANSIENT) + TEMPORARY) * held / self.depth
            closing = self.closes[t] * (1 + self.moves[t] + own - np.sign(held) * SPREAD)
            rows.append(self.cash[t] + (held * closing).sum(-1))
        return np.array(rows)

    @functools.cached_property
    def entries(self):
        """Average price of each open position, from the list of its fills, `[T + 1, N, A]`."""
        found = np.full((len(self.positions), 2, 2), np.nan)
        for n in range(2):
            for a in range(2):
                held, value = 0, 0.0
                for t, lots in enumerate(played()[1][:, n, a], start=1):
                    price = self.prices[t - 1][n, a]
                    if held * lots < 0:  # reduce at the average; what goes through zero opens anew
                        closed = np.sign(lots) * min(abs(lots), abs(held))
                        value *= (held + closed) / held
                        held, lots = held + closed, lots - closed  # noqa: PLW2901
                    held, value = held + lots, value + lots * price
                    found[t, n, a] = value / held if held else np.nan
        return found


@functools.cache
def books():
    return Books()


def test_the_script_adds_closes_in_part_flips_and_shorts():
    """Otherwise the tests below would prove less than they say."""
    positions, lots = books().positions, played()[1]
    before, after = positions[:-1], positions[1:]
    assert (before * after < 0).any()
    assert ((before != 0) & (after == 0)).any()
    assert ((before * lots > 0) & (after > 0)).any()
    assert ((before * lots > 0) & (after < 0)).any()
    assert ((before * lots < 0) & (before * after > 0)).any()
    assert np.abs(books().moves).max() > 0.01  # and the price was moved


def test_cash_follows_from_fills_and_fees():
    np.testing.assert_allclose(played()[2], books().cash[1:], atol=50.0)  # quanta; rates are float32
    np.testing.assert_array_equal(played()[3], books().positions[1:])


def test_bar_returns_of_traded_bars():
    rows, got = books().rows, slices("bar_returns")
    for t in range(STEPS + 1):
        window = np.array(rows[WARM + t - SHOWN : WARM + t + 1])  # [SHOWN + 1, 5, A]
        expected = np.empty((SHOWN, 5, 2))
        expected[:, :4] = 30.0 * (window[1:, :4] / window[:-1, 3:4] - 1.0)
        expected[:, 4] = window[1:, 4] / window[1:, 4].mean(0) - 1.0
        for agent in range(2):
            np.testing.assert_allclose(got[t, agent], expected.ravel(), atol=1e-3)


def test_market_flow_decays_and_counts_everybody():
    for agent in range(2):
        np.testing.assert_allclose(slices("market_flow")[:, agent], 20.0 * np.array(books().flows), atol=1e-4)


def test_portfolio():
    own = slices("portfolio")
    mid = np.array([books().mid(t) for t in range(STEPS + 1)])[:, None]
    equity, positions = books().equity, books().positions
    weights = positions * mid / equity[..., None]
    leverage = np.abs(weights).sum(-1)
    profit = np.nan_to_num(np.sign(positions) * (mid / books().entries - 1.0))  # none without a position
    peak = np.maximum.accumulate(equity)
    expected = {
        "cash share": books().cash / equity,
        "leverage": leverage,
        "growth": 5.0 * np.log(equity / equity[0]),
        "drawdown": 5.0 * (1.0 - equity / peak),
        "room": 1.0 - leverage / LEVERAGE,
    }
    for column, (name, values) in enumerate(expected.items()):
        np.testing.assert_allclose(own[..., column], values, atol=2e-4, err_msg=name)
    np.testing.assert_allclose(own[..., 5:7], weights, atol=2e-4)
    np.testing.assert_allclose(own[..., 7:9], 5.0 * profit, atol=5e-4)
    assert expected["drawdown"].max() > 0.1
    assert np.abs(profit).max() > 0.03


def test_portfolio_at_the_start_of_an_episode():
    np.testing.assert_allclose(slices("portfolio")[0], [[1, 0, 0, 0, 1, 0, 0, 0, 0]] * 2, atol=1e-6)


def test_indicators_are_those_of_the_market_in_order():
    features = played()[4]
    expected = np.concatenate([feature.reshape(STEPS + 1, -1) for feature in features], axis=1)
    for agent in range(2):
        np.testing.assert_allclose(slices("indicators")[:, agent], expected, atol=1e-6)


def test_layout_names_every_block_with_the_market_first():
    sizes = {"market_flow": 2, "bar_returns": SHOWN * 5 * 2, "indicators": slices("indicators").shape[-1]}
    layout = recorded()[0].observation_layout("trader")
    assert list(layout) == [*sizes, "portfolio"]
    assert {name: part.stop - part.start for name, part in layout.items()} == sizes | {"portfolio": 9}
    assert layout["portfolio"].stop == recorded()[0].observation_space("trader").size == played()[0].shape[-1]


def test_layout_keeps_blocks_of_one_kind_apart():
    env, params = recorded()
    blocks = (BarReturns(length=2), BarReturns(length=4, scale=1.0), Portfolio())
    env, _ = MarketEnv.build(params.replace(roles=(params.roles[0].replace(observations=blocks),)))
    layout = env.observation_layout("trader")
    assert len(layout) == 3
    assert sum(part.stop - part.start for part in layout.values()) == env.observation_space("trader").size


# -- blocks that not every market has ---------------------------------------------------------------


def planted(horizon="continuing", **role):
    roles = (Role(name="trader", count=2, **role),)
    return MarketParams(process=PlantedSignal(n_assets=3), roles=roles, indicators=(), horizon=horizon)


def test_signal_is_what_the_process_announces():
    env, params = MarketEnv.build(planted(observations=(Portfolio(), Signal())))
    obs, state = jax.jit(env.reset)(jax.random.key(4), params)
    assert set(np.asarray(state.process.signal).tolist()) <= {-1.0, 1.0}
    assert env.observation_layout("trader")["signal"] == slice(0, 3)
    np.testing.assert_array_equal(obs["trader"][:, :3], np.tile(state.process.signal, (2, 1)))


def test_a_signal_that_nobody_announces_is_refused():
    _, params = recorded()
    roles = (params.roles[0].replace(observations=(Signal(),)),)
    with pytest.raises(ValueError, match="observation 'signal': the process announces none"):
        MarketEnv.build(params.replace(roles=roles))


@pytest.mark.parametrize(
    ("horizon", "blocks", "remedy"),
    [("continuing", (Portfolio(), TimeLeft()), "remove"), ("terminal", (Portfolio(),), "add")],
)
def test_time_left_belongs_to_a_terminal_horizon_and_only_there(horizon, blocks, remedy):
    with pytest.raises(ValueError, match=f"'time_left' belongs to a terminal horizon.*{remedy} the block"):
        MarketEnv.build(planted(horizon, observations=blocks))


def test_time_left_must_be_seen_by_every_learned_role():
    market = planted("terminal", observations=(TimeLeft(), Portfolio()))
    MarketEnv.build(market)
    second = Role(name="other", observations=(Portfolio(),))
    with pytest.raises(ValueError, match=r"roles\.other\.observations: 'time_left'"):
        MarketEnv.build(market.replace(roles=(*market.roles, second)))


def test_values_beyond_the_space_are_clipped():
    env, params = recorded()
    loud = (MarketFlow(scale=1e9), Portfolio())
    env, params = MarketEnv.build(params.replace(roles=(params.roles[0].replace(observations=loud),)))

    @jax.jit
    def look(params, flow):
        return env.observe(env.first_state(jax.random.key(0), params).replace(flow=flow), params)

    seen = look(params, jnp.array([1.0, -1.0]))["trader"]
    np.testing.assert_array_equal(seen[:, :2], [[10.0, -10.0]] * 2)


@pytest.mark.parametrize(
    ("block", "name"),
    [(BarReturns(length=0), "length"), (BarReturns(length=-2), "length"), (MarketFlow(scale=float("nan")), "scale")],
)
def test_blocks_without_meaning_are_refused_by_name(block, name):
    with pytest.raises(ValueError, match=rf"roles\.trader\.observations\.{block.kind()}\.{name}"):
        MarketEnv.build(planted(observations=(block, Portfolio())))
