"""The machine: what it is, and what it gives at best, by measurement."""

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from cnnzoo.kernels.compile import target
from cnnzoo.kernels.elementwise import add_forward
from cnnzoo.kernels.probe import (
    PROBE_DEPTH,
    PROBE_ROWS,
    fade_with_denormals,
    fade_with_zeros,
    multiply_in_cache,
)
from cnnzoo.kernels.vectors import TILE_VECTORS, VECTOR_BYTES
from cnnzoo.threads import count_cores, get_num_threads
from cnnzoo.versions import cpu_name, list_versions

PACKAGES = ("cnnzoo", "numpy", "numba", "llvmlite", "torch")
STREAM_BYTES = 96 * 2**20  # of each array that the bandwidth is measured on: more than common caches hold
ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What all threads together reach at best.

    Attributes
    ----------
    operations_per_second : float
        Additions and multiplications in float32, by the register tile that all products run on.
    bytes_per_second : float
        Read and written by y = a + b on arrays that no cache holds.
    """

    operations_per_second: float
    bytes_per_second: float

    def least_seconds(self, operations: float, moved: float) -> float:
        """Return the time below which so many operations, and so many bytes moved, cannot be done."""
        return max(operations / self.operations_per_second, moved / self.bytes_per_second)


@cache
def measure_limits() -> Limits:
    """Measure the limits, once in a process; takes about a second."""
    return Limits(operations_per_second=_measure_operations(), bytes_per_second=_measure_bandwidth())


def _measure_operations() -> float:
    tasks, repeats = 8 * get_num_threads(), 400
    width = TILE_VECTORS * VECTOR_BYTES // 4
    a, panel = (np.ones(size, np.float32) for size in (PROBE_ROWS * PROBE_DEPTH, PROBE_DEPTH * width))
    c = np.zeros(tasks * PROBE_ROWS * width, np.float32)
    operations = 2 * tasks * repeats * PROBE_ROWS * PROBE_DEPTH * width
    return operations / _fastest(lambda: multiply_in_cache(tasks, repeats, a, panel, c))


def _measure_bandwidth() -> float:
    channels = 1024
    rows = STREAM_BYTES // 4 // channels
    a, b, y = (np.ones(rows * channels, np.float32) for _ in range(3))
    seconds = _fastest(lambda: add_forward(a, channels, b, channels, y, channels, rows, channels))
    return 3 * rows * channels * 4 / seconds


def measure_denormal_slowdown() -> dict[str, float]:
    """Return how many times longer a decaying average takes once its numbers are denormal, without and with flushing.

    Returns
    -------
    dict of str to float
        "as they are" and "flushed": seconds with denormal numbers over seconds with normal ones.
    """
    size, steps, factor = 4096, 50, 0.999
    found = {}
    for name, fade in (("as they are", fade_with_denormals), ("flushed", fade_with_zeros)):
        seconds = []
        for start in (1e-10, 1e-39):
            x, y = np.zeros(size, np.float32), np.empty(size, np.float32)

            def run(fade=fade, x=x, y=y, start=start) -> None:
                y[:] = start
                fade(x, factor, steps, y)

            seconds.append(_fastest(run))
        found[name] = seconds[1] / seconds[0]
    return found


def _fastest(function: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of a few calls, after one that compiles."""
    function()
    best = math.inf
    for _ in range(ATTEMPTS):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def describe_machine() -> dict[str, Any]:
    """Return what a measurement has to say of the machine and the versions that it was made with."""
    _, cpu, features = target()
    return {
        "cpu": cpu_name(),
        "cores": count_cores(),
        "compiled_for": cpu,
        "features": [feature[1:] for feature in features.split(",") if feature.startswith("+")],
        "vector_bytes": VECTOR_BYTES,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": list_versions(PACKAGES),
    }
