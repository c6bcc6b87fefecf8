"""Regions to prefetch: their parts are all of them, and products are the same whatever is asked for meanwhile."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.kernels.compile import kernel
from cnnzoo.kernels.gemm import multiply_block, packed_size
from cnnzoo.kernels.prefetching import Region, inverse, part_of
from cnnzoo.kernels.simd import pointer
from cnnzoo.kernels.vectors import panel_columns, panel_width
from tests.kernels.pixel_matrix import seeds


@kernel("void(T[::1], i8, i8, i8, i8, i8[::1], i8[::1])")
def list_parts(x, at, ld, rows, parts, starts, counts):
    region = Region(pointer(x), at, ld, rows, 1, False)
    for part in range(parts):
        taken = part_of(region, part, inverse(parts))
        starts[part], counts[part] = taken.at, taken.rows


@kernel("void(i8, i8, i8, T[::1], T[::1], T[::1], T[::1], i8, i8)")
def multiply(rows, columns, depth, a, panels, c, asking, region_rows, region_columns):
    """C = A B twice, the second time asking for rows that lie nowhere."""
    stride = depth * panel_width(c)
    multiply_block(rows, columns, depth, a, 0, depth, 1, panels, 0, stride, c, 0, columns, False)
    ahead = (
        Region(pointer(c), c.size, 1 << 20, region_rows, region_columns, True),
        Region(pointer(a), -(1 << 40), 1 << 20, region_rows, region_columns, False),
    )
    multiply_block(rows, columns, depth, a, 0, depth, 1, panels, 0, stride, asking, 0, columns, False, ahead)


@given(at=st.integers(-(10**6), 10**9), ld=st.integers(1, 4096), rows=st.integers(0, 10**5), parts=st.integers(1, 9999))
def test_parts_are_all_rows_in_order(at, ld, rows, parts):
    starts, counts = np.empty(parts, np.int64), np.empty(parts, np.int64)
    list_parts(np.empty(1, np.float32), at, ld, rows, parts, starts, counts)
    assert counts.sum() == rows
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(starts, at + ld * (np.cumsum(counts) - counts))


@given(
    extents=st.tuples(*[st.integers(1, 40)] * 3),
    region=st.tuples(st.integers(0, 100), st.integers(0, 100)),
    seed=seeds,
)
def test_what_is_asked_for_changes_no_product(extents, region, seed):
    rows, columns, depth = extents
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(rows * depth, np.float32)
    panels = rng.standard_normal(packed_size(depth, columns, a.itemsize), np.float32)
    c, asking = np.empty(rows * columns, np.float32), np.empty(rows * columns, np.float32)
    multiply(*extents, a, panels, c, asking, *region)
    np.testing.assert_array_equal(asking, c)
    expected = a.reshape(rows, depth).astype(np.float64) @ unpacked(panels, depth)[:, :columns]
    np.testing.assert_allclose(c.reshape(rows, columns), expected, rtol=0, atol=1e-4)


def unpacked(panels, depth):
    """Return the matrix that panels hold."""
    return panels.reshape(-1, depth, panel_columns(panels.itemsize)).swapaxes(0, 1).reshape(depth, -1)
