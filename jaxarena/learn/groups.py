"""Policy groups: which roles share one set of parameters, and how a group acts.

Belongs here: the map from roles to groups and the pure function that turns a group's parameters
into actions. Does not belong here: how the parameters are improved (`ppo`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxarena.core import schema
from jaxarena.core.tree import Record
from jaxarena.learn import normalize
from jaxarena.learn.distributions import ActionHead, make_head
from jaxarena.learn.networks import Activation, ActorCritic


class PolicyState(Record):
    """All that a group needs to act."""

    params: Any  # of the network
    obs_stats: normalize.Moments  # [D]


class Choice(Record):
    """What a group saw and did in one step."""

    obs: jax.Array  # [D, N, E] as the network saw it
    raw: jax.Array  # [(n,) N, E] raw action
    log_prob: jax.Array  # [N, E] up to terms that do not depend on the parameters
    value: jax.Array  # [N, E]


@dataclasses.dataclass(frozen=True)
class Group:
    """Roles that share a policy. Their agents lie one after the other on the agent axis. Static and hashable."""

    name: str
    roles: tuple[str, ...]
    counts: tuple[int, ...]  # agents of each role
    obs_size: int
    head: ActionHead
    network: ActorCritic
    observation_clip: float | None  # None: observations are not normalised

    @property
    def num_agents(self) -> int:
        """Agents of all roles together, N."""
        return sum(self.counts)

    def init(self, key: jax.Array) -> PolicyState:
        """Fresh parameters. key: consumed."""

        @jax.custom_batching.sequential_vmap  # batched QR decompositions can block each other for ever on the CPU
        def draw(key: jax.Array) -> Any:
            return self.network.init(key, jnp.zeros((self.obs_size, 1), jnp.float32))["params"]

        return PolicyState(params=draw(key), obs_stats=normalize.init_moments((self.obs_size,)))

    @property
    def template(self) -> PolicyState:
        """Shapes and dtypes of the group's state."""
        state: PolicyState = jax.eval_shape(self.init, jax.random.key(0))
        return state

    def join(self, by_role: Mapping[str, jax.Array]) -> jax.Array:
        """Arrays `[N_role, ...]` by role to one `[N, ...]`."""
        return jnp.concatenate([by_role[role] for role in self.roles], axis=0)

    def split(self, joined: jax.Array, axis: int = 0) -> dict[str, jax.Array]:
        """The inverse of `join`, for an agent axis anywhere."""
        ends = [sum(self.counts[: i + 1]) for i in range(len(self.counts) - 1)]
        return dict(zip(self.roles, jnp.split(joined, ends, axis=axis), strict=True))

    def observe(self, obs: Mapping[str, jax.Array]) -> jax.Array:
        """Observations `[N_role, D, ...]` by role to `[D, N, ...]`, not normalised."""
        return jnp.swapaxes(self.join(obs), 0, 1)

    def apply(self, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The network on normalised observations `[D, ...]`: outputs `[K, ...]`, free numbers, value `[...]`."""
        outputs, free, value = cast(tuple[jax.Array, ...], self.network.apply({"params": params}, x))
        return outputs, free, value

    def evaluate(self, state: PolicyState, raw_obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Normalise `[D, ...]` and apply the network: what it saw, outputs, free numbers, value."""
        x = raw_obs
        if self.observation_clip is not None:
            x = normalize.normalize(raw_obs, state.obs_stats, self.observation_clip)
        return (x, *self.apply(state.params, x))

    def value(self, state: PolicyState, raw_obs: jax.Array) -> jax.Array:
        """Values of observations `[D, ...]` that are not normalised yet."""
        return self.evaluate(state, raw_obs)[3]

    def act(
        self, state: PolicyState, key: jax.Array, obs: Mapping[str, jax.Array], deterministic: bool = False
    ) -> tuple[dict[str, jax.Array], Choice]:
        """Actions by role for observations `[N_role, D, ...]`, with or without a market axis.

        Args:
            state: the group's parameters and statistics.
            key: consumed; not used by a deterministic policy.
            obs: observations by role; roles of other groups are ignored.
            deterministic: take the mode instead of a sample.
        """
        x, outputs, free, value = self.evaluate(state, self.observe(obs))
        distribution = self.head.distribution(outputs, free)
        raw = distribution.mode() if deterministic else distribution.sample(key)
        action = distribution.action(raw)
        if action.ndim > value.ndim:  # several numbers per agent: the agent axis goes first again
            action = jnp.swapaxes(action, 0, 1)
        choice = Choice(obs=x, raw=raw, log_prob=distribution.relative_log_prob(raw), value=value)
        return self.split(action), choice


def act_together(
    groups: Sequence[Group],
    policies: Mapping[str, PolicyState],
    key: jax.Array,
    obs: Mapping[str, jax.Array],
    deterministic: bool = False,
) -> tuple[dict[str, jax.Array], dict[str, Choice]]:
    """One step of all groups that have a role: actions by role, and what each group chose. key: consumed."""
    actions: dict[str, jax.Array] = {}
    choices = {}
    for i, group in enumerate(groups):
        if not group.roles:
            continue
        of_group, choices[group.name] = group.act(policies[group.name], jax.random.fold_in(key, i), obs, deterministic)
        actions |= of_group
    return actions, choices


def make_groups(
    env: Any,
    params: Any,
    policies: Mapping[str, Sequence[str]] | None,
    hidden: tuple[int, ...],
    activation: Activation,
    observation_clip: float | None,
) -> tuple[Group, ...]:
    """Check the map from groups to roles against the environment and build the groups.

    Args:
        env: offers `learned_roles`, `num_agents(role)`, and `observation_space` and `action_space` of (role, params).
        params: of the environment.
        policies: group name to roles; None gives every learned role a group of its own.
        hidden: sizes of the hidden layers.
        activation: of the hidden layers.
        observation_clip: bound of normalised observations; None leaves observations as they are.

    Raises:
        ValueError: unknown, repeated or missing role, empty group, or roles of one group with unequal spaces.
    """
    policies = {role: [role] for role in env.learned_roles} if policies is None else policies
    _check_roles(tuple(env.learned_roles), policies)
    groups = []
    for name, roles in policies.items():
        spaces = {r: (env.observation_space(r, params).size, env.action_space(r, params)) for r in roles}
        first = roles[0]
        for role in roles[1:]:
            if spaces[role] != spaces[first]:
                raise ValueError(
                    f"policies.{name}: {role!r} has (observation size, action space) {spaces[role]}, {first!r} has "
                    f"{spaces[first]}; roles that share a policy need equal ones, put them in groups of their own"
                )
        head = make_head(spaces[first][1])
        network = ActorCritic(head.num_outputs, head.num_free, hidden, activation)
        counts = tuple(int(env.num_agents(role)) for role in roles)
        groups.append(Group(name, tuple(roles), counts, spaces[first][0], head, network, observation_clip))
    return tuple(groups)


def _check_roles(learned: tuple[str, ...], policies: Mapping[str, Sequence[str]]) -> None:
    owner: dict[str, str] = {}
    for name, roles in policies.items():
        if not roles:
            raise ValueError(f"policies.{name}: no role given; {schema.nearest('', learned)}")
        for role in roles:
            if role not in learned:
                raise ValueError(f"policies.{name}: unknown learned role {role!r}; {schema.nearest(role, learned)}")
            if role in owner:
                raise ValueError(f"policies.{name}: role {role!r} is already in {owner[role]!r}; name it once")
            owner[role] = name
    missing = sorted(set(learned) - set(owner))
    if missing:
        raise ValueError(f"policies: no group for learned role(s) {', '.join(missing)}; add them to a group")
