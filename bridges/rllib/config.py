"""`use_batched`: from an RLlib config to one that samples whole markets.

Belongs here: which settings go together, and what is said when they do not. Does not belong here: doing it.
"""

import functools
import logging
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo.ppo import PPO, PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils import force_list

from bridges.markets import load_market, role_of
from bridges.rllib.connectors import ActionsToMarkets, ObservationsToModule
from bridges.rllib.filters import ShareMoments
from bridges.rllib.learner import FastPPOTorchLearner, RolloutPPOTorchLearner
from bridges.rllib.options import BACKENDS, KEY, MODES, Backend, Mode, Options
from bridges.rllib.policy import ExportError, export
from bridges.rllib.ppo import BatchedPPO
from bridges.rllib.registration import PREFIX, market_of
from bridges.rllib.runner import BatchedMultiAgentEnvRunner
from bridges.rllib.seating import Seating
from jaxarena.core.schema import nearest

logger = logging.getLogger("jaxarena.bridges.rllib")
_EPISODE_CALLBACKS = ("on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end")


def use_batched(
    config: AlgorithmConfig,
    mode: Mode = "rollout",
    policy_backend: Backend = "auto",
    observation_clip: float | None = None,
) -> AlgorithmConfig:
    """Let a config sample all its markets in one compiled program. Call it last, before `build_algo`.

    | mode | what is made | what works | for |
    |---|---|---|---|
    | `episodes` | real `MultiAgentEpisode`s | all of RLlib | callbacks, own connectors, LSTMs, any algorithm |
    | `rollout` | arrays of whole rollouts | stock PPO, any stateless torch module | the default |
    | `fused` | finished train batches | `BatchedPPO`, RLlib's default PPO modules | most speed |

    Args:
        config: names a market, `config.environment("jaxarena/<id>")`; changed in place.
        mode: see the table.
        policy_backend: `jax` samples actions inside the compiled program, from a copy of the module that must agree to
            1e-5; `torch` asks the module itself at every step; `auto` takes `jax` where there is such a copy.
        observation_clip: normalise observations by their running mean and deviation and clip them here; the moments
            are shared by all runners and saved with checkpoints. None leaves observations as they are.

    Returns:
        The same config.

    Raises:
        ValueError: what the mode cannot do, with the way out.
    """
    for name, value, allowed in (("mode", mode, MODES), ("policy_backend", policy_backend, BACKENDS)):
        if value not in allowed:
            raise ValueError(f"{name}: got {value!r}; {nearest(str(value), allowed)}")
    env, _ = load_market(market_of(_market_name(config)))
    if not config.is_multi_agent:
        _map_roles(config, env.learned_roles)
    seating = Seating(env, config.policy_mapping_fn)
    stateful, refusal = _look_at_modules(config, seating, critic=mode == "fused")
    if stateful and mode != "episodes":
        logger.warning(
            "%s keeps state between steps, which mode %r cannot carry; going on with mode 'episodes'", stateful, mode
        )
        mode = "episodes"
    if mode != "episodes":
        _refuse_what_needs_episodes(config, mode)
    if refusal and (policy_backend == "jax" or mode == "fused"):
        raise ValueError(
            f"the policy cannot run in JAX: {refusal}; use use_batched(config, mode='rollout', policy_backend='torch')"
        )
    if mode == "fused" and policy_backend == "torch":
        raise ValueError("policy_backend: 'torch' has no place in mode 'fused'; use mode='rollout'")
    if mode == "episodes" and observation_clip is not None:
        raise ValueError(
            "observation_clip: mode 'episodes' leaves observations to RLlib; use its connector, "
            "config.env_runners(env_to_module_connector=lambda env, spaces, device: MeanStdFilter(multi_agent=True))"
        )
    if seating.changes and observation_clip is not None:
        raise ValueError(
            "observation_clip: policy_mapping_fn changes from episode to episode, so moments belong to no module; "
            "leave it out, or use mode='episodes' with RLlib's MeanStdFilter(multi_agent=True)"
        )
    options = Options(mode, policy_backend, observation_clip)
    config.env_config = dict(config.env_config) | {KEY: vars(options)}
    config.env_runners(env_runner_cls=BatchedMultiAgentEnvRunner)
    config.disable_env_checking = True  # it would reset and step every market by itself
    _use_learner(config, mode)
    pieces = (config._env_to_module_connector, config._module_to_env_connector)
    own = any(piece is not None and not isinstance(piece, _Maker) for piece in pieces)
    if not (own or stateful or seating.changes):
        _use_direct_connectors(config, observation_clip)
    callbacks = force_list(config.callbacks_class)
    if observation_clip is not None and ShareMoments not in callbacks:
        config.callbacks([*callbacks, ShareMoments])
    if mode == "fused":
        config.algo_class = BatchedPPO
    return config


def _market_name(config: AlgorithmConfig) -> str:
    if not isinstance(config.env, str) or not config.env.startswith(PREFIX):
        raise ValueError(
            f"environment: got {config.env!r}; name a market with config.environment('{PREFIX}<id>'), one of "
            "jaxarena.registered() or one that you gave to register_market"
        )
    return config.env


def _map_roles(config: AlgorithmConfig, roles: tuple[str, ...]) -> None:
    """A policy for every learned role, where the config says nothing."""
    config.multi_agent(policies=list(roles), policy_mapping_fn=policy_mapping({role: (role,) for role in roles}))


