"""How the rows of a rollout are dealt into minibatches without sorting or moving single rows.

A *block* is one time step of some neighbouring markets, with all their agents. Every epoch draws
one permutation of the blocks and deals it out, so each row is used once per epoch. A minibatch is
worked off in *chunks*, whose gradients are added up: on a CPU a chunk is as large as the caches
like it, elsewhere it is the whole minibatch.
"""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")

#: Blocks a minibatch should at least be mixed from.
_MIXED = 16


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of blocks, chunks and minibatches. Static."""

    splits: int  # parts into which the market axis is cut
    minibatches: int
    chunks: int  # per minibatch
    blocks: int  # per chunk

    def shuffle(self, key: jax.Array) -> jax.Array:
        """Deal one epoch: block numbers `[minibatches, chunks, blocks]`, each once. key: consumed."""
        total = self.minibatches * self.chunks * self.blocks
        return jax.random.permutation(key, total).reshape(self.minibatches, self.chunks, self.blocks)

    def take(self, rows: T, numbers: jax.Array) -> T:
        """Gather blocks.

        Args:
            rows: leaves `[T, N, E]` or `[T, X, N, E]`.
            numbers: `[B]` block numbers.

        Returns:
            The same tree with leaves `[B, N, E / splits]` or `[X, B, N, E / splits]`.
        """

        def take_leaf(leaf: jax.Array) -> jax.Array:
            cut = leaf.reshape(*leaf.shape[:-1], self.splits, -1)
            found = jax.vmap(lambda i: cut[i // self.splits][..., i % self.splits, :])(numbers)
            return jnp.moveaxis(found, 0, found.ndim - 3)

        return jax.tree.map(take_leaf, rows)


def make_plan(num_steps: int, num_agents: int, num_markets: int, minibatches: int, chunk_rows: int) -> Plan:
    """Choose the largest blocks that still mix well and fit in a chunk.

    Args:
        num_steps: T.
        num_agents: N of the group.
        num_markets: E.
        minibatches: per epoch.
        chunk_rows: rows that one chunk should not exceed.

    Raises:
        ValueError: the rollout cannot be dealt into equal minibatches.
    """
    allowed = [c for c in range(1, num_markets + 1) if num_markets % c == 0 and (num_steps * c) % minibatches == 0]
    if not allowed:
        raise ValueError(
            f"minibatches: got {minibatches}, which does not divide rollout_length x markets = "
            f"{num_steps} x {num_markets}; choose a divisor"
        )

    def fits(splits: int) -> bool:
        mixed = num_steps * splits // minibatches >= _MIXED
        return mixed and num_agents * num_markets // splits <= chunk_rows

    splits = next(filter(fits, allowed), allowed[-1])
    rows = num_agents * num_markets // splits
    blocks = num_steps * splits // minibatches
    per_chunk = max(b for b in range(1, blocks + 1) if blocks % b == 0 and (b == 1 or b * rows <= chunk_rows))
    return Plan(splits=splits, minibatches=minibatches, chunks=blocks // per_chunk, blocks=per_chunk)
