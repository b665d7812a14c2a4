import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxarena
from jaxarena import registry
from jaxarena.env.env import MarketEnv


@pytest.fixture
def clean(monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", {})


@pytest.mark.parametrize("name", jaxarena.registered())
def test_presets_reset_and_step_compiled(name):
    env, params = jaxarena.make(name)
    obs, state = jax.jit(env.reset)(jax.random.key(0), params)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(env.step, 1))
    for t in range(3):
        action = env.sample_actions(jax.random.key(t), params)
        obs, state, reward, _, _, info = step(jax.random.key(100 + t), state, action, params)
        assert env.audit(state, params) == (0, [0] * len(env.asset_names))
        assert not info["reset"]
        for role in env.learned_roles:
            assert bool(env.observation_space(role, params).contains(obs[role]).all())
            assert np.isfinite(reward[role]).all()
    assert np.abs(state.ledger.agents.lots).sum() > 0


def test_the_promised_presets_are_there():
    assert {"StockReplay-v0", "Gbm-v0", "PlantedSignal-v0"} <= set(jaxarena.registered())
    assert len([name for name in jaxarena.registered() if "Impact" in name]) >= 2


def test_gbm_shows_at_least_64_numbers():
    env, params = jaxarena.make("Gbm-v0")
    assert sum(env.num_agents(role) for role in env.learned_roles) == 8
    assert all(env.observation_space(role, params).size >= 64 for role in env.learned_roles)


@pytest.mark.parametrize(("name", "moves"), [("Gbm-v0", False), ("Gbm-Impact-v0", True)])
def test_only_impact_presets_let_agents_move_the_price(name, moves):
    env, params = jaxarena.make(name)
    key = jax.random.key(3)
    _, state = env.reset(key, params)
    mids = []
    for size in (0.0, 1.0):
        action = {role: jnp.full((env.num_agents(role), 1), size) for role in env.learned_roles}
        mids.append(env.step(key, state, action, params)[1].mid)
    assert bool((mids[1] > mids[0]).all()) == moves
    assert bool((mids[1] == mids[0]).all()) != moves


def test_planted_signal_pays_its_closed_form():
    """Holding the signal's side earns `strength` per step on average; the noise has a known spread."""
    env, params = jaxarena.make("PlantedSignal-v0")
    role = env.learned_roles[0]
    count, steps = env.num_agents(role), 50

    def play(key):
        obs, state = env.reset(key, params)

        def step(carry, t):
            obs, state = carry
            sign = obs[role][:, env.observation_layout(role)["signal"].start]
            action = {role: jnp.where(sign > 0, 2, 0).astype(jnp.int32)}
            obs, state, reward, *_ = env.step(jax.random.fold_in(key, t), state, action, params)
            return (obs, state), reward[role]

        return jax.lax.scan(step, (obs, state), jnp.arange(steps))[1]

    rewards = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 64))
    strength, spread = 0.005, 0.16 / np.sqrt(252)
    error = spread / np.sqrt(64 * steps)
    assert rewards.shape == (64, steps, count)
    assert float(rewards.mean()) == pytest.approx(strength, abs=5 * error)
    assert float(rewards.std()) == pytest.approx(spread, rel=0.1)


def test_volumes_of_billions_of_shares_stay_positive():
    _, params = jaxarena.make("StockReplay-v0")
    volume = np.asarray(params.process.recording.volume)
    assert volume.max() > 2**30
    assert (volume > 0).all()
    assert np.isfinite(np.asarray(params.process.recording.depth)).all()
    assert (np.asarray(params.process.recording.depth) > 0).all()


@pytest.mark.usefixtures("clean")
def test_users_register_their_own():
    _, params = jaxarena.make("PlantedSignal-v0")
    jaxarena.register("Mine-v0", lambda: MarketEnv.build(params.replace(episode_length=5)))
    assert "Mine-v0" in jaxarena.registered()
    assert int(jaxarena.make("Mine-v0")[1].episode_length) == 5


@pytest.mark.usefixtures("clean")
def test_names_are_taken_once():
    with pytest.raises(ValueError, match="'Gbm-v0' is registered already"):
        jaxarena.register("Gbm-v0", lambda: None)
    jaxarena.register("Mine-v0", lambda: None)
    with pytest.raises(ValueError, match="'Mine-v0' is registered already"):
        jaxarena.register("Mine-v0", lambda: None)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"unknown market 'StockReply-v0'; did you mean 'StockReplay-v0'\?"):
        jaxarena.make("StockReply-v0")


def test_importing_the_package_brings_nothing_heavy():
    heavy = ("polars", "yaml", "matplotlib", "rich", "gymnax", "orbax", "jaxarena.experiment")
    program = f"import sys, jaxarena; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
