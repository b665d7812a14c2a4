"""The gymnax view of a market: the contract of gymnax 1.0.1, and the same numbers as the market itself."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gymnax")

import gymnax
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from gymnax.experimental import RolloutWrapper
from gymnax.wrappers import GymnaxToVectorGymWrapper, LogWrapper

import jaxarena
from bridges.gymnax_env import FiveValues, MarketGymnax, register_markets
from jaxarena.agents import Random
from jaxarena.core.draws import fold_in
from jaxarena.core.money import int_quanta
from jaxarena.env.actions import BuyHoldSell
from jaxarena.env.env import MarketEnv
from jaxarena.env.observations import Portfolio, TimeLeft
from jaxarena.env.rewards import Profit
from jaxarena.env.roles import Role
from jaxarena.env.state import MarketParams
from jaxarena.env.wrappers import Markets
from jaxarena.market.margin import RiskLimits
from jaxarena.market.processes import Gbm
from tests.bridges.pages import python_blocks

pytestmark = pytest.mark.bridge

EPISODE, STEPS, MARKETS, AGENT = 10, 35, 8, 1
CASH, HOLDING = 5_000.0, 40  # units of currency, lots
OTHERS = 2**31 - 1  # what a step's key is folded with for the policy of the others
WILD = RiskLimits(max_leverage=5.0, allow_short=True, initial_margin=0.2, maintenance_margin=0.15, ruin_fraction=0.02)


@functools.cache
def storm():
    """A market that ruins three agents with much leverage; the others start with something in hand."""
    roles = (
        Role(name="bold", count=3, cash=CASH, limits=WILD, observations=(Portfolio(),)),
        Role(name="noise", strategy=Random(trade_probability=0.5), lots=HOLDING),
        Role(name="meek", count=2, lots=HOLDING, observations=(Portfolio(),), rewards=(Profit(),)),
    )
    return MarketEnv.build(
        MarketParams(process=Gbm(volatility=4.0), roles=roles, indicators=(), episode_length=EPISODE)
    )


def weather(volatility, params=None):
    """Other parameters of the same market: `params` of a view, with another volatility and dearer assets."""
    params = params or storm()[1]
    process = params.process.replace(volatility=jnp.float32(volatility), initial_price=params.process.initial_price * 2)
    return params.replace(process=process)


def sampled(key, obs):
    """Random actions of everybody, which look at the observations so that these must be right."""
    actions = storm()[0].sample_actions(key)
    return {role: jnp.where(obs[role][:, :1] > 0.5, action, -action) for role, action in actions.items()}


@functools.cache
def bold():
    """The view of the second bold agent."""
    return MarketGymnax(storm(), role="bold", agent=AGENT, others=sampled)


@functools.cache
def alone():
    """The same market with nobody else who learns: then it ends when gymnax says so."""
    return MarketGymnax(storm(), role="bold", others="absent")


def own_actions():
    return jax.random.choice(jax.random.key(9), jnp.array([-1.0, 0.3, 1.0]), (STEPS, MARKETS, 1))


def step_keys():
    return jax.random.split(jax.random.key(3), (STEPS, MARKETS))


@jax.jit
def play_view(keys, actions, params):
    """Steps of gymnax's own `step`, seen through its wrapper that logs."""
    env = LogWrapper(bold())
    obs, state = jax.vmap(env.reset, in_axes=(0, None))(keys[0], params)

    def body(state, inputs):
        out = jax.vmap(env.step, in_axes=(0, 0, 0, None))(inputs[0], state, inputs[1], params)
        obs, state, reward, terminated, truncated, info = out
        told = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated, "info": info}
        return state, told | {"market": state.env_state.market}

    return jax.lax.scan(body, state, (keys, actions))[1] | {"first": obs}


@functools.cache
def record(volatility=3.0):
    """Every leaf `[T, E, ...]`. The parameters are not the default ones."""
    return jax.tree.map(np.asarray, play_view(step_keys(), own_actions(), weather(volatility)))


