"""Exact money: a count of quanta in 64 bits that works whatever the caller's 64-bit setting is.

At rest an amount is two 32-bit limbs; arithmetic joins them to int64 inside a scoped
`jax.enable_x64` block and splits the result again, so no 64-bit array ever leaves this module
and importing it changes nothing in the user's program. Belongs here: arithmetic on amounts.
Does not belong here: who owes what to whom (`jaxarena.market.ledger`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core.reduce import total
from jaxarena.core.tree import Record

#: Amounts stay below this on any account, which leaves a factor of four to the int64 limit.
MAX_QUANTA = 2**61


class Money(Record):
    """An array of exact amounts, in quanta (the market's smallest unit of money).

    `value = hi * 2**32 + lo`, two's complement. Overflow beyond int64 wraps; markets are
    validated when built so that no account can come near it (`MAX_QUANTA`).

    >>> int_quanta(Money.of_ints([2**40 + 5]) + Money.of_ints([-7]))
    [1099511627774]
    """

    hi: jax.Array  # [...] int32
    lo: jax.Array  # [...] uint32

    @staticmethod
    def zeros(shape: tuple[int, ...] = ()) -> "Money":
        """Nothing, in every entry of `shape`."""
        return Money(hi=jnp.zeros(shape, jnp.int32), lo=jnp.zeros(shape, jnp.uint32))

    @staticmethod
    def of_ints(quanta: Any) -> "Money":
        """Amounts from Python ints or a NumPy int64 array. Host only.

        Raises:
            ValueError: an amount is beyond ±2**61 quanta.
        """
        values = np.asarray(quanta, dtype=object)
        if any(abs(int(value)) > MAX_QUANTA for value in values.ravel()):
            raise ValueError(
                f"an amount of money exceeds ±2**61 quanta: got {quanta}; use a coarser tick or smaller endowments"
            )
        exact = values.astype(np.int64)
        return Money(hi=jnp.asarray((exact >> 32).astype(np.int32)), lo=jnp.asarray(exact.astype(np.uint32)))

    @staticmethod
    def of_lots(price_ticks: jax.Array, lots: jax.Array, tick_value_quanta: jax.Array) -> "Money":
        """The exact value `price_ticks * lots * tick_value_quanta`; all int32, broadcast together."""
        return _compute(lambda p, q, v: p * q * v, price_ticks, lots, tick_value_quanta)

    @staticmethod
    def of_float(amount: jax.Array, quanta_per_unit: jax.Array | int = 1) -> "Money":
        """The nearest whole number of quanta to `amount * quanta_per_unit`, computed in float64, halves to even."""
        return _compute(lambda a, q: jnp.round(a.astype(jnp.float64) * q), amount, quanta_per_unit)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of amounts."""
        return self.hi.shape

    def __add__(self, other: "Money") -> "Money":
        return _compute(lambda a, b: a + b, self, other)

    def __sub__(self, other: "Money") -> "Money":
        return _compute(lambda a, b: a - b, self, other)

    def __neg__(self) -> "Money":
        return _compute(lambda a: -a, self)

    def __getitem__(self, index: Any) -> "Money":
        return jax.tree.map(lambda limb: limb[index], self)

    def sum(self, axis: int) -> "Money":
        """Exact sum over one axis."""
        return _compute(lambda a: total(a, axis), self)

    def scale_up(self, rate: jax.Array) -> "Money":
        """`ceil(amount * rate)`, computed in float64: what is charged is never rounded in favour of the payer.

        Exact to the quantum for amounts below 2**53 and one product, so that an oracle in
        Python floats agrees bit for bit.
        """
        return _compute(lambda a, r: jnp.ceil(a.astype(jnp.float64) * r), self, rate)

    def abs(self) -> "Money":
        """`|amount|`."""
        return _compute(jnp.abs, self)

    def negative_part(self) -> "Money":
        """`max(-amount, 0)`: what an overdrawn account lacks."""
        return _compute(lambda a: jnp.maximum(-a, 0), self)

    def masked(self, keep: jax.Array) -> "Money":
        """The amount where `keep`, zero elsewhere."""
        return jax.tree.map(lambda limb: jnp.where(keep, limb, jnp.zeros_like(limb)), self)

    def to_float(self) -> jax.Array:
        """Nearest float32."""
        with jax.enable_x64(True):
            return _widen(self).astype(jnp.float32)


def int_quanta(money: Money) -> Any:
    """Exact amounts as Python ints, nested like the array. Host only."""
    hi, lo = np.asarray(money.hi), np.asarray(money.lo)
    return ((hi.astype(np.int64) << 32) | lo.astype(np.int64)).tolist()


def _compute(function: Callable[..., jax.Array], *operands: Any) -> Money:
    """Apply `function` to int64 (or float64) views of the operands and split the result into limbs."""
    with jax.enable_x64(True):
        result = function(*(_widen(operand) for operand in operands)).astype(jnp.int64)
        return Money(hi=(result >> 32).astype(jnp.int32), lo=result.astype(jnp.uint32))


def _widen(operand: Any) -> jax.Array:
    if isinstance(operand, Money):
        return (operand.hi.astype(jnp.int64) << 32) | operand.lo.astype(jnp.int64)
    array = jnp.asarray(operand)
    return array.astype(jnp.float64 if jnp.issubdtype(array.dtype, jnp.floating) else jnp.int64)
