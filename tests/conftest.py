"""Settings of the whole test suite."""

from hypothesis import settings

# Every run tests the same examples, so that a failure can be repeated. No deadline: a first call compiles.
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")