@functools.cache
def native():
    """The same of the market itself: its own functions, keys split as gymnax says, one reset for the agent's end."""
    env, row = storm()[0], AGENT

    def one(key, state, own, params):
        key_step, key_reset = jax.random.split(key)
        action = sampled(fold_in(key_step, OTHERS), env.observe(state, params))
        action["bold"] = action["bold"].at[AGENT].set(own)
        final, after, reward, terminated, truncated, info = env.step_env(key_step, state, action, params)
        fresh_obs, fresh = env.reset(key_reset, params)
        terminated, truncated = terminated["bold"][AGENT], truncated["bold"][AGENT]
        done = terminated | truncated
        obs, state = jax.tree.map(lambda a, b: jnp.where(done, a, b), (fresh_obs, fresh), (final, after))
        told = {"obs": obs["bold"][AGENT], "reward": reward["bold"][AGENT]}
        told |= {"terminated": terminated, "truncated": truncated, "market": state, "reset": info["reset"]}
        told |= {"final": final["bold"][AGENT], "equity": info["equity"][row], "lots": info["lots"][row]}
        return state, told

    @jax.jit
    def play(keys, actions, params):
        obs, state = jax.vmap(env.reset, in_axes=(0, None))(keys[0], params)

        def body(state, inputs):
            return jax.vmap(one, in_axes=(0, 0, 0, None))(inputs[0], state, inputs[1], params)

        return jax.lax.scan(body, state, (keys, actions))[1] | {"first": obs["bold"][:, AGENT]}

    return jax.tree.map(np.asarray, play(step_keys(), own_actions(), weather(3.0)))


# -- the same numbers -------------------------------------------------------------------------------


def test_a_trajectory_is_that_of_the_market_bit_for_bit():
    view, market = record(), native()
    for name in ("first", "obs", "reward", "terminated", "truncated", "market"):
        jax.tree.map(np.testing.assert_array_equal, view[name], market[name])
    for name, theirs in {"final_observation": "final", "equity": "equity", "lots": "lots"}.items():
        np.testing.assert_array_equal(view["info"][name], market[theirs])
    assert (market["lots"] != 0).any()
    assert market["terminated"].sum() > 3
    assert market["truncated"].sum() > 3
    assert (~market["reset"] & market["terminated"]).any()  # the others were alive: only this view starts again


def test_keys_of_markets_give_the_trajectory_of_markets_bit_for_bit():
    """`Markets` derives its keys from one base key; `step_env` and `reset_env` given the same keys must follow it."""
    view, params = alone(), weather(3.0, alone().default_params)
    batch, base, actions = Markets(view.market, MARKETS), jax.random.key(5), own_actions()

    @jax.jit
    def theirs(params, actions):
        obs, carry = batch.reset(base, params)

        def body(carry, action):
            shaped = {"bold": jnp.moveaxis(action, 0, -1)[None]}
            obs, carry, reward, terminated, truncated, info = batch.step(carry, shaped, params)
            told = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated}
            told["final"] = info["final_observation"]
            return carry, {name: jnp.moveaxis(told[name]["bold"][0], -1, 0) for name in told}

        return jax.lax.scan(body, carry, actions)[1] | {"first": jnp.moveaxis(obs["bold"][0], -1, 0)}

    def one(key, state, episode, action, params):
        episode_key = fold_in(key, episode)
        step_key = fold_in(episode_key, state.time + 1)
        final, after, reward, terminated, _ = view.step_env(step_key, state, action, params)
        truncated = view.is_truncated(after, params)
        done = terminated | truncated
        episode = episode + done
        fresh = view.reset_env(fold_in(fold_in(key, episode), 0), params)
        obs, state = jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, (final, after))
        told = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated, "final": final}
        return (state, episode), told

    @jax.jit
    def ours(params, actions):
        keys = jax.vmap(lambda i: fold_in(base, i))(jnp.arange(MARKETS))
        obs, state = jax.vmap(lambda key: view.reset_env(fold_in(fold_in(key, 0), 0), params))(keys)

        def body(carry, action):
            return jax.vmap(one, in_axes=(0, 0, 0, 0, None))(keys, *carry, action, params)

        start = (state, jnp.zeros(MARKETS, jnp.int32))
        return jax.lax.scan(body, start, actions)[1] | {"first": obs}

    theirs, ours = theirs(params, actions), ours(params, actions)
    assert theirs.keys() == ours.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert ours["terminated"].any()
    assert ours["truncated"].any()


def test_parameters_are_an_argument():
    """The default ones are not looked at: calm weather ruins nobody."""
    calm = record(volatility=0.05)
    assert not calm["terminated"].any()
    np.testing.assert_array_equal(calm["truncated"].all(1), np.arange(STEPS) % EPISODE == EPISODE - 1)
    assert play_view._cache_size() == 1


