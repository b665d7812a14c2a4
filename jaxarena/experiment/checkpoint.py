"""Saving and restoring the whole training state, bit for bit.

A checkpoint is one uncompressed `.npz` (a zip of plain arrays with checksums; no pickle) that replaces its
predecessor atomically. Arrays are stored under their path in the tree, so a file can be read with NumPy alone.
Belongs here: trees of arrays on disk. Does not belong here: what the trees are, or when to save.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxarena.core.tree import named_leaves
from jaxarena.experiment.files import plain, replacing

T = TypeVar("T")
_MANIFEST = "__manifest__"
_NAME = re.compile(r"step_(\d+)\.npz\Z")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, found, read, or does not fit the configuration; the message says what to do."""


class Checkpoints:
    """The checkpoints of one run: `folder/step_000000000042.npz`, the last `keep` of them.

    >>> import tempfile
    >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()), keep=2)
    >>> state = {"weights": jnp.arange(3.0), "key": jax.random.key(0)}
    >>> for step in (10, 20, 30):
    ...     _ = checkpoints.save(step, state, {"elapsed_s": 1.5 * step})
    >>> checkpoints.steps()
    [20, 30]
    >>> step, restored, extra = checkpoints.restore(state)
    >>> step, restored["weights"].tolist(), extra
    (30, [0.0, 1.0, 2.0], {'elapsed_s': 45.0})
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = Path(folder)
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps that were saved completely, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(found[1]) for path in self.folder.iterdir() if (found := _NAME.match(path.name)))

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` lies, or would lie."""
        return self.folder / f"step_{step:012d}.npz"

    def save(self, step: int, state: Any, extra: dict[str, Any] | None = None) -> Path:
        """Write `state` as the checkpoint of `step`, then delete all but the last `keep`.

        Args:
            step: a count that grows over the run.
            state: any pytree of arrays, typed PRNG keys and Python numbers.
            extra: small plain data for the host (elapsed time, best score).

        Returns:
            the path of the file.

        Raises:
            CheckpointError: it could not be written; what was there before is intact.
            ValueError: a leaf is not an array or a number.
        """
        arrays, leaves = {}, {}
        for name, leaf in named_leaves(state):
            arrays[name], leaves[name] = _to_numpy(name, leaf)
        manifest = {"step": step, "leaves": leaves, "extra": plain(extra or {})}
        encoded = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
        path = self.path(step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                np.savez(file, allow_pickle=False, **{_MANIFEST: encoded}, **arrays)
        except OSError as error:
            size = sum(array.nbytes for array in arrays.values()) / 1e6
            raise CheckpointError(
                f"cannot write {path} ({error}); it needs {size:.1f} MB. {self._inventory()}. "
                "Free some space or choose another run_dir, then resume"
            ) from error
        for old in self.steps()[: -self.keep]:
            self.path(old).unlink(missing_ok=True)
        return path

    def restore(self, template: T, step: int | None = None) -> tuple[int, T, dict[str, Any]]:
        """Read a checkpoint into the structure of `template`.

        Args:
            template: a tree with the structure, shapes and dtypes to expect; arrays or `jax.ShapeDtypeStruct`.
            step: which checkpoint; default the last.

        Returns:
            the step, the state (arrays where the template has arrays, NumPy and Python numbers where it has
            those) and the extra data.

        Raises:
            CheckpointError: there is none, it is damaged, or a leaf is missing, left over or of another shape or
                dtype; names the first such leaf.
        """
        available = self.steps()
        if not available or (step is not None and step not in available):
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise CheckpointError(f"{self.folder}: {wanted} there. {self._inventory()}")
        path = self.path(available[-1] if step is None else step)
        manifest, arrays = self._read(path)
        named = named_leaves(template)
        _check_fit(path, [(name, *_description(leaf)) for name, leaf in named], manifest["leaves"])
        leaves = [_from_numpy(arrays[name], manifest["leaves"][name], leaf) for name, leaf in named]
        return manifest["step"], jax.tree.unflatten(jax.tree.structure(template), leaves), manifest["extra"]

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            return json.loads(arrays.pop(_MANIFEST).tobytes()), arrays
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path}: damaged or not a checkpoint ({error}). {self._inventory()}. "
                "Delete the damaged file to resume from the one before it"
            ) from error

    def _inventory(self) -> str:
        """What the folder holds, in words."""
        if not self.folder.is_dir():
            return f"The folder {self.folder} does not exist"
        names = sorted(path.name for path in self.folder.iterdir())
        return f"{self.folder} holds: {', '.join(names) or 'nothing'}"


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _description(leaf: Any) -> tuple[str, list[int]]:
    """Dtype and shape under which a leaf is stored."""
    if _is_key(leaf):
        return str(leaf.dtype), list(leaf.shape)
    if isinstance(leaf, (bool, int, float)):
        return f"python {type(leaf).__name__}", []
    return np.dtype(leaf.dtype).name, list(leaf.shape)


def _to_numpy(name: str, leaf: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """The bits of a leaf as an array NumPy can store, and its description."""
    if not (hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float))):
        raise ValueError(f"{name}: expected an array or a number, got {type(leaf).__name__}; make it a static field")
    dtype, shape = _description(leaf)
    if _is_key(leaf):
        stored = {"dtype": dtype, "shape": shape, "impl": str(jax.random.key_impl(leaf))}
        return np.asarray(jax.random.key_data(leaf)), stored
    array = np.asarray(leaf)
    if array.dtype == object:
        raise ValueError(f"{name}: {leaf!r} does not fit 64 bits")
    if array.dtype.kind == "V":  # bfloat16 and relatives, which NumPy does not know by name
        array = array.view(np.dtype(f"u{array.dtype.itemsize}"))
    return array, {"dtype": dtype, "shape": shape}


def _from_numpy(array: np.ndarray, stored: dict[str, Any], template: Any) -> Any:
    """The inverse of `_to_numpy`, as the kind of value that the template holds."""
    if isinstance(template, (bool, int, float)):
        return array.item()
    if _is_key(template):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=stored["impl"])
    array = array.view(np.dtype(template.dtype)) if array.dtype != template.dtype else array
    if isinstance(template, np.generic):
        return array[()]
    return array if isinstance(template, np.ndarray) else jnp.asarray(array)


def _check_fit(path: Path, expected: list[tuple[str, str, list[int]]], stored: dict[str, Any]) -> None:
    remedy = "resume with the configuration that wrote it (config.yaml of the run)"
    for name, dtype, shape in expected:
        if name not in stored:
            raise CheckpointError(f"{path}: holds no {name!r}, which this configuration needs; {remedy}")
        found = (stored[name]["dtype"], stored[name]["shape"])
        if found != (dtype, shape):
            raise CheckpointError(f"{path}: {name!r} is {found[0]} {found[1]}, expected {dtype} {shape}; {remedy}")
    if left_over := stored.keys() - {name for name, _, _ in expected}:
        raise CheckpointError(f"{path}: holds {min(left_over)!r}, which this configuration does not have; {remedy}")
