"""Matrix product on register tiles, for operands that lie in cache: C (+)= A B, B in panels, A read in place.

B is packed into panels of `panel_width` columns, [panels][depth][width], the last one padded with zeros, so that the
tile reads it contiguously. A and C are row-major with leading dimensions; A may be transposed. The drivers that cut
large operands into blocks are those of the convolution: a matrix product is a 1x1 convolution of a pixel matrix.
"""

from cnnzoo.kernels.blocks import block_count, block_rows
from cnnzoo.kernels.compile import worker
from cnnzoo.kernels.prefetching import inverse, part_of, prefetch_region
from cnnzoo.kernels.vectors import (
    AHEAD_PARTS,
    TILE_ROWS,
    copy_run,
    multiply_tile,
    panel_columns,
    panel_width,
    transpose_tile,
    vector_lanes,
    zero_run,
)

SMALL_ROWS = 4  # the tile that takes what TILE_ROWS leaves over, before single rows


def packed_size(depth: int, columns: int, itemsize: int) -> int:
    """Return the number of elements that the panels of B[depth, columns] take."""
    width = panel_columns(itemsize)
    return -(-columns // width) * width * depth


@worker
def multiply_block(
    rows, columns, depth, a, a_at, a_row, a_step, panels, panels_at, panel_stride, c, c_at, ldc, add,
    ahead=None, run=None,
):  # fmt: skip
    """C[rows, columns] (+)= A[rows, depth] B.

    A[i, k] is ``a[a_at + i * a_row + k * a_step]``; panel j of B begins at ``panels_at + j * panel_stride``. `ahead` is
    a tuple of `Region`, and `run` a `Run`, prefetched meanwhile: of the latter a line a term and whole register tile at
    most, so that lines of a longer run are left out.
    """
    width = panel_width(c)
    whole = rows // TILE_ROWS * TILE_ROWS
    small = whole + (rows - whole) // SMALL_ROWS * SMALL_ROWS
    tiles = block_count(columns, width) * (whole // TILE_ROWS)
    part, inverse_parts = 0, 0 if ahead is None else inverse(tiles)
    asked, size, step = 0, 0, 0
    if run is not None:
        asked, size = run.start, run.size // max(1, tiles)
        step = size * AHEAD_PARTS // max(1, depth)
    for j in range(0, columns, width):
        b_at = panels_at + j // width * panel_stride
        c_j = c_at + j
        count = min(width, columns - j)
        for i in range(0, whole, TILE_ROWS):
            if ahead is not None:
                for region in ahead:
                    prefetch_region(part_of(region, part, inverse_parts), c.itemsize)
            part += 1
            a_i, c_ij = a_at + i * a_row, c_j + i * ldc
            if run is not None:
                multiply_tile(
                    TILE_ROWS, a, a_i, a_row, a_step, panels, b_at, c, c_ij, ldc, depth, count, add, 1, asked, step
                )
            else:
                multiply_tile(TILE_ROWS, a, a_i, a_row, a_step, panels, b_at, c, c_ij, ldc, depth, count, add, 0, 0, 0)
            asked += size
        for i in range(whole, small, SMALL_ROWS):
            a_i, c_ij = a_at + i * a_row, c_j + i * ldc
            multiply_tile(SMALL_ROWS, a, a_i, a_row, a_step, panels, b_at, c, c_ij, ldc, depth, count, add, 0, 0, 0)
        for i in range(small, rows):
            a_i, c_ij = a_at + i * a_row, c_j + i * ldc
            multiply_tile(1, a, a_i, a_row, a_step, panels, b_at, c, c_ij, ldc, depth, count, add, 0, 0, 0)


@worker
def pack_rows(depth, columns, b, b_at, ldb, panels, panels_at, panel_stride):
    """Pack B[depth, columns], row k at ``b_at + k * ldb``, into panels that begin `panel_stride` apart."""
    width = panel_width(b)
    for j in range(0, columns, width):
        to = panels_at + j // width * panel_stride
        count = min(width, columns - j)
        for k in range(depth):
            copy_run(b, b_at + k * ldb + j, panels, to + k * width, count)
            if count < width:
                zero_run(panels, to + k * width + count, width - count)


@worker
def pack_columns(depth, columns, b, b_at, ldb, panels, panels_at, panel_stride):
    """Pack the transpose of B[columns, depth], row j at ``b_at + j * ldb``, into panels `panel_stride` apart."""
    width, lanes = panel_width(b), vector_lanes(b)
    for j in range(0, columns, lanes):
        to = panels_at + j // width * panel_stride + j % width
        whole = depth // lanes * lanes if j + lanes <= columns else 0
        for k in range(0, whole, lanes):
            transpose_tile(b, b_at + j * ldb + k, ldb, panels, to + k * width, width)
        count = min(lanes, columns - j)
        for k in range(whole, depth):
            for lane in range(count):
                panels[to + k * width + lane] = b[b_at + (j + lane) * ldb + k]
            zero_run(panels, to + k * width + count, lanes - count)
    rest = block_count(columns, lanes) * lanes
    if rest % width > 0:
        for k in range(depth):
            zero_run(panels, panels_at + rest // width * panel_stride + k * width + rest % width, width - rest % width)


@worker
def pack_tap(
    k, depth, column, columns, w, w_at, tap_depth, all_columns, transposed, panels, panels_at, panel_stride
):  # fmt: skip
    """Pack rows k .. k + depth and columns column .. column + columns of a tap, which begins at ``w[w_at]``.

    It is [tap_depth, all_columns], or [all_columns, tap_depth] if `transposed`.
    """
    if transposed:
        pack_columns(depth, columns, w, w_at + column * tap_depth + k, tap_depth, panels, panels_at, panel_stride)
    else:
        pack_rows(depth, columns, w, w_at + k * all_columns + column, all_columns, panels, panels_at, panel_stride)


@worker
def pack_tasks(tap_count, tap_depth, columns):
    """How many tasks `pack_taps` has."""
    return tap_count * block_count(tap_depth, block_rows(columns))


@worker
def pack_taps(task, w, taps, tap_depth, columns, transposed, panels):
    """Do one task of packing B, the taps of `w` one below the other, into panels of depth taps.size * tap_depth.

    Tap t begins at ``w[taps[t]]`` and is [tap_depth, columns], or [columns, tap_depth] if `transposed`.
    """
    width = panel_width(w)
    panel_stride = taps.size * tap_depth * width
    rows = block_rows(columns)
    t, piece = divmod(task, block_count(tap_depth, rows))
    k = piece * rows
    count = min(rows, tap_depth - k)
    to = (t * tap_depth + k) * width
    pack_tap(k, count, 0, columns, w, taps[t], tap_depth, columns, transposed, panels, to, panel_stride)
