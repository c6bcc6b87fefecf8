"""Winograd convolution forward and its input gradient, compiled; see `winograd` for what they compute."""

import numpy as np
from numba import get_thread_id, prange
from numba.extending import register_jitable

from cnnzoo.kernels.batch_norm import batch_norm_gradient_block, block_statistics
from cnnzoo.kernels.blocks import block_count, padded_ld
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.convolution import SCALE_MASKED, SCALE_SHIFT_RELU
from cnnzoo.kernels.gemm import multiply_block, pack_columns
from cnnzoo.kernels.prefetching import (
    CACHE_LINE,
    Region,
    are_asked_for,
    is_run,
    prefetch_region,
    regions_ahead,
    run_ahead,
    run_at,
    run_of,
)
from cnnzoo.kernels.simd import pointer
from cnnzoo.kernels.transforms import (
    INPUT,
    OUTPUT,
    WEIGHTS,
    finish_stores,
    gather_tile,
    scatter_tile,
)
from cnnzoo.kernels.vectors import TILE_ROWS, panel_width

PAD = 16  # elements between the matrices of neighboring products: equal places then fall on different cache sets
WEIGHT_DEPTH = 32  # rows of weights that one task transforms
ROWS_AHEAD = 4  # rows of weights asked for before they are transformed: more fall out of the cache, where taps collide
INPUT_CHANNELS = 128  # channels of a block of tiles that one task transforms; a multiple of every vector

# A convolution's geometry travels as one int64 array; these are its fields. FORM is the algorithm, of PRODUCTS matrix
# products with DISTINCT_WEIGHTS matrices of weights, whose tiles are TILE x TILE pixels of the target and read windows
# of the source that lie STEP apart. The source has DEPTH channels, the target COLUMNS. DOWN x ACROSS tiles make an
# image; a block is BLOCK of them, in the order of images, rows and columns.
(
    KERNEL, IMAGES, SOURCE_HEIGHT, SOURCE_WIDTH, DEPTH, TARGET_HEIGHT, TARGET_WIDTH, COLUMNS, PADDING,
    DOWN, ACROSS, BLOCK, FORM, PRODUCTS, DISTINCT_WEIGHTS, TILE, STEP,
) = range(17)  # fmt: skip
ORDER = 17  # the products and the weights of each follow, in the order of `forms.Form.order`


@register_jitable
def matrix_elements(rows, ld):
    """Return the elements from one product's matrix, whose `rows` lie `ld` apart, to the next's; callable from both."""
    return rows * ld + PAD


@worker
def all_tiles(g):
    """The tiles of a batch."""
    return g[IMAGES] * g[DOWN] * g[ACROSS]


@worker
def product_and_weights(g, index):
    """Return which product is done `index`-th, and the weights that it takes."""
    return g[ORDER + 2 * index], g[ORDER + 2 * index + 1]


@worker
def tile_place(g, tile):
    """Return image, row and column of a tile, the latter two in tiles."""
    image, rest = divmod(tile, g[DOWN] * g[ACROSS])
    i, j = divmod(rest, g[ACROSS])
    return image, i, j


@worker
def _gather_weights(g, w, at, row_stride, column_stride, count, u, to, matrix, past_cache):
    n = g[KERNEL]
    if past_cache is not None:  # Numba compiles the branch that is taken, and the other one not at all
        gather_tile(
            WEIGHTS, g[FORM], w, at, row_stride, column_stride, 0, n, 0, n, count, False, w, 0, 0, u, to, matrix, 1
        )  # fmt: skip
    else:
        gather_tile(
            WEIGHTS, g[FORM], w, at, row_stride, column_stride, 0, n, 0, n, count, False, w, 0, 0, u, to, matrix, 0
        )  # fmt: skip


@worker
def transform_panel(g, w, transposed, column, count, k_from, k_count, u, to, matrix, scratch, at, past_cache):
    """Write G w G' for rows k_from .. k_from + k_count and the `count` columns of a panel; `w` as `transform_weights`.

    Row k of the first matrix goes to ``u[to + k * panel width]``, and `matrix` elements lie between these.
    Transposed weights are packed at ``scratch[at]`` first. `past_cache` is True or None, as for `gather_inputs`.
    """
    kernel_size, depth, width = g[KERNEL], g[DEPTH], panel_width(w)
    taps, tap, ldw = kernel_size * kernel_size, depth * g[COLUMNS], depth if transposed else g[COLUMNS]
    if transposed:
        size = k_count * width
        for t in range(taps):
            pack_columns(k_count, count, w, t * tap + column * ldw + k_from, ldw, scratch, at + t * size, size)
        last_tap = at + (taps - 1) * size
        for k in range(k_count):
            to_k = to + k * width
            _gather_weights(
                g, scratch, last_tap + k * width, -kernel_size * size, -size, count, u, to_k, matrix, past_cache
            )
    else:
        for k in range(k_count):
            at_k = (k_from + k) * ldw + column
            prefetch_region(Region(pointer(w), at_k + ROWS_AHEAD * ldw, tap, taps, count, False), w.itemsize)
            _gather_weights(g, w, at_k, kernel_size * tap, tap, count, u, to + k * width, matrix, past_cache)


