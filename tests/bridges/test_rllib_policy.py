"""Copies of RLlib's torch modules in JAX: the same numbers, the same distributions, and refusal of all else."""

import functools
import itertools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("ray.rllib")
pytest.importorskip("torch")

import torch
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical, TorchDiagGaussian
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.spaces.space_utils import clip_action, unsquash_action
from scipy import stats

from bridges.markets import gymnasium_space
from bridges.rllib.policy import ExportError, distribution, export, to_environment
from jaxarena.core.spaces import Box, Discrete, MultiDiscrete

pytestmark = pytest.mark.bridge

SIZE = 7  # of an observation
SPACES = {"discrete": Discrete(4), "box": Box(-0.5, 1.0, 3), "multi": MultiDiscrete((3, 2, 4))}
NUM_LOGITS = {"discrete": 4, "box": 6, "multi": 9}


def module_of(space, module_class=DefaultPPOTorchRLModule, inference_only=False, obs_space=None, **model):
    """One of RLlib's modules with weights of a size at which every layer matters, log deviations included."""
    torch.manual_seed(0)
    spec = RLModuleSpec(
        module_class=module_class,
        observation_space=obs_space or gymnasium.spaces.Box(-10.0, 10.0, (SIZE,), np.float32),
        action_space=gymnasium_space(space),
        inference_only=inference_only,
        catalog_class=PPOCatalog,
        model_config=DefaultModelConfig(**{"fcnet_hiddens": [16, 12]} | model),
    )
    module = spec.build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.35 if parameter.ndim > 1 else 0.7)
    return module


def asked(module, obs):
    """Logits `[K, ...]` and values `[...]` of torch for observations `[D, ...]`."""
    rows = {Columns.OBS: torch.from_numpy(np.ascontiguousarray(obs.reshape(len(obs), -1).T))}
    with torch.inference_mode():
        logits = module.forward_exploration(rows)[Columns.ACTION_DIST_INPUTS].numpy()
        values = module.compute_values(rows).numpy()
    return logits.T.reshape(-1, *obs.shape[1:]), values.reshape(obs.shape[1:])


def observations(scale, seed=0):
    """`[D, n, E]`, so that a mix-up of axes shows."""
    return (scale * np.random.default_rng(seed).standard_normal((SIZE, 3, 5))).astype(np.float32)


MODELS = {
    "tanh, shared": {},
    "tanh, apart": {"vf_share_layers": False},
    "relu, apart": {"fcnet_activation": "relu", "vf_share_layers": False},
    "relu, norm, head": {
        "fcnet_activation": "relu",
        "fcnet_use_layernorm": True,
        "head_fcnet_hiddens": [8],
        "head_fcnet_activation": "tanh",
        "head_fcnet_use_layernorm": True,
    },
    "swish, apart, norm": {"fcnet_activation": "swish", "vf_share_layers": False, "fcnet_use_layernorm": True},
    "elu": {"fcnet_activation": "elu", "head_fcnet_hiddens": [8], "head_fcnet_activation": "elu"},
    "linear": {"fcnet_activation": "linear"},
    "one layer": {"fcnet_hiddens": [9], "vf_share_layers": False},
}
GAUSSIANS = {
    "free": {"free_log_std": True},
    "free, apart, relu": {"free_log_std": True, "vf_share_layers": False, "fcnet_activation": "relu"},
    "free, clipped": {"free_log_std": True, "log_std_clip_param": 0.3},
    "clipped": {"log_std_clip_param": 0.3},
    "not clipped": {"log_std_clip_param": float("inf")},
}
#: Every model with one space, and every space with four models or more.
CASES = [*zip(itertools.cycle(SPACES), MODELS), *(("box", model) for model in GAUSSIANS)]
CASES += [("box", "tanh, shared"), ("multi", "tanh, shared"), ("discrete", "tanh, apart")]
#: Enough of them for everything that does not depend on the layers.
FEW = [("discrete", "tanh, shared"), ("box", "free, clipped"), ("box", "clipped"), ("multi", "relu, norm, head")]


