"""From YAML files and command-line overrides to one typed, checked `ExperimentConfig`, and back.

Belongs here: what an experiment can be told and which combinations make no sense. Does not belong here:
what a single part accepts; parts decode and check themselves (`jaxarena.core.schema`).
"""

import dataclasses
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxarena.agents import Strategy
from jaxarena.core import schema
from jaxarena.core.checks import expect_range
from jaxarena.data.splits import DataConfig
from jaxarena.env.env import MarketParams
from jaxarena.experiment.tracking import Backend, Jsonl, validate_backends
from jaxarena.experiment.yaml_text import read_yaml, write_yaml
from jaxarena.learn.ppo import PPOConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long to train, on how much at once, and how often to look up from it."""

    agent_steps: int = 4_000_000  # decisions of learning agents, all markets together, per seed
    markets: int = 256  # markets stepped together, per seed
    updates_per_chunk: int = 10  # PPO updates in one compiled call; progress is shown and logged between calls
    checkpoint_every_s: float = 60.0  # saved after the first chunk that ends later than this, and at the end
    keep_checkpoints: int = 2

    def validate(self, where: str = "train") -> None:
        """Raise ValueError for a length, size or period that is not positive."""
        for name in ("agent_steps", "markets", "updates_per_chunk", "keep_checkpoints"):
            expect_range(f"{where}.{name}", getattr(self, name), 1, 2**53)
        remedy = "give seconds; the last state is always saved"
        expect_range(f"{where}.checkpoint_every_s", self.checkpoint_every_s, 1e-3, 1e9, remedy)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How trained policies are judged: on how many markets, against whom, with how many bootstrap draws."""

    markets: int = 16
    baselines: tuple[Strategy, ...] = ()  # each takes the place of every learned role in turn
    baseline_role: str | None = None  # whose money and limits baselines are reported with; None: the first learned role
    draws: int = 1000  # bootstrap draws for intervals
    deterministic: bool = True  # act with the mode of the policy instead of sampling
    seed: int = 12345

    def validate(self, where: str = "evaluation") -> None:
        """Raise ValueError for sizes that are not positive or a baseline that would have to learn."""
        expect_range(f"{where}.markets", self.markets, 1, 2**31 - 1)
        expect_range(f"{where}.draws", self.draws, 10, 10**7, "an interval needs some draws")
        expect_range(f"{where}.seed", self.seed, 0, 2**32 - 1)
        for place, baseline in enumerate(self.baselines):
            if baseline.kind() == "learned":
                raise ValueError(f"{where}.baselines[{place}]: 'learned' is not a baseline; name a scripted strategy")


