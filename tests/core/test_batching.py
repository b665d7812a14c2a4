# ruff: noqa: ARG005 - every function of the zoo has one signature
"""`vmap_last` is `jax.vmap` with the batch axis last, for every rule it has and every fallback."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxarena.core.batching import vmap_last
from jaxarena.core.money import Money
from jaxarena.core.tree import Record

SIZE = 5


@jax.custom_jvp
def twice(x):
    return 2 * x


twice.defjvp(lambda primals, tangents: (twice(*primals), 2 * tangents[0]))


@jax.custom_vjp
def thrice(x):
    return 3 * x


thrice.defvjp(lambda x: (3 * x, None), lambda _, g: (3 * g,))

# Each function takes x [3, 4] float32 and n [3] int32 of every market, and y [4] float32 shared by all.
ELEMENTWISE = {
    "arithmetic": lambda x, n, y: (x + y) * x - y / (1.5 + jnp.abs(x)),
    "powers": lambda x, n, y: jnp.abs(x) ** 1.5 + x**3 + jnp.sqrt(jnp.abs(x)) + lax.rsqrt(1 + x * x) + jnp.cbrt(x),
    "transcendental": lambda x, n, y: jnp.exp(x) + jnp.log1p(jnp.abs(x)) + jnp.tanh(x) + jnp.sin(x) + jax.nn.sigmoid(x),
    "special": lambda x, n, y: lax.erf_inv(0.9 * jnp.tanh(x)) + lax.lgamma(1.0 + jnp.abs(x)) + lax.erf(y),
    "two arguments": lambda x, n, y: jnp.arctan2(x, y) + jnp.nextafter(x, y) + jnp.maximum(x, y) + jnp.minimum(x, 0.5),
    "rounding": lambda x, n, y: (jnp.round(x), jnp.floor(x), jnp.ceil(x), jnp.sign(x), jnp.trunc(y), jnp.rint(x)),
    "clamp by scalars of the market": lambda x, n, y: lax.clamp(x[0, 0] - 0.1, x, x[0, 0] + 0.5),
    "clamp a shared array": lambda x, n, y: lax.clamp(x[0, 0] - 0.1, y, x[0, 0] + 0.5),
    "clip": lambda x, n, y: jnp.clip(x, -0.5, 0.5) + jnp.clip(y, None, 0.1),
    "select by a scalar of the market": lambda x, n, y: lax.select_n(n[0] > 1, x, 2 * x),
    "select by a shared condition": lambda x, n, y: jnp.where(y > 0, x, 0.0),
    "where of a shared value": lambda x, n, y: jnp.where(x > 0, y, -1.0),
    "integers": lambda x, n, y: (n // 2, n % 3, n << 1, n >> 1, n & 5, n ^ 3, ~n, lax.population_count(n), lax.clz(n)),
    "unsigned shift": lambda x, n, y: n.astype(jnp.uint32) >> jnp.uint32(3),
    "compare": lambda x, n, y: (x == y, x != y, x < y, x >= y, jnp.isfinite(x / y), jnp.isnan(x), (x > 0) & (y > 0)),
    "types": lambda x, n, y: (x.astype(jnp.int32), n.astype(jnp.float32), x.astype(jnp.float16), x > 0),
    "stopped gradient": lambda x, n, y: lax.stop_gradient(x) + y,
    "reduced precision": lambda x, n, y: lax.reduce_precision(x, 5, 4),
}
SHAPES = {
    "sums": lambda x, n, y: (x.sum(), x.sum(0), x.sum(1), x.sum((0, 1)), x.sum(-1, keepdims=True), n.sum()),
    "other reductions": lambda x, n, y: (
        x.max(0),
        x.min(1),
        x.prod(0),
        (x > 0).all(1),
        (x > 0).any(0),
        x.mean(),
        x.std(1),
    ),
    "positions": lambda x, n, y: (x.argmax(0), x.argmin(1), n.argmax(), jnp.argmax(x)),
    "cumulative": lambda x, n, y: (
        jnp.cumsum(x, 0),
        jnp.cumsum(n),
        lax.cummax(x, axis=1),
        lax.cumsum(x, 0, reverse=True),
    ),
    "products": lambda x, n, y: (jnp.cumprod(x, 1), lax.cummin(x, axis=0), lax.cumlogsumexp(x, axis=1)),
    "broadcast": lambda x, n, y: (n[:, None] * y, jnp.broadcast_to(n, (2, 3)), jnp.broadcast_to(x.sum(), (2, 2))),
    "reshape": lambda x, n, y: (x.reshape(-1), x.reshape(2, 6), x.sum().reshape(1), x.T.reshape(-1), n[None]),
    "transpose": lambda x, n, y: (x.T, x[None].transpose(2, 0, 1), jnp.swapaxes(x, 0, 1)),
    "concatenate": lambda x, n, y: (jnp.concatenate([x, y[None]]), jnp.concatenate([x, x], 1), jnp.append(n, 7)),
    "stack": lambda x, n, y: (jnp.stack([x[0], y]), jnp.stack([x, x], 2), jnp.stack([n, n], 1)),
    "slice": lambda x, n, y: (x[1:, ::2], x[:, -1], x[-1], n[::-1], x[::-1, 1:3]),
    "split": lambda x, n, y: (*jnp.split(x, 2, 1), *jnp.split(n, [1])),
    "squeeze and expand": lambda x, n, y: (x[:1].squeeze(0), jnp.expand_dims(x, 1), x[None, :, None].squeeze((0, 2))),
    "barrier": lambda x, n, y: lax.optimization_barrier((x * 2, n + 1)),
}
FALLBACKS = {
    "sort": lambda x, n, y: (jnp.sort(x, 1), jnp.argsort(n), lax.top_k(x, 2)),
    "gather": lambda x, n, y: (x[n % 3], y[n], jnp.take_along_axis(x, n[:, None], 1), x[jnp.array([0, 2])]),
    "dynamic slice": lambda x, n, y: (lax.dynamic_slice(y, (n[0],), (2,)), lax.dynamic_index_in_dim(x, n[1] % 3)),
    "scatter": lambda x, n, y: (x.at[0].set(y), y.at[n].add(1.0), x.at[n[0] % 3, 1].max(9.0)),
    "dynamic update": lambda x, n, y: lax.dynamic_update_slice(x, y[None], (n[0] % 3, 0)),
    "pad": lambda x, n, y: (jnp.pad(x, ((1, 0), (0, 2))), jnp.pad(n, 1, constant_values=4)),
    "dot": lambda x, n, y: (x @ y, x @ x.T, jnp.einsum("ab,cb->ac", x, x * y), jnp.dot(y, y)),
    "scan": lambda x, n, y: lax.scan(lambda c, row: (c + row * y, c.sum()), x[0], x),
    "while": lambda x, n, y: lax.while_loop(lambda c: c[0] < 3 + n[0] % 4, lambda c: (c[0] + 1, c[1] * y), (0, x[0])),
    "fori": lambda x, n, y: lax.fori_loop(0, 4, lambda i, c: c + i * x, x),
    "cond": lambda x, n, y: lax.cond(n[0] > 2, lambda a: a * 2, lambda a: a + y.sum(), x),
    "shared cond": lambda x, n, y: lax.cond(y[0] > 0, lambda a: a * 2, lambda a: a - 1, x),
    "switch": lambda x, n, y: lax.switch(n[0] % 3, [lambda a: a, lambda a: -a, lambda a: a * y], x),
    "complex": lambda x, n, y: (jnp.conj(x + 1j * y).imag, jnp.abs(x - 2j)),
}
CALLS = {
    "jit inside": lambda x, n, y: jax.jit(lambda a, b: a * b + 1)(x, y),
    "custom jvp": lambda x, n, y: twice(x) + twice(y),
    "custom vjp": lambda x, n, y: thrice(x) + thrice(y),
    "gradient": lambda x, n, y: jax.grad(lambda a: (jnp.tanh(twice(a)) * y).sum())(x),
    "remat": lambda x, n, y: jax.checkpoint(lambda a: jnp.sin(a) * y)(x),
    "vmap inside": lambda x, n, y: jax.vmap(lambda row: row * y + row.sum())(x),
    "result without batch": lambda x, n, y: (x, y * 2, jnp.arange(3), 4.0, jnp.zeros((2, 2))),
    "result is an argument": lambda x, n, y: (y, n, x),
    "nothing used": lambda x, n, y: jnp.float32(1.0),
}
WIDE = {
    "int64": lambda x, n, y: _wide(lambda a: (a * 2**40 + 7) >> 3, n),
    "int64 sums": lambda x, n, y: _wide(lambda a: (a * 2**40).sum(), n),
    "float64": lambda x, n, y: _wide(lambda a: jnp.ceil(a.astype(jnp.float64) * (2.0**33 + 0.25)).astype(jnp.int64), n),
    "money": lambda x, n, y: (Money.of_lots(n, n, n) + Money.of_float(x[:, 0], 100)).scale_up(y[:3] * 0.1),
    "money sums": lambda x, n, y: Money.of_float(x, 10**6).sum(0).negative_part(),
    "shared money": lambda x, n, y: Money.of_float(y, 2**20) + Money.of_lots(n[0], n[1], n[2]),
}
ALL = ELEMENTWISE | SHAPES | FALLBACKS | CALLS | WIDE


def _wide(function, n):
    with jax.enable_x64(True):
        wide = function(n.astype(jnp.int64))
        return (wide >> 32).astype(jnp.int32), wide.astype(jnp.uint32)


def assert_equal(got, expected, tolerance=0.0):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if jnp.issubdtype(a.dtype, jnp.inexact):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ALL)
def test_equals_vmap(name):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(3, 4, SIZE)), jnp.float32)
    n = jnp.asarray(rng.integers(0, 4, (3, SIZE)), jnp.int32)
    y = jnp.asarray(rng.normal(size=4), jnp.float32)
    expected = jax.jit(jax.vmap(ALL[name], in_axes=(-1, -1, None), out_axes=-1, axis_size=SIZE))(x, n, y)
    mapped = vmap_last(ALL[name], (True, True, False))
    assert_equal(jax.jit(mapped)(x, n, y), expected, 2e-6)
    assert not jax.config.jax_enable_x64


class State(Record):
    position: jax.Array
    cash: Money


def test_records_and_several_batched_arguments():
    def trade(state, lots):
        return state.replace(position=state.position + lots, cash=state.cash - Money.of_lots(lots, lots, lots))

    state = State(position=jnp.zeros((2, SIZE), jnp.int32), cash=Money.of_ints(np.full((2, SIZE), 2**40)))
    lots = jnp.arange(2 * SIZE, dtype=jnp.int32).reshape(2, SIZE)
    expected = jax.vmap(trade, in_axes=-1, out_axes=-1)(state, lots)
    assert_equal(jax.jit(vmap_last(trade, (True, True)))(state, lots), expected)


def draw(key, scale):
    first, second = jax.random.split(key)
    bits = jax.random.bits(jax.random.fold_in(first, 3), (2,), jnp.uint32)
    return bits, jax.random.normal(second, (3,)) * scale, first


def test_random_keys_give_the_same_bits():
    keys = jax.random.split(jax.random.key(0), SIZE)
    expected = jax.vmap(draw, in_axes=(-1, None), out_axes=-1)(keys, 2.0)
    bits, normal, key = jax.jit(vmap_last(draw, (True, False)))(keys, jnp.float32(2.0))
    np.testing.assert_array_equal(bits, expected[0])
    np.testing.assert_allclose(normal, expected[1], rtol=1e-6)
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(expected[2]))


def test_keys_are_selected_broadcast_and_stacked():
    def choose(key, flag):
        other = jax.random.fold_in(key, 1)
        return jnp.where(flag, key, other), jnp.stack([key, other])

    keys, flags = jax.random.split(jax.random.key(1), SIZE), jnp.arange(SIZE) % 2 == 0
    expected = jax.vmap(choose, in_axes=-1, out_axes=-1)(keys, flags)
    got = jax.jit(vmap_last(choose, (True, True)))(keys, flags)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))


def test_a_shared_key_draws_the_same_in_every_market():
    def draw_with(x, key):
        return x + jax.random.uniform(key)

    x = jnp.zeros(SIZE)
    got = jax.jit(vmap_last(draw_with, (True, False)))(x, jax.random.key(5))
    np.testing.assert_allclose(got, jnp.full(SIZE, jax.random.uniform(jax.random.key(5))), rtol=1e-6)


def test_a_batch_of_one_and_scalars_of_each_market():
    mapped = jax.jit(vmap_last(lambda s, a: (s * a, s + 1), (True, True)))
    scaled, more = mapped(jnp.array([2.0]), jnp.ones((3, 1)))
    assert_equal((scaled, more), (jnp.full((3, 1), 2.0), jnp.array([3.0])))


def test_it_works_inside_scan_and_under_grad():
    def step(carry, x):
        carry = vmap_last(lambda c, row: c + row.sum(), (True, True))(carry, x)
        return carry, carry

    xs = jnp.arange(24.0).reshape(4, 2, 3)
    last, path = jax.jit(lambda c, xs: lax.scan(step, c, xs))(jnp.zeros(3), xs)
    np.testing.assert_allclose(last, xs.sum((0, 1)))
    np.testing.assert_allclose(path[0], xs[0].sum(0))
    slope = jax.grad(lambda x: vmap_last(lambda row: (row**2).sum(), (True,))(x).sum())(xs[0])
    np.testing.assert_allclose(slope, 2 * xs[0])


def halvings(x, n, y):
    """Trips by entry, a shared array in test and body, and a shared start that becomes the entry's own."""
    limit = y[0] + 3

    def body(carry):
        count, path, growth = carry
        return count + 1, path.at[count % 4].add(x[0, 0] * y[1]), growth * 2 + y

    return lax.while_loop(lambda c: (c[0] < n[0]) & (c[0] < limit), body, (0, jnp.zeros(4), y))


