"""A policy as a compiled program acts as the policy does, and one that does not is refused."""

import jax
import numpy as np
import pytest

from jaxarena.learn import policy_export
from jaxarena.learn.policy_export import TOLERANCE, export_policy
from jaxarena.learn.policy_file import load_policy
from tests.learn.test_policy_file import SPACES, observations, trained, write

pytest.importorskip("flatbuffers")


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("deterministic", [True, False])
def test_the_program_acts_as_the_policy(tmp_path, space, deterministic):
    ppo, (states, _) = trained(space)
    policy = load_policy(write(tmp_path / "policy.npz", ppo, states))
    program = jax.export.deserialize(bytearray(export_policy(policy, deterministic)))
    obs, key = observations(11), jax.random.key(8)
    found, wanted = program.call(jax.random.key_data(key), obs), policy(key, obs, deterministic)
    for role in wanted:
        assert found[role].dtype == wanted[role].dtype
        width = space.high - space.low if hasattr(space, "high") else 0.0
        np.testing.assert_allclose(found[role], wanted[role], rtol=0, atol=TOLERANCE * width)


def test_another_program_is_refused(tmp_path):
    ppo, states = trained(SPACES[2])
    policies = [load_policy(write(tmp_path / f"{i}.npz", ppo, states[i])) for i in range(2)]
    other = export_policy(policies[1])
    with pytest.raises(ValueError, match=r"acts differently for 'a', by"):
        policy_export._check(policies[0], other, True)


def test_an_unknown_platform_is_refused(tmp_path):
    ppo, (states, _) = trained(SPACES[0])
    policy = load_policy(write(tmp_path / "policy.npz", ppo, states))
    with pytest.raises(ValueError, match="platforms: got 'gpu', known are cpu, cuda"):
        export_policy(policy, platforms=["gpu"])
