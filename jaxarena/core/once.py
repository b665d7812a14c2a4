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
    values go through a conditional whose condition is always true but not known to the compiler, and
    which it neither fuses nor repeats. At least one leaf must be of a 32-bit type.

    >>> once({"amount": jnp.arange(3)})["amount"].tolist()
    [0, 1, 2]
    """
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, _once.bind(*leaves))


def _through_conditional(*leaves: jax.Array) -> list[jax.Array]:
    probe = jnp.ones((), jnp.int32)
    for leaf in leaves:  # of every leaf, because any of them may be a constant that the compiler sees through
        if leaf.dtype.itemsize == 4 and leaf.size:
            first = lax.slice(leaf.reshape(-1), (0,), (1,)).reshape(())
            probe = probe | lax.bitcast_convert_type(first, jnp.int32)
    return lax.cond(probe != 0, lambda xs: xs, lambda xs: [jnp.zeros_like(x) for x in xs], list(leaves))


def _batch(leaves: Any, axes: Any) -> tuple[Any, Any]:
    return _once.bind(*leaves), axes


_once.def_impl(lambda *leaves: list(leaves))
_once.def_abstract_eval(lambda *shapes: list(shapes))
batching.primitive_batchers[_once] = _batch
mlir.register_lowering(_once, mlir.lower_fun(lambda *xs: lax.optimization_barrier(list(xs)), multiple_results=True))
mlir.register_lowering(_once, mlir.lower_fun(_through_conditional, multiple_results=True), platform="cpu")
