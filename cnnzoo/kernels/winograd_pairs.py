"""The weight gradient of Winograd convolution with many channels, compiled; see `winograd` for what it computes.

All inputs and output gradients are transformed once and written to memory, then each matrix of transformed weights gets
its sums as one product over all tiles; `winograd_weights` transforms again for each block of channels. What a product
reads comes from memory. So it lies in panels, as the register tile reads it, a chunk of tiles is small enough for a
panel to stay in the first-level cache, and the next chunk is asked for a few lines at a time meanwhile.
"""

import numpy as np
from numba import prange
from numba.extending import register_jitable

from cnnzoo.kernels.blocks import block_count
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.gemm import multiply_block
from cnnzoo.kernels.prefetching import part_of_runs, run_at
from cnnzoo.kernels.transforms import finish_stores
from cnnzoo.kernels.vectors import TILE_ROWS, panel_width
from cnnzoo.kernels.winograd_passes import (
    BLOCK,
    COLUMNS,
    DEPTH,
    DISTINCT_WEIGHTS,
    PRODUCTS,
    gather_inputs,
    matrix_elements,
    product_and_weights,
)
from cnnzoo.kernels.winograd_weights import gather_output_gradients, scatter_weight_gradient

INPUT_PANEL = 4 * TILE_ROWS  # channels of a panel of transformed inputs: whole register tiles, and whole vectors
CHUNK_TILES = 64  # terms that a product adds at a time: of a panel of inputs, 12 KB with AVX-512
TASK_PANELS = 4  # panels of channels that one task transforms
SCATTERED_CHANNELS = 4  # input channels whose sums one task transforms


@register_jitable
def panels_elements(channels, width, tiles):
    """Return the elements from one product's matrix of `tiles` tiles, in panels of `width`, to the next's."""
    return matrix_elements(block_count(channels, width) * tiles, width)


@kernel("void(i8[::1], i8, i8, T[::1], i8, i8, T[::1], T[::1], i8, T[::1], T[::1])", parallel=True)
def transform_pairs(g, first, tiles, x, ldx, kind, coefficients, dy, lddy, v, d):
    """Write B' d B of prologue(x) and A dy A' for tiles first .. first + tiles: [PRODUCTS][panels][tiles][panel].

    `v` and `d` are aligned to vectors, and written past the caches, as `winograd_passes.transform_weights` writes. A
    panel has INPUT_PANEL channels of x, or a panel width of dy's. PAD elements follow each product's matrix. Tasks are
    blocks of tiles by TASK_PANELS panels of either.
    """
    height, width = INPUT_PANEL, panel_width(x)
    v_matrix, d_matrix = panels_elements(g[DEPTH], height, tiles), panels_elements(g[COLUMNS], width, tiles)
    pieces = block_count(g[DEPTH], TASK_PANELS * height)
    all_pieces = pieces + block_count(g[COLUMNS], TASK_PANELS * width)
    for item in prange(block_count(tiles, g[BLOCK]) * all_pieces):
        block, piece = divmod(np.int64(item), all_pieces)
        begin = block * g[BLOCK]
        count = min(g[BLOCK], tiles - begin)
        if piece < pieces:
            first_channel = piece * TASK_PANELS * height
            for channel in range(first_channel, min(first_channel + TASK_PANELS * height, g[DEPTH]), height):
                gather_inputs(
                    g, first + begin, count, x, ldx, kind, coefficients, channel, min(height, g[DEPTH] - channel),
                    v, channel * tiles + begin * height, height, v_matrix, True,
                )  # fmt: skip
        else:
            first_column = (piece - pieces) * TASK_PANELS * width
            for column in range(first_column, min(first_column + TASK_PANELS * width, g[COLUMNS]), width):
                gather_output_gradients(
                    g, first + begin, count, dy, lddy, column, min(width, g[COLUMNS] - column),
                    d, column * tiles + begin * width, d_matrix, True,
                )  # fmt: skip
        finish_stores()


