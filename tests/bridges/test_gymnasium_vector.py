"""The Gymnasium bridge: a real `SyncVectorEnv`, native trajectories bit for bit, deaths, seeds, checkers, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnasium")

import gymnasium
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics

import jaxarena
from bridges import gymnasium_vector
from bridges.gymnasium_vector import MarketGymEnv, MarketVectorEnv
from bridges.markets import compiled, idle_actions, load_market, market_key
from jaxarena.agents import BuyAndHold
from jaxarena.env.actions import BuyHoldSell
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import Portfolio
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.market.costs import LinearImpact
from jaxarena.market.dealer import Dealer
from tests.bridges.pages import assert_extra_is_named, run_page
from tests.env import test_endings as crash

pytestmark = pytest.mark.bridge
MARKETS, STEPS, FIRST, SECOND, LENGTH = crash.MARKETS, crash.STEPS, crash.FIRST, crash.SECOND, crash.LENGTH
SEED = 7


def market(*roles, **settings):
    return MarketEnv.build(
        MarketParams(
            process=crash.crashing(), roles=roles, indicators=(), episode_length=LENGTH, lot_multiplier=1, **settings
        )
    )


@functools.cache
def crashing(agents=2):
    """Two crashes in ten steps; who is all in at a crash goes bankrupt. One learned role, one scripted."""
    bold = Role(name="bold", count=agents, cash=50_000.0, limits=crash.BOLD, observations=(Portfolio(),))
    return market(bold, Role(name="rest", strategy=BuyAndHold(), observations=()))


@functools.cache
def short(name="PlantedSignal-v0", length=6):
    env, params = load_market(name)
    return env, params.replace(episode_length=jnp.int32(length))


def plan():
    """Actions `[T, N, 1, E]` of the crashing market. Full exposure means ruin at the next crash.

    Market 0: agent 0 dies at the first crash. 1: both do. 2: agent 0 at the first, agent 1 at the second. 3: nobody.
    """
    actions = np.full((STEPS, 2, 1, MARKETS), np.nan, np.float32)
    actions[0, 0, 0, :3] = actions[0, 1, 0, 1] = actions[4, 1, 0, 2] = 1.0
    return actions


@functools.cache
def native():
    """The crashing market under `plan`, stepped without the bridge: the reset, then every step; arrays `[..., E]`."""
    env, params = crashing()
    stepper, units = compiled(env, MARKETS), params.quanta_per_unit
    obs, state = stepper.reset(market_key(SEED), params)
    equity, rows = np.array(state.market.accounts.equity[:2]), env.agent_slice("bold")
    told = [{"obs": obs["bold"], "equity": equity / np.float32(units)}]
    for action in plan():
        obs, state, reward, terminated, truncated, info = stepper.step(state, {"bold": action}, params)
        told.append(
            {
                "obs": obs["bold"],
                "equity": np.array(state.market.accounts.equity[rows]) / np.float32(units),
                "final_obs": info["final_observation"]["bold"],
                "final_equity": np.array(info["equity"][rows]) / np.float32(units),
                "reward": reward["bold"],
                "terminated": terminated["bold"],
                "truncated": truncated["bold"],
                "acted": info["acted"]["bold"],
                "return": info["episode"]["return"]["bold"],
                "length": info["episode"]["length"],
                "reset": info["reset"],
            }
        )
    return jax.tree.map(np.asarray, told)


def row_of(view, number):
    """What `native` tells of one row, one dict per step, in the terms of a single environment."""
    e, n = divmod(number, 2) if view == "agent" else (number, slice(None))
    told, earned = [], np.float32(0)
    for step in native():
        row = {"obs": step["obs"][n, ..., e], "equity": step["equity"][n, e]}
        if "reward" in step:
            acted, died, cut = step["acted"][n, e], step["terminated"][n, e], step["truncated"][n, e]
            row |= {"final_obs": step["final_obs"][n, ..., e], "final_equity": step["final_equity"][n, e]}
            if view == "agent":
                reward = step["reward"][n, e]
            else:
                reward = step["reward"][:, e].sum(dtype=np.float32) / np.float32(max(acted.sum(), 1))
                died, cut = acted.any() and not (acted & ~died).any(), cut.any()
            earned += reward
            row |= {"acted": acted if np.ndim(acted) else bool(acted), "reward": reward, "episode": earned}
            row |= {"terminated": bool(died), "truncated": bool(cut), "length": step["length"][e]}
            earned = np.float32(0) if step["reset"][e] else earned
        told.append(row)
    return told


class Replay(gymnasium.Env):
    """One row of `native` as an ordinary environment, for Gymnasium's own vector environment to put together.

    It ends as the row ends. Between a death and the reset of its market it idles.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, view, number):
        space = MarketVectorEnv(crashing(), 1, view=view)
        self.observation_space, self.action_space = space.single_observation_space, space.single_action_space
        self.told, self.clock = row_of(view, number), 0

    def reset(self, *, seed=None, options=None):
        now = self.told[self.clock]
        return now["obs"], {"acted": np.ones(2, bool) if np.ndim(now["equity"]) else True, "equity": now["equity"]}

    def step(self, action):
        self.clock += 1
        now = self.told[self.clock]
        over = now["terminated"] or now["truncated"]
        info = {"acted": now["acted"], "equity": now["final_equity" if over else "equity"]}
        if over:
            info["episode"] = {"r": now["episode"], "l": now["length"]}
        return now["final_obs" if over else "obs"], now["reward"], now["terminated"], now["truncated"], info


