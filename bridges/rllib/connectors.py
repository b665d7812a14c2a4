"""RLlib's connectors on whole arrays: between environment and module, and from a rollout to a train batch.

RLlib's own pieces handle one agent of one episode at a time, two of them with a search through all episodes for each.
Belongs here: moving rows. Does not belong here: who plays (`runner`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES
from ray.rllib.evaluation.postprocessing import Postprocessing

from bridges.markets import load_market
from bridges.rllib.filters import ObservationMoments
from bridges.rllib.policy import to_environment
from bridges.rllib.registration import market_of
from bridges.rllib.rollout import GroupRows, RolloutBatch
from bridges.rllib.rows import RowMajor, rows_of, tensor
from bridges.rllib.seating import Group, Seating
from jaxarena.core.spaces import Box, Discrete
from jaxarena.learn import normalize


class _Direct(ConnectorV2):
    """A piece that reads and writes the arrays of a `MarketVectorEnv`.

    Args:
        env: the vector environment; None in a process that has none and only merges states.
        spaces: by agent, from RLlib, where there is no environment.
        market: RLlib's name of the market.
        mapping: `policy_mapping_fn`.
    """

    def __init__(self, env: Any, spaces: Any, market: str, mapping: Any) -> None:
        self.env = env
        self.seating = Seating(load_market(market_of(market))[0], mapping)
        single = (env.single_observation_space, env.single_action_space) if env else spaces[INPUT_ENV_SINGLE_SPACES]
        self._recipe: dict[str, Any] = {
            "env": None,
            "spaces": {INPUT_ENV_SINGLE_SPACES: single},
            "market": market,
            "mapping": mapping,
        }
        super().__init__(*single)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """For a checkpoint: all arguments but the environment, which holds compiled functions."""
        return (), self._recipe

    def _by_module(self, space: Any) -> Any:
        """Spaces by agent to spaces by module; anything else is left alone."""
        if set(space.spaces) != set(self.seating.agents):
            return space
        return gymnasium.spaces.Dict({group.name: space[group.agents[0]] for group in self.seating.groups})


class ObservationsToModule(_Direct):
    """Rows of all agents that act next, by module, straight from the environment's arrays."""

    def __init__(self, env: Any, spaces: Any, market: str, mapping: Any, observation_clip: float | None) -> None:
        super().__init__(env, spaces, market, mapping)
        self._recipe["observation_clip"] = observation_clip
        self.observation_clip = observation_clip
        self.moments = ObservationMoments({group.name: group.obs_size for group in self.seating.groups})

    def recompute_output_observation_space(self, observation_space: Any, action_space: Any) -> Any:
        """By module."""
        return self._by_module(observation_space)

    def recompute_output_action_space(self, observation_space: Any, action_space: Any) -> Any:
        """By module."""
        return self._by_module(action_space)

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Sequence[Any], **kwargs: Any) -> Any:
        """Observations `[rows, D]` by module; nothing for the extra passes over finished episodes."""
        if len(episodes) != self.env.num_envs or any(episode.is_done for episode in episodes):
            return {}
        moments = self.moments.get()
        out = {}
        for group in self.seating.groups:
            acts = _columns(group, self.env.acting)
            if acts.any():
                rows = _columns(group, self.env.rows)[acts]
                if self.observation_clip is not None:
                    rows = np.array(normalize.normalize(rows.T, moments[group.name], self.observation_clip).T)
                device = next(rl_module[group.name].parameters()).device
                out[group.name] = {Columns.OBS: torch.from_numpy(np.ascontiguousarray(rows)).to(device)}
        return out

    def get_state(self, *args: Any, **kwargs: Any) -> Any:
        """Moments of the observations."""
        return self.moments.state()

    def set_state(self, state: Any) -> None:
        """See `ObservationMoments.set_state`."""
        self.moments.set_state(state)

    def merge_states(self, states: Any) -> Any:
        """See `ObservationMoments.merged`."""
        return self.moments.merged(states)


