"""Pictures of a run, as Matplotlib figures that touch no global state.

Belongs here: drawing arrays that are already computed. Does not belong here: computing them (`metrics`).
Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; lines of one colour
differ by their dashes. Text and axes are drawn in `INK`, which the report replaces by the reader's text colour.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from jaxarena.experiment.metrics import Estimate, drawdown_of, returns_of

INK = "#1b1c1d"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
GREY = "#8a8f94"
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_WIDTH, _HEIGHT = 6.6, 3.7  # inches; readable at the width of a phone held upright

Dates = Sequence[Any] | np.ndarray | None


def equity_figure(roles: Mapping[str, np.ndarray], baselines: Mapping[str, np.ndarray], dates: Dates = None) -> Figure:
    """Growth of one unit of equity: median over curves per role with the band from the 10th to the 90th percentile.

    Args:
        roles: name to equity [M, T+1].
        baselines: name to equity [M, T+1] on the same markets, drawn as grey broken medians.
        dates: [T+1] dates (ISO text or datetime64) of the marks; default counts steps.

    Returns:
        the figure; its axis is logarithmic when curves differ by more than a factor of ten.

    Raises:
        ValueError: curves of other lengths than `dates`, or that are not equity curves.
    """
    growth = {name: _growth(equity) for name, equity in roles.items()}
    reference = {name: _growth(equity) for name, equity in baselines.items()}
    figure, axes = _new("Equity", "growth of 1 at the start")
    _bands(axes, growth, reference, dates)
    lines = [np.median(curves, axis=0) for curves in (*growth.values(), *reference.values())]
    lowest, highest = min(line.min() for line in lines), max(line.max() for line in lines)
    if lowest > 0 and highest / lowest > 10:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.axhline(1.0, color=INK, linewidth=0.6, alpha=0.5)
    return figure


def drawdown_figure(
    roles: Mapping[str, np.ndarray], baselines: Mapping[str, np.ndarray], dates: Dates = None
) -> Figure:
    """Loss from the highest equity so far, in percent; lines, bands and arguments as in `equity_figure`."""
    figure, axes = _new("Drawdown", "loss from the last high")
    drawdowns = [
        {name: -drawdown_of(returns_of(equity)) for name, equity in group.items()} for group in (roles, baselines)
    ]
    _bands(axes, drawdowns[0], drawdowns[1], dates)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_ylim(top=0.0)
    return figure


def weights_figure(title: str, weights: np.ndarray, names: Sequence[str], dates: Dates = None) -> Figure:
    """What equity is invested in over time, stacked; short positions and debt are stacked below zero.

    Args:
        title: whose portfolio this is.
        weights: [T, K] value of each holding over equity; a row sums to 1 when cash is among them.
        names: [K] of the holdings; one named "cash" is drawn grey.
        dates: [T]; default counts steps.

    Returns:
        the figure.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(names):
        raise ValueError(f"weights: expected shape [T, {len(names)}] for {list(names)}, got {weights.shape}")
    figure, axes = _new(title, "share of equity")
    x = _x_axis(axes, weights.shape[0], dates)
    palette = iter(COLOURS * (len(names) // len(COLOURS) + 1))
    colours = [GREY if name == "cash" else next(palette) for name in names]
    axes.stackplot(x, np.maximum(weights, 0.0).T, colors=colours, labels=names, alpha=0.85, linewidth=0)
    if (weights < 0).any():
        axes.stackplot(x, np.minimum(weights, 0.0).T, colors=colours, alpha=0.85, linewidth=0)
        axes.axhline(0.0, color=INK, linewidth=0.8)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.margins(x=0)
    _legend(axes)
    return figure


def learning_figure(records: Sequence[Mapping[str, Any]], names: Sequence[str], title: str = "Learning") -> Figure:
    """Logged values over training, one small plot each; thin lines are seeds, the thick one is their mean.

    Args:
        records: as read from `metrics.jsonl`: `step` (agent steps) and named numbers or lists over seeds.
        names: of the values to draw; a value that no record has gets an empty plot that says so.
        title: of the whole.

    Returns:
        the figure.
    """
    columns = min(2, max(1, len(names)))
    rows = -(-len(names) // columns)
    figure = _blank(_WIDTH, 0.5 + 2.1 * max(rows, 1))
    _title(figure, title)
    for place, name in enumerate(names):
        axes = _style(figure.add_subplot(rows, columns, place + 1))
        axes.set_title(name, loc="left", fontsize=9, color=INK)
        steps, values = _logged(records, name)
        if not steps.size:
            axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color=GREY)
            axes.set(xticks=[], yticks=[])
        elif values.shape[1] > 1:
            axes.plot(steps, values, color=COLOURS[0], linewidth=0.7, alpha=0.35)
        if steps.size:
            mean = np.nanmean(np.where(np.isnan(values).all(axis=1, keepdims=True), 0.0, values), axis=1)
            axes.plot(steps, mean, color=COLOURS[0], linewidth=1.6, marker="o" if steps.size == 1 else "")
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.margins(x=0.01)
        if place >= len(names) - columns:
            axes.set_xlabel("agent steps", color=INK)
    return figure


def flow_figure(
    price: np.ndarray, flows: Mapping[str, np.ndarray], dates: Dates = None, asset: str = "asset"
) -> Figure:
    """The price of one asset above what each role bought (+) or sold (-) on balance, in one market.

    Args:
        price: [T] money per share.
        flows: role to [T] shares bought minus sold; drawn cumulated, so that the lines are inventories built.
        dates: [T]; default counts steps.
        asset: its name, for the title.

    Returns:
        the figure.
    """
    figure = _blank(_WIDTH, 1.35 * _HEIGHT)
    _title(figure, f"Market flow: {asset}")
    grid = figure.add_gridspec(2, 1, height_ratios=(1.0, 1.0))
    top = _style(figure.add_subplot(grid[0]))
    bottom = _style(figure.add_subplot(grid[1], sharex=top))
    x = _x_axis(bottom, len(price), dates)
    top.plot(x, price, color=INK, linewidth=1.2)
    top.set_ylabel("price", color=INK)
    top.tick_params(labelbottom=False)
    for place, (name, flow) in enumerate(flows.items()):
        bottom.plot(x, np.cumsum(flow), color=_colour(place), linestyle=_dashes(place), linewidth=1.4, label=name)
    bottom.axhline(0.0, color=INK, linewidth=0.6, alpha=0.5)
    bottom.yaxis.set_major_formatter(EngFormatter(sep=" "))
    bottom.set_ylabel("net shares bought", color=INK)
    bottom.margins(x=0)
    _legend(bottom)
    return figure


def price_figure(price: np.ndarray, value: np.ndarray, volume: np.ndarray, asset: str = "asset") -> Figure:
    """The price that one market made, the value that nobody saw, and the lots traded below.

    Args:
        price: [T] currency per lot.
        value: [T] currency per lot.
        volume: [T] lots.
        asset: its name, for the title.

    Returns:
        the figure.
    """
    figure = _blank(_WIDTH, 1.2 * _HEIGHT)
    _title(figure, f"Price and hidden value: {asset}")
    grid = figure.add_gridspec(2, 1, height_ratios=(3.0, 1.0))
    top = _style(figure.add_subplot(grid[0]))
    bottom = _style(figure.add_subplot(grid[1], sharex=top))
    x = _x_axis(bottom, len(price), None)
    top.plot(x, value, color=COLOURS[1], linewidth=1.2, label="hidden value")
    top.plot(x, price, color=INK, linewidth=1.1, label="price")
    top.set_ylabel("currency per lot", color=INK)
    top.tick_params(labelbottom=False)
    _legend(top)
    bottom.fill_between(x, volume, step="mid", color=COLOURS[0], alpha=0.6, linewidth=0)
    bottom.set_ylabel("lots", color=INK)
    bottom.margins(x=0)
    return figure


def facts_figure(
    made: Mapping[str, np.ndarray], bands: Mapping[str, tuple[np.ndarray, np.ndarray]], real: Mapping[str, np.ndarray]
) -> Figure:
    """Autocorrelations by lag, of the market that was made and of real daily bars.

    Args:
        made: title of a plot to [L] values at lags 1 to L.
        bands: title to the ends of the intervals, [L] each; may be empty.
        real: title to [L'] values of real bars.

    Returns:
        the figure, one plot per title.
    """
    figure = _blank(_WIDTH, 0.5 + 2.3 * len(made))
    _title(figure, "Memory of returns")
    for place, (title, values) in enumerate(made.items()):
        axes = _style(figure.add_subplot(len(made), 1, place + 1))
        axes.set_title(title, loc="left", fontsize=9, color=INK)
        lags = np.arange(1, len(values) + 1)
        if title in bands:
            axes.fill_between(lags, *bands[title], color=COLOURS[0], alpha=0.2, linewidth=0)
        axes.plot(lags, values, color=COLOURS[0], linewidth=1.5, label="this market")
        if title in real:
            shown = real[title][: len(values)]
            axes.plot(lags[: len(shown)], shown, color=COLOURS[1], linestyle=_dashes(6), label="real daily bars")
        axes.axhline(0.0, color=INK, linewidth=0.6, alpha=0.5)
        axes.margins(x=0.01)
        if place == 0:
            axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper right")
    axes.set_xlabel("lag in steps", color=INK)
    return figure


def payments_figure(roles: Sequence[str], gains: np.ndarray) -> Figure:
    """Who pays whom: what the row's role gained from the column's role, as a coloured table.

    Args:
        roles: [R] names.
        gains: [R, R] currency per market.

    Returns:
        the figure.
    """
    figure = _blank(_WIDTH, 1.2 + 0.55 * len(roles))
    _title(figure, "Who pays whom")
    axes = figure.add_subplot()
    reach = float(np.nanmax(np.abs(gains))) or 1.0
    colours = np.where(gains[..., None] >= 0, to_rgb(COLOURS[0]), to_rgb(COLOURS[4]))
    share = np.abs(np.nan_to_num(gains))[..., None] / reach
    axes.imshow(np.concatenate([colours, 0.6 * share], axis=2), aspect="auto")  # transparent: text of any theme reads
    axes.set_xticks(range(len(roles)), [f"from {name}" for name in roles], rotation=30, ha="right", color=INK)
    axes.set_yticks(range(len(roles)), [f"{name} gains" for name in roles], color=INK)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    for i in range(len(roles)):
        for j in range(len(roles)):
            text = f"{gains[i, j]:,.0f}" if reach >= 100 else f"{gains[i, j]:.3g}"
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color=INK)
    return figure


def comparison_figure(rows: Sequence[tuple[str, str, str, Estimate]]) -> Figure:
    """Values with their intervals, a small plot for each metric: roles one below the other, runs in colours.

    Args:
        rows: metric, role, run and the estimate; one without a value leaves its place empty.

    Returns:
        the figure.
    """
    metrics, roles, runs = (
        list(dict.fromkeys(names)) for names in zip(*((m, r, n) for m, r, n, _ in rows), strict=True)
    )
    columns = min(2, len(metrics))
    lines = -(-len(metrics) // columns)
    height = 0.7 + 0.16 * len(roles) * (len(runs) + 1)
    figure = _blank(_WIDTH, 0.8 + 0.2 * -(-len(runs) // 3) + lines * height)
    _title(figure, "Comparison, with 95 % intervals")
    panels = {m: _style(figure.add_subplot(lines, columns, place + 1)) for place, m in enumerate(metrics)}
    for metric, role, run, estimate in rows:
        place = runs.index(run)
        y = roles.index(role) + 0.7 * ((place + 0.5) / len(runs) - 0.5)
        value, low, high = (np.nan if of is None else of for of in (estimate.value, estimate.low, estimate.high))
        style = {"color": _colour(place), "linestyle": _dashes(place)}
        panels[metric].plot([low, high], [y, y], linewidth=1.6, **style)
        panels[metric].plot([value], [y], marker="o", markersize=4.5, label=run, **style)
    for place, (metric, axes) in enumerate(panels.items()):
        axes.set_title(metric.replace("_", " "), loc="left", fontsize=9, color=INK)
        axes.set_yticks(range(len(roles)), roles if place % columns == 0 else [""] * len(roles))
        axes.set_ylim(len(roles) - 0.5, -0.5)
        axes.axvline(0.0, color=INK, linewidth=0.6, alpha=0.5)
    handles, labels = panels[metrics[0]].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named, loc="outside lower left", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as `.svg` or `.png`, by the suffix; equal figures give equal files.

    Raises:
        ValueError: another suffix.
    """
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"{path}: expected a name that ends in .svg or .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    svg = path.suffix == ".svg"
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem, "font.family": "sans-serif"}):
        figure.savefig(path, transparent=svg, dpi=150, metadata={"Date": None} if svg else None)
    return path


def _blank(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _title(figure: Figure, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)


def _new(title: str, label: str) -> tuple[Figure, Axes]:
    figure = _blank(_WIDTH, _HEIGHT)
    _title(figure, title)
    axes = _style(figure.add_subplot())
    axes.set_ylabel(label, color=INK)
    return figure, axes


def _style(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def _x_axis(axes: Axes, length: int, dates: Dates) -> np.ndarray:
    """Positions along the x axis, with its ticks and label set: dates, or step numbers."""
    if dates is None:
        axes.set_xlabel("step", color=INK)
        return np.arange(length)
    days = np.asarray(dates, "datetime64[D]")
    if days.shape != (length,):
        raise ValueError(f"dates: expected {length} of them, one for each point, got shape {days.shape}")
    locator = AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlabel("date", color=INK)
    return days


def _bands(axes: Axes, roles: Mapping[str, np.ndarray], baselines: Mapping[str, np.ndarray], dates: Dates) -> None:
    """Medians and 10-90 % bands of roles, broken grey medians of baselines; arrays [M, T+1]."""
    length = next(iter({**roles, **baselines}.values())).shape[1]
    x = _x_axis(axes, length, dates)
    for place, (name, curves) in enumerate(roles.items()):
        low, median, high = np.percentile(curves, [10, 50, 90], axis=0)
        axes.fill_between(x, low, high, color=_colour(place), alpha=0.15, linewidth=0)
        axes.plot(x, median, color=_colour(place), linestyle=_dashes(place), linewidth=1.7, label=name, zorder=3)
    for place, (name, curves) in enumerate(baselines.items()):
        median = np.median(curves, axis=0)
        axes.plot(x, median, color=GREY, linestyle=_DASHES[(place + 1) % 4], linewidth=1.2, label=name)
    axes.margins(x=0)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Names above the plot, in as many rows as they need."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = max(1, min(len(labels), 88 // (max(map(len, labels)) + 6)))
        axes.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, frameon=False, fontsize=9,
            labelcolor=INK, columnspacing=1.2, handlelength=1.8, borderaxespad=0.5,
        )  # fmt: skip


def _growth(equity: np.ndarray) -> np.ndarray:
    start = np.ones((np.shape(equity)[0], 1))
    return np.concatenate([start, np.cumprod(1.0 + returns_of(equity), axis=1)], axis=1)


def _logged(records: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps [T] and values [T, S] of a logged name; null is nan."""
    found = [(record["step"], np.atleast_1d(record[name])) for record in records if record.get(name) is not None]
    if not found:
        return np.empty(0), np.empty((0, 1))
    return np.array([step for step, _ in found]), np.stack([np.asarray(value, np.float64) for _, value in found])


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _dashes(place: int) -> Any:
    return _DASHES[place // len(COLOURS) % len(_DASHES)]
