"""How many threads compute: numba's setting, with more of them than cores where that is asked for in time."""

import numbers
import os
import sys

from cnnzoo.errors import ConfigError

MOST_THREADS = 1024


def list_cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(list_cores())


def set_num_threads(n: int) -> None:
    """Compute with `n` threads from now on. Results have the same bits with any number.

    Numba fixes the largest number when it is imported: as many as there are cores, or as NUMBA_NUM_THREADS says.
    Called before that (before any network is made, or any kernel called), this function makes the largest number
    fit `n`; afterwards an `n` above it is refused.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    ConfigError
        `n` is no whole number of 1 or more, or above what numba started with.
    """
    if not isinstance(n, numbers.Integral) or isinstance(n, bool) or not 1 <= n <= MOST_THREADS:
        raise ConfigError(f"threads: expected a whole number from 1 to {MOST_THREADS}, got {n!r}")
    if "numba" not in sys.modules:
        current = os.environ.get("NUMBA_NUM_THREADS", "")
        largest = int(current) if current.isdecimal() else count_cores()
        os.environ["NUMBA_NUM_THREADS"] = str(max(n, largest))
    import numba

    if n > numba.config.NUMBA_NUM_THREADS:
        raise ConfigError(
            f"threads: expected at most {numba.config.NUMBA_NUM_THREADS}, with which numba started, got {n}; "
            f"call set_num_threads before networks are made, or start Python with NUMBA_NUM_THREADS={n}"
        )
    numba.set_num_threads(n)


def get_num_threads() -> int:
    """Return how many threads compute."""
    import numba

    return numba.get_num_threads()


def get_threading_layer() -> str:
    """Return by what the threads were started, "omp", "tbb" or "workqueue"; some kernel must have run."""
    import numba

    return numba.threading_layer()
