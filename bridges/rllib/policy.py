"""RLlib's torch modules as pure JAX functions, so that a rollout stays in one compiled program.

RLlib's default PPO module is a few perceptrons; their weights are read out and evaluated features first, `[D, B]`,
which is how markets store observations. Whatever else a user's module does shows when both are evaluated on the same
observations: `export` refuses a copy that does not agree. Belongs here: copying and checking. Does not belong here:
training; the torch module stays the original.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns

from jaxarena.core.spaces import Box, Discrete, Space
from jaxarena.core.tree import Record, static
from jaxarena.env.observations import LIMIT
from jaxarena.learn.distributions import Categorical, MultiCategorical

#: The largest difference between a torch module and its copy, relative to outputs larger than 1.
TOLERANCE = 1e-5
_PRECISION = jax.lax.Precision.HIGHEST  # a GPU would round float32 to fewer digits than torch does
_LOG_TWO_PI = math.log(2.0 * math.pi)
_ACTIVATIONS = {"Tanh": jnp.tanh, "ReLU": jax.nn.relu, "SiLU": jax.nn.silu, "ELU": jax.nn.elu, "Identity": lambda x: x}


class ExportError(ValueError):
    """A module has no copy in JAX; the message says why."""


class Perceptron(Record):
    """Layers one after the other."""

    weights: tuple[dict[str, jax.Array], ...]  # of each layer; empty for an activation
    kinds: tuple[str, ...] = static()

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[D, B]` to `[K, B]`."""
        for kind, layer in zip(self.kinds, self.weights, strict=True):
            if kind == "Linear":
                x = jnp.matmul(layer["weight"], x, precision=_PRECISION) + layer["bias"][:, None]
            elif kind == "LayerNorm":
                centred = x - jnp.mean(x, axis=0, keepdims=True)
                scale = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=0, keepdims=True) + layer["eps"])
                x = centred * scale * layer["weight"][:, None] + layer["bias"][:, None]
            else:
                x = _ACTIVATIONS[kind](x)
        return x


class ModulePolicy(Record):
    """The copy of one module: policy, and critic where the module has one."""

    encoder: Perceptron
    head: Perceptron
    log_std: jax.Array | None  # [n], where it does not depend on the observation
    log_std_limit: jax.Array | None  # [], bound of the absolute value
    critic: tuple[Perceptron, Perceptron] | None  # encoder and head

    def logits(self, x: jax.Array) -> jax.Array:
        """Inputs of the action distribution, `[K, ...]`, for observations `[D, ...]`."""
        outputs = self.head(self.encoder(x.reshape(x.shape[0], -1)))
        if self.log_std is not None:
            free = jnp.broadcast_to(self.log_std[:, None], (self.log_std.size, outputs.shape[1]))
            outputs = jnp.concatenate([outputs, free])
        if self.log_std_limit is not None:
            mean, log_std = jnp.split(outputs, 2)
            outputs = jnp.concatenate([mean, jnp.clip(log_std, -self.log_std_limit, self.log_std_limit)])
        return outputs.reshape(-1, *x.shape[1:])

    def value(self, x: jax.Array) -> jax.Array:
        """Values `[...]` of observations `[D, ...]`."""
        if self.critic is None:
            raise ExportError("the module was copied without its critic; export it with critic=True")
        encoder, head = self.critic
        return head(encoder(x.reshape(x.shape[0], -1))).reshape(x.shape[1:])


class Gaussian(Record):
    """Independent normals that are not squashed, as RLlib's `TorchDiagGaussian`."""

    mean: jax.Array  # [n, ...]
    log_std: jax.Array  # [n, ...]

    def sample(self, key: jax.Array) -> jax.Array:
        """`[n, ...]`. key: consumed."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def mode(self) -> jax.Array:
        """The mean."""
        return self.mean

    def log_prob(self, raw: jax.Array) -> jax.Array:
        """Log-density `[...]` of `raw`, `[n, ...]`."""
        scaled = (raw - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * jnp.square(scaled) + self.log_std + 0.5 * _LOG_TWO_PI, axis=0)


def distribution(space: Space, logits: jax.Array) -> Categorical | MultiCategorical | Gaussian:
    """RLlib's default distribution for an action space, from its inputs `[K, ...]`."""
    if isinstance(space, Discrete):
        return Categorical(logits)
    if isinstance(space, Box):
        return Gaussian(*jnp.split(logits, 2))
    return MultiCategorical(logits, space.sizes)


def to_environment(space: Space, raw: Any, normalize: bool, clip: bool) -> Any:
    """What the environment is given for a raw action `[(n,) ...]`, as RLlib's `NormalizeAndClipActions`."""
    if not isinstance(space, Box) or not (normalize or clip):
        return raw
    action = space.low + (raw + 1.0) * ((space.high - space.low) / 2.0) if normalize else raw
    return jnp.clip(action, space.low, space.high)


