"""Who sits at which RLlib module: rows by role and rows by module are the same rows, in any mapping."""

import itertools
import re

import jax
import numpy as np
import pytest

pytest.importorskip("ray.rllib")
pytest.importorskip("torch")

import gymnasium

from bridges.rllib.seating import Seating
from jaxarena.env.actions import BuyHoldSell
from jaxarena.env.env import MarketEnv
from tests.bridges.rllib_markets import planted, two_roles

pytestmark = pytest.mark.bridge

AGENTS = ("taker_000", "taker_001", "taker_002", "maker_000", "maker_001")
MARKETS = 4


def role_of(agent, *_, **__):
    return agent[:5]


def number_of(agent):
    return int(agent[-3:])


#: Name of a mapping, whether both roles need the same spaces, the mapping, and the agents of each module in their
#: order, worked out by hand.
MAPPINGS = {
    "per role": (False, role_of, {"taker": AGENTS[:3], "maker": AGENTS[3:]}),
    "shared": (True, lambda *_, **__: "all", {"all": AGENTS}),
    "each its own": (False, lambda agent, *_, **__: agent, {agent: (agent,) for agent in AGENTS}),
    "interleaved in a role": (
        False,
        lambda agent, *_, **__: f"{agent[:5]}{number_of(agent) % 2}",
        {
            "taker0": ("taker_000", "taker_002"),
            "taker1": ("taker_001",),
            "maker0": ("maker_000",),
            "maker1": ("maker_001",),
        },
    ),
    "interleaved over roles": (
        True,
        lambda agent, *_, **__: "odd" if number_of(agent) % 2 else "even",
        {"even": ("taker_000", "taker_002", "maker_000"), "odd": ("taker_001", "maker_001")},
    ),
    "one taken out": (
        True,
        lambda agent, *_, **__: "lone" if agent == "taker_001" else "rest",
        {"rest": ("taker_000", "taker_002", "maker_000", "maker_001"), "lone": ("taker_001",)},
    ),
}


def seated(name):
    alike, mapping, expected = MAPPINGS[name]
    return Seating(two_roles(alike=alike)[0], mapping), expected


def labelled(ids, *shape):
    """`[N_role, *shape, E]` by role: every number tells its agent, and where in the agent's row it stands."""
    arrays = {}
    for role, own in ids.items():
        place = np.arange(np.prod(shape, dtype=int) * MARKETS).reshape(*shape, MARKETS)
        arrays[role] = np.stack([1000.0 * AGENTS.index(agent) + place for agent in own]).astype(np.float32)
    return arrays


def test_agents_come_in_the_order_of_the_market_with_padded_numbers():
    """Not sorted by name: that would put `maker` first. Scripted agents have no seat."""
    seating = Seating(two_roles()[0], role_of)
    assert seating.agents == AGENTS
    assert list(seating.ids.items()) == [("taker", AGENTS[:3]), ("maker", AGENTS[3:])]
    assert Seating(planted()[0], role_of).agents == tuple(f"trader_00{i}" for i in range(8))


def test_numbers_are_padded_so_that_sorting_keeps_the_order():
    params = two_roles()[0].default_params
    small = [role.replace(limits=role.limits.replace(max_position_lots=100_000)) for role in params.roles]
    many = [role.replace(count=1001) if role.name == "taker" else role for role in small]
    ids = Seating(MarketEnv.build(params.replace(roles=tuple(many)))[0], role_of).ids
    assert ids["taker"][1] == "taker_0001"
    assert list(ids["taker"]) == sorted(ids["taker"])
    assert ids["maker"] == AGENTS[3:]


@pytest.mark.parametrize("name", MAPPINGS)
def test_groups_hold_the_agents_of_their_module(name):
    seating, expected = seated(name)
    assert not seating.changes
    assert {group.name: group.agents for group in seating.groups} == expected
    assert seating.modules == tuple(expected)
    assert [group.name for group in seating.groups] == list(expected)
    assert list(seating.modules_of_episode()) == list(AGENTS)
    for group in seating.groups:
        for role, numbers in group.members:
            assert {seating.ids[role][number] for number in numbers} <= set(group.agents)
        role = role_of(group.agents[0])
        assert group.obs_size == seating.env.observation_space(role).size
        assert group.action_space == seating.env.action_space(role)


