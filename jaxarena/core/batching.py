"""`vmap` whose batch axis stays last in memory.

`jax.vmap(f, in_axes=-1, out_axes=-1)` accepts arrays with the batch axis last, but the batching rules
of many primitives (broadcasts, concatenations, …) move it to the front, and the compiler then copies
memory back and forth. With thousands of markets of a few agents each, the long axis must be the one
that vector units and GPU warps run along. `vmap_last` interprets the function's jaxpr and keeps every
intermediate array in the form `[..., E]`; a primitive without a rule here goes through `jax.vmap`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex

#: A value and whether it has the batch axis.
Batched = tuple[Any, bool]

_ELEMENTWISE = frozenset(
    [
        "abs",
        "acos",
        "acosh",
        "add",
        "add_any",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "cbrt",
        "ceil",
        "clamp",
        "clz",
        "convert_element_type",
        "copy",
        "copy_p",
        "cos",
        "cosh",
        "digamma",
        "div",
        "eq",
        "eq_to",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "imag",
        "integer_pow",
        "is_finite",
        "le",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "population_count",
        "pow",
        "real",
        "reduce_precision",
        "regularized_incomplete_beta",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "stop_gradient",
        "sub",
        "tan",
        "tanh",
        "xor",
    ]
)
_SAME_PARAMS = frozenset(
    [
        "argmax",
        "argmin",
        "cumlogsumexp",
        "cummax",
        "cummin",
        "cumprod",
        "cumsum",
        "reduce_and",
        "reduce_max",
        "reduce_min",
        "reduce_or",
        "reduce_prod",
        "reduce_sum",
        "reduce_xor",
        "rev",
        "squeeze",
    ]
)
_INDEPENDENT = frozenset(["once", "optimization_barrier"])
_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def vmap_last(function: Callable[..., Any], batched: Sequence[bool]) -> Callable[..., Any]:
    """Map `function` over the last axis of its arguments, and return results with that axis last.

    Args:
        function: pure, with pytrees of arrays as positional arguments and result.
        batched: for each argument, whether its leaves have the batch axis.

    Returns:
        A function of the same signature; results that do not depend on the batch are broadcast.

    >>> vmap_last(lambda x, y: (x * y).sum(), (True, False))(jnp.ones((3, 5)), jnp.arange(3.0)).shape
    (5,)
    """

    def mapped(*arguments: Any) -> Any:
        flags = [flag for argument, flag in zip(arguments, batched, strict=True) for _ in jax.tree.leaves(argument)]
        leaves = jax.tree.leaves(arguments)
        size = next(leaf.shape[-1] for leaf, flag in zip(leaves, flags, strict=True) if flag)
        examples = [
            jax.ShapeDtypeStruct(leaf.shape[:-1] if flag else leaf.shape, leaf.dtype)
            for leaf, flag in zip(leaves, flags, strict=True)
        ]
        structure = jax.tree.structure(arguments)
        jaxpr, result = jax.make_jaxpr(function, return_shape=True)(*jax.tree.unflatten(structure, examples))
        with jax.enable_x64(True):  # the jaxpr names every type; nothing may be narrowed on the way
            results = _interpret(jaxpr, list(zip(leaves, flags, strict=True)), size)
            outputs = [value if flag else _broadcast(value, value.shape, size) for value, flag in results]
        return jax.tree.unflatten(jax.tree.structure(result), outputs)

    return mapped


def _interpret(closed: Any, arguments: list[Batched], size: int) -> list[Batched]:
    jaxpr = closed.jaxpr
    values: dict[Any, Batched] = dict(zip(jaxpr.constvars, ((const, False) for const in closed.consts), strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Batched:
        if isinstance(atom, jex.Literal):
            aval: Any = atom.aval
            return np.asarray(atom.val, aval.dtype), False
        return values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        outputs = _apply(equation, inputs, size)
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, inputs: list[Batched], size: int) -> list[Batched]:
    name, params = equation.primitive.name, equation.params
    if name in _INLINED:
        inner = params[_INLINED[name]]
        return _interpret(inner, inputs, size)
    operands, flags = [value for value, _ in inputs], [flag for _, flag in inputs]
    if not any(flags):
        return _results(equation.primitive.bind(*operands, **params), equation, False)
    shapes = [tuple(atom.aval.shape) for atom in equation.invars]
    if name in _ELEMENTWISE:
        shape = equation.outvars[0].aval.shape
        operands = [_expand(*triple, shape, size) for triple in zip(operands, flags, shapes, strict=True)]
        return _results(equation.primitive.bind(*operands, **params), equation, True)
    if name in _SAME_PARAMS:
        return _results(equation.primitive.bind(*operands, **params), equation, True)
    if name == "while":
        return _results(_while(inputs, params, size), equation, True)
    if name in _INDEPENDENT:
        operands = _parts(operands, flags, shapes, size)
        return _results(equation.primitive.bind(*operands, **params), equation, True)
    if name in _RULES:
        return _results(_RULES[name](operands, flags, shapes, params, size), equation, True)
    axes = [-1 if flag else None for flag in flags]
    mapped = jax.vmap(lambda *xs: equation.primitive.bind(*xs, **params), in_axes=axes, out_axes=-1, axis_size=size)
    return _results(mapped(*operands), equation, True)


def _while(inputs: list[Batched], params: dict[str, Any], size: int) -> list[Any]:
    """Loop until every batch entry is done; those that are done earlier keep their values."""
    n_test, n_body = params["cond_nconsts"], params["body_nconsts"]
    test_consts, body_consts = inputs[:n_test], inputs[n_test : n_test + n_body]
    start = [value if flag else _broadcast(value, np.shape(value), size) for value, flag in inputs[n_test + n_body :]]

    def unfinished(values: list[Any]) -> Batched:
        return _interpret(params["cond_jaxpr"], [*test_consts, *((value, True) for value in values)], size)[0]

    def advance(values: list[Any]) -> list[Any]:
        going, flag = unfinished(values)
        found = _interpret(params["body_jaxpr"], [*body_consts, *((value, True) for value in values)], size)
        after = [value if batched else _broadcast(value, np.shape(value), size) for value, batched in found]
        return [jnp.where(going, new, old) for new, old in zip(after, values, strict=True)] if flag else after

    return lax.while_loop(lambda values: jnp.any(unfinished(values)[0]), advance, start)


def _results(outputs: Any, equation: Any, flag: bool) -> list[Batched]:
    many = outputs if equation.primitive.multiple_results else [outputs]
    return [(output, flag) for output in many]


def _broadcast(value: Any, shape: tuple[int, ...], size: int) -> jax.Array:
    """An unbatched value repeated along a new last axis."""
    return lax.broadcast_in_dim(value, (*shape, size), tuple(range(np.ndim(value))))


def _expand(value: Any, flag: bool, shape: tuple[int, ...], target: tuple[int, ...], size: int) -> Any:
    """Operand of an elementwise operation, of the full shape `[*target, size]`."""
    if flag and shape == target:
        return value
    axes = (len(target),) if flag and not shape else tuple(range(np.ndim(value)))
    return lax.broadcast_in_dim(value, (*target, size), axes)


def _broadcast_in_dim(operands: Any, flags: Any, shapes: Any, params: Any, size: int) -> Any:
    shape, dimensions = params["shape"], params["broadcast_dimensions"]
    return lax.broadcast_in_dim(operands[0], (*shape, size), (*dimensions, len(shape)))


def _reshape(operands: Any, flags: Any, shapes: Any, params: Any, size: int) -> Any:
    return lax.reshape(operands[0], (*params["new_sizes"], size))


def _transpose(operands: Any, flags: Any, shapes: Any, params: Any, size: int) -> Any:
    return lax.transpose(operands[0], (*params["permutation"], len(shapes[0])))


def _parts(operands: Any, flags: Any, shapes: Any, size: int) -> list[Any]:
    triples = zip(operands, flags, shapes, strict=True)
    return [value if flag else _broadcast(value, shape, size) for value, flag, shape in triples]


def _concatenate(operands: Any, flags: Any, shapes: Any, params: Any, size: int) -> Any:
    return lax.concatenate(_parts(operands, flags, shapes, size), params["dimension"])


def _stack(operands: Any, flags: Any, shapes: Any, params: Any, size: int) -> Any:
    return jnp.stack(_parts(operands, flags, shapes, size), params["axis"])


def _slice(operands: Any, flags: Any, shapes: Any, params: Any, size: int) -> Any:
    strides = params["strides"]
    return lax.slice(
        operands[0],
        (*params["start_indices"], 0),
        (*params["limit_indices"], size),
        None if strides is None else (*strides, 1),
    )


def _split(operands: Any, flags: Any, shapes: Any, params: Any, size: int) -> Any:
    return lax.split(operands[0], params["sizes"], params["axis"])


_RULES: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "slice": _slice,
    "split": _split,
}
