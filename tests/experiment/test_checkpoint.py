import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxarena.core.money import Money, int_quanta
from jaxarena.core.tree import Record, static
from jaxarena.experiment.checkpoint import CheckpointError, Checkpoints


class State(Record):
    params: dict[str, dict[str, jax.Array]]
    cash: Money
    key: jax.Array
    keys: jax.Array
    half: jax.Array
    host: np.ndarray
    updates: int
    rate: float
    done: bool
    empty: tuple[()]
    label: str = static(default="x")


def make_state(seed=0, width=4):
    key = jax.random.key(seed)
    weights = jax.random.normal(key, (3, width))
    return State(
        params={"actor": {"kernel": weights, "bias": jnp.array([jnp.nan, -0.0, jnp.inf, 1e-42])}},
        cash=Money.of_ints([2**40 + 5, -7]),
        key=jax.random.fold_in(key, 1),
        keys=jax.random.split(jax.random.key(3, impl="rbg"), 2),
        half=weights.astype(jnp.bfloat16),
        host=np.array([2**40 + 5], np.int64),
        updates=2**40 + 5,
        rate=0.1,
        done=True,
        empty=(),
    )


def bits(leaf):
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, twin in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert type(leaf) is type(twin)
        assert getattr(leaf, "dtype", None) == getattr(twin, "dtype", None)
        assert bits(leaf) == bits(twin)


def test_every_bit_comes_back(tmp_path):
    state, checkpoints = make_state(), Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(7, state, {"elapsed_s": 1.5, "best": np.float32(2.0)})
    step, restored, extra = checkpoints.restore(make_state(seed=9))
    assert (step, extra) == (7, {"elapsed_s": 1.5, "best": 2.0})
    assert_same(restored, state)
    assert int_quanta(restored.cash) == [2**40 + 5, -7]
    assert restored.updates == 2**40 + 5
    assert jax.random.uniform(restored.key) == jax.random.uniform(state.key)


def test_template_may_be_shapes_only(tmp_path):
    def build(key):
        return {"w": jax.random.normal(key, (2, 3)), "key": key}

    state = build(jax.random.key(1))
    Checkpoints(tmp_path).save(0, state)
    _, restored, _ = Checkpoints(tmp_path).restore(jax.eval_shape(build, jax.random.key(0)))
    assert_same(restored, state)


def test_keeps_the_last_ones(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (5, 20, 100):
        checkpoints.save(step, {"x": jnp.full(2, step)})
    assert checkpoints.steps() == [20, 100]
    assert checkpoints.restore({"x": jnp.zeros(2, jnp.int32)}, step=20)[1]["x"].tolist() == [20, 20]


def test_no_pickle_is_read_or_written(tmp_path):
    with pytest.raises(ValueError, match=r"note: expected an array or a number, got str"):
        Checkpoints(tmp_path).save(0, {"note": "text"})
    np.savez(Checkpoints(tmp_path).path(3), x=np.array([{}], dtype=object))
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        Checkpoints(tmp_path).restore({"x": jnp.zeros(1)})


def test_missing_says_what_is_there(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"no checkpoint there\. The folder .* does not exist"):
        checkpoints.restore({})
    checkpoints.save(4, {"x": jnp.zeros(1)})
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5 there.*holds: step_000000000004\.npz"):
        checkpoints.restore({"x": jnp.zeros(1)}, step=5)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_damage_is_noticed_and_the_one_before_is_usable(tmp_path, damage):
    checkpoints, template = Checkpoints(tmp_path), {"x": jnp.arange(1000.0)}
    checkpoints.save(1, template)
    path = checkpoints.save(2, template)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"cut": data[: len(data) // 2], "flip": data, "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(CheckpointError, match=r"step_000000000002\.npz: damaged.*step_000000000001\.npz"):
        checkpoints.restore(template)
    path.unlink()
    assert checkpoints.restore(template)[0] == 1


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"a": {"w": jnp.zeros((2, 4))}, "b": jnp.zeros(1)}, r"'a/w' is float32 \[2, 3\], expected float32 \[2, 4\]"),
        ({"a": {"w": jnp.zeros((2, 3), jnp.int32)}, "b": jnp.zeros(1)}, r"'a/w' is float32 .* expected int32"),
        ({"a": {"w": jnp.zeros((2, 3))}, "b": jnp.zeros(1), "c": 1}, r"holds no 'c', which this configuration needs"),
        ({"a": {"w": jnp.zeros((2, 3))}}, r"holds 'b', which this configuration does not have"),
        ({"a": {"w": jax.random.key(0)}, "b": jnp.zeros(1)}, r"'a/w' is float32 .* expected key"),
    ],
)
def test_first_mismatch_is_named(tmp_path, template, message):
    Checkpoints(tmp_path).save(0, {"a": {"w": jnp.zeros((2, 3))}, "b": jnp.zeros(1)})
    with pytest.raises(CheckpointError, match=message):
        Checkpoints(tmp_path).restore(template)


def test_full_disk_leaves_the_earlier_checkpoints(tmp_path):
    """A real limit of the system on file sizes cuts the second save short."""
    program = textwrap.dedent("""
        import resource, signal, sys
        from pathlib import Path
        import numpy as np
        from jaxarena.experiment.checkpoint import CheckpointError, Checkpoints
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        checkpoints = Checkpoints(Path(sys.argv[1]))
        checkpoints.save(1, {"x": np.arange(1000)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            checkpoints.save(2, {"x": np.zeros(100_000)})
        except CheckpointError as error:
            print(error)
        step, state, _ = checkpoints.restore({"x": np.zeros(1000, np.int64)})
        assert step == 1 and (state["x"] == np.arange(1000)).all()
    """)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout
    assert "needs 0.8 MB" in done.stdout
    assert "holds: step_000000000001.npz" in done.stdout
    assert [item.name for item in tmp_path.iterdir()] == ["step_000000000001.npz"]


def test_kill_in_mid_save_leaves_a_readable_checkpoint(tmp_path):
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        import numpy as np
        from jaxarena.experiment.checkpoint import Checkpoints
        checkpoints = Checkpoints(Path(sys.argv[1]))
        for step in range(100_000):
            checkpoints.save(step, {"x": np.full(300_000, step)})
    """)
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
        while not Checkpoints(tmp_path).steps():
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.11)
        process.kill()
        process.wait()
        step, state, _ = Checkpoints(tmp_path).restore({"x": np.zeros(300_000, np.int64)})
        assert (state["x"] == step).all()
        for path in Checkpoints(tmp_path).steps():
            Checkpoints(tmp_path).path(path).unlink()


def test_light_import():
    heavy = ("orbax", "matplotlib", "yaml", "polars")
    code = f"import sys, jaxarena, jaxarena.experiment; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
