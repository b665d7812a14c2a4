"""Neural networks of policies and critics.

Belongs here: Flax modules. Does not belong here: what their outputs mean (`distributions`).

Layout: features come first, `[D, ...]`; every further axis (agents, markets, time) is a batch.
That is how markets store observations, so that no step transposes them.
"""

import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Activation = Literal["tanh", "relu"]
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class ActorCritic(nn.Module):
    """A policy and a critic, each a multilayer perceptron of its own.

    Weights start orthogonal (gain sqrt 2; 0.01 for the policy's output, so that the first policy
    is close to uniform; 1 for the value), biases at zero. The two first layers read the same
    input and are kept as one matrix.

    Source: Andrychowicz et al. (2021), "What matters for on-policy deep actor-critic methods?".
    """

    num_outputs: int  # K, outputs of the policy
    num_free: int = 0  # learned numbers of the policy that do not depend on the observation
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    free_init: float = -0.5

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Evaluate policy and critic.

        Args:
            x: `[D, ...]` observations.

        Returns:
            outputs `[K, ...]`, free numbers `[num_free]`, value `[...]`.
        """
        activate = _ACTIVATIONS[self.activation]
        batch, width = x.shape[1:], self.hidden[0]
        x = x.reshape(x.shape[0], -1)  # one batch axis: gradients contract it as a plain matrix product
        both = activate(self._linear("first", x, 2 * width, math.sqrt(2.0), halves=2))
        actor, critic = both[:width], both[width:]
        for i, width in enumerate(self.hidden[1:]):
            actor = activate(self._linear(f"actor_{i}", actor, width, math.sqrt(2.0)))
            critic = activate(self._linear(f"critic_{i}", critic, width, math.sqrt(2.0)))
        outputs = self._linear("policy", actor, self.num_outputs, 0.01)
        value = self._linear("value", critic, 1, 1.0)
        free = self.param("free", nn.initializers.constant(self.free_init), (self.num_free,), jnp.float32)
        return outputs.reshape(-1, *batch), free, value.reshape(batch)

    def _linear(self, name: str, x: jax.Array, size: int, gain: float, halves: int = 1) -> jax.Array:
        """`W^T x + b` for `x [D, B]`; `halves` independent orthogonal blocks side by side."""

        def init_kernel(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype) -> jax.Array:
            block = (shape[0], shape[1] // halves)
            init = nn.initializers.orthogonal(gain)
            return jnp.concatenate([init(k, block, dtype) for k in jax.random.split(key, halves)], axis=1)

        kernel = self.param(f"{name}_kernel", init_kernel, (x.shape[0], size), jnp.float32)
        bias = self.param(f"{name}_bias", nn.initializers.zeros_init(), (size,), jnp.float32)
        return jax.lax.dot_general(kernel, x, (((0,), (0,)), ((), ()))) + bias[:, None]
