"""Kernels over a whole flat arena: the sum of its squares, and its running average."""

import numpy as np
from numba import prange

from cnnzoo.kernels.blocks import BLOCK_ELEMENTS, block_count
from cnnzoo.kernels.compile import kernel, worker


@worker
def _sum_squares(x):
    # Squares of float32 neither overflow in float64 nor vanish.
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i]) * np.float64(x[i])
    return total


@kernel("f8(T[::1], f8[::1])", parallel=True)
def sum_squares(x, partials):
    """Return the sum of x[i]^2, taken in float64.

    `partials` holds a sum a block, f8[block_count(x.size, BLOCK_ELEMENTS)]; the blocks are added in order.
    """
    blocks = block_count(x.size, BLOCK_ELEMENTS)
    for block in prange(blocks):
        first = np.int64(block) * BLOCK_ELEMENTS
        partials[block] = _sum_squares(x[first : min(first + BLOCK_ELEMENTS, x.size)])
    total = 0.0
    for k in range(blocks):
        total += partials[k]
    return total


@worker
def _average(average, x, share):
    share = x.dtype.type(share)
    for i in range(x.size):
        average[i] += share * (x[i] - average[i])


@kernel("void(T[::1], T[::1], f8)", parallel=True)
def average_update(average, x, share):
    """average += share (x - average), both of one length; the share is rounded to their type."""
    for block in prange(block_count(x.size, BLOCK_ELEMENTS)):
        first = np.int64(block) * BLOCK_ELEMENTS
        last = min(first + BLOCK_ELEMENTS, x.size)
        _average(average[first:last], x[first:last], share)