# -- how episodes end -------------------------------------------------------------------------------


def test_a_bankrupt_agent_is_terminated_and_the_market_starts_again():
    told = record()
    died = told["terminated"]
    initial = CASH * storm()[1].quanta_per_unit
    assert (told["info"]["equity"][died] <= 0.02 * initial).all()  # the role's ruin_fraction
    assert not told["truncated"][died].any()
    assert told["info"]["acted"].all()  # a view never goes on with a dead agent
    assert (told["market"].step[died] == 0).all()
    assert (told["market"].accounts.equity[died][:, :3] == initial).all()
    assert (told["obs"][died] != told["info"]["final_observation"][died]).any(axis=-1).all()


def test_the_time_limit_truncates():
    told = record()
    done = told["terminated"] | told["truncated"]
    before = np.concatenate([np.zeros((1, MARKETS), int), told["market"].step[:-1]])
    np.testing.assert_array_equal(told["truncated"], (before + 1 == EPISODE) & ~told["terminated"])
    np.testing.assert_array_equal(told["market"].step, np.where(done, 0, before + 1))
    np.testing.assert_array_equal(told["info"]["terminated"], told["terminated"])
    np.testing.assert_array_equal(told["info"]["truncated"], told["truncated"])


def test_the_observation_before_a_reset_is_kept():
    told = record()
    done = told["terminated"] | told["truncated"]
    same = (told["obs"] == told["info"]["final_observation"]).all(axis=-1)
    np.testing.assert_array_equal(same, ~done)


def test_a_terminal_horizon_terminates():
    role = Role(name="solo", observations=(TimeLeft(), Portfolio()))
    env = MarketGymnax(
        MarketEnv.build(MarketParams(process=Gbm(), roles=(role,), indicators=(), episode_length=3, horizon="terminal"))
    )
    params = env.default_params
    _, state = env.reset(jax.random.key(0), params)
    for t in range(3):
        obs, state, _, terminated, truncated, info = env.step(jax.random.key(t), state, jnp.ones(1), params)
        assert bool(terminated) == (t == 2)
        assert not truncated
        np.testing.assert_allclose(info["final_observation"][0], (2 - t) / 3, atol=1e-6)
    assert obs[0] == 1.0


# -- the other agents -------------------------------------------------------------------------------


def test_agents_that_hold_keep_what_they_have():
    """Not the action zero, which would sell it."""
    env, params = MarketGymnax(storm(), role="bold", agent=2, others="hold"), weather(0.1)
    _, state = env.reset(jax.random.key(0), params)
    step = jax.jit(env.step_env)
    for t in range(5):
        _, state, _, _, info = step(jax.random.key(t), state, jnp.array([0.5]), params)
        assert info["actions_clipped"] == 0
    lots = state.market.ledger.agents.lots[:, 0]
    assert lots[jnp.array([0, 1, 4, 5])].tolist() == [0, 0, HOLDING, HOLDING]
    assert lots[2] > 0


def test_agents_with_whole_numbers_for_actions_can_hold_too():
    """Not the action zero, which would sell short."""
    env = MarketGymnax("PlantedSignal-v0", agent=3, others="hold")
    _, state = env.reset(jax.random.key(0), env.default_params)
    _, state, *_ = jax.jit(env.step_env)(jax.random.key(1), state, 2, env.default_params)
    assert np.flatnonzero(state.market.ledger.agents.lots[:, 0]).tolist() == [3]


def test_agents_that_are_absent_are_not_there():
    env = alone()
    assert [(role.name, role.count) for role in env.market.roles] == [("bold", 1), ("noise", 1)]
    assert bold().market.total_agents == 6
    _, state = env.reset(jax.random.key(0), env.default_params)
    assert env.market.audit(state.market) == (0, [0])
    assert int_quanta(state.market.ledger.agents.cash)[0] == CASH * env.default_params.quanta_per_unit


# -- spaces -----------------------------------------------------------------------------------------


@functools.cache
def shopping(n_assets):
    role = Role(name="solo", action=BuyHoldSell(levels=2), observations=(Portfolio(),))
    return MarketEnv.build(MarketParams(process=Gbm(n_assets=n_assets), roles=(role,), indicators=(), episode_length=4))


