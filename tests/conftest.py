"""Settings of the whole suite. Rank promotion stays allowed: library code broadcasts `[A]` against `[N, A]`."""

import hypothesis

hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None, max_examples=40)
hypothesis.settings.load_profile("fixed")