@kernel("void(i8[::1], T[::1], bool_, i8, i8, T[::1], T[::1], i8)", parallel=True)
def transform_weights(g, w, transposed, first, columns, u, scratch, scratch_stride):
    """u = G w G' for columns first .. first + columns: panels of [DISTINCT_WEIGHTS][DEPTH][panel width].

    PAD elements follow each matrix.
    `w` is [kernel, kernel, DEPTH, COLUMNS]; or, if `transposed`, [kernel, kernel, COLUMNS, DEPTH], and taken rotated by
    half a turn. `first` is a multiple of the panel width, and `u` is aligned to vectors: it is written past the caches,
    since to write what another core has read lately takes ten times as long.
    """
    depth, width = g[DEPTH], panel_width(w)
    chunks = block_count(depth, WEIGHT_DEPTH)
    matrix = matrix_elements(depth, width)
    for item in prange(block_count(columns, width) * chunks):
        panel, chunk = np.int64(item) // chunks, np.int64(item) % chunks
        column, k_from = panel * width, chunk * WEIGHT_DEPTH
        transform_panel(
            g, w, transposed, first + column, min(width, columns - column), k_from, min(WEIGHT_DEPTH, depth - k_from),
            u, panel * g[DISTINCT_WEIGHTS] * matrix + k_from * width, matrix,
            scratch, np.int64(get_thread_id()) * scratch_stride, True,
        )  # fmt: skip
        finish_stores()


@worker
def gather_inputs(g, first, count, x, ldx, kind, coefficients, channel, channels, v, v_at, ldv, matrix, past_cache):
    """v[k][t] = B' d B for tiles first .. first + count; `matrix` elements lie between the products' matrices.

    They are written past the caches if `past_cache` is True, else None.
    """
    height, width, step = g[SOURCE_HEIGHT], g[SOURCE_WIDTH], g[STEP]
    image, i, j = tile_place(g, first)
    for t in range(count):
        h, w = i * step - g[PADDING], j * step - g[PADDING]
        at = ((image * height + h) * width + w) * ldx + channel
        if past_cache is not None:
            gather_tile(
                INPUT, g[FORM], x, at, width * ldx, ldx, -h, height - h, -w, width - w, channels,
                kind == SCALE_SHIFT_RELU, coefficients, channel, g[DEPTH] + channel, v, v_at + t * ldv, matrix, 1,
            )  # fmt: skip
        else:
            gather_tile(
                INPUT, g[FORM], x, at, width * ldx, ldx, -h, height - h, -w, width - w, channels,
                kind == SCALE_SHIFT_RELU, coefficients, channel, g[DEPTH] + channel, v, v_at + t * ldv, matrix, 0,
            )  # fmt: skip
        j += 1
        if j == g[ACROSS]:
            image, i, j = tile_place(g, first + t + 1)


@worker
def _scatter_outputs(g, first, count, m, m_at, ldm, matrix, y, y_at, ldy, column, columns, accumulate, bias, rectify):
    """y (+)= A' m A + bias, or max(0, that), for tiles first .. first + count; y begins at ``y[y_at]``."""
    height, width, tile = g[TARGET_HEIGHT], g[TARGET_WIDTH], g[TILE]
    image, i, j = tile_place(g, first)
    for t in range(count):
        h, w = i * tile, j * tile
        at = y_at + ((image * height + h) * width + w) * ldy
        scatter_tile(
            OUTPUT, g[FORM], m, m_at + t * ldm, matrix, y, at, width * ldy, ldy, height - h, width - w, columns,
            accumulate, bias, column, bias.size > 0, rectify,
        )  # fmt: skip
        j += 1
        if j == g[ACROSS]:
            image, i, j = tile_place(g, first + t + 1)


