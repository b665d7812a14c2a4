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

#: Values of this size or more are not copied to be kept.
LARGE_BYTES = 2**16

_once = Primitive("once")
_once.multiple_results = True


def once(tree: T) -> T:
    """The same values, evaluated once and kept in memory.

    What `jax.lax.optimization_barrier` promises; the CPU compiler drops that one before it fuses. It neither fuses nor
    repeats what goes through control flow that it cannot decide. So small values go through a conditional that is
    always true, which copies them, and large ones through a loop of one turn, which leaves them where they are but
    takes a longer program. At least one leaf must be of a 32-bit type.

    >>> once({"amount": jnp.arange(3)})["amount"].tolist()
    [0, 1, 2]
    """
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, _once.bind(*leaves))


def _on_cpu(*leaves: jax.Array) -> list[jax.Array]:
    probe = jnp.ones((), jnp.int32)
    for leaf in leaves:  # of every leaf, because any of them may be a constant that the compiler sees through
        if leaf.dtype.itemsize == 4 and leaf.size:
            first = lax.slice(leaf.reshape(-1), (0,), (1,)).reshape(())
            probe = probe | lax.bitcast_convert_type(first, jnp.int32)
    turns = (probe != 0).astype(jnp.int32)  # 1
    large = [leaf.size * leaf.dtype.itemsize >= LARGE_BYTES for leaf in leaves]
    looped = iter(_through_loop(turns, [leaf for leaf, is_large in zip(leaves, large, strict=True) if is_large]))
    copied = iter(
        _through_conditional(turns, [leaf for leaf, is_large in zip(leaves, large, strict=True) if not is_large])
    )
    return [next(looped if is_large else copied) for is_large in large]


def _through_conditional(turns: jax.Array, leaves: list[jax.Array]) -> list[jax.Array]:
    return lax.cond(turns > 0, lambda xs: xs, lambda xs: [jnp.zeros_like(x) for x in xs], leaves) if leaves else []


def _through_loop(turns: jax.Array, leaves: list[jax.Array]) -> list[jax.Array]:
    def touch(leaf: jax.Array, turn: jax.Array) -> jax.Array:
        """The same leaf, written in part by itself, as the compiler cannot know."""
        origin, one = [jnp.int32(0)] * (leaf.ndim - 1), (1,) * leaf.ndim
        return lax.dynamic_update_slice(leaf, lax.dynamic_slice(leaf, (turns - 1, *origin), one), (turn, *origin))

    def body(carry: tuple[jax.Array, list[jax.Array]]) -> tuple[jax.Array, list[jax.Array]]:
        turn, leaves = carry
        return turn + 1, [touch(leaf, turn) for leaf in leaves]

    return lax.while_loop(lambda carry: carry[0] < turns, body, (jnp.int32(0), leaves))[1] if leaves else []


def _batch(leaves: Any, axes: Any) -> tuple[Any, Any]:
    return _once.bind(*leaves), axes


_once.def_impl(lambda *leaves: list(leaves))
_once.def_abstract_eval(lambda *shapes: list(shapes))
batching.primitive_batchers[_once] = _batch
mlir.register_lowering(_once, mlir.lower_fun(lambda *xs: lax.optimization_barrier(list(xs)), multiple_results=True))
mlir.register_lowering(_once, mlir.lower_fun(_on_cpu, multiple_results=True), platform="cpu")
