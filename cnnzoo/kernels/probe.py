"""What the machine gives at best: the register tile on operands in cache, and passes over memory with denormal numbers.

The kernels here compute nothing of use.
"""

from numba import prange

from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.gemm import multiply_block
from cnnzoo.kernels.vectors import panel_width

PROBE_ROWS, PROBE_DEPTH = 24, 128  # a multiple of every TILE_ROWS; A and a panel of B lie in the first-level cache


@kernel("void(i8, i8, T[::1], T[::1], T[::1])", parallel=True)
def multiply_in_cache(tasks, repeats, a, panel, c):
    """Add A[PROBE_ROWS, PROBE_DEPTH] B to each task's own C, `repeats` times; B is one panel.

    c is T[tasks * PROBE_ROWS * panel width].
    """
    for task in prange(tasks):
        width = panel_width(c)
        at = task * PROBE_ROWS * width
        for _ in range(repeats):
            multiply_block(PROBE_ROWS, width, PROBE_DEPTH, a, 0, PROBE_DEPTH, 1, panel, 0, 0, c, at, width, True)


@worker
def _fade(x, factor, steps, y):
    real = x.dtype.type(factor)
    for _ in range(steps):
        for i in range(x.size):
            y[i] = y[i] * real + x[i]


@kernel("void(T[::1], f8, i8, T[::1])")
def fade_with_denormals(x, factor, steps, y):
    """y = factor y + x, `steps` times, in the caller's mode: with denormal numbers unless that flushes them."""
    _fade(x, factor, steps, y)


@kernel("void(T[::1], f8, i8, T[::1])", parallel=True)
def fade_with_zeros(x, factor, steps, y):
    """Do the same in one task, which takes denormal numbers as zero."""
    for _task in prange(1):
        _fade(x, factor, steps, y)
