"""Markets for Stable-Baselines3: its `VecEnv` on top of `MarketVectorEnv`.

Belongs here: Stable-Baselines3's conventions. Does not belong here: what a row is (`bridges.gymnasium_vector`).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bridges.gymnasium_vector import MarketVectorEnv
from bridges.markets import require

require("stable_baselines3", "sb3")

from stable_baselines3.common.vec_env import VecEnv  # noqa: E402 - after the check that says how to install it


class SB3VecEnv(VecEnv):
    """The rows of a `MarketVectorEnv` as the environments of a Stable-Baselines3 `VecEnv`.

    The info of a row holds `acted`, `equity` and `TimeLimit.truncated`; where its episode ends, also
    `terminal_observation` and `episode` (`r`, `l`), and `equity` is that of the end. Stable-Baselines3 therefore
    bootstraps at the time limit and not at a bankruptcy. It knows no idle rows: those of dead agents, until their
    market resets, are steps with reward 0 to it.
    """

    def __init__(self, envs: MarketVectorEnv) -> None:
        """Wrap `envs`."""
        self.envs = envs
        self._actions: Any = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> np.ndarray:
        """Begin an episode in every market: the first of new random streams after `seed`, else the next one."""
        obs, info = self.envs.reset(seed=self._seeds[0], options=self._options[0] or None)
        self.reset_infos = [{"equity": equity} for equity in info["equity"]]
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, one for each row, for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step all markets: observations, rewards (float32), whether each row's episode is over, infos."""
        obs, reward, terminated, truncated, info = self.envs.step(self._actions)
        flags = zip(info["acted"], info["equity"], truncated.tolist(), strict=True)
        infos = [{"acted": acted, "equity": equity, "TimeLimit.truncated": cut} for acted, equity, cut in flags]
        over = terminated | truncated
        for row in np.flatnonzero(over):
            final = info["final_info"]
            infos[row] |= {
                "equity": final["equity"][row],
                "terminal_observation": info["final_obs"][row],
                "episode": {"r": float(final["episode"]["r"][row]), "l": int(final["episode"]["l"][row])},
            }
        return obs, reward.astype(np.float32), over, infos

    def close(self) -> None:
        """Close the vector environment."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """An attribute of the `MarketVectorEnv`, once for each row asked for."""
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Not possible.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"set_attr: got {attr_name!r}, allowed is nothing: rows are not objects; build a new environment"
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        """Not possible.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"env_method: got {method_name!r}, allowed is nothing: rows are not objects; use `.envs`")

    def env_is_wrapped(self, wrapper_class: type, indices: int | Iterable[int] | None = None) -> list[bool]:
        """Rows have no wrappers of their own."""
        return [False for _ in self._get_indices(indices)]
