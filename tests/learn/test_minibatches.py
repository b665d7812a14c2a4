"""Dealing rows: each once per epoch, whatever the sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.learn.minibatches import make_plan


@pytest.mark.parametrize(
    ("steps", "agents", "markets", "minibatches", "chunk_rows"),
    [(8, 3, 4, 4, 2**30), (8, 3, 4, 4, 6), (3, 2, 8, 4, 16), (128, 1, 4, 4, 64), (64, 2, 6, 1, 1), (1, 5, 4, 2, 100)],
)
def test_every_row_is_dealt_once(steps, agents, markets, minibatches, chunk_rows):
    plan = make_plan(steps, agents, markets, minibatches, chunk_rows)
    shape = (steps, agents, markets)
    row = jnp.arange(np.prod(shape)).reshape(shape)
    wide = jnp.stack([row, -row], axis=1)  # [T, 2, N, E]
    numbers = plan.shuffle(jax.random.key(0))
    assert numbers.shape[0] == minibatches
    dealt = jax.jit(jax.vmap(jax.vmap(lambda chunk: plan.take({"row": row, "wide": wide}, chunk))))(numbers)
    assert sorted(np.ravel(dealt["row"]).tolist()) == list(range(row.size))
    np.testing.assert_array_equal(dealt["wide"], jnp.stack([dealt["row"], -dealt["row"]], axis=2))


def test_epochs_differ():
    plan = make_plan(64, 1, 8, 4, 64)
    first, second = (plan.shuffle(jax.random.key(seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_chunks_respect_their_size_and_blocks_mix():
    plan = make_plan(128, 8, 1024, 4, 2048)
    assert plan.blocks * 8 * 1024 // plan.splits <= 2048
    short = make_plan(4, 1, 256, 4, 2**30)
    assert short.chunks * short.blocks >= 16


def test_refuses_minibatches_that_do_not_divide():
    with pytest.raises(ValueError, match="choose a divisor"):
        make_plan(5, 2, 3, 4, 100)