@pytest.mark.parametrize(("space", "model"), CASES)
def test_logits_and_values_are_those_of_torch(space, model):
    """For observations of all sizes; the largest ones saturate a tanh and reach the bounds of the log deviation."""
    module = module_of(SPACES[space], **(MODELS | GAUSSIANS)[model])
    policy = export(module, SPACES[space], SIZE, critic=True)
    answer = jax.jit(lambda policy, x: (policy.logits(x), policy.value(x)))
    spread = []
    for scale in (0.01, 1.0, 10.0):
        obs = observations(scale)
        logits, values = asked(module, obs)
        got_logits, got_values = answer(policy, obs)
        assert got_logits.shape == (NUM_LOGITS[space], 3, 5)
        assert got_values.shape == (3, 5)
        np.testing.assert_allclose(got_logits, logits, rtol=1e-5, atol=1e-5 * max(1.0, scale))
        np.testing.assert_allclose(got_values, values, rtol=1e-5, atol=1e-5 * max(1.0, scale))
        spread.append(logits[: NUM_LOGITS[space] // 2].std() + values.std())
    assert min(spread) > 1e-3  # torch tells these observations apart


@pytest.mark.parametrize("model", ["free, clipped", "clipped"])
def test_the_log_deviation_is_bounded_where_torch_bounds_it(model):
    """At 0.3, which these weights reach, from above and below."""
    module = module_of(SPACES["box"], **GAUSSIANS[model])
    logits = export(module, SPACES["box"], SIZE).logits(observations(10.0))
    np.testing.assert_allclose(np.abs(logits[3:]).max(), 0.3, rtol=1e-6)
    assert np.abs(logits[:3]).max() > 0.4


@pytest.mark.parametrize(("space", "model"), FEW)
def test_log_probabilities_are_those_of_torch(space, model):
    """Of torch's own samples, from likely to unlikely ones, under torch's logits and under the copy's."""
    module = module_of(SPACES[space], **(MODELS | GAUSSIANS)[model])
    policy = export(module, SPACES[space], SIZE)
    for scale in (0.1, 1.0):
        obs = observations(scale)
        logits, _ = asked(module, obs)
        rows = torch.from_numpy(logits.reshape(len(logits), -1).T.copy())
        chance = module.get_exploration_action_dist_cls().from_logits(rows)
        for _ in range(5):
            actions = chance.sample()
            expected = chance.logp(actions).numpy().reshape(3, 5)
            raw = actions.numpy().T.reshape(-1, 3, 5) if actions.ndim > 1 else actions.numpy().reshape(3, 5)
            raw = raw.astype(np.float32 if space == "box" else np.int32)
            np.testing.assert_allclose(distribution(SPACES[space], logits).log_prob(raw), expected, atol=1e-5)
            np.testing.assert_allclose(
                distribution(SPACES[space], policy.logits(obs)).log_prob(raw), expected, rtol=1e-5, atol=1e-5
            )


def test_log_probabilities_at_the_edge_agree_too():
    """Logits of ±60, and a Gaussian far from its mean with a deviation of e**-4."""
    logits = np.array([[60.0, -60.0, 0.0], [-60.0, -60.0, 60.0]], np.float32)
    for k in range(3):
        expected = TorchCategorical(torch.from_numpy(logits)).logp(torch.full((2,), k))
        got = distribution(Discrete(3), logits.T).log_prob(np.full(2, k, np.int32))
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5)
    inputs = np.array([[0.5, -2.0, -4.0, 3.0]], np.float32)
    raw = np.array([[0.45, 7.0]], np.float32)
    expected = TorchDiagGaussian.from_logits(torch.from_numpy(inputs)).logp(torch.from_numpy(raw))
    np.testing.assert_allclose(distribution(Box(-1.0, 1.0, 2), inputs.T).log_prob(raw.T), expected, rtol=1e-5)
    # By hand: -((0.05 * e**4)**2 + (9 * e**-3)**2) / 2 - (-4 + 3) - log(2 pi)
    np.testing.assert_allclose(expected, -(2.72991**2 + 0.44808**2) / 2 + 1 - 1.837877, rtol=1e-5)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_large_weights_are_copied_too(activation):
    """A run must not end because its weights have grown: rounding grows with the numbers that are added up."""
    for seed in range(3):
        module = module_of(SPACES["box"], fcnet_hiddens=[256, 256], fcnet_activation=activation, vf_share_layers=False)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.uniform_(-10.0, 10.0).mul_(parameter.shape[-1] ** -0.5)
        policy, obs = export(module, SPACES["box"], SIZE, critic=True), observations(1.0)
        logits, values = asked(module, obs)
        np.testing.assert_allclose(policy.logits(obs), logits, rtol=1e-5, atol=1e-5 * np.abs(logits).max())
        np.testing.assert_allclose(policy.value(obs), values, rtol=1e-5, atol=1e-5 * np.abs(values).max())


@pytest.mark.parametrize("free", [True, False])
def test_a_policy_that_has_become_sure_is_copied_too(free):
    """Deviations of e**-5 and less: the last bit of a mean is then many times what a log-probability may differ by."""
    for seed in range(5):
        module = module_of(SPACES["box"], free_log_std=free)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=0.35 if parameter.ndim > 1 else 0.7)
            (module.pi.log_std if free else module.pi.net.mlp[-1].bias[3:]).sub_(6.0)
        logits = export(module, SPACES["box"], SIZE).logits(observations(1.0))
        assert np.median(logits[3:]) < -5.0
        np.testing.assert_allclose(logits, asked(module, observations(1.0))[0], rtol=1e-5, atol=1e-5)


