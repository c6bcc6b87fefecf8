"""Winograd convolution of very few tiles with many weights, compiled: each task transforms the weights that it needs.

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
    COLUMNS,
    DEPTH,
    DISTINCT_WEIGHTS,
    KERNEL,
    PRODUCTS,
    all_tiles,
    finish_panel,
    matrix_elements,
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
def _multiply_panel(g, w, transposed, column, columns, v, scratch, u_at, m_at):
    """m[k] = v[k] G w G' for the columns of a panel and all tiles, a part of its depth at a time.

    Behind the transformed part is what is packed for it.
    """
    width, depth, size = panel_width(w), g[DEPTH], part_rows(g[DEPTH])
    tiles, ldv = all_tiles(g), padded_ld(depth)
    v_matrix, m_matrix = matrix_elements(tiles, ldv), matrix_elements(tiles, width)
    u_matrix = matrix_elements(size, width)
    packed_at = u_at + g[DISTINCT_WEIGHTS] * u_matrix
    inverse_products = inverse(g[PRODUCTS])
    for k_from in range(0, depth, size):
        d = min(size, depth - k_from)
        transform_panel(g, w, transposed, column, columns, k_from, d, scratch, u_at, u_matrix, scratch, packed_at, None)
        next_from, next_panel = (k_from + d, column) if k_from + d < depth else (0, column + width)
        for i in range(g[PRODUCTS]):
            k, weights = product_and_weights(g, i)
            if transposed:
                _prefetch_transposed(g, w, next_panel, next_from, size, i, inverse_products)
            multiply_block(
                tiles, columns, d, v, k * v_matrix + k_from, ldv, 1,
                scratch, u_at + weights * u_matrix, 0, scratch, m_at + k * m_matrix, width, k_from > 0,
            )  # fmt: skip


@kernel(
    "void(i8[::1], T[::1], bool_, i8, T[::1], T[::1], i8, T[::1], T[::1], i8, bool_, T[::1], bool_, "
    "T[::1], i8, T[::1], i8)",
    parallel=True,
)
def correlate_panels(
    g, w, transposed, kind, coefficients, z, ldz, v, y, ldy, accumulate, bias, rectify, sums, rows,
    scratch, scratch_stride,
):  # fmt: skip
    """y (+)= bias + the correlation of the inputs that `transform_inputs` wrote to `v`, all together, with the weights.

    The arguments are those of `correlate_tiles` and of `transform_weights`. Tasks are panels; a block is all tiles.
    """
    width = panel_width(y)
    for item in prange(block_count(g[COLUMNS], width)):
        column = np.int64(item) * width
        columns = min(width, g[COLUMNS] - column)
        m_at, m_matrix = np.int64(get_thread_id()) * scratch_stride, matrix_elements(all_tiles(g), width)
        u_at = m_at + g[PRODUCTS] * m_matrix  # the epilogue's place, once all is multiplied
        _multiply_panel(g, w, transposed, column, columns, v, scratch, u_at, m_at)
        finish_panel(
            g, 0, all_tiles(g), column, columns, scratch, m_at, m_matrix, kind, coefficients, z, ldz, y, ldy,
            accumulate, bias, rectify, sums, 0, 0, rows, scratch, u_at,
        )  # fmt: skip
