"""Records, settings and results of a run as the flat names and numbers that backends take.

Belongs here: reshaping plain data. Does not belong here: sending it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def flat_settings(settings: Any) -> dict[str, Any]:
    """A configuration as dotted names; a list without mappings stays one value.

    >>> flat_settings({"ppo": {"lr": 0.001, "hidden": [8, 8]}, "roles": [{"name": "fund"}]})
    {'ppo.lr': 0.001, 'ppo.hidden': '[8, 8]', 'roles.0.name': 'fund'}
    """
    return dict(_leaves(settings, ".", whole_lists=True))


def flat_numbers(results: Any) -> dict[str, float]:
    """The finite numbers of `summary.json` by path; an estimate stands for its value.

    >>> flat_numbers({"eval": {"split": "test", "roles": {"fund": {"sharpe": {"value": 0.5, "interval": [0, 1]}}}}})
    {'eval/roles/fund/sharpe': 0.5}
    """
    leaves = dict(_leaves(_values(results), "/", whole_lists=False))
    return {name: float(value) for name, value in leaves.items() if _is_number(value)}


def of_seed(record: Mapping[str, Any], place: int) -> dict[str, float]:
    """The numbers of one seed in a record of all: its entry of each list; what is no number is left out.

    >>> of_seed({"step": 8, "loss": [0.5, 0.25], "lr": 0.001, "split": "test", "gone": [None, None]}, 1)
    {'loss': 0.25, 'lr': 0.001}
    """
    chosen = {name: value[place] if isinstance(value, list) else value for name, value in record.items()}
    return {name: float(value) for name, value in chosen.items() if _is_number(value) and name != "step"}


def over_seeds(record: Mapping[str, Any]) -> dict[str, float]:
    """A record with the mean of each list; what is no number is left out.

    >>> over_seeds({"step": 8, "loss": [0.5, 0.25], "return": [None, 2.0], "lr": 0.001})
    {'loss': 0.375, 'return': 2.0, 'lr': 0.001}
    """
    means = {}
    for name, value in record.items():
        numbers = [item for item in (value if isinstance(value, list) else [value]) if _is_number(item)]
        if numbers and name != "step":
            means[name] = sum(numbers) / len(numbers)
    return means


def _values(results: Any) -> Any:
    """Every estimate, `{value: ..., interval: ...}`, replaced by its value."""
    if not isinstance(results, Mapping):
        return results
    if "value" in results:
        return results["value"]
    return {name: _values(item) for name, item in results.items()}


def _leaves(value: Any, joint: str, *, whole_lists: bool, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and (any(isinstance(item, Mapping) for item in value) or not whole_lists):
        value = {str(place): item for place, item in enumerate(value)}
    if not isinstance(value, Mapping):
        yield name, json.dumps(value) if isinstance(value, list) else value
        return
    for key, item in value.items():
        yield from _leaves(item, joint, whole_lists=whole_lists, name=f"{name}{joint}{key}" if name else str(key))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
