"""Correlation of a pixel matrix with packed weights, block by block of im2col rows; see `im2col` for its three uses."""

import numpy as np
from numba import get_thread_id, prange

from cnnzoo.kernels.batch_norm import batch_norm_gradient_block, block_statistics
from cnnzoo.kernels.blocks import STRIP, block_count, padded_ld
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.convolution import SCALE_MASKED, SCALE_SHIFT_RELU
from cnnzoo.kernels.gemm import multiply_block, pack_rows, pack_tap, pack_taps, pack_tasks
from cnnzoo.kernels.prefetching import CACHE_LINE, Region, Run, are_asked_for, part_of_runs, run_of
from cnnzoo.kernels.simd import add, lanes, load, multiply_add, pointer, positive_part, store
from cnnzoo.kernels.vectors import TILE_ROWS, copy_run, panel_width, zero_run

ROW_BLOCK = 96  # the most pixels of a block; a multiple of every TILE_ROWS
EPILOGUE_COLUMNS = 128  # columns multiplied before an epilogue takes them: ROW_BLOCK x so many float32 are 48 KiB
SHALLOW = 64  # products of so few terms wait for the lines that they write: those of the next block are asked for
DEPTH_BLOCK = 512  # ROW_BLOCK x DEPTH_BLOCK float32 is 192 KiB, within every second-level cache

# A correlation's geometry travels as one int64 array; these are its fields. The grid is the set of positions that are
# computed. Grid position (i, j) reads source pixel (i * STEP + row offset, j * STEP + column offset) of each tap and
# writes target pixel (i * TARGET_STEP + TOP, j * TARGET_STEP + LEFT). A block has ROWS positions, at most ROW_BLOCK.
(
    IMAGES, SOURCE_HEIGHT, SOURCE_WIDTH, CHANNELS, GRID_HEIGHT, GRID_WIDTH, STEP,
    TARGET_HEIGHT, TARGET_WIDTH, TARGET_STEP, TOP, LEFT, COLUMNS, ROWS, TAPS,
) = range(15)  # fmt: skip
GEOMETRY_FIELDS = 15  # the taps' offsets follow: row and column of each


@worker
def transform_run(x, x_at, coefficients, channels, first, count, y, y_at):
    """y = max(0, scale x + shift) for channels first .. first + count of one pixel, of `channels` in all."""
    px, py, scale = pointer(x), pointer(y), pointer(coefficients)
    for c in range(0, count, lanes(py)):
        n, at = count - c, first + c
        value = multiply_add(load(px, x_at + c, n), load(scale, at, n), load(scale, at + channels, n))
        store(py, y_at + c, n, positive_part(value))


@worker
def add_run(x, x_at, y, y_at, count):
    """y[y_at + i] += x[x_at + i] for i < count."""
    px, py = pointer(x), pointer(y)
    for c in range(0, count, lanes(py)):
        n = count - c
        store(py, y_at + c, n, add(load(px, x_at + c, n), load(py, y_at + c, n)))


@worker
def _contiguous_taps(g, tap, last, ldx):
    """Return how many taps from `tap` on, below `last`, read pixels that lie one behind the other without gaps."""
    count = 1
    if ldx == g[CHANNELS]:
        at = GEOMETRY_FIELDS + 2 * tap
        while tap + count < last and g[at + 2 * count] == g[at] and g[at + 2 * count + 1] == g[at + 1] + count:
            count += 1
    return count


