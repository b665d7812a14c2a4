"""Write the pages that tell what agents see, do and earn, and what parts there are: `python -m tests.docs.agent_api`.

Everything comes from the code: names from the registry, formulas from docstrings, fields and defaults from
annotations, shapes and spaces from markets. `tests/test_docs.py` compares the result with the committed pages, so they
cannot go stale. Belongs here: turning the code into tables. Does not belong here: any formula.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

import jaxarena
from jaxarena.core import schema
from jaxarena.core.component import Component, families
from jaxarena.core.spaces import Box, Discrete, MultiDiscrete, Space
from jaxarena.env.actions import ActionMap
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import LIMIT, Observation
from jaxarena.env.rewards import Reward, Transition
from jaxarena.env.settlement import report
from jaxarena.env.state import MarketParams
from jaxarena.experiment.catalogue import field_comments
from jaxarena.experiment.config import preset_ids

DOCS = Path(__file__).parents[2] / "docs"
GENERATED = "<!-- Written by `python -m tests.docs.agent_api` from the code; change the docstrings, not this page. -->"

#: Heading of each family on the page of parts, in this order.
PARTS = {
    "process": "Price processes",
    "mechanism": "Mechanisms",
    "impact": "Impact",
    "cost": "Fees",
    "indicator": "Indicators",
    "strategy": "Scripted strategies",
    "tracker": "Tracking",
}


@dataclasses.dataclass(frozen=True)
class Item:
    """One line of a list in a docstring: ``- `name [shape]`, unit: formula``."""

    name: str
    shape: str
    unit: str
    formula: str

    def size(self, **letters: int) -> int:
        """Numbers in it, such as `A = 2` and `length = 8` for the shape `length, A`."""
        sizes = [letters[part] if part in letters else int(part) for part in self.shape.split(", ") if part]
        total = 1
        for size in sizes:
            total *= size
        return total


_ITEM = re.compile(r"^- `([\w.]+) \[([^\]]*)\]`, ([^:]+): (.+)$")


def items(documented: Any) -> list[Item]:
    """The list in the docstring of a class or function.

    Raises:
        ValueError: there is none, or a line of it lacks a part.
    """
    lines: list[str] = []
    for line in inspect.cleandoc(documented.__doc__).splitlines():
        if line.strip().startswith("- "):
            lines.append(line.strip())
        elif lines and line.startswith(" " * 5):  # goes on with the line before
            lines[-1] += f" {line.strip()}"
    found = [_ITEM.match(line) for line in lines]
    name = documented.__qualname__
    if not found or not all(found):
        raise ValueError(f"{name}: its docstring needs a list of lines '- `name [shape]`, unit: formula', got {lines}")
    return [Item(*match.groups()) for match in found if match]


def prose(documented: Any) -> str:
    """A docstring without its lists, and without their headings, as Markdown."""
    text = re.sub(r"\n\s*[A-Z][^\n]*:\n(\s+- .*\n?(\s{6,}.*\n?)*)+", "\n", inspect.cleandoc(documented.__doc__) + "\n")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def reward_formula(kind: type[Reward]) -> tuple[str, str]:
    """Formula and meaning of a reward term, from the first line of its docstring.

    Raises:
        ValueError: the docstring does not begin with a formula.
    """
    summary, _, rest = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")
    match = re.match(r"`([^`]+)`:? (.+)$", summary.replace("\n", " "))
    if not match:
        raise ValueError(f"{kind.__name__}: its docstring must begin with '`formula`: meaning', got {summary!r}")
    return match[1], f"{match[2]} {rest}".replace("\n", " ").strip()


def members(family: str) -> dict[str, type[Component]]:
    """The members that come with the package, by name."""
    found = families()[family].members
    return {kind: found[kind] for kind in sorted(found) if found[kind].__module__.startswith("jaxarena.")}


def agent_page() -> str:
    """`docs/agent_api.md`."""
    return "\n\n".join(
        [
            "# Agent API",
            GENERATED,
            _INTRODUCTION,
            "## Observations",
            _OBSERVATIONS.format(limit=int(LIMIT)),
            *(_described(kind, "feature") for kind in members("observation").values()),
            "## Actions",
            _ACTIONS,
            *(_described(kind, "entry") for kind in members("action").values()),
            "## Rewards",
            _REWARDS,
            _rewards(),
            "### The symbols",
            _SYMBOLS,
            _table(
                ("field", "shape and unit"), ((f"`{name}`", text) for name, text in field_comments(Transition).items())
            ),
            "## What a step returns",
            _STEP,
            _items_table("key", [*items(MarketEnv.step), *items(report)]),
            "## The presets",
            *_presets(),
        ]
    )


def parts_page() -> str:
    """`docs/parts.md`."""
    pieces = ["# Parts", GENERATED, _PARTS]
    for family, heading in PARTS.items():
        pieces += [f"## {heading}", f"Family `{family}`. {_first_line(families()[family])}"]
        pieces += [_described(kind) for kind in members(family).values()]
    return "\n\n".join(pieces)


PAGES: dict[str, Callable[[], str]] = {"agent_api.md": agent_page, "parts.md": parts_page}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page() + "\n", encoding="utf-8")


def _described(kind: type[Component], listed: str | None = None) -> str:
    """One part: its text, the list of its docstring as a table (of what is `listed`), and its parameters."""
    pieces = [f"### `{kind.kind()}`", prose(kind)]
    if isinstance(outputs := getattr(kind, "outputs", None), tuple):
        pieces.append("Outputs: " + ", ".join(f"`{name}`" for name in outputs) + ".")
    if listed is not None:
        pieces.append(_items_table(listed, items(kind)))
    if issubclass(kind, ActionMap):
        pieces.append(f"Space for one asset: `{_space(kind().space(1))}`; for three: `{_space(kind().space(3))}`.")
    if issubclass(kind, Observation):
        pieces.append(f"Computed {'once per market' if kind.shared else 'for each agent'}.")
    pieces.append(_parameters(kind))
    return "\n\n".join(piece for piece in pieces if piece)


def _rewards() -> str:
    rows = []
    for name, kind in members("reward").items():
        formula, meaning = reward_formula(typing.cast(type[Reward], kind))
        weight = next(field.default for field in schema.settings(kind) if field.name == "weight")
        rows.append((f"`{name}`", f"`{formula}`", meaning, f"{weight:g}"))
    return _table(("term", "formula", "meaning", "default weight"), rows)


def _presets() -> Iterable[str]:
    """For each preset a table of its learned roles' observations and actions."""
    for name in preset_ids():
        env, params = jaxarena.make(name)
        assets = ", ".join(env.asset_names)
        yield f"### `{name}`"
        yield f"Assets: {assets}. {env.total_agents} agents, episodes of {int(params.episode_length)} steps."
        yield _table(
            ("role", "agents", "observation", "action", "reward"),
            (_role_row(env, params, role) for role in env.learned_roles),
        )


