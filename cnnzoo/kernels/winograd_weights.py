"""The weight gradient of Winograd convolution with few channels, compiled; see `winograd` for what it computes."""

import numpy as np
from numba import get_thread_id, prange

from cnnzoo.kernels.blocks import block_count, padded_ld
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.gemm import multiply_block
from cnnzoo.kernels.prefetching import (
    CACHE_LINE,
    Region,
    Run,
    are_asked_for,
    inverse,
    part_of,
    part_of_runs,
    prefetch_region,
    run_of,
)
from cnnzoo.kernels.simd import pointer
from cnnzoo.kernels.transforms import OUTPUT_GRADIENT, WEIGHT_GRADIENT, gather_tile, scatter_tile
from cnnzoo.kernels.vectors import TILE_ROWS, panel_width
from cnnzoo.kernels.winograd_passes import (
    ACROSS,
    BLOCK,
    COLUMNS,
    DEPTH,
    DISTINCT_WEIGHTS,
    FORM,
    KERNEL,
    PRODUCTS,
    SOURCE_HEIGHT,
    SOURCE_WIDTH,
    STEP,
    TARGET_HEIGHT,
    TARGET_WIDTH,
    TILE,
    all_tiles,
    first_row_of_block,
    gather_inputs,
    matrix_elements,
    product_and_weights,
    rows_of_block,
    tile_place,
)


@worker
def gather_output_gradients(g, first, count, dy, lddy, column, columns, d, d_at, matrix, past_cache):
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
def _begins(g, index):
    """Tell whether the `index`-th product is the first of those that share its weights."""
    return index == 0 or product_and_weights(g, index)[1] != product_and_weights(g, index - 1)[1]


@worker
def _transform_and_multiply(
    g, begin, end, x, ldx, kind, coefficients, dy, lddy, channel, channels, column, columns, u, u_at, ldu, u_matrix
):  # fmt: skip
    """u = (B' d B)' (A dy A'), summed over blocks begin .. end of the tiles and products that share their weights.

    Behind u the blocks are transformed one by one.
    """
    width, ldv = panel_width(x), padded_ld(channels)
    v_matrix, d_matrix = matrix_elements(g[BLOCK], ldv), matrix_elements(g[BLOCK], width)
    v_at = u_at + g[DISTINCT_WEIGHTS] * u_matrix
    d_at = v_at + g[PRODUCTS] * v_matrix
    sources, targets = rows_of_block(g, g[STEP], g[SOURCE_WIDTH]), rows_of_block(g, g[TILE], g[TARGET_WIDTH])
    products = g[PRODUCTS]
    inverse_products = inverse(products)
    lines = products * (channels // TILE_ROWS) * block_count(columns, width) * g[BLOCK]  # that products can ask for
    for block in range(begin, end):
        at, count = block * g[BLOCK], min(g[BLOCK], all_tiles(g) - block * g[BLOCK])
        gather_inputs(g, at, count, x, ldx, kind, coefficients, channel, channels, u, v_at, ldv, v_matrix, None)
        gather_output_gradients(g, at, count, dy, lddy, column, columns, u, d_at, d_matrix, None)
        x_at = first_row_of_block(g, block + 1, g[STEP], g[SOURCE_HEIGHT], g[SOURCE_WIDTH]) * ldx + channel
        dy_at = first_row_of_block(g, block + 1, g[TILE], g[TARGET_HEIGHT], g[TARGET_WIDTH]) * lddy + column
        next_x = Region(pointer(x), x_at, ldx, sources, channels, False)
        next_dy = Region(pointer(dy), dy_at, lddy, targets, columns, False)
        runs = run_of(next_x, x.itemsize), run_of(next_dy, x.itemsize)
        # A run is better even where half of it is for another task's channels.
        are_runs = ldx <= 2 * channels and lddy <= 2 * columns
        are_runs = are_runs and are_asked_for(runs, Run(0, 0), 1, lines * CACHE_LINE)
        for i in range(products):
            k, weights = product_and_weights(g, i)
            run = part_of_runs(runs, i, products)
            if not are_runs:
                run = Run(run.start, 0)
                prefetch_region(part_of(next_x, i, inverse_products), x.itemsize)
                prefetch_region(part_of(next_dy, i, inverse_products), x.itemsize)
            multiply_block(
                channels, columns, count, u, v_at + k * v_matrix, 1, ldv, u, d_at + k * d_matrix,
                products * d_matrix, u, u_at + weights * u_matrix, ldu, block > begin or not _begins(g, i), None, run,
            )  # fmt: skip


@worker
def scatter_weight_gradient(g, u, u_at, ldu, matrix, channel, channels, column, columns, out, out_at, add):
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
    "void(i8[::1], T[::1], i8, i8, T[::1], T[::1], i8, T[::1], bool_, i8, i8, i8, T[::1], T[::1], i8)", parallel=True
)
def correlate_tile_weights(
    g, x, ldx, kind, coefficients, dy, lddy, dw, accumulate, row_block, column_block, slots, slot_sums,
    scratch, scratch_stride,
):  # fmt: skip
    """dw[kernel, kernel, in, out] (+)= G' [sum over tiles of (B' d B)' (A dy A')] G, d from prologue(x).

    Tasks are slots, fixed ranges of tiles, by blocks of `row_block` x `column_block` channels; each transforms its
    tiles, a block at a time. A single slot writes, or adds, to dw, several to `slot_sums`, [slots] of dw's size.
    `scratch` holds `scratch_stride` elements a thread.
    """
    row_blocks, column_blocks = block_count(g[DEPTH], row_block), block_count(g[COLUMNS], column_block)
    for item in prange(slots * row_blocks * column_blocks):
        slot, rest = divmod(np.int64(item), row_blocks * column_blocks)
        i, j = divmod(rest, column_blocks)
        channel, column = i * row_block, j * column_block
        channels, columns = min(row_block, g[DEPTH] - channel), min(column_block, g[COLUMNS] - column)
        out, out_at = dw if slots == 1 else slot_sums, slot * dw.size
        ldu = block_count(columns, panel_width(x)) * panel_width(x)
        u_at, u_matrix = np.int64(get_thread_id()) * scratch_stride, matrix_elements(channels, ldu)
        blocks = block_count(all_tiles(g), g[BLOCK])
        _transform_and_multiply(
            g, slot * blocks // slots, (slot + 1) * blocks // slots, x, ldx, kind, coefficients, dy, lddy,
            channel, channels, column, columns, scratch, u_at, ldu, u_matrix,
        )  # fmt: skip
        scatter_weight_gradient(
            g, scratch, u_at, ldu, u_matrix, channel, channels, column, columns, out, out_at, accumulate
        )