# -- sampling ---------------------------------------------------------------------------------------


DRAWS = 40_000


@functools.cache
def drawn(space):
    """Logits `[K, 2]` of two observations and samples `[(k,) DRAWS, 2]` of their copies."""
    module = module_of(SPACES[space], **(MODELS | GAUSSIANS)[dict(FEW)[space]])
    logits = asked(module, observations(1.0))[0][:, 0, :2]
    batch = np.broadcast_to(logits[:, None], (len(logits), DRAWS, 2))
    samples = jax.jit(lambda key, x: distribution(SPACES[space], x).sample(key))(jax.random.key(0), batch)
    return logits, np.asarray(samples)


def expect_frequencies(samples, probabilities):
    """A chi-squared test at odds of one in a million."""
    counts = np.bincount(samples, minlength=len(probabilities))
    assert len(counts) == len(probabilities)
    assert stats.chisquare(counts, probabilities / probabilities.sum() * counts.sum()).pvalue > 1e-6


def softmax(logits):
    return torch.softmax(torch.from_numpy(np.asarray(logits, np.float64)), 0).numpy()


def test_categories_are_drawn_as_often_as_they_should():
    logits, samples = drawn("discrete")
    assert samples.dtype == np.int32
    for i in range(2):
        expect_frequencies(samples[:, i], softmax(logits[:, i]))
    pairs = samples[:, 0] * 4 + samples[:, 1]  # two observations draw independently
    expect_frequencies(pairs, np.outer(softmax(logits[:, 0]), softmax(logits[:, 1])).ravel())


def test_choices_of_a_multi_discrete_are_independent_and_as_often_as_they_should():
    """The joint frequencies of all 24 combinations."""
    logits, samples = drawn("multi")
    assert samples.shape == (3, DRAWS, 2)
    for i in range(2):
        first, second, third = (softmax(part) for part in np.split(logits[:, i], [3, 5]))
        joint = np.einsum("a,b,c->abc", first, second, third).ravel()
        expect_frequencies(samples[0, :, i] * 8 + samples[1, :, i] * 4 + samples[2, :, i], joint)


def test_gaussians_have_their_mean_and_deviation_and_are_independent():
    logits, samples = drawn("box")
    mean, deviation = np.split(logits, 2)
    scores = (samples - mean[:, None]) / np.exp(deviation)[:, None]
    for score in scores.transpose(0, 2, 1).reshape(6, DRAWS):
        assert stats.kstest(score, "norm").pvalue > 1e-6
    correlation = np.corrcoef(scores.transpose(0, 2, 1).reshape(6, DRAWS))
    assert np.abs(correlation - np.eye(6)).max() < 5 / np.sqrt(DRAWS)


