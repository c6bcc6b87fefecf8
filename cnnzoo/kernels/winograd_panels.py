"""Winograd convolution of few tiles with many weights, compiled: each task transforms the weights that it needs.

Transformed weights are four times as many as plain ones and more. Where each meets few tiles, to write and to read them
takes longer than to make them; so they are made a part of a panel at a time, in cache, and never leave it.
"""

import numpy as np
from numba import get_thread_id, prange
from numba.extending import register_jitable

from cnnzoo.kernels.blocks import block_count, padded_ld
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.gemm import multiply_block
from cnnzoo.kernels.prefetching import Region, inverse, part_of, prefetch_region
from cnnzoo.kernels.simd import pointer
from cnnzoo.kernels.vectors import panel_width
from cnnzoo.kernels.winograd_passes import (
    BLOCK,
    COLUMNS,
    DEPTH,
    DISTINCT_WEIGHTS,
    IMAGES,
    KERNEL,
    PAD,
    PRODUCTS,
    TARGET_HEIGHT,
    TARGET_WIDTH,
    all_tiles,
    block_elements,
    finish_panel,
    product_and_weights,
    transform_panel,
)

LARGEST_PART = 128  # rows of a panel that are transformed at a time: 590 KB with 36 products


@register_jitable
def part_rows(depth):
    """Return how many rows of a panel are transformed at a time; callable from Python and from kernels."""
    return block_count(depth, block_count(depth, LARGEST_PART))


@worker
def _prefetch_transposed(g, w, column, k_from, rows, part, inverse_parts):
    """Ask for a part of the transposed weights of a panel's rows from k_from on."""
    taps, tap = g[KERNEL] * g[KERNEL], g[DEPTH] * g[COLUMNS]
    for t in range(taps):
        region = Region(pointer(w), t * tap + column * g[DEPTH] + k_from, g[DEPTH], panel_width(w), rows, False)
        prefetch_region(part_of(region, part, inverse_parts), w.itemsize)


@worker
def _multiply_panel(g, count, w, transposed, column, columns, next_column, v, v_at, scratch, u_at, m_at):
    """m[k] = v[k] G w G' for the columns of a panel, a part of its depth at a time, as `v` has them.

    Behind the transformed part is what is packed for it. The next task's panel begins with `next_column`.
    """
    width, depth, size = panel_width(w), g[DEPTH], part_rows(g[DEPTH])
    v_matrix, v_part = block_elements(g, size)
    m_matrix, u_matrix = g[BLOCK] * width + PAD, size * width + PAD
    packed_at = u_at + g[DISTINCT_WEIGHTS] * u_matrix
    inverse_products = inverse(g[PRODUCTS])
    for k_from in range(0, depth, size):
        d = min(size, depth - k_from)
        transform_panel(g, w, transposed, column, columns, k_from, d, scratch, u_at, u_matrix, scratch, packed_at, None)
        next_from, next_panel = (k_from + d, column) if k_from + d < depth else (0, next_column)
        for i in range(g[PRODUCTS]):
            k, weights = product_and_weights(g, i)
            if transposed:
                _prefetch_transposed(g, w, next_panel, next_from, size, i, inverse_products)
            multiply_block(
                count, columns, d, v, v_at + k * v_matrix + k_from // size * v_part, padded_ld(size), 1,
                scratch, u_at + weights * u_matrix, 0, scratch, m_at + k * m_matrix, width, k_from > 0,
            )  # fmt: skip


@kernel(
    "void(i8[::1], T[::1], bool_, i8, T[::1], T[::1], i8, T[::1], T[::1], i8, bool_, T[::1], bool_, "
    "T[::1], i8, T[::1], i8)",
    parallel=True,
)
def correlate_panels(
    g, w, transposed, kind, coefficients, z, ldz, v, y, ldy, accumulate, bias, rectify, sums,
    rows_per_block, scratch, scratch_stride,
):  # fmt: skip
    """y (+)= bias + the correlation of the inputs that `transform_inputs` wrote to `v` with the weights.

    The arguments are those of `correlate_tiles` and of `transform_weights`. Tasks are panels by blocks of tiles: those
    of a panel come one after the other, and find its weights in the cache.
    """
    width, blocks = panel_width(y), block_count(all_tiles(g), g[BLOCK])
    for item in prange(block_count(g[COLUMNS], width) * blocks):
        panel, block = np.int64(item) // blocks, np.int64(item) % blocks
        column, first = panel * width, block * g[BLOCK]
        columns, count = min(width, g[COLUMNS] - column), min(g[BLOCK], all_tiles(g) - first)
        m_at = np.int64(get_thread_id()) * scratch_stride
        u_at = m_at + g[PRODUCTS] * (g[BLOCK] * width + PAD)  # the epilogue's place, once all is multiplied
        size = part_rows(g[DEPTH])
        v_at = block * block_count(g[DEPTH], size) * block_elements(g, size)[1]
        next_column = column if block + 1 < blocks else column + width
        _multiply_panel(g, count, w, transposed, column, columns, next_column, v, v_at, scratch, u_at, m_at)
        first_row, sums_at = block * rows_per_block, block * 2 * g[COLUMNS]
        rows = min(rows_per_block, g[IMAGES] * g[TARGET_HEIGHT] * g[TARGET_WIDTH] - first_row)
        finish_panel(
            g, first, count, column, columns, scratch, m_at, kind, coefficients, z, ldz, y, ldy, accumulate, bias,
            rectify, sums, sums_at, first_row, rows,
        )  # fmt: skip