@worker
def _gather_row(x, row_at, ldx, width, w, step, count, low, high, kind, coefficients, channels, out, to, ld):
    """Write the run of each of `count` positions of a grid row: the first reads from pixel `w` of the image's row on.

    A run is elements `low` to `high` from its pixel on, low < channels. Those that lie in the image are written first,
    in a plain loop, then those at both ends, with zeros for what is padding.
    """
    first = min(count, max(0, block_count(-w, step)))
    last = max(first, min(count, (width - block_count(high, channels) - w) // step + 1))
    at = row_at + w * ldx + low
    if kind == SCALE_SHIFT_RELU:
        for p in range(first, last):
            transform_run(x, at + p * step * ldx, coefficients, channels, low, high - low, out, to + p * ld + low)
    else:
        for p in range(first, last):
            copy_run(x, at + p * step * ldx, out, to + p * ld + low, high - low)
    for k in range(count - (last - first)):
        p = k if k < first else k + last - first
        v = w + p * step
        begin, end = max(low, -v * channels), min(high, (width - v) * channels)
        to_p = to + p * ld
        if begin < end:
            zero_run(out, to_p + low, begin - low)
            copy_run(x, row_at + v * ldx + begin, out, to_p + begin, end - begin)
            zero_run(out, to_p + end, high - end)
        else:
            zero_run(out, to_p + low, high - low)


@worker
def gather_block(g, first, count, k_from, k_to, x, ldx, kind, coefficients, out, out_at, ld):
    """Write columns k_from .. k_to of the im2col rows of grid positions first .. first + count, `ld` apart.

    What several taps read in one run is copied as one: images have few channels.
    """
    height, width, channels = g[SOURCE_HEIGHT], g[SOURCE_WIDTH], g[CHANNELS]
    grid_height, grid_width, step = g[GRID_HEIGHT], g[GRID_WIDTH], g[STEP]
    tap, last = k_from // channels, block_count(k_to, channels)
    while tap < last:
        taps = 1 if kind == SCALE_SHIFT_RELU else _contiguous_taps(g, tap, last, ldx)
        low = max(k_from - tap * channels, 0)
        high = min(k_to - tap * channels, taps * channels)
        row_offset, column_offset = g[GEOMETRY_FIELDS + 2 * tap], g[GEOMETRY_FIELDS + 2 * tap + 1]
        image, rest = divmod(first, grid_height * grid_width)
        i, j = divmod(rest, grid_width)
        to = out_at + tap * channels - k_from
        left = count
        while left > 0:
            n = min(grid_width - j, left)
            h, w = i * step + row_offset, j * step + column_offset
            if 0 <= h < height:
                row_at = (image * height + h) * width * ldx
                _gather_row(x, row_at, ldx, width, w, step, n, low, high, kind, coefficients, channels, out, to, ld)
            else:
                for p in range(n):
                    zero_run(out, to + p * ld + low, high - low)
            to += n * ld
            left -= n
            j = 0
            i += 1
            if i == grid_height:
                image, i = image + 1, 0
        tap += taps


@worker
def _scatter_block(g, first, count, column, columns, block, block_at, ld, y, ldy, accumulate):
    """Move rows of a block to the target pixels of their grid positions."""
    grid_width, target_step = g[GRID_WIDTH], g[TARGET_STEP]
    for p in range(first, first + count):
        image, rest = divmod(p, g[GRID_HEIGHT] * grid_width)
        i, j = divmod(rest, grid_width)
        h, w = i * target_step + g[TOP], j * target_step + g[LEFT]
        at = ((image * g[TARGET_HEIGHT] + h) * g[TARGET_WIDTH] + w) * ldy + column
        row_at = block_at + (p - first) * ld
        if accumulate:
            add_run(block, row_at, y, at, columns)
        else:
            copy_run(block, row_at, y, at, columns)


@worker
def _finish_run(bias, bias_at, rectify, y, y_at, count):
    pb, py = pointer(bias), pointer(y)
    for c in range(0, count, lanes(py)):
        n = count - c
        value = load(py, y_at + c, n)
        if bias.size > 0:
            value = add(value, load(pb, bias_at + c, n))
        if rectify:
            value = positive_part(value)
        store(py, y_at + c, n, value)


@worker
def finish_rows(y, ldy, first, rows, column, columns, bias, rectify, statistics, block, all_columns):
    """Add `bias` to columns of rows of y, take max(0, y) if `rectify`, write their `statistics` as those of `block`.

    `bias` and `statistics` may be empty.
    """
    if bias.size > 0 or rectify:
        for r in range(first, first + rows):
            _finish_run(bias, column, rectify, y, r * ldy + column, columns)
    if statistics.size > 0:
        mean_at = block * 2 * all_columns + column
        m2_at = mean_at + all_columns
        mean, m2 = statistics[mean_at : mean_at + columns], statistics[m2_at : m2_at + columns]
        block_statistics(y[first * ldy + column :], ldy, rows, columns, mean, m2)


@worker
def is_pixel_matrix_product(g, itemsize, ldx, kind):
    """Tell whether the source rows serve as im2col rows: 1x1, stride 1, nothing applied, no cache-set conflicts."""
    same_grid = g[SOURCE_HEIGHT] == g[GRID_HEIGHT] and g[SOURCE_WIDTH] == g[GRID_WIDTH]
    one_tap = g[TAPS] == 1 and g[GEOMETRY_FIELDS] == 0 and g[GEOMETRY_FIELDS + 1] == 0
    return kind != SCALE_SHIFT_RELU and g[STEP] == 1 and one_tap and same_grid and ldx * itemsize % 4096 != 0


@worker
def _correlate_block(
    g, block, column, columns, x, ldx, w, taps, transposed, panels, kind, coefficients, z, ldz,
    y, ldy, accumulate, bias, rectify, sums, scratch, scratch_at,
):  # fmt: skip
    first = block * g[ROWS]
    count = min(g[ROWS], g[IMAGES] * g[GRID_HEIGHT] * g[GRID_WIDTH] - first)
    depth = g[TAPS] * g[CHANNELS]
    width = panel_width(x)
    segment = block_count(depth, max(1, block_count(depth, DEPTH_BLOCK)))
    ld = padded_ld(segment)
    direct = g[TARGET_STEP] == 1 and kind != SCALE_MASKED
    out, out_at, ldo, add = y, first * ldy + column, ldy, accumulate
    if not direct:
        out, out_at, ldo, add = scratch, scratch_at + ROW_BLOCK * ld, padded_ld(columns), False
        if depth == 0:
            for r in range(count):
                zero_run(out, out_at + r * ldo, columns)
    in_place = is_pixel_matrix_product(g, x.itemsize, ldx, kind)
    # What is asked for: not the rows that are gathered, in an order that the machine foresees.
    asked = g[ROWS] if in_place else 0
    asked_to_write = g[ROWS] if direct and depth <= SHALLOW else 0
    for k in range(0, depth, max(1, segment)):
        d = min(segment, depth - k)
        b, panels_at, panel_stride = panels, column * depth + k * width, depth * width
        if panels.size == 0:
            b, panels_at, panel_stride = scratch, scratch_at + ROW_BLOCK * (ld + padded_ld(columns)), d * width
            pack_tap(
                k, d, column, columns, w, taps[0], depth, g[COLUMNS], transposed, b, panels_at, panel_stride
            )  # fmt: skip
        a, a_at, lda = x, first * ldx + k, ldx
        if not in_place:
            gather_block(g, first, count, k, k + d, x, ldx, kind, coefficients, scratch, scratch_at, ld)
            a, a_at, lda = scratch, scratch_at, ld
        next_x = Region(pointer(x), (first + g[ROWS]) * ldx + k, ldx, asked, d, False)
        if kind == SCALE_MASKED and k == 0:
            read = Region(pointer(z), first * ldz + column, ldz, count, columns, False)
            written = Region(pointer(y), first * ldy + column, ldy, count, columns, True)
            multiply_block(
                count, columns, d, a, a_at, lda, 1, b, panels_at, panel_stride, out, out_at, ldo, add,
                (next_x, read, written),
            )  # fmt: skip
        elif asked + asked_to_write > 0:
            written = Region(pointer(y), (first + g[ROWS]) * ldy + column, ldy, asked_to_write, columns, True)
            multiply_block(
                count, columns, d, a, a_at, lda, 1, b, panels_at, panel_stride, out, out_at, ldo, add,
                (next_x, written),
            )  # fmt: skip
        else:  # a product that asks for nothing is faster without the loop
            multiply_block(count, columns, d, a, a_at, lda, 1, b, panels_at, panel_stride, out, out_at, ldo, add)
        add = True
    sums_at = block * 2 * g[COLUMNS]
    if kind == SCALE_MASKED:
        batch_norm_gradient_block(
            out, out_at, ldo, z, first * ldz + column, ldz, coefficients, g[COLUMNS], column, columns, count, STRIP,
            y, first * ldy + column, ldy, accumulate, sums, sums_at,
        )  # fmt: skip
    elif not direct:
        _scatter_block(g, first, count, column, columns, out, out_at, ldo, y, ldy, accumulate)
    if kind != SCALE_MASKED:
        finish_rows(y, ldy, first, count, column, columns, bias, rectify, sums, block, g[COLUMNS])


@kernel(
    "void(i8[::1], T[::1], i8, i8, T[::1], T[::1], i8, T[::1], i8[::1], bool_, T[::1], i8, "
    "T[::1], i8, bool_, T[::1], bool_, T[::1], T[::1], i8)",
    parallel=True,
)
def correlate(
    g, x, ldx, kind, coefficients, z, ldz, w, taps, transposed, panels, group,
    y, ldy, accumulate, bias, rectify, sums, scratch, scratch_stride,
):  # fmt: skip
    """y (+)= the correlation of x with the weights, at the grid positions of geometry `g`; see above.

    `kind` says to what `coefficients` apply: to x, a prologue, or to the correlation, an epilogue with `z` the batch
    norm's input; the latter takes a TARGET_STEP of 1 and no bias. If `rectify`, y = max(0, that).

    Tap t of the weights begins at ``w[taps[t]]``: a matrix [channels, columns], or [columns, channels] if `transposed`.
    All are packed into `panels` first, in tasks of their own. If `panels` is empty, each task packs what it multiplies
    of the only tap: where few tasks share a panel, it costs less than to get it from another core.

    Tasks are blocks of ROWS positions by `group` columns, a multiple of the panel width. `bias` and `sums` may be
    empty; the latter are [blocks][mean, M2][columns], or the epilogue's. `scratch` holds `scratch_stride` elements a
    thread.
    """
    blocks = block_count(g[IMAGES] * g[GRID_HEIGHT] * g[GRID_WIDTH], g[ROWS])
    groups = block_count(g[COLUMNS], group)
    for item in prange(pack_tasks(g[TAPS], g[CHANNELS], g[COLUMNS]) if panels.size > 0 else 0):
        pack_taps(np.int64(item), w, taps, g[CHANNELS], g[COLUMNS], transposed, panels)
    for item in prange(blocks * groups):
        # Neighboring tasks differ in their rows: a short last block then falls to all threads alike.
        block, column = np.int64(item) % blocks, np.int64(item) // blocks * group
        last = min(column + group, g[COLUMNS])
        step = min(group, EPILOGUE_COLUMNS) if kind == SCALE_MASKED else group
        for j in range(column, last, step):
            _correlate_block(
                g, block, j, min(step, last - j), x, ldx, w, taps, transposed, panels, kind, coefficients, z, ldz,
                y, ldy, accumulate, bias, rectify, sums, scratch, np.int64(get_thread_id()) * scratch_stride,
            )  # fmt: skip


@worker
def _weight_gradient_block(
    g, k_from, rows, column, columns, first_chunk, last_chunk, x, ldx, kind, coefficients,
    dy, lddy, out, out_at, add, scratch, scratch_at,
):  # fmt: skip
    """out[rows, columns] (+)= im2col(x)' dy over the chunks first_chunk .. last_chunk of grid positions."""
    positions = g[IMAGES] * g[GRID_HEIGHT] * g[GRID_WIDTH]
    width = panel_width(x)
    ld = padded_ld(rows)
    panels_at = scratch_at + ROW_BLOCK * ld
    in_place = is_pixel_matrix_product(g, x.itemsize, ldx, kind)
    for chunk in range(first_chunk, last_chunk):
        first = chunk * g[ROWS]
        count = min(g[ROWS], positions - first)
        pack_rows(count, columns, dy, first * lddy + column, lddy, scratch, panels_at, ROW_BLOCK * width)
        a, a_at, lda = x, first * ldx + k_from, ldx
        if not in_place:
            k_to = k_from + rows
            gather_block(g, first, count, k_from, k_to, x, ldx, kind, coefficients, scratch, scratch_at, ld)
            a, a_at, lda = scratch, scratch_at, ld
        panel_stride, ldo = ROW_BLOCK * width, g[COLUMNS]
        following = first + g[ROWS]
        # Grid positions are source pixels where there is one tap and no stride; what other kernels read lies together.
        asked = g[ROWS] if g[TAPS] == 1 and g[STEP] == 1 else 0
        next_x = Region(pointer(x), following * ldx + k_from, ldx, asked, rows, False)
        next_dy = Region(pointer(dy), following * lddy + column, lddy, g[ROWS], columns, False)
        runs = run_of(next_x, x.itemsize), run_of(next_dy, x.itemsize)
        panels, lines = block_count(columns, width), (rows // TILE_ROWS) * block_count(columns, width) * count
        # A run is better even where half of it is for another task's channels.
        if ldx <= 2 * rows and lddy <= 2 * columns and are_asked_for(runs, Run(0, 0), 1, lines * CACHE_LINE):
            for j in range(panels):
                multiply_block(
                    rows, min(width, columns - j * width), count, a, a_at, 1, lda,
                    scratch, panels_at + j * panel_stride, panel_stride, out, out_at + j * width, ldo, add,
                    None, part_of_runs(runs, j, panels),
                )  # fmt: skip
        else:
            multiply_block(
                rows, columns, count, a, a_at, 1, lda, scratch, panels_at, panel_stride, out, out_at, ldo, add,
                (next_x, next_dy),
            )  # fmt: skip
        add = True


@kernel(
    "void(i8[::1], T[::1], i8, i8, T[::1], T[::1], i8, T[::1], bool_, i8, i8, i8, T[::1], T[::1], i8)", parallel=True
)
def correlate_weights(
    g, x, ldx, kind, coefficients, dy, lddy,
    dw, accumulate, row_block, column_block, slots, slot_sums, scratch, scratch_stride,
):  # fmt: skip
    """dw (+)= the gradient of the weights of a correlation with geometry `g`.

    Tasks are blocks of `row_block` by `column_block` elements of dw by `slots` ranges of positions. With one slot they
    write to dw; with more to ``slot_sums[slots, rows, columns]``, which `add_slots` then adds.
    """
    depth, all_columns = g[TAPS] * g[CHANNELS], g[COLUMNS]
    chunks = block_count(g[IMAGES] * g[GRID_HEIGHT] * g[GRID_WIDTH], g[ROWS])
    row_blocks, column_blocks = block_count(depth, row_block), block_count(all_columns, column_block)
    for item in prange(slots * row_blocks * column_blocks):
        slot, rest = divmod(np.int64(item), row_blocks * column_blocks)
        k = rest // column_blocks * row_block
        column = rest % column_blocks * column_block
        out = dw if slots == 1 else slot_sums
        _weight_gradient_block(
            g, k, min(row_block, depth - k), column, min(column_block, all_columns - column),
            slot * chunks // slots, (slot + 1) * chunks // slots, x, ldx, kind, coefficients,
            dy, lddy, out, (slot * depth + k) * all_columns + column,
            accumulate and slots == 1, scratch, np.int64(get_thread_id()) * scratch_stride,
        )  # fmt: skip


SLOT_BLOCK = 4096  # elements that one task adds over all slots


@kernel("void(T[::1], i8, i8, T[::1], bool_)", parallel=True)
def add_slots(slot_sums, slots, size, y, accumulate):
    """y[size] (+)= the sum over slots of slot_sums[slots, size], in the order of the slots."""
    for block in prange(block_count(size, SLOT_BLOCK)):
        first = np.int64(block) * SLOT_BLOCK
        count = min(SLOT_BLOCK, size - first)
        out = y[first : first + count]
        for slot in range(slots):
            part = slot_sums[slot * size + first : slot * size + first + count]
            if slot == 0 and not accumulate:
                for i in range(count):
                    out[i] = part[i]
            else:
                for i in range(count):
                    out[i] += part[i]
