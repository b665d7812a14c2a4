"""What `use_batched` was asked for, as it travels inside an RLlib config to every actor."""

import dataclasses
from typing import Any, Literal

Mode = Literal["episodes", "rollout", "fused"]
Backend = Literal["auto", "torch", "jax"]

MODES: tuple[Mode, ...] = ("episodes", "rollout", "fused")
BACKENDS: tuple[Backend, ...] = ("auto", "torch", "jax")
#: The entry of `env_config` that holds them: the one part of a config that RLlib hands on unread.
KEY = "use_batched"


@dataclasses.dataclass(frozen=True)
class Options:
    """See `use_batched`."""

    mode: Mode = "rollout"
    policy_backend: Backend = "auto"
    observation_clip: float | None = None  # None: observations are not normalised

    @classmethod
    def of(cls, config: Any) -> "Options":
        """The options inside an `AlgorithmConfig`.

        Raises:
            ValueError: the config did not go through `use_batched`.
        """
        stored = dict(config.env_config).get(KEY)
        if stored is None:
            raise ValueError(
                "this runner needs the settings of use_batched(config), but env_config does not hold them; call "
                "use_batched last, and keep its entry when you replace env_config (in evaluation_config too)"
            )
        return cls(**stored)
