"""Recorded prices replayed: every market plays its own window of one shared history.

The history is a parameter: held once on the device, read by all markets, never copied per market.
Belongs here: replay. Does not belong here: reading and checking files (`jaxarena.data`).
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core.draws import uniforms
from jaxarena.core.tree import Record, derived, static
from jaxarena.core.types import Bar
from jaxarena.market.processes import MAX_TICKS, Liquidity, Process


class Recording(Record):
    """A recorded history of `T` bars, quoted in ticks."""

    ticks: jax.Array  # [T, 4, A] int32 open, high, low, close
    volume: jax.Array  # [T, A] float32 lots
    depth: jax.Array  # [T, A] float32 mean volume of the bars up to and including each
    volatility: jax.Array  # [T, A] float32 standard deviation of log returns up to and including each

    def rows(self) -> Bar:
        """All bars, `[T, A]`."""
        open_, high, low, close = (self.ticks[:, i] for i in range(4))
        return Bar(open=open_, high=high, low=low, close=close, volume=self.volume)


class ReplayState(Record):
    """Which bar the market stands on."""

    index: jax.Array  # [] int32 row of the recording
    start: jax.Array  # [] int32 row at the start of the episode


class HistoricalReplay(Process):
    """Replay a window of real bars, drawn uniformly for each market at reset.

    Depth and volatility are those of the `liquidity_window` bars before the start: known to agents then,
    and constant within the episode, as lasting impact demands.
    """

    recording: Recording | None = derived(default=None)  # filled by `with_bars`
    periods_per_year: float = 252.0
    liquidity_window: int = static(default=60)
    symbols: tuple[str, ...] = static(default=())
    ticks_per_unit: int = static(default=0)  # 0: the power of ten that puts a tick at <= 1e-4 of the lowest price

    def with_bars(
        self,
        symbols: tuple[str, ...],
        open_: np.ndarray,
        high: np.ndarray,
        low: np.ndarray,
        close: np.ndarray,
        volume: np.ndarray,
    ) -> "HistoricalReplay":
        """A copy that replays these bars. Host only.

        Args:
            symbols: names of the `A` assets.
            open_, high, low, close: `[T, A]` prices in units of currency.
            volume: `[T, A]` lots.

        Raises:
            ValueError: prices that do not fit the ticks.
        """
        per_unit = self.ticks_per_unit or 10 ** max(int(np.ceil(4 - np.log10(low.min()))), 0)
        ticks = np.round(np.stack([open_, high, low, close], axis=1) * per_unit)
        if ticks.min() < 1 or ticks.max() > MAX_TICKS:
            raise ValueError(
                f"process.ticks_per_unit: {per_unit} puts prices at {ticks.min():g} to {ticks.max():g} ticks, "
                f"allowed is 1 to {MAX_TICKS}; choose another value or fewer assets"
            )
        log_return = np.diff(np.log(close), axis=0, prepend=np.log(close[:1]))
        window = self.liquidity_window
        recording = Recording(
            ticks=jnp.asarray(ticks, jnp.int32),
            volume=jnp.asarray(volume, jnp.float32),
            depth=jnp.asarray(np.maximum(_trailing_mean(volume, window), 1.0), jnp.float32),
            volatility=jnp.asarray(np.sqrt(_trailing_mean(log_return**2, window)), jnp.float32),
        )
        return self.replace(recording=recording, symbols=tuple(symbols), ticks_per_unit=int(per_unit))

    @property
    def asset_names(self) -> tuple[str, ...]:
        """See `Process.asset_names`."""
        return self.symbols

    @property
    def tick_size(self) -> float:
        """See `Process.tick_size`."""
        return 1.0 / self.ticks_per_unit

    @property
    def steps_per_year(self) -> float | jax.Array:
        """See `Process.steps_per_year`."""
        return self.periods_per_year

    def init(self, key: jax.Array, horizon: int | jax.Array) -> tuple[ReplayState, Bar]:
        """Draw a start with `liquidity_window` bars before it and `horizon` bars after it."""
        first = self.liquidity_window
        starts = jnp.maximum(self._recorded.ticks.shape[0] - horizon - first, 1)
        start = first + jnp.minimum((uniforms(key, ()) * starts).astype(jnp.int32), starts - 1)
        return ReplayState(index=start, start=start), self._row(start)

    def step(self, key: jax.Array, state: ReplayState) -> tuple[ReplayState, Bar]:
        """The next recorded bar."""
        index = state.index + 1
        return state.replace(index=index), self._row(index)

    def liquidity(self, state: ReplayState) -> Liquidity:
        """See `Process.liquidity`."""
        recorded = self._recorded
        return Liquidity(depth_lots=recorded.depth[state.start], volatility=recorded.volatility[state.start])

    def warm_bars(self) -> Bar | None:
        """See `Process.warm_bars`."""
        return self._recorded.rows()

    def without_bars(self) -> "HistoricalReplay":
        """See `Process.without_bars`."""
        return self.replace(recording=None)

    def bar_index(self, state: ReplayState) -> jax.Array:
        """See `Process.bar_index`."""
        return state.index

    def validate(self, horizon: int, lookback: int) -> None:
        """See `Process.validate`."""
        length, need = self._recorded.ticks.shape[0], horizon + self.liquidity_window + 1
        if lookback > self.liquidity_window:
            raise ValueError(
                f"process.liquidity_window: got {self.liquidity_window}, but observations look back {lookback} bars; "
                f"set it to {lookback} or more, or shorten the indicators"
            )
        if length < need:
            raise ValueError(
                f"market.episode_length: {horizon} steps after {self.liquidity_window} bars of warm-up need {need} "
                f"bars, the data has {length}; shorten the episode or widen the date range"
            )

    @property
    def _recorded(self) -> Recording:
        if self.recording is None:
            raise ValueError("historical_replay has no bars: give the market a 'data' section or call with_bars")
        return self.recording

    def _row(self, index: jax.Array) -> Bar:
        open_, high, low, close = self._recorded.ticks[index]
        return Bar(open=open_, high=high, low=low, close=close, volume=self._recorded.volume[index])


def _trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` rows up to and including each; of fewer rows at the beginning."""
    total = np.cumsum(np.concatenate([np.zeros_like(values[:1]), values]), axis=0)
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return np.asarray((total[end] - total[start]) / (end - start)[:, None])
