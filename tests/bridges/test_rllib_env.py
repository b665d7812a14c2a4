"""Markets as RLlib's environments: its checker and runner, native trajectories bit for bit, deaths, ends, seeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("ray.rllib")
pytest.importorskip("torch")

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.pre_checks.env import check_multiagent_environments
from ray.tune.registry import ENV_CREATOR, _global_registry

import jaxarena
from bridges.markets import compiled, gymnasium_space
from bridges.rllib import MarketMultiAgentEnv, MarketVectorEnv, register_market, vector_env
from bridges.rllib.registration import market_of, register_all
from jaxarena.core.spaces import Box
from jaxarena.env.wrappers import Markets
from tests.bridges.rllib_markets import planted, two_roles
from tests.env import test_endings as crash

pytestmark = pytest.mark.bridge

MARKETS, STEPS, SEED = 8, 170, 5
CRASHING = ["bold_000", "bold_001", "wary_000"]


@pytest.fixture(autouse=True)
def known():
    """Other tests of this process may have shut Ray down, which forgets names."""
    register_all()


def agents_of(env):
    """Names, roles and numbers of the learned agents, in the order of the market."""
    return [(f"{role}_{i:03d}", role, i) for role in env.learned_roles for i in range(env.num_agents(role))]


@functools.cache
def tape():
    """Actions `[T, N_role, ..., E]`: often the extreme ones."""
    env, _ = two_roles()
    rng, actions = np.random.default_rng(1), {}
    for role in env.learned_roles:
        space, shape = env.action_space(role), (STEPS, env.num_agents(role), 2, MARKETS)
        if isinstance(space, Box):
            values = rng.uniform(space.low, space.high, shape)
            actions[role] = np.where(rng.random(shape) < 0.3, np.sign(values), values).astype(np.float32)
        else:
            actions[role] = rng.integers(0, 3, shape, dtype=np.int32)
    return actions


@functools.cache
def native():
    """The tape played by `Markets` in one scan: every leaf `[T, ..., E]`, and the first observations."""
    env, params = two_roles()
    markets = Markets(env, MARKETS)

    @jax.jit
    def play(key, params, actions):
        first, state = markets.reset(key, params)

        def body(state, action):
            obs, state, reward, terminated, truncated, info = markets.step(state, action, params)
            told = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated}
            told |= {key: info[key] for key in ("acted", "equity", "reset", "final_observation")}
            return state, told | {"mid": state.market.mid, "length": info["episode"]["length"]}

        return first, jax.lax.scan(body, state, actions)[1]

    first, told = jax.tree.map(np.asarray, play(jax.random.key(jnp.uint32(SEED)), params, tape()))
    told["before"] = {role: np.concatenate([first[role][None], told["obs"][role][:-1]]) for role in first}
    return told


def by_agent(env, actions, obs, t, e):
    """The actions of the agents that `obs` shows, at step `t` of the tape of market `e`."""
    return {agent: actions[role][t, i, ..., e] for agent, role, i in agents_of(env) if agent in obs}


def expect_step(env, params, told, t, e, outcome):
    """One market's part of a step is step `t` of the native record, bit for bit, for those who acted, and only them.

    `truncateds` is for RLlib: see `test_rllibs_episodes_take_every_step`.
    """
    obs, rewards, terminateds, truncateds, infos = outcome
    acted = [(agent, role, i) for agent, role, i in agents_of(env) if told["acted"][role][t, i, e]]
    names = [agent for agent, _, _ in acted]
    assert list(obs) == list(rewards) == list(infos) == names
    assert set(terminateds) == {*names, "__all__"}
    assert {"__all__"} <= set(truncateds) <= {*names, "__all__"}
    for agent, role, i in acted:
        np.testing.assert_array_equal(obs[agent], told["final_observation"][role][t, i, :, e], strict=True)
        assert rewards[agent] == float(told["reward"][role][t, i, e])
        assert terminateds[agent] is bool(told["terminated"][role][t, i, e])
        equity = told["equity"][t, env.agent_slice(role), e][i] / np.float32(params.quanta_per_unit)
        np.testing.assert_allclose(infos[agent]["equity"], equity, rtol=1e-6)
    over = bool(told["reset"][t, e])
    at_limit = any(rows[t, :, e].any() for rows in told["truncated"].values())
    assert terminateds["__all__"] is (over and not at_limit)
    assert truncateds["__all__"] is (over and at_limit)


def expect_first(env, told, t, e, obs):
    """Everybody is back and sees the first observation of the episode of step `t`."""
    assert list(obs) == [agent for agent, _, _ in agents_of(env)]
    for agent, role, i in agents_of(env):
        np.testing.assert_array_equal(obs[agent], told["before"][role][t, i, :, e], strict=True)


# -- many markets -----------------------------------------------------------------------------------


def test_the_tape_holds_all_the_ends_that_there_are():
    """What the parity below is worth."""
    told = native()
    reset, at_limit = told["reset"], told["length"] == 12
    dead, late, acted = (np.concatenate(list(told[key].values()), 1) for key in ("terminated", "truncated", "acted"))
    assert (dead.any(1) & ~reset).sum() > 50  # one dies, others play on
    assert (reset & ~at_limit).sum() > 5  # all dead
    assert (late.any(1) & ~acted.all(1)).sum() > 20  # some died earlier, the others reach the limit
    assert (late.any(1) & dead.any(1)).sum() > 5  # some die on the step of the limit
    assert (reset & at_limit & ~late.any(1)).sum() > 0  # the last ones die on the step of the limit


@pytest.mark.parametrize("form", ["dictionaries", "arrays"])
def test_next_step_episodes_are_the_native_ones_bit_for_bit(form):
    """Every market waits one step after each of its episodes, and the record does not; nothing else differs."""
    env, params = two_roles()
    actions, told = tape(), native()
    vector = MarketVectorEnv((env, params), MARKETS)
    obs, infos = vector.reset(seed=SEED)
    assert infos == [{}] * MARKETS
    at, waits, compared = np.zeros(MARKETS, int), np.zeros(MARKETS, bool), 0
    for e in range(MARKETS):
        expect_first(env, told, 0, e, obs[e])
    while (at < STEPS - 1).all():
        if form == "arrays":
            every = range(MARKETS)
            chosen = {role: np.stack([value[at[e], ..., e] for e in every]) for role, value in actions.items()}
        else:  # markets that wait get nothing, as from RLlib
            chosen = [{} if waits[e] else by_agent(env, actions, obs[e], at[e], e) for e in range(MARKETS)]
        outcome = vector.step(chosen)
        obs = outcome[0]
        for e in range(MARKETS):
            own = [part[e] for part in outcome]
            if waits[e]:
                expect_first(env, told, at[e], e, own[0])
                waits[e] = False
            else:
                expect_step(env, params, told, at[e], e, own)
                waits[e] = told["reset"][at[e], e]
                at[e] += 1
                compared += 1
    assert compared > 1000


@pytest.mark.parametrize(("length", "horizon"), [(2, "continuing"), (1, "continuing"), (1, "terminal")])
def test_the_step_that_shows_a_new_episode_tells_nothing_of_the_ignored_one(length, horizon):
    """Rewards are zero, nobody is done, and accounts are those of the start, whatever actions came.

    An ignored step of an episode of one step would end that one too.
    """
    vector = MarketVectorEnv(two_roles(length, horizon), MARKETS)
    vector.reset(seed=1)
    for _ in range(2 * (length + 1)):
        actions = [start()[0]] * MARKETS
        obs, rewards, terminateds, truncateds, infos = vector.step(actions)
    for e in range(MARKETS):
        assert list(obs[e]) == list(vector.agents)
        assert rewards[e] == dict.fromkeys(vector.agents, 0.0)
        assert not any(terminateds[e].values())
        assert not any(truncateds[e].values())
        cash = {agent: 20_000.0 if agent.startswith("taker") else 30_000.0 for agent in vector.agents}
        told = {agent: info.get("equity", cash[agent]) for agent, info in infos[e].items()}
        assert told == {agent: cash[agent] for agent in told}


def test_whole_episodes_end_as_they_should_in_planned_crashes():
    """Market 0: one dies, the others reach the limit. 1: all die at once. 2: all, one after the other. 3: nobody."""
    batch, params = crash.markets()
    vector = MarketVectorEnv((batch.env, params), crash.MARKETS)
    vector.reset(seed=0)
    dead, late, there = set(), set(), {}
    for t in range(crash.LENGTH):
        actions = {role: np.moveaxis(plan[t], -1, 0) for role, plan in crash.plans().items()}
        obs, _, terminateds, truncateds, _ = vector.step(actions)
        for e in range(crash.MARKETS):
            there[t, e] = list(obs[e])
            dead |= {(t, e)} if terminateds[e]["__all__"] else set()
            late |= {(t, e)} if truncateds[e]["__all__"] else set()
    assert dead == {(crash.FIRST, 1), (crash.SECOND, 2)}
    assert late == {(crash.LENGTH - 1, 0), (crash.LENGTH - 1, 3)}
    for t in range(crash.LENGTH):
        assert there[t, 3] == CRASHING
        assert there[t, 0] == (CRASHING if t <= crash.FIRST else CRASHING[1:])
        assert there[t, 2] == (["wary_000"] if crash.FIRST < t <= crash.SECOND else CRASHING)


def test_a_terminal_horizon_terminates_everybody_and_the_whole_episode():
    vector = MarketVectorEnv(two_roles(horizon="terminal"), MARKETS)
    obs, _ = vector.reset(seed=0)
    fewer, ends = 0, set()
    for t in range(12):
        acting = [set(own) for own in obs]
        obs, _, terminateds, truncateds, _ = vector.step([start()[t % 3]] * MARKETS)
        for e in set(range(MARKETS)) - ends:
            assert not any(truncateds[e].values())
            assert all(terminateds[e][agent] for agent in obs[e]) == terminateds[e]["__all__"]
            assert terminateds[e]["__all__"] or t < 11
            fewer += len(obs[e]) < 5
            ends |= {e} if terminateds[e]["__all__"] else set()
            assert set(obs[e]) <= acting[e]
            obs[e] = {agent: row for agent, row in obs[e].items() if not terminateds[e][agent]}
    assert ends == set(range(MARKETS))
    assert fewer > 10


def test_rllibs_episodes_take_every_step():
    """`MultiAgentEpisode` refuses who is done and comes back, and who is truncated without a last observation.

    What it keeps of the ends decides what is learned: an agent that lives at the limit is truncated, and a learner
    bootstraps; one for which it keeps `is_terminated` is worth nothing afterwards.
    """
    vector = MarketVectorEnv(two_roles(), MARKETS)
    for number, space in enumerate(vector.single_action_spaces.values()):
        space.seed(number)
    obs, infos = vector.reset(seed=2)
    episodes, finished, died = [MultiAgentEpisode() for _ in range(MARKETS)], [], {}
    for episode, first, info in zip(episodes, obs, infos, strict=True):
        episode.add_env_reset(observations=first, infos=info)
    for _ in range(40):
        acting = [set() if episode.is_done else episode.get_agents_to_act() for episode in episodes]
        actions = [{agent: vector.single_action_spaces[agent].sample() for agent in own} for own in acting]
        outcome = vector.step(actions)
        for e, (episode, action) in enumerate(zip(episodes, actions, strict=True)):
            obs, rewards, terminateds, truncateds, infos = (part[e] for part in outcome)
            if episode.is_done:
                finished.append(episode)
                episodes[e] = MultiAgentEpisode()
                episodes[e].add_env_reset(observations=obs, infos=infos)
                continue
            ends = {"terminateds": terminateds, "truncateds": truncateds}
            episode.add_env_step(obs, action, rewards, infos, **ends)
            died.setdefault(episode.id_, set()).update(agent for agent in obs if terminateds[agent])
    expect_whole_episodes(finished, 12)
    for episode in finished:
        terminated = {agent for agent, one in episode.agent_episodes.items() if one.is_terminated}
        assert terminated == died[episode.id_]


def expect_whole_episodes(finished, limit):
    """Deaths in mid-episode and at the end, and nothing lost: one observation more than steps, for every agent."""
    assert len(finished) > 8
    early = short = 0
    for episode in finished:
        assert episode.is_done
        assert set(episode.agent_episodes) == {"taker_000", "taker_001", "taker_002", "maker_000", "maker_001"}
        lengths = {agent: len(one) for agent, one in episode.agent_episodes.items()}
        assert max(lengths.values()) == len(episode) <= limit
        for agent, one in episode.agent_episodes.items():
            assert one.is_done
            assert one.is_terminated or lengths[agent] == limit
            assert len(one.get_observations()) == lengths[agent] + 1
            assert len(one.get_rewards()) == len(one.get_actions()) == lengths[agent]
            ruin = 0.2 * (20_000.0 if agent.startswith("taker") else 30_000.0)
            assert not one.is_terminated or one.get_infos(-1)["equity"] <= ruin
            early += lengths[agent] < len(episode)
        short += len(episode) < limit
    assert early > 5
    assert short > 0


# -- seeds ------------------------------------------------------------------------------------------


@functools.cache
def start():
    """Actions of all agents for three steps."""
    spaces = MarketMultiAgentEnv(two_roles()).action_spaces
    for number, space in enumerate(spaces.values()):
        space.seed(number)
    return [{agent: space.sample() for agent, space in spaces.items()} for _ in range(3)]


def fate_of_one(env, obs):
    """All numbers of the first three steps of an episode."""
    numbers = [np.concatenate(list(obs.values()))]
    for actions in start():
        obs, rewards, *_ = env.step(actions)
        numbers += [np.concatenate(list(obs.values())), list(rewards.values())]
    return np.concatenate(numbers).tolist()


def fates(vector, obs):
    """As `fate_of_one`, of every market."""
    numbers = [[np.concatenate(list(own.values()))] for own in obs]
    for actions in start():
        obs, rewards, *_ = vector.step([actions] * vector.num_envs)
        for told, seen, reward in zip(numbers, obs, rewards, strict=True):
            told += [np.concatenate(list(seen.values())), list(reward.values())]
    return [tuple(np.concatenate(told).tolist()) for told in numbers]


def test_a_seed_gives_the_same_bits_and_no_seed_the_next_episode():
    """The same one whether episodes are played to their end or cut short, and other ones in every market."""
    cut = MarketVectorEnv(two_roles(), MARKETS)
    told = [fates(cut, cut.reset(seed=seed)[0]) for seed in (7, None, None)]
    assert told == [fates(cut, cut.reset(seed=seed)[0]) for seed in (np.int64(7), None, None)]
    assert len({fate for episode in told for fate in episode}) == 3 * MARKETS
    other = MarketVectorEnv(two_roles(), MARKETS)
    assert not set(fates(other, other.reset(seed=8)[0])) & set(told[0])
    whole = MarketVectorEnv(two_roles(length=4), MARKETS)
    whole.reset(seed=7)
    for _ in range(4):
        ends = whole.step([start()[0]] * MARKETS)[3]
    assert all(own["__all__"] for own in ends)
    assert fates(whole, whole.step([{}] * MARKETS)[0]) == told[1]


def test_a_reset_shows_the_episode_that_waits_and_elsewhere_begins_the_next():
    """A market that has just ended is in its next episode already; the others are sent there."""
    batch, params = crash.markets()
    vector = MarketVectorEnv((batch.env, params), crash.MARKETS)
    vector.reset(seed=0)
    for t in range(crash.FIRST + 1):  # market 1 is over, the others are not
        _, _, dead, _, _ = vector.step({role: np.moveaxis(plan[t], -1, 0) for role, plan in crash.plans().items()})
    assert [ends["__all__"] for ends in dead] == [False, True, False, False]
    obs, infos = vector.reset()
    assert infos == [{}] * crash.MARKETS
    assert all(list(own) == CRASHING for own in obs)
    assert vector._state.markets.episode.tolist() == [1, 1, 1, 1]
    assert vector._state.markets.market.step.tolist() == [0, 0, 0, 0]
    assert not vector._state.waiting.any()


def test_without_any_seed_two_environments_differ():
    first, second = (MarketMultiAgentEnv(two_roles()) for _ in range(2))
    assert fate_of_one(first, first.reset()[0]) != fate_of_one(second, second.reset()[0])


# -- one market -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [12, 1])
def test_rllibs_checker_takes_one_market(length):
    """Also where the one step that it takes ends the episode."""
    check_multiagent_environments(MarketMultiAgentEnv(two_roles(length=length)))


def test_one_market_is_the_native_one_bit_for_bit():
    """Four episodes with the base key of the seed."""
    env, params = two_roles()
    reset, step, _ = compiled(env, 1)
    first, state = reset(jax.random.key(jnp.uint32(SEED)), params)
    alone, actions = MarketMultiAgentEnv((env, params)), tape()
    obs, infos = alone.reset(seed=SEED)
    assert infos == {}
    ends, deaths, t = 0, 0, 0
    while ends < 4:
        expect_first(env, {"before": {role: np.asarray(rows)[None] for role, rows in first.items()}}, 0, 0, obs)
        over = False
        while not over:
            chosen = {role: value[t, ..., :1] for role, value in actions.items()}
            outcome = alone.step(by_agent(env, actions, alone.agents, t, 0))
            first, state, reward, terminated, truncated, info = step(state, chosen, params)
            told = {"reward": reward, "terminated": terminated, "truncated": truncated}
            told |= {key: info[key] for key in ("acted", "equity", "reset", "final_observation")}
            expect_step(env, params, jax.tree.map(lambda leaf: np.asarray(leaf)[None], told), 0, 0, outcome)
            over = bool(info["reset"][0])
            living = {agent for agent in outcome[0] if not outcome[2][agent]}
            assert over or living <= set(alone.agents) <= set(outcome[0])
            deaths += sum(outcome[2].values()) if not over else 0
            t += 1
        with pytest.raises(ValueError, match="call reset first"):
            alone.step({})
        obs, ends = alone.reset()[0], ends + 1
        assert alone.agents == alone.possible_agents == list(obs)
    assert deaths > 3


def test_a_vector_of_one_market_says_what_the_market_alone_says():
    """With one role, and at equal batch shape bit for bit; the vector shows a new episode by itself."""
    alone, vector = MarketMultiAgentEnv(planted()), MarketVectorEnv(planted(), 1)
    rng, shown, over = np.random.default_rng(0), None, False
    for t in range(132):
        if t == 0 or over:
            obs, _ = alone.reset(seed=SEED if t == 0 else None)
            shown = vector.reset(seed=SEED)[0] if t == 0 else vector.step([{}])[0]
            assert list(obs) == list(shown[0]) == [f"trader_00{i}" for i in range(8)]
            assert all(np.array_equal(obs[agent], shown[0][agent]) for agent in obs)
        actions = dict(zip(alone.possible_agents, rng.integers(0, 3, 8).tolist(), strict=True))
        told, batch = alone.step(actions), [part[0] for part in vector.step([actions])]
        assert all(np.array_equal(told[0][agent], row, equal_nan=False) for agent, row in batch[0].items())
        assert list(told[0]) == list(batch[0])
        assert told[1:4] == tuple(batch[1:4])
        for agent, info in batch[4].items():
            assert told[4][agent] == pytest.approx(info, rel=1e-6)
        over = told[3]["__all__"]
        assert over == (t % 64 == 63)


def test_an_early_reset_goes_on_with_the_next_episode():
    """Whether the first one was played to its end, or not at all, the second one is the same."""
    whole, skipped = (MarketMultiAgentEnv(two_roles()) for _ in range(2))
    whole.reset(seed=4)
    over = False
    while not over:
        over = any(ends["__all__"] for ends in whole.step(start()[0])[2:4])
    again = fate_of_one(whole, whole.reset()[0])
    told = [fate_of_one(skipped, skipped.reset(seed=4)[0]), fate_of_one(skipped, skipped.reset()[0])]
    assert told[1] == again != told[0]
    assert fate_of_one(skipped, skipped.reset(seed=np.int64(4))[0]) == told[0]


@pytest.mark.parametrize("make", [MarketMultiAgentEnv, lambda market: MarketVectorEnv(market, 2)])
def test_stepping_before_a_reset_is_refused(make):
    with pytest.raises(ValueError, match=r"step: .*reset first"):
        make(two_roles()).step({})


# -- views and text ---------------------------------------------------------------------------------


def test_views_are_made_when_they_are_asked_for(monkeypatch):
    made = []

    class Counted(vector_env._View):
        def __init__(self, vector, index):
            made.append(index)
            super().__init__(vector, index)

    monkeypatch.setattr(vector_env, "_View", Counted)
    vector = MarketVectorEnv(two_roles(), 1000)
    assert len(vector.envs) == vector.num_envs == 1000
    assert made == [0]  # for the spaces
    assert vector.envs[-1] is vector.envs[999] is vector.envs[np.int64(999)]
    assert vector.envs[997:] == [vector.envs[997], vector.envs[998], vector.envs[-1]]
    assert sorted(made) == [0, 997, 998, 999]
    for wrong in (1000, -1001):
        with pytest.raises(IndexError, match="of 1000"):
            vector.envs[wrong]


def test_spaces_are_those_of_the_market_by_agent():
    env, _ = two_roles()
    vector, alone = MarketVectorEnv(two_roles(), 2), MarketMultiAgentEnv(two_roles())
    names = [agent for agent, _, _ in agents_of(env)]
    for one in (vector.envs[1].unwrapped, alone):
        assert isinstance(one, MultiAgentEnv)
        assert one.possible_agents == one.agents == names
        for agent, role, _ in agents_of(env):
            assert one.get_observation_space(agent) == gymnasium_space(env.observation_space(role))
            assert one.get_action_space(agent) == gymnasium_space(env.action_space(role))
    assert vector.unwrapped is vector
    assert dict(vector.single_observation_space.spaces) == alone.observation_spaces
    assert dict(vector.single_action_space.spaces) == alone.action_spaces
    obs, _ = vector.reset(seed=0)
    for own in obs:
        assert all(vector.single_observation_spaces[agent].contains(row) for agent, row in own.items())
    with pytest.raises(NotImplementedError, match="with all others"):
        vector.envs[0].reset()


def test_render_says_the_step_and_the_prices_of_the_market_that_is_meant():
    env, params = two_roles()
    vector, alone = MarketVectorEnv((env, params), MARKETS), MarketMultiAgentEnv((env, params))
    assert alone.render() == vector.envs[3].render() == "not reset yet"
    vector.reset(seed=SEED)
    vector.step({role: np.moveaxis(value[0], -1, 0) for role, value in tape().items()})
    told, scale = native(), float(params.quanta_per_unit)
    prices, equity = told["mid"][0] / scale, told["equity"][0, env.agent_slice("maker")].mean(0) / scale
    assert len({text.splitlines()[0] for text in vector.render()}) == MARKETS
    for e, text in enumerate(vector.render()):
        first, *rest = text.splitlines()
        assert first == f"step 1 of 12: A0 {prices[0, e]:.2f}, A1 {prices[1, e]:.2f}"
        assert rest[2].startswith(f"  maker: 2 of 2 alive, mean equity {equity[e]:,.2f}, mean lots A0 ")
        assert vector.envs[e].render() == text
    alone.reset(seed=SEED)
    assert alone.render().startswith("step 0 of 12: A0 100.00, A1 100.00")
    alone.step(start()[0])
    assert alone.render().startswith("step 1 of 12: ")


# -- names ------------------------------------------------------------------------------------------


def test_a_name_makes_one_market_or_many_of_one_that_is_built_once():
    """What is registered last counts."""
    name = register_market("RllibNamed-v0", functools.partial(two_roles, length=5))
    alone, many = (
        _global_registry.get(ENV_CREATOR, name)(EnvContext(own, worker_index=1)) for own in ({}, {"num_envs": 3})
    )
    assert (type(alone), type(many), many.num_envs) == (MarketMultiAgentEnv, MarketVectorEnv, 3)
    assert many.params is alone._params is market_of(name)[1]
    assert int(many.params.episode_length) == 5
    register_market("RllibNamed-v0", planted)
    assert market_of(name)[0] is planted()[0]


def test_all_markets_are_known_and_others_are_refused():
    assert all(_global_registry.contains(ENV_CREATOR, f"jaxarena/{id}") for id in jaxarena.registered())
    with pytest.raises(ValueError, match=r"PlantedSignal-v0"):
        market_of("jaxarena/PlantedSignals-v0")
    assert not _global_registry.contains(ENV_CREATOR, "jaxarena/PlantedSignals-v0")


# -- RLlib's own runner -----------------------------------------------------------------------------

#: It registers the environment that it is to make under one name, again and again.
again = pytest.mark.filterwarnings("ignore:.*Overriding environment rllib-multi-agent-env-v0 already:UserWarning")


@again
def test_rllibs_own_runner_finds_a_market_by_name():
    """Eight agents and a limit; its own check of the environment included."""
    config = PPOConfig().environment("jaxarena/PlantedSignal-v0").env_runners(num_envs_per_env_runner=2)
    config.multi_agent(policies={"trader"}, policy_mapping_fn=lambda *_, **__: "trader")
    runner = MultiAgentEnvRunner(config=config)
    assert [type(env.unwrapped) for env in runner.env.unwrapped.envs] == [MarketMultiAgentEnv] * 2
    episodes = runner.sample(num_episodes=2)
    assert [len(episode) for episode in episodes] == [64, 64]
    for episode in episodes:
        assert list(episode.agent_episodes) == [f"trader_00{i}" for i in range(8)]
        assert not any(one.is_terminated for one in episode.agent_episodes.values())
        assert all(one.is_truncated for one in episode.agent_episodes.values())


@again
def test_rllibs_own_runner_plays_a_market_with_deaths():
    """Without anything of ours but the environment. In episodes of this length often all agents die."""
    name = register_market("RllibDeaths-v0", functools.partial(two_roles, length=24))
    assert name == "jaxarena/RllibDeaths-v0"
    config = PPOConfig().environment(name).env_runners(num_envs_per_env_runner=2).debugging(seed=3)
    config.multi_agent(policies={"taker", "maker"}, policy_mapping_fn=lambda agent, *_, **__: agent[:5])
    episodes = MultiAgentEnvRunner(config=config).sample(num_episodes=12)
    assert {agent[:5]: one.module_id for agent, one in episodes[0].agent_episodes.items()} == {
        "taker": "taker",
        "maker": "maker",
    }
    expect_whole_episodes(episodes, 24)