def policy_mapping(groups: dict[str, tuple[str, ...]]) -> Any:
    """RLlib's `policy_mapping_fn` for policy groups as a jaxarena config names them.

    >>> policy_mapping({"makers": ("maker",), "funds": ("momentum", "value")})("value_003")
    'funds'
    """
    return functools.partial(_group_of, {role: group for group, roles in groups.items() for role in roles})


def _group_of(group_of_role: dict[str, str], agent_id: str, *_: Any, **__: Any) -> str:
    return group_of_role[role_of(agent_id)]


def _look_at_modules(config: AlgorithmConfig, seating: Seating, critic: bool) -> tuple[str | None, str | None]:
    """Build the modules once: the name of one that keeps state, and why they cannot be copied to JAX."""
    if seating.changes:
        return None, "policy_mapping_fn gives agents other modules from episode to episode"
    spaces = {
        group.name: (seating.observation_spaces[group.agents[0]], seating.action_spaces[group.agents[0]])
        for group in seating.groups
    }
    module = config.get_multi_rl_module_spec(spaces=spaces, inference_only=not critic).build()
    for group in seating.groups:
        if module[group.name].is_stateful():
            return f"the module {group.name!r}", None
    try:
        for group in seating.groups:
            export(module[group.name], group.action_space, group.obs_size, critic)
    except ExportError as error:
        return None, str(error)
    return None, None


def _refuse_what_needs_episodes(config: AlgorithmConfig, mode: Mode) -> None:
    """Raise ValueError for the first setting that arrays of whole rollouts cannot honour."""
    remedy = "use_batched(config, mode='episodes') can"
    callbacks = [
        name
        for name in _EPISODE_CALLBACKS
        if getattr(config, f"callbacks_{name}", None)
        or any(getattr(one, name) is not getattr(RLlibCallback, name) for one in force_list(config.callbacks_class))
    ]
    if callbacks:
        raise ValueError(f"mode {mode!r} makes no episodes and cannot call {callbacks[0]}; {remedy}")
    for name, setting in (
        ("env_to_module_connector", config._env_to_module_connector),
        ("module_to_env_connector", config._module_to_env_connector),
        ("learner_connector", config._learner_connector),
    ):
        if setting is not None and not isinstance(setting, _Maker):
            extra = " (to normalise observations, pass observation_clip)" if name == "env_to_module_connector" else ""
            raise ValueError(f"mode {mode!r} does not run your {name}; {remedy}{extra}")
    if not isinstance(config, PPOConfig) or config.algo_class not in (PPO, BatchedPPO):
        raise ValueError(f"mode {mode!r} is for PPO, got {type(config).__name__}; {remedy}")
    if config.batch_mode != "truncate_episodes":
        raise ValueError(
            f"batch_mode: mode {mode!r} cuts episodes at the end of a rollout and bootstraps, got "
            f"{config.batch_mode!r}; set 'truncate_episodes', or {remedy}"
        )
    if config.count_steps_by != "env_steps":
        raise ValueError(f"count_steps_by: mode {mode!r} counts env_steps, got {config.count_steps_by!r}; {remedy}")
    if not config.explore:
        raise ValueError(f"explore: mode {mode!r} samples actions from the policy; leave explore=True, or {remedy}")
    if not config.use_gae or not config.use_critic:
        raise ValueError(f"use_gae, use_critic: mode {mode!r} needs both; {remedy}")


def _use_learner(config: AlgorithmConfig, mode: Mode) -> None:
    """A learner that takes what the mode makes; a user's own one must be of its kind."""
    ours = {"episodes": FastPPOTorchLearner, "rollout": RolloutPPOTorchLearner, "fused": FastPPOTorchLearner}[mode]
    own = config._learner_class
    if mode == "episodes":
        if own is None and isinstance(config, PPOConfig):
            config.learners(learner_class=ours)
        return
    if own not in (None, PPOTorchLearner, FastPPOTorchLearner, RolloutPPOTorchLearner) and not issubclass(own, ours):
        raise ValueError(
            f"learner_class: mode {mode!r} needs a subclass of bridges.rllib.{ours.__name__}, got {own.__name__}; "
            "derive yours from it"
        )
    if own is None or not issubclass(own, ours):
        config.learners(learner_class=ours)
    # The learner puts its connector in by itself, made from its own config, so that Tune may change that.
    config.learners(add_default_connectors_to_learner_pipeline=False)


def _use_direct_connectors(config: AlgorithmConfig, observation_clip: float | None) -> None:
    """Pieces that handle arrays, for evaluation and for mode `episodes`."""
    config.env_runners(
        env_to_module_connector=_ToModule(config.env, config.policy_mapping_fn, observation_clip),
        module_to_env_connector=_ToMarkets(
            config.env, config.policy_mapping_fn, config.normalize_actions, config.clip_actions
        ),
        add_default_connectors_to_env_to_module_pipeline=False,
        add_default_connectors_to_module_to_env_pipeline=False,
    )


class _Maker:
    """Makes a connector where RLlib asks for one: in every runner, and without environment in the driver."""

    def __init__(self, *settings: Any) -> None:
        self.settings = settings


class _ToModule(_Maker):
    def __call__(self, env: Any, spaces: Any, device: Any) -> ObservationsToModule:
        return ObservationsToModule(env, spaces, *self.settings)


class _ToMarkets(_Maker):
    def __call__(self, env: Any, spaces: Any) -> ActionsToMarkets:
        return ActionsToMarkets(env, spaces, *self.settings)
