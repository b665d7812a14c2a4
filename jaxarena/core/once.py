"""Values that are computed once, whatever reads them.

A compiler may evaluate an expression again in each of its readers, and two evaluations of one floating
point expression can differ in the last bit (a multiply and an add are fused here and not there). An
amount of money that enters two legs of a transfer must therefore be evaluated once, or the books stop
balancing. It is also faster: the CPU backend repeats whole chains of cheap operations.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

T = TypeVar("T")

_once = Primitive("once")
_once.multiple_results = True


def once(tree: T) -> T:
    """The same values, evaluated once and kept in memory.

    What `jax.lax.optimization_barrier` promises; the CPU compiler drops that one before it fuses. Here the
    values go through a loop that runs for one turn, which the compiler does not know: it neither fuses nor
    repeats a loop, and gives it the memory in which the values already are. At least one leaf must be of a
    32-bit type.

    >>> once({"amount": jnp.arange(3)})["amount"].tolist()
    [0, 1, 2]
    """
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, _once.bind(*leaves))


def _through_loop(*leaves: jax.Array) -> list[jax.Array]:
    probe = jnp.ones((), jnp.int32)
    for leaf in leaves:  # of every leaf, because any of them may be a constant that the compiler sees through
        if leaf.dtype.itemsize == 4 and leaf.size:
            first = lax.slice(leaf.reshape(-1), (0,), (1,)).reshape(())
            probe = probe | lax.bitcast_convert_type(first, jnp.int32)
    turns = (probe != 0).astype(jnp.int32)  # 1

    def touch(leaf: jax.Array, turn: jax.Array) -> jax.Array:
        """The same leaf, written in part by itself, as the compiler cannot know."""
        if leaf.size <= 1:
            return jnp.where(turn < turns, leaf, jnp.zeros_like(leaf))
        origin, one = [jnp.int32(0)] * (leaf.ndim - 1), (1,) * leaf.ndim
        return lax.dynamic_update_slice(leaf, lax.dynamic_slice(leaf, (turns - 1, *origin), one), (turn, *origin))

    def body(carry: tuple[jax.Array, list[jax.Array]]) -> tuple[jax.Array, list[jax.Array]]:
        turn, leaves = carry
        return turn + 1, [touch(leaf, turn) for leaf in leaves]

    return lax.while_loop(lambda carry: carry[0] < turns, body, (jnp.int32(0), list(leaves)))[1]


def _batch(leaves: Any, axes: Any) -> tuple[Any, Any]:
    return _once.bind(*leaves), axes


_once.def_impl(lambda *leaves: list(leaves))
_once.def_abstract_eval(lambda *shapes: list(shapes))
batching.primitive_batchers[_once] = _batch
mlir.register_lowering(_once, mlir.lower_fun(lambda *xs: lax.optimization_barrier(list(xs)), multiple_results=True))
mlir.register_lowering(_once, mlir.lower_fun(_through_loop, multiple_results=True), platform="cpu")
