"""Running moments of observations, shared between runners through RLlib's own exchange of connector states.

A runner normalises a whole rollout with the moments it began with and adds what it saw afterwards. RLlib then asks
every runner for its state, merges them and hands the result to all; a checkpoint holds it too. Source of the merge:
Chan, Golub and LeVeque (1983).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import COMPONENT_ENV_TO_MODULE_CONNECTOR

from jaxarena.learn import normalize
from jaxarena.learn.normalize import Moments

_NAMES = ("count", "mean", "m2")


class ObservationMoments:
    """Moments of each group's observations: all that was seen, and what is new since the last exchange.

    Args:
        sizes: D of each group.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = dict(sizes)
        self._total = self._nothing()
        self._new = self._nothing()

    def get(self) -> dict[str, Moments]:
        """Moments by group, with all that was seen here."""
        return dict(self._total)

    def add(self, seen: Mapping[str, Moments]) -> None:
        """Take note of observations."""
        for group, moments in seen.items():
            self._total[group] = normalize.merge(self._total[group], moments)
            self._new[group] = normalize.merge(self._new[group], moments)

    def state(self) -> dict[str, Any]:
        """Plain arrays, for `set_state` and `merged`."""
        return {"total": _plain(self._total), "new": _plain(self._new)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over a total; nothing is new from then on."""
        if state:
            self._total, self._new = _moments(state["total"]), self._nothing()

    def merged(self, states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The state that holds this total and everything that is new in `states`."""
        total = dict(self._total)
        for state in states:
            for group, moments in _moments(state["new"]).items():
                total[group] = normalize.merge(total[group], moments)
        return {"total": _plain(total), "new": _plain(self._nothing())}

    def _nothing(self) -> dict[str, Moments]:
        return {group: normalize.init_moments((size,)) for group, size in self._sizes.items()}


def _plain(moments: Mapping[str, Moments]) -> dict[str, dict[str, np.ndarray]]:
    return {group: {name: np.asarray(getattr(one, name)) for name in _NAMES} for group, one in moments.items()}


def _moments(plain: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Moments]:
    return {group: Moments(**{name: jnp.asarray(one[name]) for name in _NAMES}) for group, one in plain.items()}


@jax.jit
def merge_steps(seen: Moments) -> Moments:
    """Moments of all steps together, for moments with a leading axis `[T]`."""
    return normalize.merge_all(normalize.init_moments(seen.mean.shape[1:]), seen)


class ShareMoments(RLlibCallback):
    """Gives the moments of the training runners to a runner that evaluates in the driver, which RLlib leaves out."""

    def on_evaluate_start(self, *, algorithm: Any, **_: Any) -> None:
        """Hand the connector's state over."""
        judges = algorithm.eval_env_runner_group
        if judges is not None and judges.local_env_runner is not None:
            trained = algorithm.env_runner.get_state(components=COMPONENT_ENV_TO_MODULE_CONNECTOR)
            judges.local_env_runner.set_state(trained)