class ActionsToMarkets(_Direct):
    """Samples actions by module and lays them out for the environment and for the episodes."""

    def __init__(self, env: Any, spaces: Any, market: str, mapping: Any, normalize: bool, clip: bool) -> None:
        super().__init__(env, spaces, market, mapping)
        self._recipe |= {"normalize": normalize, "clip": clip}
        self._normalize, self._clip = normalize, clip

    def recompute_output_observation_space(self, observation_space: Any, action_space: Any) -> Any:
        """As it is."""
        return observation_space

    def recompute_output_action_space(self, observation_space: Any, action_space: Any) -> Any:
        """As it is."""
        return action_space

    def __call__(
        self, *, rl_module: Any, batch: Any, episodes: Sequence[Any], explore: bool | None = None, **kwargs: Any
    ) -> Any:
        """Columns of RLlib, each a list with a dictionary by agent for every market."""
        columns: dict[str, list[dict[str, Any]]] = {}
        acting = self.env.acting
        for_env: dict[str, np.ndarray] = {}
        for group in self.seating.groups:
            acts = _columns(group, acting)
            values = self._sampled(rl_module[group.name], batch[group.name], explore) if acts.any() else {}
            for name, rows in values.items():
                listed = columns.setdefault(name, [{} for _ in range(self.env.num_envs)])
                _list_rows(listed, group.agents, acts, rows)
            self._lay_out(group, acts, values.get(Columns.ACTIONS), for_env)
        return columns | {Columns.ACTIONS_FOR_ENV: for_env}

    def _sampled(self, module: Any, outputs: Mapping[str, Any], explore: bool | None) -> dict[str, np.ndarray]:
        """Actions, and what belongs to them, of the rows of one module."""
        found = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
        if Columns.ACTIONS not in found:
            kind = module.get_exploration_action_dist_cls() if explore else module.get_inference_action_dist_cls()
            chance = kind.from_logits(found[Columns.ACTION_DIST_INPUTS])
            actions = (chance if explore else chance.to_deterministic()).sample()
            found[Columns.ACTIONS] = actions
            if explore:
                found[Columns.ACTION_LOGP] = chance.logp(actions)
        return {name: value.detach().cpu().numpy() for name, value in found.items()}

    def _lay_out(self, group: Group, acts: np.ndarray, raw: np.ndarray | None, for_env: dict[str, np.ndarray]) -> None:
        """Put a group's actions into arrays `[E, N_role, ...]` by role."""
        space = group.action_space
        if isinstance(space, Box):
            whole = np.zeros((*acts.shape, space.size), np.float32)
        else:
            whole = np.zeros((*acts.shape, *(() if isinstance(space, Discrete) else (len(space.sizes),))), np.int32)
        if raw is not None:
            whole[acts] = np.asarray(to_environment(space, raw, self._normalize, self._clip))
        start = 0
        for role, numbers in group.members:
            count = len(self.seating.ids[role])
            target = for_env.setdefault(role, np.zeros((whole.shape[0], count, *whole.shape[2:]), whole.dtype))
            target[:, list(numbers)] = whole[:, start : start + len(numbers)]
            start += len(numbers)


class _Critic:
    """The critics of some modules.

    Args:
        rl_module: of the learner.
        modules: index by name.
    """

    def __init__(self, rl_module: Any, modules: Mapping[str, int]) -> None:
        self._critics = {index: rl_module[name].unwrapped().compute_values for name, index in modules.items()}

    def __call__(self, rows: torch.Tensor, seat: torch.Tensor | None) -> torch.Tensor:
        """Values of rows `[B, D]`; `seat` holds the index of each row's module, None where there is one module."""
        if seat is None:
            (critic,) = self._critics.values()
            value: torch.Tensor = critic({Columns.OBS: rows})
            return value
        values = torch.zeros(len(rows), device=rows.device)
        for index, critic in self._critics.items():
            here = seat.reshape(-1).eq(index)
            if bool(here.any()):
                values[here] = critic({Columns.OBS: rows[here]})
        return values