def rows_of(actions, view):
    """`[N, ..., E]` to the actions of rows."""
    rows = np.moveaxis(actions, -1, 0)
    return rows.reshape(-1, *rows.shape[2:]) if view == "agent" else rows


# -- what SyncVectorEnv would say -------------------------------------------------------------------


@pytest.mark.parametrize("view", ["agent", "role"])
def test_every_value_type_and_mask_is_that_of_a_sync_vector_env_over_native_rows(view):
    """Bit for bit, with deaths that leave others alive, deaths that end an episode, time limits and idle rows."""
    ours = MarketVectorEnv(crashing(), MARKETS, view=view)
    theirs = SyncVectorEnv(
        [functools.partial(Replay, view, number) for number in range(ours.num_envs)],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    assert ours.num_envs == (2 * MARKETS if view == "agent" else MARKETS)
    for space in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, space) == getattr(theirs, space)
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert data_equivalence(ours.reset(seed=SEED), theirs.reset(seed=SEED), exact=True)
    ends = 0
    for t, actions in enumerate(plan()):
        outcome, expected = (env.step(rows_of(actions, view)) for env in (ours, theirs))
        for mine, its in zip(outcome, expected, strict=True):
            assert data_equivalence(mine, its, exact=True), (t, mine, its)
        assert all(array.flags.writeable for array in outcome[:4])
        ends += "final_obs" in outcome[4]
    assert 4 < ends < STEPS