def export(module: Any, space: Space, obs_size: int, critic: bool = False, check: bool = True) -> ModulePolicy:
    """Copy a module.

    Args:
        module: an `RLModule`, with its current weights.
        space: of its actions.
        obs_size: D.
        critic: copy the critic too.
        check: compare the copy with the original; once is enough for a module whose weights alone change.

    Raises:
        ExportError: it is not a perceptron of RLlib's default form, or the copy does not agree with it.
    """
    module = module.unwrapped()
    if not isinstance(module, DefaultPPOTorchRLModule):
        raise ExportError(f"{type(module).__name__} is not RLlib's default PPO module")
    if module.is_stateful():
        raise ExportError("a recurrent module keeps state between steps")
    _expect_default_distribution(module, space)
    if critic and not hasattr(module, "vf"):
        raise ExportError("it was built for inference alone and has no critic; build it with inference_only=False")
    encoder = module.encoder
    shared = getattr(encoder, "encoder", None)
    head = module.pi
    policy = ModulePolicy(
        encoder=_perceptron(shared or encoder.actor_encoder),
        head=_perceptron(head),
        log_std=_array(head.log_std) if hasattr(head, "log_std") else None,
        log_std_limit=_array(head.log_std_clip_param_const[0]) if head.clip_log_std else None,
        critic=(_perceptron(shared or encoder.critic_encoder), _perceptron(module.vf)) if critic else None,
    )
    if check:
        _expect_agreement(module, policy, obs_size)
    return policy


def _expect_default_distribution(module: Any, space: Space) -> None:
    """RLlib's own, not a subclass that draws otherwise; that of several integers is made for their sizes."""
    expected = {Discrete: "TorchCategorical", Box: "TorchDiagGaussian"}.get(type(space), "TorchMultiCategorical")
    used = module.get_exploration_action_dist_cls()
    own = used.__bases__[0] if used.__qualname__.endswith("DistributionPartial") else used
    if own.__name__ != expected:
        raise ExportError(f"its action distribution is {own.__name__}, not {expected}")


def _perceptron(model: Any) -> Perceptron:
    """Layers of RLlib's `TorchMLP`."""
    layers = getattr(getattr(model, "net", None), "mlp", None)
    if not isinstance(layers, torch.nn.Sequential):
        raise ExportError(f"{type(model).__name__} is not a multilayer perceptron")
    kinds, weights = [], []
    for layer in layers:
        kind = type(layer).__name__
        if kind not in _ACTIVATIONS and kind not in ("Linear", "LayerNorm"):
            raise ExportError(f"a layer {kind} has no copy in JAX")
        own = {name: _array(value) for name, value in layer.named_parameters()}
        if kind == "Linear":
            own.setdefault("bias", jnp.zeros(own["weight"].shape[0]))
        if kind == "LayerNorm":
            own["eps"] = jnp.float32(layer.eps)
        kinds.append(kind)
        weights.append(own)
    return Perceptron(tuple(weights), tuple(kinds))


def _array(tensor: Any) -> jax.Array:
    """A copy: the tensor is overwritten by the next weights while a rollout may still read this."""
    return jnp.array(np.array(tensor.detach().cpu().numpy(), np.float32))


def _expect_agreement(module: Any, policy: ModulePolicy, obs_size: int) -> None:
    """Compare both on the same observations, small ones and ones as large as a market's can be."""
    scales = np.repeat([0.1, 1.0, LIMIT], 32)[:, None]
    x = (np.random.default_rng(0).standard_normal((len(scales), obs_size)) * scales).clip(-LIMIT, LIMIT)
    x = x.astype(np.float32)
    device = next(module.parameters()).device
    with torch.inference_mode():
        batch = {Columns.OBS: torch.from_numpy(x).to(device)}
        outputs = module.forward_exploration(batch)
        if Columns.ACTIONS in outputs or Columns.ACTION_DIST_INPUTS not in outputs:
            raise ExportError("it returns actions of its own instead of the inputs of a distribution")
        _expect_equal("its copy in JAX", outputs[Columns.ACTION_DIST_INPUTS], _logits(policy, x.T).T)
        if policy.critic is not None:
            _expect_equal("its critic's copy in JAX", module.compute_values(batch), _value(policy, x.T))


def _expect_equal(what: str, wanted: torch.Tensor, got: jax.Array) -> None:
    """A network of large outputs agrees relative to their size: float32 has no more digits."""
    original = wanted.cpu().numpy()
    if original.shape != got.shape:
        raise ExportError(f"{what} has the shape {got.shape}, the original {original.shape}")
    gap = float(np.max(np.abs(original - np.asarray(got)))) / max(1.0, float(np.max(np.abs(original))))
    if not gap < TOLERANCE:
        raise ExportError(f"{what} differs by {gap:.2g}, allowed is {TOLERANCE:g}")


_logits = jax.jit(ModulePolicy.logits)
_value = jax.jit(ModulePolicy.value)