def nested(x, n, y):
    def outer(carry):
        i, total = carry
        return i + 1, total + lax.while_loop(lambda c: c[0] < n[1] + i, lambda c: (c[0] + 1, c[1] * 1.5), (0, x[0]))[1]

    return lax.while_loop(lambda c: c[0] < n[0], outer, (0, y))


LOOPS = {
    "shared constants and start": halvings,
    "start with a scalar of the market": lambda x, n, y: lax.while_loop(lambda c: c < 40, lambda c: c * 2 + 1, n[0]),
    "keeps what is done": lambda x, n, y: lax.while_loop(
        lambda c: c[0] > 0, lambda c: (c[0] - 1, c[1] + 1, c[2] - c[1] * y), (n[2], 5, x)
    ),
    "test without carry": lambda x, n, y: lax.while_loop(lambda c: y[0] > 1e9, lambda c: c + x, x),
    "body without batch": lambda x, n, y: lax.while_loop(
        lambda c: c[0] < n[0], lambda c: (c[0] + 1, y * 2, jnp.arange(3)), (0, y, n)
    ),
    "swap": lambda x, n, y: lax.while_loop(lambda c: c[0] < n[0], lambda c: (c[0] + 1, c[2], c[1]), (0, x[0], y)),
    "nothing of the market": lambda x, n, y: (
        lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * y), (0, y)),
        x,
    ),
    "bounds of the market": lambda x, n, y: lax.fori_loop(n[0], n[0] + n[1], lambda i, c: c + i * y, x),
    "nested": nested,
    "types": lambda x, n, y: lax.while_loop(
        lambda c: ~c[0], lambda c: (c[1] >= n[0], c[1] + jnp.int32(1), c[2] ^ jnp.uint32(5)), (False, 0, jnp.uint32(1))
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_ends_for_each_entry_by_itself(name):
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(3, 4, 7)), jnp.float32)
    n = jnp.asarray([[0, 1, 2, 3, 5, 9, 4], [3, 0, 4, 1, 2, 2, 0], [4, 0, 3, 2, 8, 1, 1]], jnp.int32)
    y = jnp.asarray(np.abs(rng.normal(size=4)), jnp.float32)
    alone = [jax.jit(LOOPS[name])(x[..., e], n[..., e], y) for e in range(7)]
    mapped = jax.jit(jax.vmap(LOOPS[name], in_axes=(-1, -1, None), out_axes=-1, axis_size=7))(x, n, y)
    got = jax.jit(vmap_last(LOOPS[name], (True, True, False)))(x, n, y)
    assert_equal(got, mapped, 2e-6)
    assert_equal(got, jax.tree.map(lambda *leaves: jnp.stack(leaves, -1), *alone), 2e-6)


def test_a_loop_may_carry_keys_and_money():
    def play(key, n):
        def body(carry):
            i, key, cash = carry
            key, now = jax.random.split(key)
            return i + 1, key, cash + Money.of_lots(i, jax.random.randint(now, (), 0, 2**20), jnp.int32(2**20))

        start = (jnp.int32(0), key, Money.zeros())
        _, key, cash = lax.while_loop(lambda c: c[0] < n, body, start)
        return jax.random.key_data(key), cash

    keys, n = jax.random.split(jax.random.key(3), SIZE), jnp.asarray([0, 3, 1, 7, 2])
    expected = jax.vmap(play, in_axes=-1, out_axes=-1)(keys, n)
    assert_equal(jax.jit(vmap_last(play, (True, True)))(keys, n), expected)
