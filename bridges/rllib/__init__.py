"""jaxarena's markets in RLlib, all markets of a runner in one compiled program.

Importing this package registers every market as `jaxarena/<id>`. `use_batched` turns a `PPOConfig` into one that
samples them at native speed.
"""

import os

from bridges.markets import require

# Before JAX starts: RLlib's learner and the markets share the memory of a GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
require("torch", "rllib")
require("ray.rllib", "rllib")

from bridges.rllib.config import policy_mapping, use_batched  # noqa: E402 - after the checks above
from bridges.rllib.learner import FastPPOTorchLearner, RolloutPPOTorchLearner  # noqa: E402
from bridges.rllib.ppo import BatchedPPO  # noqa: E402
from bridges.rllib.registration import register_all, register_market  # noqa: E402
from bridges.rllib.rollout import RolloutBatch  # noqa: E402
from bridges.rllib.runner import BatchedMultiAgentEnvRunner  # noqa: E402
from bridges.rllib.vector_env import MarketMultiAgentEnv, MarketVectorEnv  # noqa: E402

__all__ = [
    "BatchedMultiAgentEnvRunner",
    "BatchedPPO",
    "FastPPOTorchLearner",
    "MarketMultiAgentEnv",
    "MarketVectorEnv",
    "RolloutBatch",
    "RolloutPPOTorchLearner",
    "policy_mapping",
    "register_market",
    "use_batched",
]

register_all()
