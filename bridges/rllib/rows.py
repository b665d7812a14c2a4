"""From arrays as markets make them, market axis last, to rows as learners want them, features last."""

import warnings
from typing import Any

import numpy as np
import torch


def tensor(array: Any, device: Any = "cpu") -> torch.Tensor:
    """The same memory as a tensor, which nobody may write into: it can belong to JAX or to Ray's object store."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def rows_of(array: Any, device: Any = "cpu", *, feature: bool) -> torch.Tensor:
    """`[T, K, n, E]` to rows `[T * n * E, K]`, or, without a feature axis, `[T, n, E]` to `[T * n * E]`."""
    values = tensor(array, device)
    return values.movedim(1, -1).reshape(-1, array.shape[1]) if feature else values.reshape(-1)


class RowMajor:
    """`rows_of` for large arrays, in memory that is used again by the next call of the same name and size.

    Plane by plane: a matrix transpose works in blocks that fit the cache, a permutation of four axes does not. Memory
    that is fresh from the system costs more than the transpose.
    """

    def __init__(self) -> None:
        self._spare: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, array: Any, device: Any = "cpu") -> torch.Tensor:
        """`[T, K, n, E]` to rows `[T * n * E, K]`; valid until the next call with this name."""
        steps, size = array.shape[:2]
        source = tensor(array).reshape(steps, size, -1)
        shape = (steps, source.shape[2], size)
        target = self._spare.get(name)
        if target is None or target.shape != shape:
            target = self._spare[name] = torch.empty(shape)
        for plane, into in zip(source, target, strict=True):
            into.copy_(plane.t())
        return target.reshape(-1, size).to(device)
