"""Checks at the borders: shapes while tracing, values on the host. Each failure names the argument."""

from typing import Any

import jax
import numpy as np


def expect_shape(name: str, array: jax.Array, shape: tuple[int, ...]) -> None:
    """Raise while tracing when `array` has another shape.

    Raises:
        ValueError: with the argument's name, its shape and the expected one.
    """
    if tuple(array.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(array.shape)}")


def expect_range(name: str, value: Any, low: float, high: float, remedy: str = "") -> None:
    """Raise on the host when a number, or any entry of an array, lies outside `[low, high]` or is not finite.

    Raises:
        ValueError: with the argument's name, the offending value, the bounds and the remedy.
    """
    values = np.asarray(value, np.float64)
    bad = ~((values >= low) & (values <= high))
    if bad.any():
        tail = f"; {remedy}" if remedy else ""
        raise ValueError(f"{name}: got {values[bad].flat[0]:g}, allowed is {low:g} to {high:g}{tail}")