@worker
def block_elements(g):
    """Elements from the transformed inputs of one product of a block to the next's, and all of the block's."""
    matrix = matrix_elements(g[BLOCK], padded_ld(g[DEPTH]))
    return matrix, g[PRODUCTS] * matrix


@kernel("void(i8[::1], T[::1], i8, i8, T[::1], i8, T[::1])", parallel=True)
def transform_inputs(g, x, ldx, kind, coefficients, together, v):
    """Write B' d B of prologue(x): [tiles / together][PRODUCTS][together][DEPTH], PAD elements after each matrix.

    `together` is BLOCK, or all tiles. `v` is aligned to vectors, and written as `transform_weights` writes. Tasks are
    blocks of tiles by pieces of the channels.
    """
    blocks, size = block_count(all_tiles(g), g[BLOCK]), min(g[DEPTH], INPUT_CHANNELS)
    pieces = block_count(g[DEPTH], size)
    for item in prange(blocks * pieces):
        block, channel = np.int64(item) // pieces, np.int64(item) % pieces * size
        first, ldv = block * g[BLOCK], padded_ld(g[DEPTH])
        matrix = matrix_elements(together, ldv)
        v_at = first // together * g[PRODUCTS] * matrix + first % together * ldv + channel
        gather_inputs(
            g, first, min(g[BLOCK], all_tiles(g) - first), x, ldx, kind, coefficients,
            channel, min(size, g[DEPTH] - channel), v, v_at, ldv, matrix, True,
        )  # fmt: skip
        finish_stores()


@worker
def rows_of_block(g, step, width):
    """Rows of a pixel matrix from one block of tiles to the next, about, where tiles lie `step` apart."""
    return g[BLOCK] // g[ACROSS] * step * width


@worker
def first_row_of_block(g, block, step, height, width):
    """The row of the pixel matrix, about, where a block of tiles begins that lie `step` apart."""
    image, i, _ = tile_place(g, block * g[BLOCK])
    return (image * height + i * step) * width


@worker
def finish_panel(
    g, first, count, column, columns, m, m_at, m_matrix, kind, coefficients, z, ldz, y, ldy, accumulate, bias, rectify,
    sums, sums_at, first_row, rows, scratch, run_at,
):  # fmt: skip
    """y (+)= epilogue(A' m A + bias) for tiles first .. first + count and the columns of a panel; write their `sums`.

    The tiles' sums of a product begin at ``m[m_at]``, those of the next `m_matrix` elements behind. The rows of y begin
    with `first_row`; an epilogue takes them at ``scratch[run_at]``.
    """
    width = panel_width(y)
    out, out_at, ldo, add = y, column, ldy, accumulate
    if kind == SCALE_MASKED:
        out, out_at, ldo, add = scratch, run_at - first_row * width, width, False
    _scatter_outputs(g, first, count, m, m_at, width, m_matrix, out, out_at, ldo, column, columns, add, bias, rectify)
    if kind == SCALE_MASKED:
        batch_norm_gradient_block(
            scratch, run_at, width, z, first_row * ldz + column, ldz, coefficients, g[COLUMNS], column, columns, rows,
            rows, y, first_row * ldy + column, ldy, accumulate, sums, sums_at,
        )  # fmt: skip
    elif sums.size > 0:
        at = sums_at + column
        m2_at = at + g[COLUMNS]
        mean, m2 = sums[at : at + columns], sums[m2_at : m2_at + columns]
        block_statistics(y[first_row * ldy + column :], ldy, rows, columns, mean, m2)


