"""A dealer who quotes around an exogenous price and moves it with the agents' net flow."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxarena.core.checks import expect_range, expect_shape
from jaxarena.core.money import Money
from jaxarena.core.once import once
from jaxarena.core.reduce import total
from jaxarena.core.tree import Record, static
from jaxarena.core.types import Bar, Fills, Orders, Quote
from jaxarena.market.costs import BPS, Impact, LinearImpact, PerAsset
from jaxarena.market.mechanism import Mechanism
from jaxarena.market.processes import MAX_TICKS, MIN_TICKS

#: The lasting move of the price is kept inside these fractions, so that a crash leaves a price.
LOWEST_MOVE, HIGHEST_MOVE = -0.9, 9.0


class DealerState(Record):
    """What the agents' past flow has done to the price."""

    net_lots: jax.Array  # [A] int32 lots that agents have bought from the dealer, net
    transient: jax.Array  # [A] float32 decaying move, fraction of the price


class Dealer(Mechanism):
    """Price-taking against an exogenous quote, with half-spread and impact from all agents' net flow.

    A fill of signed lots `q` at exogenous price `p` pays
    `q * p * (1 + move + impact.fill_move(x) + sign(q) * half_spread)`,
    with `x` the net flow of all agents over the market's depth and `move` the permanent and transient
    moves before the fill. The exact part `q * p` is an integer; the rest is charged as money, rounded up
    against the agent, so spreads finer than a tick are kept. The permanent move is a function of the
    dealer's exact net inventory: buying and selling back leaves nothing behind. However hard it presses, a
    seller never pays to sell. Market orders only; limit orders are rejected and counted.
    """

    half_spread_bps: PerAsset = 1.0
    impact: Impact = LinearImpact()
    fill: Literal["next_open", "next_close", "same_close"] = static(default="next_open")

    def init(self, opening_ticks: jax.Array, n_agents: int, n_slots: int) -> DealerState:
        """No flow yet."""
        return DealerState(
            net_lots=jnp.zeros(opening_ticks.shape, jnp.int32), transient=jnp.zeros(opening_ticks.shape, jnp.float32)
        )

    def clear(
        self, key: jax.Array, state: DealerState, orders: Orders, quote: Quote, tick_value: jax.Array
    ) -> tuple[DealerState, Fills, Bar]:
        """See `Mechanism.clear`."""
        expect_shape("orders.limit_ticks", orders.limit_ticks, orders.lots.shape)
        is_limit = (orders.limit_ticks != 0) & (orders.lots != 0)
        lots = total(jnp.where(is_limit, 0, orders.lots), -1)  # [N, A]
        flow = total(lots, 0)  # [A]
        rate = self._move(state, quote) + self.impact.fill_move(flow / quote.depth_lots, quote.volatility)
        exact = Money.of_lots(self._fill_ticks(quote), lots, tick_value)
        paid = exact + exact.scale_up(jnp.maximum(rate + jnp.sign(lots) * self._half_spread, -1.0))
        fills = Fills(
            bought=jnp.maximum(lots, 0),
            sold=jnp.maximum(-lots, 0),
            cash=-paid,
            maker_lots=jnp.zeros_like(lots),
            taker_lots=jnp.abs(lots),
            orders_rejected=total(total(is_limit.astype(jnp.int32), -1), 1),
            self_matched=jnp.zeros(lots.shape[0], jnp.int32),
        )
        after = self._after(state, flow, quote)
        return once((after, fills, self._traded_bar(state, after, quote, total(jnp.abs(lots), 0))))

    def price_range(self, state: DealerState, orders: Orders, quote: Quote) -> tuple[jax.Array, ...]:
        """The fill prices if only the sellers, or only the buyers, came."""
        lots = total(orders.lots, -1)
        price, move = self._fill_ticks(quote).astype(jnp.float32), self._move(state, quote)
        selling = self.impact.fill_move(total(jnp.minimum(lots, 0), 0) / quote.depth_lots, quote.volatility)
        buying = self.impact.fill_move(total(jnp.maximum(lots, 0), 0) / quote.depth_lots, quote.volatility)
        half_spread = self._half_spread
        return (
            price * jnp.maximum(1.0 + move + selling - half_spread, 0.0),
            price * (1.0 + move),
            price * (1.0 + move + buying + half_spread),
        )

    def mid(self, state: DealerState, quote: Quote) -> jax.Array:
        """See `Mechanism.mid`."""
        return quote.bar.close * (1.0 + self._move(state, quote))

    def closing_prices(self, state: DealerState, lots: jax.Array, quote: Quote) -> jax.Array:
        """See `Mechanism.closing_prices`."""
        own = self.impact.fill_move(-lots / quote.depth_lots, quote.volatility)
        rate = 1.0 + self._move(state, quote) + own - jnp.sign(lots) * self._half_spread
        return quote.bar.close * jnp.maximum(rate, 0.0)

    def validate(self) -> None:
        """See `Mechanism.validate`."""
        expect_range("mechanism.half_spread_bps", self.half_spread_bps, 0.0, 5_000.0)
        self.impact.validate()

    @property
    def _half_spread(self) -> jax.Array:
        return jnp.asarray(self.half_spread_bps) * jnp.float32(BPS)

    def _fill_ticks(self, quote: Quote) -> jax.Array:
        choices = {
            "next_open": quote.bar.open,
            "next_close": quote.bar.close,
            "same_close": quote.previous_close,
        }
        return choices[self.fill]

    def _move(self, state: DealerState, quote: Quote) -> jax.Array:
        permanent = jnp.asarray(self.impact.permanent) * (state.net_lots / quote.depth_lots)
        return jnp.clip(permanent + state.transient, LOWEST_MOVE, HIGHEST_MOVE)

    def _after(self, state: DealerState, flow: jax.Array, quote: Quote) -> DealerState:
        kick = jnp.asarray(self.impact.transient) * (flow / quote.depth_lots)
        return DealerState(
            net_lots=state.net_lots + flow,
            transient=jnp.asarray(self.impact.decay) * (state.transient + kick),
        )

    def _traded_bar(self, before: DealerState, after: DealerState, quote: Quote, volume: jax.Array) -> Bar:
        """The exogenous bar as the agents moved it: it opens at the old move and closes at the new one."""
        old, new, bar = 1.0 + self._move(before, quote), 1.0 + self._move(after, quote), quote.bar

        def ticks(price: jax.Array) -> jax.Array:
            return jnp.clip(jnp.round(price), MIN_TICKS, MAX_TICKS).astype(jnp.int32)

        return Bar(
            open=ticks(bar.open * old),
            high=ticks(bar.high * jnp.maximum(old, new)),
            low=ticks(bar.low * jnp.minimum(old, new)),
            close=ticks(bar.close * new),
            volume=bar.volume + volume,
        )