VIEWS = {
    "discrete": (lambda: MarketGymnax("PlantedSignal-v0", others="absent"), spaces.Discrete, 3),
    "numbers": (lambda: MarketGymnax("StockReplay-v0", agent=7, others="hold"), spaces.Box, 3),
    "one integer": (lambda: MarketGymnax(shopping(1)), spaces.Discrete, 5),
    "integers": (lambda: MarketGymnax(shopping(3)), spaces.Tuple, 3),
}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "numbers")) for kind in VIEWS])
def test_a_random_episode_stays_in_its_spaces(kind):
    make, action_class, num_actions = VIEWS[kind]
    env = make()
    params = env.default_params
    seen, acts = env.observation_space(params), env.action_space(params)
    assert type(acts) is action_class
    assert env.num_actions == num_actions
    assert getattr(acts, "n", num_actions) == num_actions
    assert env.name == "MarketGymnax"

    @jax.jit
    def play(key, params):
        obs, state = env.reset(key, params)

        def body(state, key):
            action = acts.sample(key)
            obs, state, reward, terminated, truncated, info = env.step(key, state, action, params)
            fits = acts.contains(action) & seen.contains(obs) & seen.contains(info["final_observation"])
            fits &= (info["actions_clipped"] == 0) & jnp.isfinite(reward)
            return state, (obs, fits, reward, terminated, truncated)

        state, told = jax.lax.scan(body, state, jax.random.split(key, 6))
        return obs, env.observe(key, state, None, params), state, told

    first, last, state, (obs, fits, reward, terminated, truncated) = play(jax.random.key(1), params)
    assert first.shape == seen.shape == obs.shape[1:]
    assert first.dtype == obs.dtype == seen.dtype == jnp.float32
    assert fits.all()
    assert (reward.dtype, reward.shape) == (jnp.float32, (6,))
    assert (terminated.dtype, truncated.dtype) == (jnp.bool_, jnp.bool_)
    np.testing.assert_allclose(last, obs[-1], atol=1e-6)
    assert env.market.audit(state.market)[0] == 0


def test_invalid_actions_are_counted_and_do_nothing():
    env = MarketGymnax("PlantedSignal-v0", others="absent")
    step = jax.jit(env.step_env)
    _, state = env.reset(jax.random.key(0), env.default_params)
    for action, clipped in ((7, 1), (-1, 1), (jnp.nan, 1), (2, 0)):
        info = step(jax.random.key(1), state, action, env.default_params)[-1]
        assert int(info["actions_clipped"]) == clipped
        assert bool((info["lots"] == 0).all()) == bool(clipped)


# -- gymnax's own tools -----------------------------------------------------------------------------


def test_markets_have_names_in_gymnax():
    names = register_markets()
    assert register_markets() == names == [f"jaxarena/{name}" for name in jaxarena.registered()]
    assert set(names) <= set(gymnax.registered_envs)
    env, params = gymnax.make("jaxarena/PlantedSignal-v0", others="absent")
    assert params is env.default_params
    assert int(params.max_steps_in_episode) == 64
    with pytest.raises(ValueError, match=r"'absent'.*'hold'"):
        gymnax.make("jaxarena/PlantedSignal-v0")


def test_equal_views_compile_once():
    first = MarketGymnax("PlantedSignal-v0", others="absent")
    views = [first, MarketGymnax("PlantedSignal-v0", others="absent"), copy.deepcopy(first), copy.copy(first)]
    first.reset(jax.random.key(0), first.default_params)
    compiled = Environment.reset._cache_size()
    for view in views:
        view.reset(jax.random.key(0), view.default_params)
        assert (view == first, hash(view)) == (True, hash(first))
    assert Environment.reset._cache_size() == compiled
    other = MarketGymnax("PlantedSignal-v0", agent=1, others="hold")
    assert other not in views
    assert other != MarketGymnax("PlantedSignal-v0", agent=2, others="hold")
    assert first != "PlantedSignal-v0"


def test_views_of_other_parameters_are_not_equal():
    """A call without parameters has the default ones in its program."""
    market, params = shopping(1)
    dear = params.replace(process=params.process.replace(initial_price=params.process.initial_price * 2))
    mids = [MarketGymnax((market, given)).reset(jax.random.key(0))[1].market.mid for given in (params, dear)]
    np.testing.assert_allclose(mids[1], 2 * mids[0], rtol=1e-4)


