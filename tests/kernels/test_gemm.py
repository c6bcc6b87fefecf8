"""The matrix product: panels, register tiles, and the products that 1x1 convolutions of pixel matrices are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.kernels.compile import kernel
from cnnzoo.kernels.convolution import ConvolutionShape
from cnnzoo.kernels.gemm import multiply_block, pack_taps, pack_tasks, packed_size
from cnnzoo.kernels.im2col import Im2col
from cnnzoo.kernels.vectors import TILE_VECTORS, VECTOR_BYTES, panel_width
from tests.gradients import assert_within
from tests.kernels.convolution_layer import Layer, error_bound
from tests.kernels.pixel_matrix import GUARD, PixelMatrix, margins, seeds

DTYPES = [np.float32, np.float64]

extents = st.tuples(*[st.integers(1, 40)] * 3)
"""Rows, depth and columns: every remainder of tiles of 1 to 8 rows and panels of 4 to 32 columns."""


@kernel("void(i8, i8, i8, T[::1], i8, i8, T[::1], T[::1], i8, bool_)")
def multiply(rows, columns, depth, a, a_row, a_step, panels, c, ldc, add):
    multiply_block(rows, columns, depth, a, 0, a_row, a_step, panels, 0, depth * panel_width(c), c, 0, ldc, add)


@kernel("void(T[::1], i8[::1], i8, i8, bool_, T[::1])")
def pack(w, taps, tap_depth, columns, transposed, panels):
    for task in range(pack_tasks(taps.size, tap_depth, columns)):
        pack_taps(task, w, taps, tap_depth, columns, transposed, panels)


def packed(b, transposed=False):
    """Return the panels of b [depth, columns], packed from b or from its transpose, with guards behind them."""
    size = packed_size(*b.shape, b.itemsize)
    panels = np.full(size + 64, GUARD, b.dtype)
    source = np.ascontiguousarray(b.T if transposed else b).reshape(-1)
    pack(source, np.zeros(1, np.int64), *b.shape, transposed, panels[:size])
    assert np.all(panels[size:] == GUARD)
    return panels[:size]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@given(depth=st.integers(1, 300), columns=st.integers(1, 70), seed=seeds)
def test_panels_hold_b_and_zeros(dtype, transposed, depth, columns, seed):
    b = np.random.default_rng(seed).standard_normal((depth, columns)).astype(dtype)
    width = TILE_VECTORS * VECTOR_BYTES // b.itemsize
    panels = packed(b, transposed).reshape(-1, depth, width).transpose(1, 0, 2).reshape(depth, -1)
    np.testing.assert_array_equal(panels[:, :columns], b)
    assert not panels[:, columns:].any()


@pytest.mark.parametrize("dtype", DTYPES)
@given(extents=extents, a_margin=margins, c_margin=margins, seed=seeds, transposed=st.booleans(), add=st.booleans())
def test_register_tiles(dtype, extents, a_margin, c_margin, seed, transposed, add):
    """A is read in place, by rows or transposed, and nothing but C is written."""
    rows, depth, columns = extents
    rng = np.random.default_rng(seed)
    stored = (depth, rows) if transposed else (rows, depth)
    a = PixelMatrix(rng.standard_normal(stored), a_margin, dtype)
    b = rng.standard_normal((depth, columns)).astype(dtype)
    c = PixelMatrix(rng.standard_normal((rows, columns)) if add else np.full((rows, columns), np.nan), c_margin, dtype)
    start = c.values.astype(np.float64) if add else np.zeros((rows, columns))
    buffer, lda = a.arguments
    steps = (1, lda) if transposed else (lda, 1)
    multiply(rows, columns, depth, buffer, *steps, packed(b), *c.arguments, add)
    wide = a.values.astype(np.float64).T if transposed else a.values.astype(np.float64)
    bound = error_bound(depth + add, np.abs(start) + np.abs(wide) @ np.abs(b), dtype)
    assert_within(c.values, start + wide @ b, bound)
    c.assert_guarded()


@pytest.mark.parametrize("dtype", DTYPES)
@given(extents=extents, margin=margins, seed=seeds, add=st.booleans())
def test_products_of_pixel_matrices(dtype, extents, margin, seed, add):
    """C (+)= A B, (+)= A B' and (+)= A' B are the three passes of a 1x1 convolution."""
    rows, depth, columns = extents
    rng = np.random.default_rng(seed)
    a, b, c = (rng.standard_normal(shape).astype(dtype) for shape in ((rows, depth), (depth, columns), (rows, columns)))
    layer = Layer(Im2col, ConvolutionShape(rows, 1, 1, depth, columns, 1), dtype, margin)
    wide_a, wide_b, wide_c = (m.astype(np.float64) for m in (a, b, c))
    for run, (left, right), extra, factors in (
        (layer.forward, (a, b), c, (wide_a, wide_b)),
        (layer.input_gradient, (c, b), a, (wide_c, wide_b.T)),
        (layer.weight_gradient, (a, c), b, (wide_a.T, wide_c)),
    ):
        start = extra if add else None
        result = run(left, right, start).reshape(extra.shape)
        added = extra.astype(np.float64) if add else np.zeros(extra.shape)
        sizes = np.abs(added) + np.abs(factors[0]) @ np.abs(factors[1])
        assert_within(result, added + factors[0] @ factors[1], error_bound(factors[0].shape[1] + add, sizes, dtype))
