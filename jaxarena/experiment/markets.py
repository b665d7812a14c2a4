"""From a configuration to a market that can be stepped: data loaded, parts joined, everything validated.

Belongs here: joining `data:` and `market:`. Does not belong here: what each of them accepts.
"""

import dataclasses

import numpy as np

from jaxarena.data.bars import PriceHistory
from jaxarena.data.splits import load_split
from jaxarena.env.env import MarketEnv
from jaxarena.env.state import MarketParams
from jaxarena.experiment.config import ExperimentConfig
from jaxarena.market.history import HistoricalReplay


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """A market, filled with the data of one split, ready for `MarketEnv.build`."""

    market: MarketParams
    dates: np.ndarray | None  # [T] datetime64[D] of the bars that a replay starts from; None for a synthetic market

    def with_whole_split(self) -> "World":
        """The same market with one episode as long as the data allow; a synthetic market is returned as it is."""
        process = self.market.process
        if self.dates is None or not isinstance(process, HistoricalReplay):
            return self
        steps = len(self.dates) - process.liquidity_window - 1
        if steps < 1:
            raise ValueError(
                f"the split holds {len(self.dates)} bars, of which process.liquidity_window = "
                f"{process.liquidity_window} are warm-up; widen its dates"
            )
        return World(self.market.replace(episode_length=steps), self.dates)


def load_world(config: ExperimentConfig, split: str) -> World:
    """Read the bars of a split (`train`, `validation` or `test`) into the market that replays them.

    Raises:
        ValueError: a replay without data, data without a replay, and what is wrong with a file.
    """
    process = config.market.process
    if not isinstance(process, HistoricalReplay):
        if config.data is not None:
            raise ValueError(
                f"data: the process {process.kind()!r} makes its own prices; remove 'data', or set "
                "market.process=historical_replay"
            )
        return World(config.market, None)
    if config.data is None:
        raise ValueError(
            "market.process: historical_replay has no bars; add a 'data' section, such as data.source=us_daily"
        )
    history: PriceHistory = load_split(config.data, split)
    bars = (history.open, history.high, history.low, history.close, history.volume)
    try:
        return World(config.market.replace(process=process.with_bars(history.symbols, *bars)), history.dates)
    except ValueError as error:
        raise ValueError(f"{config.data.source}: {error}") from error


def build_market(config: ExperimentConfig, split: str = "train") -> tuple[MarketEnv, MarketParams]:
    """The environment and parameters of a configuration on one split of its data.

    Raises:
        ValueError: as `load_world` and `MarketEnv.build`.
    """
    return MarketEnv.build(load_world(config, split).market)