def test_rows_of_the_dead_idle_until_their_market_resets():
    envs = MarketVectorEnv(crashing(), MARKETS)
    first, info = envs.reset(seed=SEED)
    assert info["acted"].all()
    np.testing.assert_allclose(info["equity"], 50_000.0)
    told = [envs.step(rows_of(actions, "agent")) for actions in plan()]
    obs, reward, terminated, truncated, infos = zip(*told, strict=True)
    reward, terminated, truncated = np.array(reward), np.array(terminated), np.array(truncated)
    acted = np.array([info["acted"] for info in infos])
    limit = LENGTH - 1
    for seen, step in zip(obs, native()[1:], strict=True):  # later steps have not written over earlier arrays
        np.testing.assert_array_equal(seen, rows_of(step["obs"], "agent"))

    assert np.argwhere(terminated).tolist() == [[FIRST, 0], [FIRST, 2], [FIRST, 3], [FIRST, 4], [SECOND, 5]]
    assert np.flatnonzero(~acted[:, 0]).tolist() == list(range(FIRST + 1, LENGTH))
    assert not reward[~acted].any()
    assert truncated[limit].tolist() == [False, True, False, False, False, False, True, True]
    assert not (terminated | truncated)[limit, 0]  # its market resets, and the dead row says nothing
    assert infos[limit]["_final_obs"].tolist() == truncated[limit].tolist()
    np.testing.assert_allclose(obs[limit][0], first[0])
    np.testing.assert_allclose(infos[limit]["equity"][0], 50_000.0)
    assert acted[LENGTH].all()

    final = infos[FIRST]["final_obs"]
    assert [row for row in range(8) if final[row] is not None] == [0, 2, 3, 4]
    np.testing.assert_array_equal(final[0], obs[FIRST][0])  # its market plays on
    np.testing.assert_allclose(obs[FIRST][2], first[2])  # its market has reset
    assert final[2][3] >= 4.9  # drawdown times 5: nothing is left
    assert infos[FIRST]["final_info"]["equity"][2] < 1_000.0
    episode = infos[SECOND]["final_info"]["episode"]
    assert episode["l"].tolist() == [0, 0, 0, 0, 0, SECOND + 1, 0, 0]
    np.testing.assert_allclose(episode["r"][5], reward[: SECOND + 1, 5].sum(), rtol=1e-6)


def test_a_role_as_a_row_earns_the_mean_of_those_that_acted_and_ends_with_its_last_agent():
    agents, roles = (MarketVectorEnv(crashing(), MARKETS, view=view) for view in ("agent", "role"))
    for envs in (agents, roles):
        envs.reset(seed=SEED)
    died = []
    for t, actions in enumerate(plan()):
        one, both = agents.step(rows_of(actions, "agent")), roles.step(rows_of(actions, "role"))
        reward, over = one[1].reshape(MARKETS, 2), both[2] | both[3]
        acted = np.where(over[:, None], both[4].get("final_info", both[4])["acted"], both[4]["acted"])
        np.testing.assert_array_equal(both[0], one[0].reshape(both[0].shape))
        np.testing.assert_array_equal(acted, one[4]["acted"].reshape(MARKETS, 2))
        assert acted.any(1).all()  # never idle
        mean = [reward[e][acted[e]].mean() for e in range(MARKETS)]
        np.testing.assert_allclose(both[1], mean, rtol=1e-6)
        died += [(t, row) for row in np.flatnonzero(both[2])]
    assert died == [(FIRST, 1), (SECOND, 2)]


# -- several roles, seeds ---------------------------------------------------------------------------


def gambler(key, obs):
    """Small trades that depend on what it sees and on chance; it survives both crashes."""
    trades = jax.random.bernoulli(key, 0.5, (obs.shape[0], 1, obs.shape[2]))
    return jnp.where(trades, 0.05 + 0.02 * obs[:, 1:2] - 0.01 * obs[:, :1], jnp.nan)


@functools.cache
def crowded():
    """The crashing market with two learned roles; `bold` is so large that its trades move what `wary` earns."""
    bold = Role(name="bold", count=2, cash=50_000_000.0, limits=crash.BOLD, observations=(Portfolio(),))
    wary = Role(name="wary", cash=50_000.0, limits=crash.BOLD, observations=(Portfolio(),))
    return market(bold, wary, mechanism=Dealer(impact=LinearImpact(permanent=0.1)))


