"""Policies in a file: they act as the trainer's, bit for bit, and nothing but a policy is read."""

import io
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.core.spaces import Box, Discrete, MultiDiscrete
from jaxarena.learn.policy_file import load_policy, write_policy
from jaxarena.learn.ppo import PPO, PPOConfig
from tests.learn.toy import ToyEnv, ToyMarkets, ToyParams

SPACES = [Discrete(4), MultiDiscrete((3, 2)), Box(-1.0, 3.0, 2)]
LAYOUTS = {"a": {"target": slice(0, 4)}, "b": {"target": slice(0, 4)}, "c": {"target": slice(0, 4)}}


def trained(space, clip=10.0):
    """A learner of two groups, and states that differ from seed to seed and from group to group."""
    roles = {"a": (2, space), "b": (1, space), "c": (3, Discrete(4))}
    config = PPOConfig(hidden=(8, 8), normalize_observations=clip is not None, observation_clip=clip or 1.0)
    ppo = PPO(ToyEnv(roles), ToyParams(), {"shared": ["a", "b"], "own": ["c"]}, config, 4, ToyMarkets)

    def states(seed):
        made = {}
        for i, group in enumerate(ppo.groups):
            shapes, tree = jax.tree.flatten(group.template)
            keys = jax.random.split(jax.random.key(10 * seed + i), len(shapes))
            made[group.name] = tree.unflatten(
                [jnp.abs(jax.random.normal(key, leaf.shape)) + 0.1 for key, leaf in zip(keys, shapes, strict=True)]
            )
        return made

    return ppo, [states(seed) for seed in range(2)]


def write(path, ppo, states, seeds=1):
    with path.open("wb") as file:
        write_policy(file, ppo.groups, states, LAYOUTS, seeds)
    return path


def observations(*markets):
    sizes = {"a": 2, "b": 1, "c": 3}
    return {r: jax.random.normal(jax.random.key(ord(r)), (n, 4, *markets)) for r, n in sizes.items()}


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("deterministic", [True, False])
def test_acts_as_the_trainer_does(tmp_path, space, deterministic):
    ppo, (states, _) = trained(space)
    policy = load_policy(write(tmp_path / "policy.npz", ppo, states))
    for markets in [(), (5,)]:
        obs, key = observations(*markets), jax.random.key(3)
        expected, _ = jax.jit(ppo.policy(states, deterministic))(key, obs)
        found = jax.jit(policy, static_argnums=2)(key, obs, deterministic)
        assert found.keys() == expected.keys()
        for role in expected:
            np.testing.assert_array_equal(found[role], expected[role])
    assert policy.action_space("b") == space
    assert policy.observation_layout("c") == {"target": slice(0, 4)}


def test_a_clip_of_observations_is_kept(tmp_path):
    ppo, (states, _) = trained(SPACES[2], clip=None)
    policy = load_policy(write(tmp_path / "policy.npz", ppo, states))
    obs = observations()
    expected, _ = ppo.policy(states, True)(jax.random.key(0), obs)
    np.testing.assert_array_equal(policy(jax.random.key(0), obs, True)["a"], expected["a"])


def test_each_seed_has_its_own_policy(tmp_path):
    ppo, states = trained(SPACES[2])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    path = write(tmp_path / "policy.npz", ppo, stacked, seeds=2)
    obs = observations()
    for seed in range(2):
        expected, _ = ppo.policy(states[seed], True)(jax.random.key(0), obs)
        np.testing.assert_array_equal(load_policy(tmp_path, seed)(jax.random.key(0), obs, True)["a"], expected["a"])
    with pytest.raises(ValueError, match=r"seed: got 2, but .* holds 2 seed"):
        load_policy(path, 2)


def test_plays_some_roles_and_other_numbers_of_agents(tmp_path):
    ppo, (states, _) = trained(SPACES[0])
    policy = load_policy(write(tmp_path / "policy.npz", ppo, states))
    obs = observations()
    everybody = policy(jax.random.key(0), obs, True)
    assert policy(jax.random.key(0), {"c": obs["c"]}, True)["c"].tolist() == everybody["c"].tolist()
    repeated = policy(jax.random.key(0), {"b": jnp.tile(obs["b"], (7, 1))}, True)["b"]
    assert repeated.tolist() == everybody["b"].tolist() * 7
    with pytest.raises(ValueError, match=r"unknown role 'd'; this policy plays a, b, c"):
        policy(jax.random.key(0), {"d": obs["a"]})
    with pytest.raises(ValueError, match=r"obs\['a'\]: got the shape \(2, 3\), wanted \[agents, 4\]"):
        policy(jax.random.key(0), {"a": obs["a"][:, :3]})
    with pytest.raises(ValueError, match="no role given"):
        policy(jax.random.key(0), {})


def test_refuses_what_is_not_a_policy(tmp_path):
    ppo, (states, _) = trained(SPACES[0])
    path = write(tmp_path / "policy.npz", ppo, states)
    whole = path.read_bytes()
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}

    def refused(match, content=None, **changed):
        if content is None:
            stream = io.BytesIO()
            np.savez(stream, **{k: v for k, v in (arrays | changed).items() if v is not None})
            content = stream.getvalue()
        path.write_bytes(content)
        with pytest.raises(ValueError, match=match):
            load_policy(path)

    header = json.loads(arrays["__header__"].tobytes())
    encode = lambda header: np.frombuffer(json.dumps(header).encode(), np.uint8)  # noqa: E731
    refused("damaged", whole[: len(whole) // 2])
    refused("not a policy file", b"hello")
    refused("not a policy file", __header__=None)
    refused("not a policy file", __header__=encode({"format": "other"}))
    refused("update jaxarena", __header__=encode(header | {"version": 2}))
    refused("damaged", **{"own/params/policy_bias": None})
    refused("damaged", **{"own/params/policy_bias": np.zeros((1, 3), np.float32)})
    refused("damaged", __header__=encode(header | {"groups": [{"name": "own"}]}))
    refused("allow_pickle=False", **{"own/params/policy_bias": np.array([print], object)})
    with pytest.raises(ValueError, match=r"no such file; give a finished run's folder"):
        load_policy(tmp_path / "nothing")


def test_reading_needs_no_training_code(tmp_path):
    ppo, (states, _) = trained(SPACES[0])
    path = write(tmp_path / "policy.npz", ppo, states)
    program = (
        f"import sys, jaxarena; jaxarena.load_policy({str(path)!r}); "
        "print([name for name in sys.modules if name in ('optax', 'jaxarena.learn.ppo', 'jaxarena.experiment')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "[]", done.stderr
