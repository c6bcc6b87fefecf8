"""Winograd convolution of few tiles with many weights, compiled: one product of whole matrices at a time.

A block of tiles would meet transformed weights that fill no cache but the last, and read all of them. Where tiles are
few, they take less memory than the weights: here a product's inputs and weights lie in the second-level cache together,
and its sums go to memory. What the next product reads is asked for meanwhile.
"""

import numpy as np
from numba import get_thread_id, prange

from cnnzoo.kernels.blocks import block_count, padded_ld
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.gemm import multiply_block
from cnnzoo.kernels.prefetching import Region, inverse, part_of
from cnnzoo.kernels.simd import pointer
from cnnzoo.kernels.vectors import panel_width
from cnnzoo.kernels.winograd_passes import (
    BLOCK,
    COLUMNS,
    DEPTH,
    DISTINCT_WEIGHTS,
    IMAGES,
    PRODUCTS,
    TARGET_HEIGHT,
    TARGET_WIDTH,
    all_tiles,
    finish_panel,
    matrix_elements,
    product_and_weights,
)

CHUNK_DEPTH = 64  # terms that a product adds at a time: of a panel of weights, 8 KB that stay in the first-level cache


@worker
def _matrices(g, x):
    """Elements from one product's inputs, weights and sums to the next's."""
    depth, width, tiles = g[DEPTH], panel_width(x), all_tiles(g)
    return matrix_elements(tiles, padded_ld(depth)), matrix_elements(depth, width), matrix_elements(tiles, width)


@worker
def _multiply_chunk(g, columns, k_from, v, v_at, next_v, u, u_at, next_u, m, m_at):
    """Add rows k_from and up of the weights to a product's sums; the next chunk is asked for meanwhile.

    The product's inputs begin at ``v[v_at]``, its first panel of weights at ``u[u_at]`` and of sums at ``m[m_at]``.
    """
    depth, width, tiles, ldv = g[DEPTH], panel_width(u), all_tiles(g), padded_ld(g[DEPTH])
    _, u_matrix, m_matrix = _matrices(g, u)
    d, following = min(CHUNK_DEPTH, depth - k_from), min(CHUNK_DEPTH, depth)
    v_ahead = Region(pointer(v), next_v, ldv, tiles, following, False)
    inverse_panels = inverse(block_count(columns, width))
    for j in range(0, columns, width):
        panel = j // width
        u_ahead = Region(pointer(u), next_u + panel * g[DISTINCT_WEIGHTS] * u_matrix, width, following, width, False)
        multiply_block(
            tiles, min(width, columns - j), d, v, v_at + k_from, ldv, 1,
            u, u_at + panel * g[DISTINCT_WEIGHTS] * u_matrix + k_from * width, 0,
            m, m_at + panel * g[PRODUCTS] * m_matrix, width, k_from > 0,
            (u_ahead, part_of(v_ahead, panel, inverse_panels)),
        )  # fmt: skip


@kernel("void(i8[::1], T[::1], T[::1], i8, i8, T[::1])", parallel=True)
def multiply_products(g, v, u, columns, group, m):
    """m = (B' d B) u for all tiles and for `columns` columns of transformed weights: [panels][PRODUCTS][tiles][panel].

    `v` is what `transform_inputs` wrote for all tiles together. PAD elements follow each matrix. Tasks are matrices of
    weights by groups of `group` columns, a multiple of the panel width.
    """
    for item in prange(g[DISTINCT_WEIGHTS] * block_count(columns, group)):
        weights, j = np.int64(item) % g[DISTINCT_WEIGHTS], np.int64(item) // g[DISTINCT_WEIGHTS] * group
        depth, width = g[DEPTH], panel_width(u)
        v_matrix, u_matrix, m_matrix = _matrices(g, u)
        panel = j // width
        for i in range(g[PRODUCTS]):
            k, taken = product_and_weights(g, i)
            if taken == weights:
                after, after_weights = product_and_weights(g, min(i + 1, g[PRODUCTS] - 1))
                u_at = (panel * g[DISTINCT_WEIGHTS] + weights) * u_matrix
                for k_from in range(0, depth, CHUNK_DEPTH):
                    next_v, next_u = k * v_matrix + k_from + CHUNK_DEPTH, u_at + (k_from + CHUNK_DEPTH) * width
                    if k_from + CHUNK_DEPTH >= depth:
                        next_v, next_u = after * v_matrix, (panel * g[DISTINCT_WEIGHTS] + after_weights) * u_matrix
                    _multiply_chunk(
                        g, min(group, columns - j), k_from, v, k * v_matrix, next_v, u, u_at, next_u,
                        m, (panel * g[PRODUCTS] + k) * m_matrix,
                    )  # fmt: skip


@kernel(
    "void(i8[::1], T[::1], i8, i8, i8, T[::1], T[::1], i8, T[::1], i8, bool_, T[::1], bool_, T[::1], i8, T[::1], i8)",
    parallel=True,
)
def finish_products(
    g, m, first, columns, kind, coefficients, z, ldz, y, ldy, accumulate, bias, rectify, sums, rows_per_block,
    scratch, scratch_stride,
):  # fmt: skip
    """y (+)= bias + A' m A for columns first .. first + columns; the arguments are those of `correlate_tiles`.

    Tasks are blocks of tiles by panels.
    """
    width, size = panel_width(y), g[BLOCK]
    blocks = block_count(all_tiles(g), size)
    for item in prange(blocks * block_count(columns, width)):
        block, panel = np.int64(item) % blocks, np.int64(item) // blocks
        m_matrix = _matrices(g, y)[2]
        rows, first_row = g[IMAGES] * g[TARGET_HEIGHT] * g[TARGET_WIDTH], block * rows_per_block
        finish_panel(
            g, block * size, min(size, all_tiles(g) - block * size), first + panel * width,
            min(width, columns - panel * width), m, panel * g[PRODUCTS] * m_matrix + block * size * width, m_matrix,
            kind, coefficients, z, ldz, y, ldy, accumulate, bias, rectify, sums, block * 2 * g[COLUMNS], first_row,
            min(rows_per_block, rows - first_row), scratch, np.int64(get_thread_id()) * scratch_stride,
        )  # fmt: skip