def test_other_roles_are_played_inside_the_step():
    """Equal to the native market under the same actions. The role of the rows dies, idles and is back."""
    env, params = crowded()
    envs = MarketVectorEnv((env, params), 1, role="wary", view="role", others={"bold": gambler})
    rows, _ = envs.reset(seed=SEED)
    stepper, key = compiled(env, 1), jax.random.fold_in(market_key(SEED), 2**31 - 1)
    obs, state = stepper.reset(market_key(SEED), params)
    told = []
    for t in range(LENGTH + 3):
        np.testing.assert_array_equal(rows, rows_of(np.asarray(obs["wary"]), "role"))
        bold = gambler(jax.random.fold_in(jax.random.fold_in(key, t), 0), obs["bold"])
        obs, state, reward, terminated, _, info = stepper.step(
            state, {"bold": bold, "wary": jnp.ones((1, 1, 1))}, params
        )
        rows, earned, died, cut, told_of_rows = envs.step(np.ones((1, 1, 1)))
        assert earned[0] == reward["wary"][0, 0]
        assert died[0] == terminated["wary"][0, 0]
        assert not cut[0]
        told.append((bool(died[0]), bool(told_of_rows["acted"][0, 0]), bool(info["reset"][0])))
    died, acted, reset = np.array(told).T
    assert np.flatnonzero(died).tolist() == [FIRST]
    assert np.flatnonzero(~acted).tolist() == list(range(FIRST + 1, LENGTH))
    assert np.flatnonzero(reset).tolist() == [LENGTH - 1]


def test_seeds_and_episodes_are_those_of_the_native_markets():
    env, params = short()
    envs, stepper = MarketVectorEnv((env, params), 2, seed=3), compiled(env, 2)
    obs, state = stepper.reset(market_key(3), params)
    idle = idle_actions(env, 2)
    still = np.zeros(envs.num_envs, np.int64)
    np.testing.assert_array_equal(envs.reset()[0], rows_of(np.asarray(obs["trader"]), "agent"))
    for _ in range(8):  # the time limit is at 6
        obs, state, *_ = stepper.step(state, idle, params)
        mine = envs.step(still)[0]
    np.testing.assert_array_equal(mine, rows_of(np.asarray(obs["trader"]), "agent"))
    obs, state = stepper.restart(state, params)
    third = envs.reset()[0]  # in the middle of the second episode
    np.testing.assert_array_equal(third, rows_of(np.asarray(obs["trader"]), "agent"))
    assert not np.array_equal(third, mine)

    def earned(envs, seed):
        envs.reset(seed=seed)
        return [envs.step(np.full(envs.num_envs, 2))[1].tolist() for _ in range(7)]

    assert earned(envs, 3) == earned(MarketVectorEnv((env, params), 2), 3) == earned(envs, 3 + 2**32)
    assert earned(envs, 3) != earned(envs, 4)
    assert len({str(earned(MarketVectorEnv((env, params), 2), None)) for _ in range(3)}) == 3


# -- spaces and Gymnasium's entry points ------------------------------------------------------------


@functools.cache
def menu():
    """Actions are `MultiDiscrete`; three agents."""
    return market(Role(name="buyer", count=3, action=BuyHoldSell(levels=2), observations=(Portfolio(),)))


@pytest.mark.parametrize(
    ("which", "view", "shape"),
    [
        (crashing, "agent", (8, 1)),
        (crashing, "role", (4, 2, 1)),
        (short, "agent", (16,)),
        (menu, "role", (2, 3, 1)),
    ],
)
def test_samples_of_the_spaces_are_played_and_seen(which, view, shape):
    envs = MarketVectorEnv(which(), MARKETS if which is crashing else 2, view=view)
    obs, _ = envs.reset(seed=0)
    envs.action_space.seed(0)
    assert envs.action_space.shape == shape
    for _ in range(3):
        assert obs in envs.observation_space
        obs, reward, *_ = envs.step(envs.action_space.sample())
        assert reward.shape == (envs.num_envs,)
    assert (
        envs.single_action_space
        == {
            crashing: gymnasium.spaces.Box(-1.0, 1.0, shape[1:]),
            short: gymnasium.spaces.Discrete(3),
            menu: gymnasium.spaces.MultiDiscrete(np.full((3, 1), 5)),
        }[which]
    )