class RolloutToTrainBatch(ConnectorV2):
    """A rollout to PPO's train batch: values, generalized advantage estimation, rows of dead agents dropped.

    The same numbers as RLlib's `AddOneTsToEpisodesAndTruncate` and `GeneralAdvantageEstimation`, but for the
    standardisation of advantages, which is over real rows only.

    Args:
        config: the algorithm's; `gamma` and `lambda_` may differ from module to module.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(None, None)
        self._config = config
        self._memory = RowMajor()

    def recompute_output_observation_space(self, observation_space: Any, action_space: Any) -> Any:
        """As it is."""
        return observation_space

    def recompute_output_action_space(self, observation_space: Any, action_space: Any) -> Any:
        """As it is."""
        return action_space

    @torch.no_grad()
    def __call__(self, *, rl_module: Any, batch: Any, episodes: Sequence[Any], **kwargs: Any) -> Any:
        """Columns `[rows, ...]` by module, on the module's device."""
        parts: dict[str, list[dict[str, torch.Tensor]]] = {}
        for number, rollout in enumerate(episodes):
            for name, rows in rollout.groups.items():
                found = self._rows(rl_module, rollout, name, rows, f"{number}:{name}")
                for module, columns in found.items():
                    parts.setdefault(module, []).append(columns)
        out = {}
        for module, pieces in parts.items():
            columns = {
                name: pieces[0][name] if len(pieces) == 1 else torch.cat([piece[name] for piece in pieces])
                for name in pieces[0]
            }
            columns[Postprocessing.ADVANTAGES] = standardized(columns[Postprocessing.ADVANTAGES])
            out[module] = columns
        if self._config.num_learners > 1:  # they wait for each other in every module
            names = set(rl_module.keys()) - set(out)
            out |= {name: no_change(rl_module[name]) for name in sorted(names)}
        return out

    def _rows(
        self, rl_module: Any, rollout: RolloutBatch, name: str, rows: GroupRows, spare: str
    ) -> dict[str, dict[str, torch.Tensor]]:
        """Finished columns of one group, by module."""
        modules = {name: 0} if rows.module is None else {module: i for i, module in enumerate(rollout.modules)}
        device = next(rl_module[next(iter(modules))].parameters()).device
        obs = self._memory(spare, rows.obs, device)
        seat = None if rows.module is None else tensor(rows.module.reshape(-1), device)
        values, next_values = self._values(_Critic(rl_module, modules), rollout, rows, obs, seat)
        acted = tensor(rows.acted, device)
        ends = tensor(rows.terminated, device)
        cut = ends | tensor(rollout.cut, device)[:, None, :]
        reward = torch.where(acted, tensor(rows.reward, device), 0.0)
        gamma, decay = self._discounts(modules, seat, values.shape)
        advantage = gae(reward, values, next_values, ends, cut, gamma, decay)
        columns = {
            Columns.OBS: obs,
            Columns.ACTIONS: rows_of(rows.actions, device, feature=rows.actions.ndim > 3),
            Columns.ACTION_DIST_INPUTS: rows_of(rows.logits, device, feature=True),
            Columns.ACTION_LOGP: rows_of(rows.logp, device, feature=False),
            Postprocessing.ADVANTAGES: advantage.reshape(-1),
            Postprocessing.VALUE_TARGETS: (advantage + values).reshape(-1),
        }
        real = acted.reshape(-1)
        if bool(real.all()) and seat is None:
            return {name: columns}
        masks = {name: real} if seat is None else {module: real & seat.eq(index) for module, index in modules.items()}
        return {
            module: {key: value[mask] for key, value in columns.items()}
            for module, mask in masks.items()
            if bool(mask.any())
        }

    def _values(
        self, critic: "_Critic", rollout: RolloutBatch, rows: GroupRows, obs: torch.Tensor, seat: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values `[T, n, E]` of the observations acted on, and of what followed within the episode."""
        steps, agents, markets = rows.acted.shape
        when, where = torch.from_numpy(rollout.reset_t), torch.from_numpy(rollout.reset_e)
        final = tensor(np.swapaxes(rows.final_obs, 1, 2), obs.device)  # [C, n, D]
        last = rows_of(rows.last_obs[None], obs.device, feature=True)
        # Who acted last in an episode also values what followed.
        seats = None if seat is None else seat.reshape(steps, agents, markets)
        value = critic(obs, seat).reshape(steps, agents, markets)
        after = critic(last, None if seats is None else seats[-1].reshape(-1))
        next_value = torch.cat([value[1:], after.reshape(1, agents, markets)])
        if len(final):
            ending = critic(final.reshape(-1, final.shape[2]), None if seats is None else seats[when, :, where])
            next_value[when, :, where] = ending.reshape(len(when), agents)
        return value, next_value

    def _discounts(self, modules: Mapping[str, int], seat: torch.Tensor | None, shape: torch.Size) -> tuple[Any, Any]:
        """`gamma` and `lambda`, or, where modules differ, those of every row `[T, n, E]`."""
        own = [self._config.get_config_for_module(module) for module in modules]
        pairs = [(config.gamma, config.lambda_) for config in own]
        if seat is None or len(set(pairs)) == 1:
            return pairs[0]
        table = torch.tensor(pairs, device=seat.device)[seat.long()]
        return table[:, 0].reshape(shape), table[:, 1].reshape(shape)


def gae(
    reward: torch.Tensor,
    value: torch.Tensor,
    next_value: torch.Tensor,
    terminated: torch.Tensor,
    cut: torch.Tensor,
    gamma: Any,
    decay: Any,
) -> torch.Tensor:
    """Generalized advantage estimation on rows `[T, ...]`.

    `delta_t = r_t + gamma V(s_{t+1}) (1 - terminated_t) - V(s_t)`, and
    `A_t = delta_t + gamma lambda (1 - cut_t) A_{t+1}`.

    Args:
        reward: `[T, ...]`.
        value: of the observation acted on.
        next_value: of the observation that followed within the episode.
        terminated: bool, nothing follows.
        cut: bool, what follows belongs to another episode.
        gamma: discount, a number or `[T, ...]`.
        decay: lambda, a number or `[T, ...]`.

    Source: Schulman et al. (2016), equation 16.
    """
    delta = reward + gamma * next_value * (~terminated) - value
    keep = gamma * decay * (~cut)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in range(delta.shape[0] - 1, -1, -1):
        running = delta[t] + keep[t] * running
        advantage[t] = running
    return advantage


def no_change(module: Any) -> dict[str, torch.Tensor]:
    """One row that leaves a module as it is: its own action, its own value, no advantage."""
    device = next(module.parameters()).device
    obs = {Columns.OBS: torch.zeros(1, *module.unwrapped().observation_space.shape, device=device)}
    logits = module.unwrapped().forward_train(obs)[Columns.ACTION_DIST_INPUTS]
    chance = module.unwrapped().get_train_action_dist_cls().from_logits(logits)
    actions = chance.sample()
    return obs | {
        Columns.ACTIONS: actions,
        Columns.ACTION_DIST_INPUTS: logits,
        Columns.ACTION_LOGP: chance.logp(actions),
        Postprocessing.ADVANTAGES: torch.zeros(1, device=device),
        Postprocessing.VALUE_TARGETS: module.unwrapped().compute_values(obs),
    }


def standardized(advantage: torch.Tensor) -> torch.Tensor:
    """Mean zero and standard deviation one, as RLlib: the deviation is at least 1e-4."""
    return (advantage - advantage.mean()) / advantage.std(unbiased=False).clamp(min=1e-4)


def _columns(group: Group, by_role: Mapping[str, np.ndarray]) -> np.ndarray:
    """Arrays `[E, N_role, ...]` by role to `[E, n, ...]` of a group."""
    parts = []
    for role, numbers in group.members:
        array = by_role[role]
        parts.append(array if len(numbers) == array.shape[1] else array[:, list(numbers)])
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _list_rows(listed: list[dict[str, Any]], agents: tuple[str, ...], acts: np.ndarray, rows: np.ndarray) -> None:
    """Deal rows out to dictionaries by agent, one for each market."""
    values = rows.tolist() if rows.ndim == 1 else list(rows)
    if acts.all():
        width = len(agents)
        for i, market in enumerate(listed):
            market.update(zip(agents, values[i * width : (i + 1) * width], strict=True))
        return
    markets, seats = np.nonzero(acts)
    for i, seat, value in zip(markets.tolist(), seats.tolist(), values, strict=True):
        listed[i][agents[seat]] = value