def test_log_wrapper_tells_what_was_earned():
    """Returns and lengths against sums made by hand."""
    told, info = record(), record()["info"]
    done = told["terminated"] | told["truncated"]
    np.testing.assert_array_equal(done, info["returned_episode"])
    for e in range(MARKETS):
        ends = np.flatnonzero(done[:, e])
        parts = np.split(told["reward"][:, e], ends + 1)[:-1]
        assert info["returned_episode_lengths"][ends, e].tolist() == [len(part) for part in parts]
        np.testing.assert_allclose(info["returned_episode_returns"][ends, e], [part.sum() for part in parts], atol=1e-5)


def test_five_values_are_the_six_with_one_end():
    """A stack of wrappers of the old times, at a step before the end and at the last one."""
    six = MarketGymnax("PlantedSignal-v0", others="absent")
    old, params = FiveValues(LogWrapper(six)), six.default_params
    assert copy.deepcopy(old) is old
    assert old.action_space(params).n == old.num_actions == 3
    assert old.observation_space(params).shape == six.observation_space(params).shape
    assert int(old.default_params.max_steps_in_episode) == 64
    _, start = old.reset(jax.random.key(0), params)
    for step, last in ((5, False), (63, True)):
        inner = start.env_state.replace(market=start.env_state.market.replace(step=jnp.int32(step)))
        obs, _, reward, done, info = old.step(jax.random.key(1), start.replace(env_state=inner), 2, params)
        expected = six.step(jax.random.key(1), inner, 2, params)
        np.testing.assert_array_equal(obs, expected[0])
        np.testing.assert_array_equal(info["final_observation"], expected[-1]["final_observation"])
        assert (reward, bool(done), bool(info["truncated"])) == (expected[2], last, last)
        assert not info["terminated"]
        assert bool((obs == info["final_observation"]).all()) != last


def test_rollout_wrapper_runs_a_whole_episode_by_name():
    register_markets()
    manager = RolloutWrapper(env_name="jaxarena/PlantedSignal-v0", env_kwargs={"others": "absent"})
    obs, _, reward, _, done, earned = manager.batch_rollout(jax.random.split(jax.random.key(0), 3), None)
    assert obs.shape == (3, 64, *manager.env.observation_space(manager.env_params).shape)
    assert (done.sum(1) == 1).all()
    assert done[:, -1].all()
    np.testing.assert_allclose(earned[:, 0], reward.sum(1), atol=1e-5)


def test_the_vector_wrapper_leaves_the_view_as_it_was():
    """It copies the environment and overwrites methods of the copy."""
    env = MarketGymnax("PlantedSignal-v0", others="absent")
    vector = GymnaxToVectorGymWrapper(env, num_envs=2, seed=0)
    obs, _ = vector.reset(seed=0)
    assert obs.shape == (2, *vector.single_observation_space.shape)
    assert env.reset(jax.random.key(0), env.default_params)[0].shape == vector.single_observation_space.shape


def test_keys_of_the_old_style_are_the_same_keys():
    env = MarketGymnax("PlantedSignal-v0", others="absent")
    new, _ = env.reset(jax.random.key(4), env.default_params)
    old, _ = env.reset(jax.random.PRNGKey(4), env.default_params)
    np.testing.assert_array_equal(new, old)


# -- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"role": None, "others": "hold"}, "role: .*bold, meek"),
        ({"role": "brave", "others": "hold"}, "role: got 'brave'.*known: bold, meek"),
        ({"role": "noise", "others": "hold"}, "role: got 'noise'.*not a learned role"),
        ({"role": "bold", "agent": 3, "others": "hold"}, "agent: got 3, allowed is 0 to 2"),
        ({"role": "bold"}, "others: got None, but 5 agents"),
        ({"role": "bold", "others": "wait"}, "others: got 'wait'.*'absent'.*'hold'"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MarketGymnax(storm(), **arguments)


def test_one_agent_needs_no_word_about_others():
    assert MarketGymnax(shopping(1)).agent == 0


# -- the page ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:jax.core.pytype_aval_mappings is deprecated:DeprecationWarning")  # tfp, for rejax
def test_the_examples_of_the_page_run_and_learn():
    pytest.importorskip("rejax")
    stepped, trained = {}, {}
    for block, space in zip(python_blocks("gymnax.md"), (stepped, trained), strict=True):
        exec(block, space)
    assert stepped["obs"].shape == (16, *stepped["env"].observation_space(stepped["params"]).shape)
    earned = np.asarray(trained["returns"]).mean(axis=1)
    assert abs(earned[0]) < 0.1
    assert 0.25 < earned[-1] < 0.36
    assert (trained["lengths"] == 64).all()
