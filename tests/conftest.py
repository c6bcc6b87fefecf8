"""Settings of the whole test suite."""

import os

from hypothesis import settings

# Two processes share the cores: threads that spin while they wait would hold up the other one's. Read by OpenMP when
# Numba starts its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Every run tests the same examples, so that a failure can be repeated. No deadline: a first call compiles.
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")
