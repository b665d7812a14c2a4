"""Settings of the whole suite. Rank promotion stays allowed: library code broadcasts `[A]` against `[N, A]`."""

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None, max_examples=40)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """A process may map memory 65,530 times on Linux, and every compiled program does some hundred times."""
    yield
    jax.clear_caches()