def test_actions_of_jax_and_lists_are_taken():
    played = []
    for make in (np.asarray, jnp.asarray, list):
        envs = MarketVectorEnv(short(), 2)
        envs.reset(seed=0)
        played.append(envs.step(make([0, 1, 2, 0, 1, 2, 0, 1] * 2)))
    assert data_equivalence(played[0], played[1], exact=True)
    assert data_equivalence(played[0], played[2], exact=True)
    assert len(set(played[0][1])) > 1


def test_markets_are_registered_once_with_gymnasium():
    ids = {f"jaxarena/{name}" for name in jaxarena.registered()}
    assert len(ids) >= 5
    assert ids <= set(gymnasium.registry)
    specs = {name: gymnasium.registry[name] for name in ids}
    if "Late-v0" not in jaxarena.registered():
        jaxarena.register("Late-v0", crashing)
    gymnasium_vector.register_markets()
    assert all(gymnasium.registry[name] is spec for name, spec in specs.items())
    env = gymnasium.make("jaxarena/Late-v0")
    assert env.observation_space.shape == (2, 7)


def test_make_and_make_vec_count_rows():
    """A vector environment has as many rows as asked for, whatever the view."""
    name = "jaxarena/PlantedSignal-v0"
    env = RecordEpisodeStatistics(gymnasium.make(name))
    assert env.action_space == gymnasium.spaces.MultiDiscrete([3] * 8)
    obs, _ = env.reset(seed=1)
    over = False
    while not over:
        assert obs in env.observation_space
        obs, _, terminated, over, info = env.step(env.action_space.sample())
        assert not terminated
    assert info["episode"]["l"] == 64
    envs = gymnasium.make_vec(name, num_envs=16, vectorization_mode="vector_entry_point")
    assert isinstance(envs, MarketVectorEnv)
    assert envs.num_envs == 16
    assert envs.reset(seed=1)[0].shape == (16, 9)
    assert gymnasium.make_vec(name, num_envs=3, view="role").action_space.shape == (3, 8)
    with pytest.raises(ValueError, match=r"num_envs: got 12, allowed are multiples of 8.*use 16, or view='role'"):
        gymnasium.make_vec(name, num_envs=12)
    single = gymnasium.make_vec(name, num_envs=2, vectorization_mode="sync")
    assert single.reset(seed=1)[0].shape == (2, 8, 9)


# -- a single market --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*This is probably too:UserWarning")
@pytest.mark.parametrize("agents", [1, 2])
def test_gymnasiums_checker_accepts_a_single_market(agents):
    """An environment without a `spec` cannot be rendered in other modes, which the checker tells."""
    check_env(MarketGymEnv(crashing(agents)), skip_render_check=True)


@pytest.mark.parametrize("agents", [1, 2])
def test_a_single_market_is_the_first_of_many_without_auto_reset(agents):
    """Over two episodes: the first ends by death, the second is left in the middle, the third ends at the limit."""
    single = MarketGymEnv(crashing(agents))
    many = MarketVectorEnv(crashing(agents), 1, view="agent" if agents == 1 else "role")
    assert single.observation_space.shape == ((7,) if agents == 1 else (2, 7))
    action = np.ones((1, *single.action_space.shape), np.float32)
    np.testing.assert_array_equal(single.reset(seed=5)[0], many.reset(seed=5)[0][0])
    over = t = 0
    while not over:
        obs, reward, over, truncated, info = single.step(action[0])
        theirs = many.step(action)
        assert (reward, over, truncated) == (theirs[1][0], theirs[2][0], theirs[3][0])
        t += 1
    assert t == FIRST + 1
    np.testing.assert_array_equal(obs, theirs[4]["final_obs"][0])
    np.testing.assert_array_equal(info["equity"], theirs[4]["final_info"]["equity"][0])
    with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
        single.step(action[0])
    begun, info = single.reset()
    np.testing.assert_array_equal(begun, theirs[0][0])  # the episode that auto-reset has begun
    np.testing.assert_array_equal(info["equity"], theirs[4]["equity"][0])
    single.step(0 * action[0])
    many.step(0 * action)
    np.testing.assert_array_equal(single.reset()[0], many.reset()[0][0])
    for _ in range(LENGTH):
        *_, terminated, truncated, _ = single.step(0 * action[0])
    assert (terminated, truncated) == (False, True)


