"""Kernels that move or add pixel matrices: sum of two, copy, column sums, and the change of layout at the input."""

import numpy as np
from numba import prange

from cnnzoo.kernels.blocks import STRIP, block_count, block_rows, row
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.simd import add, lanes, load, pointer, store


@worker
def _add_rows(a, lda, b, ldb, y, ldy, first, last, channels):
    for r in range(first, last):
        for c in range(0, channels, lanes(y)):
            n = channels - c
            store(y, r * ldy + c, n, add(load(a, r * lda + c, n), load(b, r * ldb + c, n)))


@kernel("void(T[::1], i8, T[::1], i8, T[::1], i8, i8, i8)", parallel=True)
def add_forward(a, lda, b, ldb, y, ldy, rows, channels):
    """y = a + b for pixel matrices of one shape; y may be a or b. Its backward is `copy_rows` of dy to each."""
    size = block_rows(channels)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        last = min(first + size, rows)
        _add_rows(pointer(a), lda, pointer(b), ldb, pointer(y), ldy, first, last, channels)


@worker
def _copy_rows(x, ldx, y, ldy, rows, channels, accumulate):
    for r in range(rows):
        xr, yr = row(x, ldx, r, channels), row(y, ldy, r, channels)
        if accumulate:
            for c in range(channels):
                yr[c] += xr[c]
        else:
            for c in range(channels):
                yr[c] = xr[c]


@kernel("void(T[::1], i8, T[::1], i8, i8, i8, bool_)", parallel=True)
def copy_rows(x, ldx, y, ldy, rows, channels, accumulate):
    """y = x, or y += x if `accumulate`; x and y do not overlap."""
    size = block_rows(channels)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        _copy_rows(x[first * ldx :], ldx, y[first * ldy :], ldy, min(size, rows - first), channels, accumulate)


@worker
def column_sums(x, ldx, rows, channels, sums):
    """sums[c] = sum over r of x[r, c], in the order of the rows."""
    px, p = pointer(x), pointer(sums)
    sums[:] = 0
    for start in range(0, rows, STRIP):
        for c in range(0, channels, lanes(px)):
            n = channels - c
            total = load(p, c, n)
            for r in range(start, min(start + STRIP, rows)):
                total = add(total, load(px, r * ldx + c, n))
            store(p, c, n, total)


@worker
def add_partials(partials, blocks, y, accumulate):
    """y[c] (+)= the sum of partials[blocks, channels], the blocks in order, in float64."""
    channels = y.size
    for c in range(channels):
        total = np.float64(y[c]) if accumulate else 0.0
        for block in range(blocks):
            total += partials[block * channels + c]
        y[c] = total


@kernel("void(T[::1], i8, i8, i8, T[::1], T[::1], bool_)", parallel=True)
def sum_rows(x, ldx, rows, channels, partials, y, accumulate):
    """y[c] = sum over r of x[r, c], or y[c] += it if `accumulate`: a bias's gradient.

    `partials` holds a sum a block and channel, T[block_count(rows, block_rows(channels)) * channels]; the blocks are
    added in order, in float64.
    """
    size = block_rows(channels)
    blocks = block_count(rows, size)
    for block in prange(blocks):
        first = np.int64(block) * size
        column_sums(x[first * ldx :], ldx, min(size, rows - first), channels, row(partials, channels, block, channels))
    add_partials(partials, blocks, y, accumulate)


@worker
def _interleave(x, y, ldy, channels, pixels):
    for c in range(channels):
        for p in range(pixels):
            y[p * ldy + c] = x[c * pixels + p]


@kernel("void(T[::1], T[::1], i8, i8, i8, i8)", parallel=True)
def nchw_to_nhwc(x, y, ldy, images, channels, pixels):
    """Rows y[n * pixels + p] of `channels` values = x[n, c, p] of the public face's [N, C, H, W], pixels = H * W."""
    size = block_rows(channels * pixels)
    for block in prange(block_count(images, size)):
        first = np.int64(block) * size
        for n in range(first, min(first + size, images)):
            _interleave(x[n * channels * pixels :], y[n * pixels * ldy :], ldy, channels, pixels)