def _role_row(env: MarketEnv, params: MarketParams, role: str) -> tuple[str, ...]:
    spec = next(candidate for candidate in params.roles if candidate.name == role)
    layout = ", ".join(f"`{block}` {part.start}:{part.stop}" for block, part in env.observation_layout(role).items())
    size = env.observation_space(role).size
    action = f"`{spec.action.kind()}`: `{_space(env.action_space(role))}`"
    rewards = ", ".join(f"`{term.kind()}`" for term in spec.rewards)
    return f"`{role}`", str(spec.count), f"[{size}]: {layout}", action, rewards


def _items_table(heading: str, found: list[Item]) -> str:
    rows = ((f"`{item.name}`", f"`[{item.shape}]`", item.unit, item.formula) for item in found)
    return _table((heading, "shape", "unit", "formula"), rows)


def _parameters(kind: type[Component]) -> str:
    """A table of the fields that a configuration may set."""
    meant, hints = field_comments(typing.cast(type, kind)), typing.get_type_hints(kind)
    rows = []
    for field in schema.settings(kind):
        traced = "no" if field.metadata.get("static") else "yes"
        rows.append((f"`{field.name}`", _type(hints[field.name]), _default(field), traced, meant.get(field.name, "")))
    return _table(("parameter", "type", "default", "traced", "meaning"), rows) if rows else "No parameters."


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        names = {_type(option) for option in typing.get_args(hint) if option not in (type(None), jax.Array)}
        return " or ".join(sorted(names))
    if typing.get_origin(hint) is tuple:
        return f"{_type(typing.get_args(hint)[0])} per asset"
    if inspect.isclass(hint) and issubclass(hint, Component):
        return hint.family
    return {float: "number", int: "whole number", str: "text", bool: "true or false"}[hint]