@worker
def _multiply_chunk(g, columns, tiles, count, v, v_at, next_v, d, d_at, next_d, u, u_at, ldu, add):
    """u[DEPTH, columns] (+)= v' d over `count` tiles, of `tiles` in all; the next chunk is asked for meanwhile.

    A product asks for one run of memory, by turns for a part of the inputs' panel and of the gradients'. Where there is
    but one panel of the one, not all of the other is asked for.
    """
    depth, height, width = g[DEPTH], INPUT_PANEL, panel_width(u)
    chunk, rows, panels = min(CHUNK_TILES, tiles), block_count(depth, height), block_count(columns, width)
    for i in range(rows):
        for j in range(panels):
            if (i + j) % 2 == 0:
                panel = run_at(v, next_v + i * height * tiles, chunk * height)
                run = part_of_runs((panel,), j // 2, (panels + 1 - i % 2) // 2)
            else:
                panel = run_at(d, next_d + j * width * tiles, chunk * width)
                run = part_of_runs((panel,), i // 2, (rows + j % 2) // 2)
            multiply_block(
                min(height, depth - i * height), min(width, columns - j * width), count,
                v, v_at + i * height * tiles, 1, height, d, d_at + j * width * tiles, 0,
                u, u_at + i * height * ldu + j * width, ldu, add, None, run,
            )  # fmt: skip


@kernel("void(i8[::1], i8, T[::1], T[::1], i8, i8, i8, T[::1], bool_)", parallel=True)
def multiply_pairs(g, tiles, v, d, first, columns, group, u, accumulate):
    """u (+)= (B' d B)' (A dy A'), summed over the tiles of `v` and `d`: [DISTINCT_WEIGHTS][DEPTH][columns].

    The columns are first .. first + columns of dy, those of u whole panels; PAD elements follow each matrix. Tasks are
    matrices by groups of `group` columns, as `first` a multiple of the panel width.
    """
    for item in prange(g[DISTINCT_WEIGHTS] * block_count(columns, group)):
        weights, j = np.int64(item) % g[DISTINCT_WEIGHTS], np.int64(item) // g[DISTINCT_WEIGHTS] * group
        height, width = INPUT_PANEL, panel_width(u)
        v_matrix, d_matrix = panels_elements(g[DEPTH], height, tiles), panels_elements(g[COLUMNS], width, tiles)
        ldu = block_count(columns, width) * width
        u_at, add = weights * matrix_elements(g[DEPTH], ldu) + j, accumulate
        for i in range(g[PRODUCTS]):
            k, taken = product_and_weights(g, i)
            if taken == weights:
                following = product_and_weights(g, min(i + 1, g[PRODUCTS] - 1))[0]
                for t in range(0, tiles, CHUNK_TILES):
                    count = min(CHUNK_TILES, tiles - t)
                    v_at, d_at = k * v_matrix + t * height, k * d_matrix + (first + j) * tiles + t * width
                    next_v, next_d = v_at + count * height, d_at + count * width
                    if t + count == tiles:
                        next_v, next_d = following * v_matrix, following * d_matrix + (first + j) * tiles
                    _multiply_chunk(
                        g, min(group, columns - j), tiles, count, v, v_at, next_v, d, d_at, next_d, u, u_at, ldu, add
                    )
                    add = True


@kernel("void(i8[::1], T[::1], i8, i8, T[::1], bool_)", parallel=True)
def transform_sums(g, u, first, columns, dw, accumulate):
    """dw[kernel, kernel, DEPTH, COLUMNS] (+)= G' u G for the columns that `multiply_pairs` summed."""
    for item in prange(block_count(g[DEPTH], SCATTERED_CHANNELS)):
        channel = np.int64(item) * SCATTERED_CHANNELS
        ldu = block_count(columns, panel_width(u)) * panel_width(u)
        count = min(SCATTERED_CHANNELS, g[DEPTH] - channel)
        scatter_weight_gradient(
            g, u, channel * ldu, ldu, matrix_elements(g[DEPTH], ldu), channel, count, first, columns, dw, 0, accumulate
        )  # fmt: skip