@pytest.mark.parametrize("name", MAPPINGS)
def test_join_keeps_rows_with_their_agents_and_spread_is_its_inverse(name):
    seating, expected = seated(name)
    arrays = labelled(seating.ids, 3)
    named = {module: np.array([AGENTS.index(agent) for agent in own]) for module, own in expected.items()}

    @jax.jit
    def there_and_back(arrays, named):
        joined = {group.name: group.join(arrays) for group in seating.groups}
        return joined, seating.spread(joined), seating.spread(named)

    joined, back, alone = there_and_back(arrays, dict(reversed(named.items())))
    assert set(joined) == set(expected)
    for module, rows in joined.items():
        owners = [AGENTS[int(row.min()) // 1000] for row in np.asarray(rows)]
        assert tuple(owners) == expected[module]
        np.testing.assert_array_equal(np.asarray(rows) % 1000, np.broadcast_to(arrays["taker"][0], rows.shape))
    assert set(back) == set(seating.ids)
    for role, rows in back.items():
        np.testing.assert_array_equal(rows, arrays[role])
    assert alone["taker"].tolist() == [0, 1, 2]  # whatever the order of the groups
    assert alone["maker"].tolist() == [3, 4]


def test_eight_agents_dealt_out_to_two_modules_come_back_in_their_order():
    """By 0 2 4 6 1 3 5 7, a permutation that is not its own inverse."""
    seating = Seating(planted()[0], MAPPINGS["interleaved over roles"][1])
    traders = np.arange(8)
    joined = {group.name: group.join({"trader": traders}) for group in seating.groups}
    assert {name: rows.tolist() for name, rows in joined.items()} == {"even": [0, 2, 4, 6], "odd": [1, 3, 5, 7]}
    assert seating.spread(joined)["trader"].tolist() == traders.tolist()


def test_observations_are_turned_features_first():
    seating, _ = seated("interleaved over roles")
    even, odd = seating.groups
    obs = labelled(seating.ids, 3)
    first, second = jax.jit(lambda obs: (even.observe(obs), odd.observe(obs)))(obs)
    assert (first.shape, second.shape) == ((3, 3, MARKETS), (3, 2, MARKETS))
    np.testing.assert_array_equal(first[:, 1], obs["taker"][2])
    np.testing.assert_array_equal(first[:, 2], obs["maker"][0])
    np.testing.assert_array_equal(second[:, 1], obs["maker"][1])


def test_spaces_of_every_agent():
    seating, _ = seated("per role")
    assert list(seating.observation_spaces) == list(seating.action_spaces) == list(AGENTS)
    box = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert all(seating.action_spaces[agent] == box for agent in AGENTS[:3])
    assert all(seating.action_spaces[agent] == gymnasium.spaces.MultiDiscrete((3, 3)) for agent in AGENTS[3:])
    sizes = [seating.observation_spaces[agent].shape for agent in AGENTS]
    assert sizes == [(41,)] * 3 + [(11,)] * 2


def unequal_actions():
    """Roles that see the same and act differently."""
    params = two_roles(alike=True)[0].default_params
    roles = [role.replace(action=BuyHoldSell(levels=2)) if role.name == "maker" else role for role in params.roles]
    return MarketEnv.build(params.replace(roles=tuple(roles)))[0]


@pytest.mark.parametrize("what", ["observations", "actions"])
@pytest.mark.parametrize("mapping", ["shared", "interleaved over roles"])
def test_one_module_for_unequal_spaces_is_refused_and_both_roles_are_named(what, mapping):
    env = two_roles()[0] if what == "observations" else unequal_actions()
    module = "all" if mapping == "shared" else "even"
    wanted = rf"policy_mapping_fn.*'{module}'.*'taker'.*{re.escape(str(env.action_space('taker')))}.*'maker'"
    with pytest.raises(ValueError, match=wanted):
        Seating(env, MAPPINGS[mapping][1])


# -- mappings that change --------------------------------------------------------------------------


class League:
    """Gives every episode, in the order in which they come, the next opponent for one agent."""

    def __init__(self, opponents):
        self.opponents, self.chosen = itertools.cycle(opponents), {}

    def __call__(self, agent, episode, **_):
        if agent != "maker_001":
            return "main"
        if episode.id_ not in self.chosen:
            self.chosen[episode.id_] = next(self.opponents)
        return self.chosen[episode.id_]


def test_a_mapping_that_depends_on_the_episode_is_seen_and_seats_are_kept_by_role():
    seating = Seating(two_roles(alike=True)[0], League(["old", "older"]))
    assert seating.changes
    assert set(seating.modules) == {"main", "old", "older"}
    assert {group.name: group.agents for group in seating.groups} == {"taker": AGENTS[:3], "maker": AGENTS[3:]}
    arrays = labelled(seating.ids, 3)
    back = jax.jit(lambda arrays: seating.spread({group.name: group.join(arrays) for group in seating.groups}))(arrays)
    assert all((back[role] == arrays[role]).all() for role in arrays)


def test_every_episode_is_asked_anew_and_new_modules_get_new_numbers():
    seating = Seating(two_roles(alike=True)[0], League(["old"] * 8 + ["older"] * 8 + ["new", "old"]))
    numbers = {module: seating.index_of(module) for module in seating.modules}
    episodes = [seating.modules_of_episode() for _ in range(2)]
    assert [episode["maker_001"] for episode in episodes] == ["new", "old"]
    assert [episode["maker_000"] for episode in episodes] == ["main", "main"]
    assert "new" not in numbers
    assert seating.index_of("new") == len(numbers)
    assert seating.modules[seating.index_of("new")] == "new"
    assert {module: seating.index_of(module) for module in numbers} == numbers


def test_a_mapping_that_looks_at_the_episode_and_does_not_depend_on_it_is_fixed():
    seating = Seating(two_roles()[0], lambda agent, episode, **_: role_of(agent) if episode.id_ else "nobody")
    assert not seating.changes
    assert [group.name for group in seating.groups] == ["taker", "maker"]


def test_a_changing_mapping_cannot_give_one_module_to_unequal_roles_either():
    """The torch module would meet rows of two sizes in mid-rollout."""
    with pytest.raises(ValueError, match=r"policy_mapping_fn.*'main'"):
        Seating(two_roles()[0], League(["old", "older"]))
