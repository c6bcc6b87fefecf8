"""What is to be prefetched: its parts are all of it, and products are the same whatever is asked for meanwhile."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.kernels.compile import kernel
from cnnzoo.kernels.gemm import multiply_block, packed_size
from cnnzoo.kernels.prefetching import (
    Region,
    Run,
    are_asked_for,
    inverse,
    part_of,
    part_of_runs,
    run_ahead,
    run_at,
    run_of,
)
from cnnzoo.kernels.simd import address, pointer
from cnnzoo.kernels.vectors import panel_columns, panel_width
from tests.kernels.pixel_matrix import seeds


@kernel("void(T[::1], i8, i8, i8, i8, i8[::1], i8[::1])")
def list_parts(x, at, ld, rows, parts, starts, counts):
    region = Region(pointer(x), at, ld, rows, 1, False)
    for part in range(parts):
        taken = part_of(region, part, inverse(parts))
        starts[part], counts[part] = taken.at, taken.rows


@kernel("void(T[::1], i8, i8, i8, i8, i8[::1], i8[::1])")
def list_parts_of_runs(x, first, second, third, parts, starts, sizes):
    """The runs have these sizes in bytes and begin at addresses 0, 2^40 and 2^41."""
    for part in range(parts):
        taken = part_of_runs((Run(0, first), Run(1 << 40, second), Run(1 << 41, third)), part, parts)
        starts[part], sizes[part] = taken.start, taken.size


@kernel("void(T[::1], i8, i8, i8, i8[::1])")
def list_runs(x, at, ld, rows, found):
    """Write start, from the address of x, and size of the run of rows, and of its elements."""
    base = address(pointer(x))
    of_rows, of_elements = run_of(Region(pointer(x), at, ld, rows, ld, False), x.itemsize), run_at(x, at, rows * ld)
    found[0], found[1] = of_rows.start - base, of_rows.size
    found[2], found[3] = of_elements.start - base, of_elements.size


@kernel("void(i8, i8, i8, T[::1], T[::1], T[::1], T[::1], T[::1], i8, i8)")
def multiply(rows, columns, depth, a, panels, c, asking, asking_for_run, region_rows, region_columns):
    """C = A B three times: the second one asks for rows that lie nowhere, the third for a run."""
    stride = depth * panel_width(c)
    multiply_block(rows, columns, depth, a, 0, depth, 1, panels, 0, stride, c, 0, columns, False)
    ahead = (
        Region(pointer(c), c.size, 1 << 20, region_rows, region_columns, True),
        Region(pointer(a), -(1 << 40), 1 << 20, region_rows, region_columns, False),
    )
    multiply_block(rows, columns, depth, a, 0, depth, 1, panels, 0, stride, asking, 0, columns, False, ahead)
    run = Run(-(1 << 40), region_rows << 20)
    multiply_block(
        rows, columns, depth, a, 0, depth, 1, panels, 0, stride, asking_for_run, 0, columns, False, None, run
    )


@given(at=st.integers(-(10**6), 10**9), ld=st.integers(1, 4096), rows=st.integers(0, 10**5), parts=st.integers(1, 9999))
def test_parts_are_all_rows_in_order(at, ld, rows, parts):
    starts, counts = np.empty(parts, np.int64), np.empty(parts, np.int64)
    list_parts(np.empty(1, np.float32), at, ld, rows, parts, starts, counts)
    assert counts.sum() == rows
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(starts, at + ld * (np.cumsum(counts) - counts))


@given(sizes=st.tuples(*[st.integers(0, 10**9)] * 3), parts=st.integers(1, 999))
def test_parts_of_runs_are_all_of_them_in_order(sizes, parts):
    starts, taken = np.empty(parts, np.int64), np.empty(parts, np.int64)
    list_parts_of_runs(np.empty(1, np.float32), *sizes, parts, starts, taken)
    assert taken.sum() == sum(sizes)
    assert taken.max() - taken.min() <= 1
    before = np.cumsum(taken) - taken
    bounds = np.cumsum(sizes)
    run = np.searchsorted(bounds, before, side="right")
    asks = taken > 0
    expected = np.array([0, 1 << 40, 1 << 41, 0])[run] + before - np.array([0, *bounds])[run]
    np.testing.assert_array_equal(starts[asks], expected[asks])


@kernel("void(T[::1], i8[::1], i8, i8, i8[::1], i8[::1])")
def list_runs_ahead(x, total, panels, products, starts, sizes):
    """Of runs of these sizes that begin at addresses 0, 2^40 and 2^41, what each product of each panel asks for."""
    now, later = (Run(0, total[0]), Run(1 << 40, total[1])), Run(1 << 41, total[2])
    for panel in range(panels):
        for product in range(products):
            taken = run_ahead(now, later, panel, panels, product, products)
            starts[panel * products + product], sizes[panel * products + product] = taken.start, taken.size


@kernel("void(T[::1], i8[::1], i8, i8, i8[::1])")
def tell_whether_asked_for(x, total, panels, size, answer):
    answer[0] = are_asked_for((Run(0, total[0]), Run(0, total[1])), Run(0, total[2]), panels, size)


@given(sizes=st.tuples(*[st.integers(0, 10**9)] * 3), panels=st.integers(1, 9), products=st.integers(1, 99))
def test_the_first_panel_asks_for_what_it_needs_and_the_others_for_what_follows(sizes, panels, products):
    starts, taken = np.empty((2, panels, products), np.int64)
    x, total, answer = np.empty(1, np.float32), np.array(sizes), np.empty(1, np.int64)
    list_runs_ahead(x, total, panels, products, starts.reshape(-1), taken.reshape(-1))
    by_panel = taken.sum(axis=1)
    if panels == 1:
        assert by_panel[0] == sum(sizes)
    else:
        assert (by_panel[0], by_panel[1:].sum()) == (sum(sizes[:2]), sizes[2])
        assert np.all(starts[1:][taken[1:] > 0] >= 1 << 41)
        assert by_panel[1:].max() - by_panel[1:].min() <= products
    largest = max(by_panel[0], -(-sizes[2] // (panels - 1)) if panels > 1 else 0)
    for size, asked_for in ((largest, 1), (largest - 1, 0)):
        tell_whether_asked_for(x, total, panels, size, answer)
        assert answer[0] == asked_for


@given(at=st.integers(0, 10**9), ld=st.integers(1, 4096), rows=st.integers(0, 10**5))
def test_runs_of_rows_and_of_elements(at, ld, rows):
    found = np.empty(4, np.int64)
    list_runs(np.empty(1, np.float32), at, ld, rows, found)
    assert found.tolist() == [4 * at, 4 * rows * ld] * 2


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
    c, asking, asking_for_run = np.empty((3, rows * columns), np.float32)
    multiply(*extents, a, panels, c, asking, asking_for_run, *region)
    np.testing.assert_array_equal(asking, c)
    np.testing.assert_array_equal(asking_for_run, c)
    expected = a.reshape(rows, depth).astype(np.float64) @ unpacked(panels, depth)[:, :columns]
    np.testing.assert_allclose(c.reshape(rows, columns), expected, rtol=0, atol=1e-4)


def unpacked(panels, depth):
    """Return the matrix that panels hold."""
    return panels.reshape(-1, depth, panel_columns(panels.itemsize)).swapaxes(0, 1).reshape(depth, -1)