def test_a_single_market_goes_on_where_auto_reset_would():
    """Every episode of the random stream is played, and only once."""
    single, many = MarketGymEnv(short()), MarketVectorEnv(short(), 1, view="role")
    np.testing.assert_array_equal(single.reset(seed=2)[0], many.reset(seed=2)[0][0])
    episodes = 0
    for _ in range(20):
        obs, reward, _, truncated, _ = single.step(np.full(8, 2))
        theirs = many.step(np.full((1, 8), 2))
        assert reward == theirs[1][0]
        if truncated:
            obs, _ = single.reset()
        np.testing.assert_array_equal(obs, theirs[0][0])
        episodes += truncated
    assert episodes == 3
    while not single.step(np.full(8, 2))[3]:
        pass
    other = MarketGymEnv(short())
    for env in (single, other):
        env.reset(seed=9)  # new streams, though the next episode of the old ones has begun
    assert single.step(np.full(8, 2))[1] == other.step(np.full(8, 2))[1]


def test_a_single_market_ends_when_its_role_is_dead_though_others_play_on():
    env = MarketGymEnv(crowded(), role="wary", view="role", others={"bold": gambler})
    first, _ = env.reset(seed=0)
    for _ in range(FIRST + 1):
        obs, _, terminated, truncated, info = env.step(np.ones((1, 1), np.float32))
    assert (terminated, truncated) == (True, False)
    assert info["equity"] < 1_000.0
    assert obs[0, 3] >= 4.9  # the drawdown of the dead, times 5
    np.testing.assert_allclose(env.reset()[0], first)
    assert not env.step(np.zeros((1, 1), np.float32))[2]


# -- errors, the page -------------------------------------------------------------------------------


def test_what_cannot_be_built_says_what_to_do():
    for settings, message in [
        ({}, r"role: got None, allowed are the learned roles bold, wary; name the one"),
        ({"role": "maker"}, r"role: got 'maker', allowed are the learned roles: bold, wary"),
        ({"role": "bold"}, r"others: got no policy for wary.*others=\{'wary': policy\}, or give that role a scripted"),
        ({"role": "bold", "others": {"bold": gambler, "wary": gambler}}, r"others: got bold, allowed .*: wary"),
        ({"role": "bold", "others": {"wary": gambler}, "view": "rows"}, r"view: got 'rows', allowed are 'agent'"),
    ]:
        with pytest.raises(ValueError, match=message):
            MarketVectorEnv(crowded(), 2, **settings)
    with pytest.raises(ValueError, match=r"num_markets: got 0"):
        MarketVectorEnv(short(), 0)
    with pytest.raises(ValueError, match=r"view: got 'agent', allowed is 'role'.*MarketVectorEnv"):
        MarketGymEnv(short(), view="agent")


def test_what_cannot_be_played_says_what_to_do():
    envs = MarketVectorEnv(short(), 2)
    with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
        envs.step(np.zeros(16, int))
    with pytest.raises(ValueError, match=r"reset_mask.*markets reset themselves"):
        envs.reset(options={"reset_mask": np.ones(16, bool)})
    with pytest.raises(gymnasium.error.Error, match=r"python integer"):
        envs.reset(seed=[1, 2])
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions: got shape \(2, 8\), allowed is \(16,\)"):
        envs.step(np.zeros((2, 8), int))
    with pytest.raises(TypeError, match=r"same_kind"):
        envs.step(np.zeros(16))
    envs.close()


def test_without_gymnasium_the_extra_is_named(monkeypatch):
    assert_extra_is_named(monkeypatch, gymnasium_vector, "gymnasium", "gymnasium")


def test_the_page_runs():
    space = run_page("gymnasium.md")
    assert space["earned"] == pytest.approx(0.005, abs=0.001)