def test_modes_are_those_of_torchs_deterministic_actions():
    for space, model in FEW:
        module = module_of(SPACES[space], **(MODELS | GAUSSIANS)[model])
        logits, _ = asked(module, observations(1.0))
        kind = module.get_inference_action_dist_cls()
        rows = torch.from_numpy(logits.reshape(len(logits), -1).T.copy())
        expected = kind.from_logits(rows).to_deterministic().sample().numpy()
        mode = np.asarray(distribution(SPACES[space], logits).mode())
        np.testing.assert_array_equal(mode.reshape(-1, 15).T.squeeze(), expected)


# -- actions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("box", [Box(-0.5, 1.0, 3), Box(0.0, 1.0, 3), Box(-1.0, 1.0, 3), Box(-3.0, -1.0, 3)])
def test_actions_reach_the_environment_as_through_rllibs_connector(box, normalize, clip):
    """`NormalizeAndClipActions`: unsquash, which clips too, or else clip, or else nothing."""
    raw = np.random.default_rng(0).normal(0.0, 1.5, (3, 4, 5)).astype(np.float32)
    raw[:, 0, 0], raw[:, 0, 1], raw[:, 0, 2] = 1.0, -1.0, 40.0
    space = gymnasium_space(box)
    expected = raw
    if normalize or clip:
        change = unsquash_action if normalize else clip_action
        expected = np.stack([change(row, space) for row in raw.reshape(3, -1).T], 1).reshape(raw.shape)
    got = np.asarray(jax.jit(lambda raw: to_environment(box, raw, normalize, clip))(raw))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    inside = (got >= box.low).all() and (got <= box.high).all()
    assert inside == (normalize or clip)
    assert (got != raw).any() == (normalize or clip)


@pytest.mark.parametrize("space", [SPACES["discrete"], SPACES["multi"]])
def test_integers_reach_the_environment_as_they_are(space):
    raw = np.arange(6, dtype=np.int32).reshape(3, 2)
    for normalize, clip in ((True, True), (True, False), (False, True), (False, False)):
        np.testing.assert_array_equal(to_environment(space, raw, normalize, clip), raw)


# -- copies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("space", "model"), FEW)
def test_a_copy_does_not_follow_the_torch_weights(space, model):
    module = module_of(SPACES[space], **(MODELS | GAUSSIANS)[model])
    policy = export(module, SPACES[space], SIZE, critic=True)
    obs = observations(1.0)
    before = [np.asarray(policy.logits(obs)), np.asarray(policy.value(obs))]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    np.testing.assert_array_equal(policy.logits(obs), before[0])
    np.testing.assert_array_equal(policy.value(obs), before[1])
    later = export(module, SPACES[space], SIZE, critic=True)
    assert np.abs(later.logits(obs) - before[0]).max() > 0.05
    np.testing.assert_allclose(later.logits(obs), asked(module, obs)[0], rtol=1e-5, atol=1e-5)


def test_a_copy_without_its_critic_says_so():
    policy = export(module_of(SPACES["box"]), SPACES["box"], SIZE)
    with pytest.raises(ExportError, match="critic=True"):
        policy.value(observations(1.0))


