"""The weight gradient of Winograd convolution, compiled; see `winograd` for what it computes."""

import numpy as np
from numba import get_thread_id, prange

from cnnzoo.kernels.blocks import block_count, padded_ld
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.gemm import multiply_block
from cnnzoo.kernels.prefetching import Region, inverse, part_of, prefetch_region
from cnnzoo.kernels.simd import pointer
from cnnzoo.kernels.transforms import OUTPUT_GRADIENT, WEIGHT_GRADIENT, finish_stores, gather_tile, scatter_tile
from cnnzoo.kernels.vectors import panel_width
from cnnzoo.kernels.winograd_passes import (
    ACROSS,
    BLOCK,
    COLUMNS,
    DEPTH,
    DISTINCT_WEIGHTS,
    FORM,
    KERNEL,
    PAD,
    PRODUCTS,
    SOURCE_HEIGHT,
    SOURCE_WIDTH,
    STEP,
    TARGET_HEIGHT,
    TARGET_WIDTH,
    TILE,
    first_row_of_block,
    gather_inputs,
    product_and_weights,
    rows_of_block,
    tile_place,
)

TILES_DEPTH = 256  # tiles of a product before its sums are stored


@worker
def _gather_output_gradients(g, first, count, dy, lddy, column, columns, d, d_at, matrix, past_cache):
    """Write A dy A' for tiles first .. first + count as panels of [PRODUCTS][tiles][panel width].

    `matrix` elements lie between the matrices of two products; `past_cache` as for `gather_inputs`.
    """
    height, width, tile = g[TARGET_HEIGHT], g[TARGET_WIDTH], g[TILE]
    lanes = panel_width(dy)
    for c in range(0, columns, lanes):
        n, to = min(lanes, columns - c), d_at + c // lanes * g[PRODUCTS] * matrix
        image, i, j = tile_place(g, first)
        for t in range(count):
            h, w = i * tile, j * tile
            at = ((image * height + h) * width + w) * lddy + column + c
            if past_cache is not None:
                gather_tile(
                    OUTPUT_GRADIENT, g[FORM], dy, at, width * lddy, lddy, 0, height - h, 0, width - w, n,
                    False, dy, 0, 0, d, to + t * lanes, matrix, 1,
                )  # fmt: skip
            else:
                gather_tile(
                    OUTPUT_GRADIENT, g[FORM], dy, at, width * lddy, lddy, 0, height - h, 0, width - w, n,
                    False, dy, 0, 0, d, to + t * lanes, matrix, 0,
                )  # fmt: skip
            j += 1
            if j == g[ACROSS]:
                image, i, j = tile_place(g, first + t + 1)


@worker
def _distances(g, tiles, row_block, column_block, x):
    """Elements from one product's matrix to the next, and from one block of channels to the next, of V and of D."""
    width = panel_width(x)
    v_matrix, d_matrix = tiles * padded_ld(row_block) + PAD, tiles * width + PAD
    return v_matrix, g[PRODUCTS] * v_matrix, d_matrix, g[PRODUCTS] * d_matrix * block_count(column_block, width)


@kernel("void(i8[::1], i8, i8, T[::1], i8, i8, T[::1], T[::1], i8, i8, i8, T[::1], T[::1])", parallel=True)
def transform_pairs(g, first, tiles, x, ldx, kind, coefficients, dy, lddy, row_block, column_block, v, d):
    """Write B' d B of prologue(x) and A dy A' for tiles first .. first + tiles, as `correlate_tile_weights` takes them.

    `v` and `d` are aligned to vectors, and written past the caches, as `winograd_passes.transform_weights` writes.
    """
    row_blocks, column_blocks = block_count(g[DEPTH], row_block), block_count(g[COLUMNS], column_block)
    for item in prange(block_count(tiles, g[BLOCK]) * (row_blocks + column_blocks)):
        block, i = divmod(np.int64(item), row_blocks + column_blocks)
        begin = block * g[BLOCK]
        count = min(g[BLOCK], tiles - begin)
        v_matrix, v_block, d_matrix, d_block = _distances(g, tiles, row_block, column_block, x)
        if i < row_blocks:
            channel, ldv = i * row_block, padded_ld(row_block)
            gather_inputs(
                g, first + begin, count, x, ldx, kind, coefficients, channel, min(row_block, g[DEPTH] - channel),
                v, i * v_block + begin * ldv, ldv, v_matrix, True,
            )  # fmt: skip
        else:
            j = i - row_blocks
            column = j * column_block
            _gather_output_gradients(
                g, first + begin, count, dy, lddy, column, min(column_block, g[COLUMNS] - column),
                d, j * d_block + begin * panel_width(x), d_matrix, True,
            )  # fmt: skip
        finish_stores()


@worker
def _begins(g, index):
    """Tell whether the `index`-th product is the first of those that share its weights."""
    return index == 0 or product_and_weights(g, index)[1] != product_and_weights(g, index - 1)[1]


@worker
def _multiply_pairs(
    g, channels, columns, tiles, v, v_at, ldv, v_matrix, d, d_at, d_matrix, u, u_at, ldu, u_matrix
):  # fmt: skip
    """u = v' d, summed over tiles and over the products that share their weights."""
    for i in range(g[PRODUCTS]):
        k, weights = product_and_weights(g, i)
        for t in range(0, tiles, TILES_DEPTH):
            multiply_block(
                channels, columns, min(TILES_DEPTH, tiles - t), v, v_at + k * v_matrix + t * ldv, 1, ldv,
                d, d_at + k * d_matrix + t * panel_width(d), g[PRODUCTS] * d_matrix, u, u_at + weights * u_matrix, ldu,
                t > 0 or not _begins(g, i),
            )  # fmt: skip