def _default(field: dataclasses.Field[Any]) -> str:
    default = field.default
    if isinstance(default, Component):
        return f"`{default.kind()}`"
    return f"{default:_}" if isinstance(default, (int, float)) and not isinstance(default, bool) else f"`{default}`"


def _space(space: Space) -> str:
    match space:
        case Box():
            return f"Box({space.low:g}, {space.high:g}, {space.size})"
        case Discrete():
            return f"Discrete({space.n})"
        case MultiDiscrete():
            return f"MultiDiscrete({list(space.sizes)})"


def _first_line(documented: type) -> str:
    return inspect.cleandoc(documented.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table.

    Raises:
        ValueError: a cell holds a bar, which renderers of Markdown read in different ways.
    """
    lines = [head, ("---",) * len(head), *rows]
    if bars := [cell for line in lines for cell in line if "|" in cell]:
        raise ValueError(f"a cell of a table cannot hold '|'; write abs(x) for |x|: {bars[0]}")
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


_INTRODUCTION = """\
Every field that an agent sees, every action that it may take and every term that it may be paid by, with formula, shape
and unit. A role of a configuration names them under `observations`, `action` and `rewards`; a part of your own is named
by its path, see [your own reward](how_to/own_reward.md) and [your own strategy](how_to/own_strategy.md).

Letters of shapes: `N` agents of the market, `N_role` of a role, `A` assets, `K` order slots per asset, `D` features.
Units: prices are whole **ticks**, quantities whole **lots**, money whole **quanta** (one tick of one lot at
`lot_multiplier` 1); bps are hundredths of a percent. What is divided by equity has no unit. All of it is about bar t,
the last one that the agent has seen. A parameter that is *traced* may differ between the markets of a population; one
that is not decides a shape, and another value compiles again."""

_OBSERVATIONS = """\
`obs[role]` is `[N_role, D_role]` float32, each row the blocks of the role one after the other: first those that are the
same for all agents of the market, then those of the agent's own account, each group in the order of the configuration.
Values are clipped to [-{limit}, {limit}] and never NaN. `env.observation_layout(role)` gives the slice of each block.
Equity in a denominator is taken to be at least a thousandth of its start."""

_ACTIONS = """\
`action[role]` is `[N_role, size]` for a `Box` or `MultiDiscrete` space and `[N_role]` for a `Discrete` one. A number
outside a box is clipped; a value that is not finite, or an integer outside its space, makes the agent do nothing. Both
are counted in `info["actions_clipped"]`. What an action asks for is then trimmed to what the account can carry at the
worst price of the step (`info["orders_trimmed"]`). The largest leverage is `min(max_leverage, 1 / initial_margin)` of
the role's limits."""

_REWARDS = """\
`reward[role]` is `[N_role]` float32 without unit: the sum of the role's terms for the step from bar t to bar t+1, zero
for an agent that was dead. A prime marks the value after the step; `V` is equity net of what closing the position would
cost, `V_0` its start."""

_SYMBOLS = """\
A term reads one `Transition`, in which money is float32 quanta and `n` the agents of the role:"""

_STEP = """\
`obs, state, reward, terminated, truncated, info = env.step(key, state, action, params)`. `terminated[role]` and
`truncated[role]` are `[N_role]` bool: the agent went bankrupt (or a terminal horizon ended), and the time limit. Only
`terminated` zeroes the bootstrap. `info` holds:"""

_PARTS = """\
Every part that a configuration can name, besides what [agents see, do and earn](agent_api.md). A configuration names a
part alone, `process: gbm`, or with parameters, `process: {kind: gbm, volatility: 0.3}`; what is left out has the
default. A parameter that is *traced* may differ between the markets of a population; one that is not decides a shape,
and another value compiles again. "number per asset" is one number for all assets, or a list with one for each."""


if __name__ == "__main__":
    main()
