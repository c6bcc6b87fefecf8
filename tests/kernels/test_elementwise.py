"""Sums, copies and layout changes: exact where nothing is summed, else within bounds from the number of terms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.kernels.blocks import block_count, block_rows
from cnnzoo.kernels.elementwise import add_forward, copy_rows, nchw_to_nhwc, sum_rows
from tests.gradients import assert_adjoint, assert_within, rounding
from tests.kernels.pixel_matrix import PixelMatrix, margins, seeds

DTYPES = [np.float32, np.float64]
# From a single value over channel counts next to vector widths to several blocks of rows.
SHAPES = [(1, 1), (7, 3), (33, 17), (300, 64), (6000, 3), (700, 67), (3, 20000)]

rows_and_channels = st.tuples(st.integers(1, 40), st.integers(1, 70))


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=rows_and_channels, margin=margins, other=margins, seed=seeds)
def test_add_is_exact_and_keeps_to_its_columns(dtype, shape, margin, other, seed):
    rng = np.random.default_rng(seed)
    a = PixelMatrix(rng.standard_normal(shape).astype(dtype), margin)
    b = PixelMatrix(rng.standard_normal(shape).astype(dtype), other)
    y = PixelMatrix(np.zeros(shape, dtype), margin)
    add_forward(*a.arguments, *b.arguments, *y.arguments, *shape)
    np.testing.assert_array_equal(y.values, a.values + b.values)
    y.assert_guarded()


@pytest.mark.parametrize("shape", SHAPES)
def test_add_in_place(shape):
    rng = np.random.default_rng(0)
    a = PixelMatrix(rng.standard_normal(shape), (1, 2))
    b = PixelMatrix(rng.standard_normal(shape))
    expected = a.values + b.values
    add_forward(*a.arguments, *b.arguments, *a.arguments, *shape)
    np.testing.assert_array_equal(a.values, expected)
    a.assert_guarded()


def test_add_passes_nan():
    a, b = PixelMatrix(np.array([[1.0, np.nan]])), PixelMatrix(np.ones((1, 2)))
    add_forward(*a.arguments, *b.arguments, *b.arguments, 1, 2)
    np.testing.assert_array_equal(b.values, [[2.0, np.nan]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
@given(shape=rows_and_channels, margin=margins, other=margins, seed=seeds)
def test_copy(dtype, accumulate, shape, margin, other, seed):
    rng = np.random.default_rng(seed)
    x = PixelMatrix(rng.standard_normal(shape).astype(dtype), margin)
    y = PixelMatrix(rng.standard_normal(shape).astype(dtype), other)
    expected = y.values + x.values if accumulate else x.values.copy()
    copy_rows(*x.arguments, *y.arguments, *shape, accumulate)
    np.testing.assert_array_equal(y.values, expected)
    y.assert_guarded()


@given(shape=rows_and_channels, seed=seeds)
def test_copies_of_the_gradient_are_the_adjoint_of_add(shape, seed):
    a, b, dy = (PixelMatrix(values) for values in np.random.default_rng(seed).standard_normal((3, *shape)))
    y, da, db = (PixelMatrix(np.zeros(shape)) for _ in range(3))
    add_forward(*a.arguments, *b.arguments, *y.arguments, *shape)
    for gradient in (da, db):
        copy_rows(*dy.arguments, *gradient.arguments, *shape, False)
    assert_adjoint(y.values, dy.values, np.stack([a.values, b.values]), np.stack([da.values, db.values]))


def column_sums(x, y, accumulate):
    rows, channels = x.values.shape
    partials = np.full(block_count(rows, block_rows(channels)) * channels, np.nan, y.dtype)
    sum_rows(*x.arguments, rows, channels, partials, y, accumulate)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_column_sums(dtype, accumulate, shape):
    """rows - 1 additions in the element type within blocks, float64 between them, and one rounding at the end."""
    rng = np.random.default_rng(1)
    x = PixelMatrix(rng.standard_normal(shape) + 0.5, (2, 1), dtype)
    start = rng.standard_normal(shape[1]).astype(dtype)
    y = start.copy()
    column_sums(x, y, accumulate)
    exact, sizes = x.values.sum(axis=0, dtype=np.float64), np.abs(x.values).sum(axis=0, dtype=np.float64)
    if accumulate:
        exact, sizes = exact + start, sizes + np.abs(start)
    # The reference's own float64 roundings are granted too: they matter where float64 is what is tested.
    assert_within(y, exact, (rounding(shape[0], dtype) + rounding(shape[0], np.float64)) * sizes)


@given(shape=rows_and_channels, margin=margins, seed=seeds)
def test_column_sums_are_the_adjoint_of_a_bias(shape, margin, seed):
    rng = np.random.default_rng(seed)
    dy, bias, db = PixelMatrix(rng.standard_normal(shape), margin), rng.standard_normal(shape[1]), np.empty(shape[1])
    column_sums(dy, db, False)
    assert_adjoint(np.broadcast_to(bias, shape), dy.values, bias, db)


def test_column_sums_pass_nan():
    x, y = PixelMatrix(np.ones((40, 5))), np.empty(5)
    x.values[20, 3] = np.nan
    column_sums(x, y, False)
    np.testing.assert_array_equal(y, [40, 40, 40, np.nan, 40])


@pytest.mark.parametrize("dtype", DTYPES)
@given(images=st.integers(1, 5), channels=st.integers(1, 20), pixels=st.integers(1, 30), margin=margins, seed=seeds)
def test_nchw_to_nhwc(dtype, images, channels, pixels, margin, seed):
    x = np.random.default_rng(seed).standard_normal((images, channels, pixels)).astype(dtype)
    y = PixelMatrix(np.zeros((images * pixels, channels), dtype), margin)
    nchw_to_nhwc(x.reshape(-1), *y.arguments, images, channels, pixels)
    np.testing.assert_array_equal(y.values, x.transpose(0, 2, 1).reshape(-1, channels))
    y.assert_guarded()


def test_nchw_to_nhwc_over_several_blocks():
    x = np.random.default_rng(2).standard_normal((40, 3, 1024)).astype(np.float32)
    y = PixelMatrix(np.zeros((40 * 1024, 3), np.float32), (0, 1))
    nchw_to_nhwc(x.reshape(-1), *y.arguments, 40, 3, 1024)
    np.testing.assert_array_equal(y.values, x.transpose(0, 2, 1).reshape(-1, 3))
    y.assert_guarded()