@worker
def _correlate_block(
    g, block, column, columns, x, ldx, reads, v, v_at, u, u_at, kind, coefficients, z, ldz, y, ldy, accumulate, bias,
    rectify, sums, rows_per_block, m, m_at,
):  # fmt: skip
    size, depth, width = g[BLOCK], g[DEPTH], panel_width(y)
    first = block * size
    count = min(size, all_tiles(g) - first)
    v_matrix, m_matrix, u_matrix = block_elements(g)[0], matrix_elements(size, width), matrix_elements(depth, width)
    first_row, sums_at = block * rows_per_block, block * 2 * g[COLUMNS]
    rows = min(rows_per_block, g[IMAGES] * g[TARGET_HEIGHT] * g[TARGET_WIDTH] - first_row)
    products, panels = g[PRODUCTS], block_count(columns, width)
    next_row = first_row_of_block(g, block + 1, g[STEP], g[SOURCE_HEIGHT], g[SOURCE_WIDTH])
    next_x = Region(pointer(x), next_row * ldx, ldx, reads, depth, False)
    read = rows_per_block if kind == SCALE_MASKED else 0
    all_y = Region(pointer(y), first_row * ldy + column, ldy, rows_per_block, columns, True)
    all_z = Region(pointer(z), first_row * ldz + column, ldz, read, columns, False)
    now, now_runs = (all_y, all_z), (run_of(all_y, x.itemsize), run_of(all_z, x.itemsize))
    elements = block_elements(g)[1]
    later = run_of(next_x, x.itemsize) if reads > 0 else run_at(v, v_at + elements, elements)
    lines = products * (count // TILE_ROWS) * depth  # that the products of a panel can ask for
    # Passes that ask for runs in the course of sums are 5% faster than those that ask for rows between register tiles.
    are_runs = is_run(next_x) and is_run(all_y) and is_run(all_z)
    are_runs = are_runs and are_asked_for(now_runs, later, panels, lines * CACHE_LINE)
    for j in range(panels):
        panel_at, at, n = u_at + j * g[DISTINCT_WEIGHTS] * u_matrix, column + j * width, min(width, columns - j * width)
        for i in range(products):
            k, weights = product_and_weights(g, i)
            a_at, b_at, c_at = v_at + k * v_matrix, panel_at + weights * u_matrix, m_at + k * m_matrix
            if are_runs:
                run = run_ahead(now_runs, later, j, panels, i, products)
                multiply_block(
                    count, n, depth, v, a_at, padded_ld(depth), 1, u, b_at, 0, m, c_at, width, False, None, run
                )
            else:
                ahead = regions_ahead(now, next_x, j, panels, i, products, j * width, n)
                multiply_block(count, n, depth, v, a_at, padded_ld(depth), 1, u, b_at, 0, m, c_at, width, False, ahead)
        finish_panel(
            g, first, count, at, n, m, m_at, m_matrix, kind, coefficients, z, ldz, y, ldy, accumulate, bias, rectify,
            sums, sums_at, first_row, rows, m, m_at + products * m_matrix,
        )  # fmt: skip


@kernel(
    "void(i8[::1], T[::1], i8, i8, T[::1], T[::1], i8, T[::1], T[::1], i8, i8, i8, T[::1], i8, bool_, T[::1], bool_, "
    "T[::1], i8, T[::1], i8)",
    parallel=True,
)
def correlate_tiles(
    g, x, ldx, kind, coefficients, z, ldz, v, u, first, columns, group, y, ldy, accumulate, bias,
    rectify, sums, rows_per_block, scratch, scratch_stride,
):  # fmt: skip
    """y (+)= bias + the correlation of x with transformed weights `u`, columns first .. first + columns.

    `kind` says to what `coefficients` apply: to x, a prologue, or to the correlation, an epilogue with `z` the x of
    `cnnzoo.kernels.convolution.Epilogue`. If `rectify`, y = max(0, that).

    `v` is what `transform_inputs` wrote, or empty: then each task transforms the inputs of its block. Tasks are blocks
    of tiles by `group` columns, a multiple of the panel width. `bias` and `sums` may be empty; the latter are
    [blocks][mean, M2][COLUMNS] or the epilogue's, a block of tiles being `rows_per_block` rows of y. `scratch` holds
    `scratch_stride` elements a thread.
    """
    blocks, groups = block_count(all_tiles(g), g[BLOCK]), block_count(columns, group)
    panel = g[DISTINCT_WEIGHTS] * matrix_elements(g[DEPTH], panel_width(x))
    for item in prange(blocks * groups):
        block, j = np.int64(item) % blocks, np.int64(item) // blocks * group
        at = np.int64(get_thread_id()) * scratch_stride
        matrix, elements = block_elements(g)
        inputs, inputs_at, m_at, reads = v, block * elements, at, 0
        if v.size == 0:
            inputs, inputs_at, m_at, reads = scratch, at, at + elements, rows_of_block(g, g[STEP], g[SOURCE_WIDTH])
            tiles = min(g[BLOCK], all_tiles(g) - block * g[BLOCK])
            gather_inputs(
                g, block * g[BLOCK], tiles, x, ldx, kind, coefficients, 0, g[DEPTH], inputs, at, padded_ld(g[DEPTH]),
                matrix, None,
            )  # fmt: skip
        _correlate_block(
            g, block, first + j, min(group, columns - j), x, ldx, reads, inputs, inputs_at,
            u, j // panel_width(x) * panel, kind, coefficients, z, ldz, y, ldy, accumulate, bias, rectify, sums,
            rows_per_block, scratch, m_at,
        )  # fmt: skip
