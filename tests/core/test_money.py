"""Money agrees with Python ints, quantum for quantum, wherever it runs."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxarena.core.money import MAX_QUANTA, Money, int_quanta

SIZE = 6
BOUND = 2**60
amounts = st.lists(st.integers(-BOUND, BOUND), min_size=SIZE, max_size=SIZE)
rates = st.lists(st.floats(-0.875, 0.875, width=32, allow_subnormal=False), min_size=SIZE, max_size=SIZE)


def unary(money):
    return -money, money.abs(), money.negative_part(), money.sum(0)


def wrapped(value):
    """What 64 bits keep of a Python int."""
    return (value + 2**63) % 2**64 - 2**63


def batched_last(function, n_arguments):
    """The function under `vmap`, with a batch axis last in memory."""
    return jax.jit(jax.vmap(function, in_axes=(-1,) * n_arguments, out_axes=-1))


add = jax.jit(Money.__add__)
subtract = jax.jit(Money.__sub__)
unary_jit = jax.jit(unary)
scale_up = jax.jit(Money.scale_up)
of_lots = jax.jit(Money.of_lots)
of_float = jax.jit(Money.of_float)
to_float = jax.jit(Money.to_float)
batch_add = batched_last(Money.__add__, 2)
batch_sum = batched_last(lambda money: money.sum(0), 1)
batch_scale = batched_last(Money.scale_up, 2)


@given(amounts, amounts)
@example([BOUND, -BOUND, 0, -1, 1, 2**32], [BOUND, -BOUND, -1, 1, 2**32 - 1, -(2**32)])
def test_add_and_subtract(a, b):
    left, right = Money.of_ints(a), Money.of_ints(b)
    assert int_quanta(add(left, right)) == [x + y for x, y in zip(a, b, strict=True)]
    assert int_quanta(subtract(left, right)) == [x - y for x, y in zip(a, b, strict=True)]
    assert int_quanta(left + right) == int_quanta(add(left, right))


@given(amounts)
@example([-(2**32), 2**32, -1, 2**31, -(2**31), 0])
def test_negate_abs_negative_part_and_sum(a):
    negated, absolute, lacking, total = unary_jit(Money.of_ints(a))
    assert int_quanta(negated) == [-x for x in a]
    assert int_quanta(absolute) == [abs(x) for x in a]
    assert int_quanta(lacking) == [max(-x, 0) for x in a]
    assert int_quanta(total) == wrapped(sum(a))


@given(
    st.lists(st.integers(1, 2**30), min_size=SIZE, max_size=SIZE),
    st.lists(st.integers(-(2**10), 2**10), min_size=SIZE, max_size=SIZE),
    st.integers(1, 2**20),
)
def test_of_lots(ticks, lots, tick_value):
    money = of_lots(jnp.asarray(ticks, jnp.int32), jnp.asarray(lots, jnp.int32), jnp.asarray(tick_value, jnp.int32))
    assert int_quanta(money) == [p * q * tick_value for p, q in zip(ticks, lots, strict=True)]


@given(amounts, rates)
@example([10, -10, 3, 0, 2**53, -(2**53)], [0.5, 0.5, 0.25, 0.5, 0.125, 0.125])
def test_scale_up_is_the_ceiling_of_the_float64_product(a, rate):
    rate = [float(np.float32(r)) for r in rate]
    scaled = int_quanta(scale_up(Money.of_ints(a), jnp.asarray(rate, jnp.float32)))
    assert scaled == [math.ceil(float(x) * r) for x, r in zip(a, rate, strict=True)]
    if max(map(abs, a)) < 2**53 and all((r * 256).is_integer() for r in rate):
        assert all(got >= x * r for got, x, r in zip(scaled, a, rate, strict=True))


@given(
    st.lists(st.floats(-1e9, 1e9, width=32, allow_subnormal=False), min_size=SIZE, max_size=SIZE), st.integers(1, 10**6)
)
@example([0.5, 1.5, 2.5, -0.5, -1.5, 0.0], 1)
def test_of_float_rounds_to_the_nearest_even(values, per_unit):
    money = of_float(jnp.asarray(values, jnp.float32), jnp.asarray(per_unit, jnp.int32))
    assert int_quanta(money) == [round(float(np.float32(v)) * per_unit) for v in values]


@given(amounts)
@example([-1, -5, -1_000_000, 2**24 + 1, -(2**33) - 1, 2**40 + 2**16])
def test_to_float_is_the_nearest_float32(a):
    np.testing.assert_array_max_ulp(
        np.asarray(to_float(Money.of_ints(a))), np.asarray(a, np.int64).astype(np.float32), 1
    )


@given(amounts, amounts, rates)
def test_vmap_with_the_batch_axis_last(a, b, rate):
    """Two rows of agents, the markets last."""
    left, right = Money.of_ints([a, b]), Money.of_ints([b, a])
    assert int_quanta(batch_add(left, right)) == [[x + y for x, y in zip(a, b, strict=True)]] * 2
    assert int_quanta(batch_sum(left)) == [x + y for x, y in zip(a, b, strict=True)]
    factor = jnp.asarray([rate, rate], jnp.float32)
    alone = [int_quanta(scale_up(Money.of_ints(row), factor[0])) for row in (a, b)]
    assert int_quanta(batch_scale(left, factor)) == alone


@jax.jit
def running_total(start, steps):
    def step(total, amount):
        total = total + amount
        return total, total

    return jax.lax.scan(step, start, steps)


@given(amounts)
def test_scan(a):
    last, path = running_total(Money.zeros(), Money.of_ints([x // SIZE for x in a]))
    expected = np.cumsum([x // SIZE for x in a], dtype=np.int64).tolist()
    assert int_quanta(path) == expected
    assert int_quanta(last) == expected[-1]


def test_index_mask_and_shape():
    money = Money.of_ints([2**40, -3, 5])
    assert money.shape == (3,)
    assert int_quanta(money[1]) == -3
    assert int_quanta(money.masked(jnp.array([True, False, True]))) == [2**40, 0, 5]


def test_sum_over_a_long_axis_and_over_agents():
    rows = np.arange(2 * 100).reshape(100, 2) * 2**50 // 200
    assert int_quanta(Money.of_ints(rows).sum(0)) == rows.sum(0).tolist()
    assert int_quanta(Money.of_ints(rows).sum(1)) == rows.sum(1).tolist()


def test_amounts_beyond_the_limit_are_refused():
    assert int_quanta(Money.of_ints(MAX_QUANTA)) == MAX_QUANTA
    with pytest.raises(ValueError, match="exceeds"):
        Money.of_ints([0, MAX_QUANTA + 1])


def test_at_rest_there_are_only_32_bit_arrays():
    money = Money.of_ints([1]) + Money.of_ints([2**50])
    assert (money.hi.dtype, money.lo.dtype) == (jnp.int32, jnp.uint32)


def test_importing_and_using_money_leaves_the_callers_types_alone():
    program = (
        "import jax, jax.numpy as jnp, numpy as np\n"
        "from jaxarena.core.money import Money\n"
        "total = jax.jit(lambda m: m.scale_up(jnp.float32(0.5)).sum(0))(Money.of_ints([2**40, 1]))\n"
        "assert not jax.config.jax_enable_x64\n"
        "assert jnp.ones(2).dtype == jnp.float32\n"
        "assert jnp.arange(2).dtype == jnp.int32\n"
        "assert jnp.asarray(np.ones(2)).dtype == jnp.float32\n"
        "assert jax.eval_shape(lambda x: x * 2.0, jnp.ones(2)).dtype == jnp.float32\n"
        "assert total.hi.dtype == jnp.int32\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