@dataclasses.dataclass(frozen=True, eq=False)
class ExperimentConfig:
    """Everything that decides an experiment. Two configs are equal when they are written the same."""

    market: MarketParams
    name: str = "experiment"
    seed: int = 0
    seeds: int = 1  # trained together, seed .. seed + seeds - 1
    data: DataConfig | None = None  # None: the market forms or draws its own prices
    policies: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # empty: one group per learned role
    ppo: PPOConfig = PPOConfig()  # noqa: RUF009 - frozen
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: tuple[Backend, ...] = (Jsonl(),)  # metrics.jsonl is written whatever is named
    run_dir: str | None = None  # default runs/<name>__s<seed>__<time>

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExperimentConfig) and schema.encode(self) == schema.encode(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Policy groups with the learned roles that share each policy."""
        return self.policies or {role.name: (role.name,) for role in self.market.roles if role.learned}

    def validate(self) -> None:
        """Raise ValueError for the first combination of settings that makes no sense. Host only."""
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name):
            raise ValueError(f"name: got {self.name!r}; it names the run folder: use letters, digits and _ . -")
        expect_range("seed", self.seed, 0, 2**31 - 1)
        expect_range("seeds", self.seeds, 1, 4096, "one seed is the least that can be trained")
        self.ppo.validate()
        self.train.validate()
        self.evaluation.validate()
        decisions = self.ppo.rollout_length * self.train.markets
        if decisions % self.ppo.minibatches:
            raise ValueError(
                f"ppo.minibatches: got {self.ppo.minibatches}, which does not divide ppo.rollout_length x "
                f"train.markets = {self.ppo.rollout_length} x {self.train.markets}; choose a divisor"
            )
        validate_backends(self.tracking)
        _check_groups(self)


def load_config(path: Path | str | None = None, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment from a file, its preset and dotted overrides; later ones win.

    The preset `jaxarena/presets/<id>.yaml` lies under the file and the overrides over it. Mappings are merged
    key by key, lists and scalars are replaced, and a mapping that changes its `kind` replaces the one below.

    Args:
        path: a YAML file; None starts from the defaults (and `preset=<id>` among the overrides).
        overrides: texts `dotted.path=value`, the value in YAML: `ppo.lr=3e-4`, `market.roles.0.count=4`.

    Returns:
        the validated config.

    Raises:
        ValueError: the file is missing or not YAML, or a key, type or combination is wrong; names the file or
            override, the dotted path and the nearest valid name.
    """
    source = "configuration" if path is None else str(path)
    data = {} if path is None else _read(Path(path), source)
    parsed = [_parse_override(text) for text in overrides]
    preset = next((value for keys, value in reversed(parsed) if keys == ["preset"]), data.get("preset"))
    if preset is not None:
        data = merge(read_preset(preset), {key: item for key, item in data.items() if key != "preset"})
    for text, (keys, value) in zip(overrides, parsed, strict=True):
        if keys != ["preset"]:
            _apply(data, keys, value, text)
    if "market" not in data:
        raise ValueError(
            f"{source}: key 'market' is missing; describe a market, or start from one with preset=<id>; "
            f"{schema.nearest('', preset_ids())}"
        )
    try:
        config: ExperimentConfig = schema.decode_fields(ExperimentConfig, data, "")
        config.validate()
    except ValueError as error:
        message = str(error).lstrip(".: ")
        raise ValueError(f"{_blame(message, overrides) or source}: {message}") from error
    return config


def dump_config(config: ExperimentConfig) -> str:
    """YAML text from which `load_config` builds an equal config; everything is written out, presets resolved."""
    return write_yaml(schema.encode(config))


def preset_ids() -> list[str]:
    """Ids of the presets that come with the package."""
    folder = importlib.resources.files("jaxarena") / "presets"
    if not folder.is_dir():
        return []
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def shipped_configs() -> list[Path]:
    """The experiments that come with the package, or with the repository around it."""
    inside = Path(str(importlib.resources.files("jaxarena") / "configs"))
    folder = inside if inside.is_dir() else Path(__file__).resolve().parents[2] / "configs"
    return sorted(folder.glob("*.yaml"))


def read_preset(preset: Any) -> dict[str, Any]:
    """The plain data of a preset: its `data:` and `market:` parts.

    Raises:
        ValueError: unknown id; with the nearest one.
    """
    if preset not in preset_ids():
        raise ValueError(f"preset: unknown preset {preset!r}; {schema.nearest(str(preset), preset_ids())}")
    text = (importlib.resources.files("jaxarena") / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
    return _mapping(read_yaml(text), f"preset {preset}")


def merge(below: Any, above: Any) -> Any:
    """`above` laid over `below`: mappings key by key, anything else (and a mapping of another `kind`) replaced.

    >>> merge({"a": {"kind": "gbm", "mu": 1}, "b": {"x": 1}}, {"a": {"kind": "replay"}, "b": {"y": 2}})
    {'a': {'kind': 'replay'}, 'b': {'x': 1, 'y': 2}}
    """
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    if above.get("kind", below.get("kind")) != below.get("kind"):
        return dict(above)
    return dict(below) | {key: merge(below[key], item) if key in below else item for key, item in above.items()}


def _read(path: Path, source: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: cannot read the configuration ({error})") from error
    try:
        return _mapping(read_yaml(text), source)
    except ValueError as error:
        raise ValueError(f"{source}: {str(error).removeprefix(f'{source}: ')}") from error


def _mapping(data: Any, source: str) -> dict[str, Any]:
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{source}: expected a mapping of settings, got {data!r}")
    return data


def _parse_override(text: str) -> tuple[list[str], Any]:
    """Keys and value of `dotted.path=value`."""
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ValueError(f"override {text!r}: expected dotted.path=value, such as ppo.lr=3e-4")
    try:
        return keys, read_yaml(value)
    except ValueError as error:
        raise ValueError(f"override {text!r}: {error}") from error


def _apply(data: dict[str, Any], keys: list[str], value: Any, text: str) -> None:
    """Set the entry that `keys` leads to, making mappings on the way; a name where a part is due becomes its kind."""
    place: Any = data
    for depth, key in enumerate(keys):
        last, where = depth == len(keys) - 1, ".".join(keys[:depth]) or "the configuration"
        index: Any = key
        if isinstance(place, list):
            if not key.isdigit() or int(key) >= len(place):
                raise ValueError(f"override {text!r}: {where} is a list; allowed here is 0 to {len(place) - 1}")
            index = int(key)
        elif not isinstance(place, dict):
            raise ValueError(f"override {text!r}: {where} is {place!r}, which has no {key!r}")
        if last:
            place[index] = value
            return
        below = place[index] if isinstance(place, list) else place.get(index)
        if below is None or isinstance(below, str):
            place[index] = {} if below is None else {"kind": below}
        place = place[index]


def _blame(message: str, overrides: Sequence[str]) -> str | None:
    """The override that a message is about, if there is one: it set what the message names, or something around it."""
    path = re.sub(r"\[(\d+)\]", r".\1", message.partition(":")[0])
    unknown = re.search(r"key '([^']*)'", message)
    if unknown:
        path = f"{path}.{unknown[1]}" if ":" in message.partition("key '")[0] else unknown[1]
    for text in reversed(overrides):
        dotted = text.partition("=")[0].strip()
        if f"{path}.".startswith(f"{dotted}.") or (unknown and f"{dotted}.".startswith(f"{path}.")):
            return f"override {text!r}"
    return None


def _check_groups(config: ExperimentConfig) -> None:
    """Every learned role follows exactly one policy, and groups name nothing else."""
    learned = [role.name for role in config.market.roles if role.learned]
    owner: dict[str, str] = {}
    for group, roles in config.groups.items():
        if not roles:
            raise ValueError(f"policies.{group}: has no role; name at least one of {', '.join(learned)}")
        for role in roles:
            if role not in learned:
                raise ValueError(f"policies.{group}: unknown learned role {role!r}; {schema.nearest(role, learned)}")
            if role in owner:
                raise ValueError(f"policies.{group}: role {role!r} already follows the policy {owner[role]!r}")
            owner[role] = group
    judged = config.evaluation.baseline_role
    if judged is not None and judged not in learned:
        raise ValueError(
            f"evaluation.baseline_role: unknown learned role {judged!r}; {schema.nearest(judged, learned)}"
        )
    if missing := [role for role in learned if role not in owner]:
        raise ValueError(f"policies: no group holds the learned role {missing[0]!r}; add it to one or make its own")