@worker
def _transform_and_multiply(
    g, first, tiles, begin, end, x, ldx, kind, coefficients, dy, lddy, channel, channels, column, columns,
    u, u_at, ldu, u_matrix,
):  # fmt: skip
    """As `_multiply_pairs`, summed over blocks begin .. end of the tiles; behind u they are transformed one by one."""
    ldv = padded_ld(channels)
    v_matrix, v_block, d_matrix, _ = _distances(g, g[BLOCK], channels, columns, x)
    v_at = u_at + g[DISTINCT_WEIGHTS] * u_matrix
    d_at = v_at + v_block
    sources, targets = rows_of_block(g, g[STEP], g[SOURCE_WIDTH]), rows_of_block(g, g[TILE], g[TARGET_WIDTH])
    inverse_products = inverse(g[PRODUCTS])
    for block in range(begin, end):
        at, count = first + block * g[BLOCK], min(g[BLOCK], tiles - block * g[BLOCK])
        gather_inputs(g, at, count, x, ldx, kind, coefficients, channel, channels, u, v_at, ldv, v_matrix, None)
        _gather_output_gradients(g, at, count, dy, lddy, column, columns, u, d_at, d_matrix, None)
        next_block = at // g[BLOCK] + 1
        x_at = first_row_of_block(g, next_block, g[STEP], g[SOURCE_HEIGHT], g[SOURCE_WIDTH]) * ldx + channel
        dy_at = first_row_of_block(g, next_block, g[TILE], g[TARGET_HEIGHT], g[TARGET_WIDTH]) * lddy + column
        next_x = Region(pointer(x), x_at, ldx, sources, channels, False)
        next_dy = Region(pointer(dy), dy_at, lddy, targets, columns, False)
        for i in range(g[PRODUCTS]):
            k, weights = product_and_weights(g, i)
            prefetch_region(part_of(next_x, i, inverse_products), x.itemsize)
            prefetch_region(part_of(next_dy, i, inverse_products), x.itemsize)
            multiply_block(
                channels, columns, count, u, v_at + k * v_matrix, 1, ldv, u, d_at + k * d_matrix,
                g[PRODUCTS] * d_matrix, u, u_at + weights * u_matrix, ldu, block > begin or not _begins(g, i),
            )  # fmt: skip


@worker
def _scatter_weight_gradient(g, u, u_at, ldu, matrix, channel, channels, column, columns, out, out_at, add):
    """out[kernel, kernel, channels, columns] (+)= G' u G."""
    n, all_columns = g[KERNEL], g[COLUMNS]
    tap = g[DEPTH] * all_columns
    for c in range(channels):
        at = out_at + (channel + c) * all_columns + column
        scatter_tile(
            WEIGHT_GRADIENT, g[FORM], u, u_at + c * ldu, matrix, out, at, n * tap, tap, n, n, columns, add, u, 0,
            False, False,
        )  # fmt: skip


@kernel(
    "void(i8[::1], i8, i8, T[::1], i8, i8, T[::1], T[::1], i8, T[::1], T[::1], T[::1], bool_, i8, i8, i8, T[::1], "
    "T[::1], i8)",
    parallel=True,
)
def correlate_tile_weights(
    g, first, tiles, x, ldx, kind, coefficients, dy, lddy, v, d, dw, accumulate, row_block, column_block, slots,
    slot_sums, scratch, scratch_stride,
):  # fmt: skip
    """dw[kernel, kernel, in, out] (+)= G' [sum over tiles of (B' d B)' (A dy A')] G, d from prologue(x).

    The sum is over tiles first .. first + tiles. `v` and `d` are what `transform_pairs` wrote, or empty: then each task
    transforms its own, a block of tiles at a time. Tasks are slots, fixed ranges of tiles, by blocks of `row_block` x
    `column_block` channels. A single slot writes, or adds, to dw, several to `slot_sums`, [slots] of dw's size.
    """
    row_blocks, column_blocks = block_count(g[DEPTH], row_block), block_count(g[COLUMNS], column_block)
    for item in prange(slots * row_blocks * column_blocks):
        slot, block = divmod(np.int64(item), row_blocks * column_blocks)
        i, j = divmod(block, column_blocks)
        channel, column = i * row_block, j * column_block
        channels, columns = min(row_block, g[DEPTH] - channel), min(column_block, g[COLUMNS] - column)
        out, out_at = dw if slots == 1 else slot_sums, slot * dw.size
        ldu = block_count(columns, panel_width(x)) * panel_width(x)
        u_at, u_matrix = np.int64(get_thread_id()) * scratch_stride, channels * ldu + PAD
        if v.size > 0:
            v_matrix, v_block, d_matrix, d_block = _distances(g, tiles, row_block, column_block, x)
            begin, end, ldv = slot * tiles // slots, (slot + 1) * tiles // slots, padded_ld(row_block)
            _multiply_pairs(
                g, channels, columns, end - begin, v, i * v_block + begin * ldv, ldv, v_matrix,
                d, j * d_block + begin * panel_width(x), d_matrix, scratch, u_at, ldu, u_matrix,
            )  # fmt: skip
        else:
            blocks = block_count(tiles, g[BLOCK])
            _transform_and_multiply(
                g, first, tiles, slot * blocks // slots, (slot + 1) * blocks // slots, x, ldx, kind, coefficients,
                dy, lddy, channel, channels, column, columns, scratch, u_at, ldu, u_matrix,
            )  # fmt: skip
        _scatter_weight_gradient(
            g, scratch, u_at, ldu, u_matrix, channel, channels, column, columns, out, out_at, accumulate
        )