@pytest.mark.parametrize("share", [True, False])
def test_a_module_for_inference_alone_can_be_copied_without_its_critic_only(share):
    module = module_of(SPACES["box"], inference_only=True, vf_share_layers=share)
    obs = observations(1.0)
    rows = {Columns.OBS: torch.from_numpy(np.ascontiguousarray(obs.reshape(SIZE, -1).T))}
    logits = module.forward_exploration(rows)[Columns.ACTION_DIST_INPUTS].detach().numpy().T.reshape(6, 3, 5)
    np.testing.assert_allclose(export(module, SPACES["box"], SIZE).logits(obs), logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(ExportError):
        export(module, SPACES["box"], SIZE, critic=True)


def test_equal_modules_give_one_compiled_program():
    """Weights are arguments: a sample after each update must not compile again."""
    traces = []

    @jax.jit
    def answer(policy, x):
        traces.append(x.shape)
        return policy.logits(x)

    module = module_of(SPACES["multi"], **MODELS["relu, norm, head"])
    for _ in range(3):
        answer(export(module, SPACES["multi"], SIZE), jnp.asarray(observations(1.0)))
        with torch.no_grad():
            next(module.parameters()).add_(0.1)
    assert len(traces) == 1


# -- refusals ---------------------------------------------------------------------------------------


class Sharper(DefaultPPOTorchRLModule):
    """Explores with other logits than it learns with."""

    def _forward_exploration(self, batch, **kwargs):
        output = self._forward(batch)
        output[Columns.ACTION_DIST_INPUTS] = 1.1 * output[Columns.ACTION_DIST_INPUTS]
        return output


class Greedy(DefaultPPOTorchRLModule):
    """Chooses actions by itself."""

    def _forward_exploration(self, batch, **kwargs):
        output = self._forward(batch)
        output[Columns.ACTIONS] = torch.argmax(output[Columns.ACTION_DIST_INPUTS], -1)
        return output


class OnlyActions(DefaultPPOTorchRLModule):
    def _forward_exploration(self, batch, **kwargs):
        return {Columns.ACTIONS: torch.zeros(len(batch[Columns.OBS]), dtype=torch.int64)}


class Blinkered(DefaultPPOTorchRLModule):
    """Cuts off what is large in its observations; those of a market reach from -10 to 10."""

    def _forward(self, batch, **kwargs):
        return super()._forward({Columns.OBS: torch.clamp(batch[Columns.OBS], -5.0, 5.0)}, **kwargs)


class OtherCritic(DefaultPPOTorchRLModule):
    def compute_values(self, batch, embeddings=None):
        return super().compute_values(batch, embeddings) + 1.0


class Tempered(TorchCategorical):
    """Draws from other probabilities than its logits say."""

    def _get_torch_distribution(self, logits=None, probs=None):
        return torch.distributions.Categorical(logits=logits / 3.0, validate_args=False)


class Cool(DefaultPPOTorchRLModule):
    def get_exploration_action_dist_cls(self):
        return Tempered


class Normal(DefaultPPOTorchRLModule):
    def get_exploration_action_dist_cls(self):
        return TorchDiagGaussian


class Custom(TorchRLModule):
    def setup(self):
        self.net = torch.nn.Linear(SIZE, 4)

    def _forward(self, batch, **kwargs):
        return {Columns.ACTION_DIST_INPUTS: self.net(batch[Columns.OBS])}


@pytest.mark.parametrize(
    ("module_class", "reason"),
    [
        (Sharper, "differs by"),
        (Greedy, "actions of its own"),
        (OnlyActions, "actions of its own"),
        (Blinkered, "differs by"),
        (Cool, "distribution"),
        (Normal, "distribution .*TorchDiagGaussian"),
        (Custom, "Custom is not RLlib's default"),
    ],
)
def test_modules_that_act_otherwise_are_refused(module_class, reason):
    with pytest.raises(ExportError, match=reason):
        export(module_of(SPACES["discrete"], module_class), SPACES["discrete"], SIZE)


def test_another_critic_matters_where_it_is_copied():
    module = module_of(SPACES["discrete"], OtherCritic)
    export(module, SPACES["discrete"], SIZE)
    with pytest.raises(ExportError, match="differs by"):
        export(module, SPACES["discrete"], SIZE, critic=True)


def test_recurrent_modules_are_refused():
    module = module_of(SPACES["discrete"], use_lstm=True, lstm_cell_size=4)
    with pytest.raises(ExportError, match="recurrent"):
        export(module, SPACES["discrete"], SIZE)


def test_convolutions_are_refused():
    image = gymnasium.spaces.Box(-1.0, 1.0, (10, 10, 1), np.float32)
    module = module_of(SPACES["discrete"], obs_space=image, conv_filters=[[4, 3, 2], [4, 3, 2]])
    with pytest.raises(ExportError, match="not a multilayer perceptron"):
        export(module, SPACES["discrete"], 100)


def test_activations_without_a_copy_are_refused_by_name():
    with pytest.raises(ExportError, match="GELU"):
        export(module_of(SPACES["box"], fcnet_activation="GELU"), SPACES["box"], SIZE)


def test_a_plain_subclass_is_copied():
    """What matters is what a module does, not what it is called."""

    class Plain(DefaultPPOTorchRLModule):
        pass

    module = module_of(SPACES["multi"], Plain)
    policy, obs = export(module, SPACES["multi"], SIZE), observations(1.0)
    np.testing.assert_allclose(policy.logits(obs), asked(module, obs)[0], rtol=1e-5, atol=1e-5)
