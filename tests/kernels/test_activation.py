"""ReLU, sigmoid, tanh and dropout."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnzoo.kernels.activation import (
    SIGMOID,
    TANH,
    dropout_backward,
    dropout_forward,
    rectify_gradient,
    relu_backward,
    relu_forward,
    sigmoidal_backward,
    sigmoidal_forward,
)
from cnnzoo.kernels.blocks import block_count, block_rows
from cnnzoo.kernels.elementwise import sum_rows
from tests.gradients import assert_adjoint, assert_within, numerical_gradient, rounding
from tests.kernels.pixel_matrix import PixelMatrix, margins, seeds

DTYPES = [np.float32, np.float64]

rows_and_channels = st.tuples(st.integers(1, 40), st.integers(1, 70))
rates = st.floats(0.0, 0.95)
keys = st.integers(0, 2**64 - 1).map(np.uint64)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=rows_and_channels, margin=margins, other=margins, seed=seeds)
def test_relu(dtype, shape, margin, other, seed):
    rng = np.random.default_rng(seed)
    x = PixelMatrix(rng.standard_normal(shape).astype(dtype), margin)
    y = PixelMatrix(np.zeros(shape, dtype), other)
    relu_forward(*x.arguments, *y.arguments, *shape)
    np.testing.assert_array_equal(y.values, np.maximum(x.values, 0))
    y.assert_guarded()


@pytest.mark.parametrize("shape", [(1, 1), (33, 17), (700, 67)])
def test_relu_in_place(shape):
    values = np.random.default_rng(0).standard_normal(shape)
    x, dy = PixelMatrix(values, (1, 2)), PixelMatrix(values[::-1], (0, 3))
    relu_forward(*x.arguments, *x.arguments, *shape)
    np.testing.assert_array_equal(x.values, np.maximum(values, 0))
    x.assert_guarded()
    relu_backward(*dy.arguments, *x.arguments, *dy.arguments, *shape, False)
    np.testing.assert_array_equal(dy.values, np.where(values > 0, values[::-1], 0))
    dy.assert_guarded()


@pytest.mark.parametrize("channels", [3, 40])
def test_relu_passes_nan_and_infinity(channels):
    values = np.resize([np.nan, -np.inf, np.inf, -1.0, -0.0, 2.0], (6, channels))
    x = PixelMatrix(values)
    relu_forward(*x.arguments, *x.arguments, *values.shape)
    np.testing.assert_array_equal(x.values, np.maximum(values, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
@given(shape=rows_and_channels, margin=margins, other=margins, seed=seeds)
def test_relu_backward_takes_the_mask_from_the_output(dtype, accumulate, shape, margin, other, seed):
    rng = np.random.default_rng(seed)
    dy = PixelMatrix(rng.standard_normal(shape).astype(dtype), margin)
    y = PixelMatrix(np.maximum(rng.standard_normal(shape), 0).astype(dtype), other)
    dx = PixelMatrix(rng.standard_normal(shape).astype(dtype), margin)
    expected = np.where(y.values > 0, dy.values, 0) + (dx.values if accumulate else 0)
    relu_backward(*dy.arguments, *y.arguments, *dx.arguments, *shape, accumulate)
    np.testing.assert_array_equal(dx.values, expected)
    dx.assert_guarded()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (33, 17), (300, 64), (6000, 3), (700, 67)])
def test_rectify_gradient_is_relu_backward_and_column_sums(dtype, accumulate, shape):
    rng = np.random.default_rng(0)
    dy = PixelMatrix(rng.standard_normal(shape).astype(dtype), (2, 1))
    y = PixelMatrix(np.maximum(rng.standard_normal(shape), 0).astype(dtype), (1, 2))
    dx, sums = PixelMatrix(np.zeros(shape, dtype)), rng.standard_normal(shape[1]).astype(dtype)
    expected = sums.copy()
    partials = np.full(block_count(shape[0], block_rows(shape[1])) * shape[1], np.nan, dtype)
    relu_backward(*dy.arguments, *y.arguments, *dx.arguments, *shape, False)
    sum_rows(*dx.arguments, *shape, partials.copy(), expected, accumulate)
    rectify_gradient(*dy.arguments, *y.arguments, *shape, partials, sums, accumulate)
    np.testing.assert_array_equal(dy.values, dx.values)
    np.testing.assert_array_equal(sums, expected)
    dy.assert_guarded()


@settings(max_examples=30)
@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 20)), seed=seeds)
def test_relu_gradient_by_central_differences(shape, seed):
    rng = np.random.default_rng(seed)
    # No value so near zero that a step crosses it.
    x = PixelMatrix(rng.choice([-1, 1], shape) * rng.uniform(0.1, 1, shape))
    dy = PixelMatrix(rng.standard_normal(shape))
    y, dx = PixelMatrix(np.zeros(shape)), PixelMatrix(np.zeros(shape))

    def loss():
        relu_forward(*x.arguments, *y.arguments, *shape)
        return np.vdot(y.values, dy.values)

    numerical = numerical_gradient(loss, x.values)
    relu_backward(*dy.arguments, *y.arguments, *dx.arguments, *shape, False)
    np.testing.assert_allclose(dx.values, numerical, rtol=0, atol=1e-8)


def dropped(x, rate, key, y=None):
    """Return the output and the mask of dropout of the pixel matrix x, in place if y is x."""
    rows, channels = x.values.shape
    y = y or PixelMatrix(np.zeros_like(x.values), (1, 2))
    mask = np.full(rows * channels, 7, np.uint8)
    dropout_forward(*x.arguments, *y.arguments, mask, rows, channels, 1, rate, key)
    y.assert_guarded()
    return y.values, mask.reshape(rows, channels)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=rows_and_channels, margin=margins, rate=rates, key=keys, seed=seeds)
def test_dropout_scales_what_it_keeps(dtype, shape, margin, rate, key, seed):
    x = PixelMatrix(np.random.default_rng(seed).standard_normal(shape).astype(dtype), margin)
    y, mask = dropped(x, rate, key)
    assert set(np.unique(mask)) <= {0, 1}
    np.testing.assert_array_equal(y, np.where(mask, x.values * dtype(1 / (1 - rate)), 0))
    in_place, same_mask = dropped(x, rate, key, y=x)
    np.testing.assert_array_equal(in_place, y)
    np.testing.assert_array_equal(same_mask, mask)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 0.5, 0.9])
def test_dropout_drops_at_its_rate(rate):
    shape = (512, 400)
    ones = PixelMatrix(np.ones(shape, np.float32))
    _, mask = dropped(ones, rate, np.uint64(0))
    _, next_mask = dropped(ones, rate, np.uint64(1))
    count = mask.size
    # Five standard deviations of a binomial distribution; of the whole, and of neighbours and keys agreeing.
    assert abs(mask.mean() - (1 - rate)) <= 5 * np.sqrt(rate * (1 - rate) / count)
    both = (1 - rate) ** 2
    for other in (next_mask, np.roll(mask, 1, axis=0), np.roll(mask, 1, axis=1)):
        assert abs((mask & other).mean() - both) <= 5 * np.sqrt(both * (1 - both) / count)


def test_dropout_depends_on_key_and_place_only():
    many, few = PixelMatrix(np.ones((1000, 50))), PixelMatrix(np.ones((3, 50)), (2, 2))
    _, mask = dropped(many, 0.5, np.uint64(3))
    _, same_mask = dropped(few, 0.5, np.uint64(3))
    np.testing.assert_array_equal(same_mask, mask[:3])
    _, other_mask = dropped(few, 0.5, np.uint64(4))
    assert np.any(other_mask != same_mask)


def test_dropout_passes_nan_it_keeps():
    y, mask = dropped(PixelMatrix(np.full((30, 30), np.nan)), 0.5, np.uint64(0))
    np.testing.assert_array_equal(np.isnan(y), mask == 1)


@given(shape=rows_and_channels, margin=margins, rate=rates, key=keys, seed=seeds)
def test_dropout_backward_is_the_adjoint(shape, margin, rate, key, seed):
    x, dy, start = (PixelMatrix(v, margin) for v in np.random.default_rng(seed).standard_normal((3, *shape)))
    y, mask = dropped(x, rate, key)
    dx = PixelMatrix(np.zeros(shape), margin)
    dropout_backward(*dy.arguments, mask.reshape(-1), *dx.arguments, *shape, 1, rate, False)
    dx.assert_guarded()
    assert_adjoint(y, dy.values, x.values, dx.values)

    expected = start.values + dx.values
    dropout_backward(*dy.arguments, mask.reshape(-1), *start.arguments, *shape, 1, rate, True)
    np.testing.assert_allclose(start.values, expected, rtol=1e-15, atol=1e-15 / (1 - rate))
    dropout_backward(*dy.arguments, mask.reshape(-1), *dy.arguments, *shape, 1, rate, False)
    np.testing.assert_array_equal(dy.values, dx.values)


@given(
    images=st.integers(1, 5), pixels=st.integers(1, 30), channels=st.integers(1, 70), rate=rates, key=keys, seed=seeds
)
def test_dropout_of_whole_channels(images, pixels, channels, rate, key, seed):
    """The mask is that of dropout on one row an image, and all pixels of the image obey it, forward and backward."""
    rows = images * pixels
    x, dy, start = (PixelMatrix(v, (1, 2)) for v in np.random.default_rng(seed).standard_normal((3, rows, channels)))
    _, expected = dropped(PixelMatrix(np.ones((images, channels))), rate, key)
    factors = np.repeat(expected, pixels, axis=0) * (1 / (1 - rate))
    y, mask = PixelMatrix(np.zeros((rows, channels)), (0, 3)), np.full(images * channels, 7, np.uint8)
    dropout_forward(*x.arguments, *y.arguments, mask, rows, channels, pixels, rate, key)
    np.testing.assert_array_equal(mask.reshape(images, channels), expected)
    np.testing.assert_array_equal(y.values, x.values * factors)
    y.assert_guarded()
    total = start.values + dy.values * factors
    dropout_backward(*dy.arguments, mask, *start.arguments, rows, channels, pixels, rate, True)
    np.testing.assert_allclose(start.values, total, rtol=1e-15, atol=1e-15 / (1 - rate))
    dropout_backward(*dy.arguments, mask, *dy.arguments, rows, channels, pixels, rate, False)
    np.testing.assert_array_equal(dy.values != 0, factors != 0)


SIGMOIDAL = {
    SIGMOID: (lambda x: 1 / (1 + np.exp(-x)), lambda y: y * (1 - y)),
    TANH: (np.tanh, lambda y: 1 - y**2),
}


@pytest.mark.parametrize("function", SIGMOIDAL)
@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=rows_and_channels, margin=margins, other=margins, scale=st.sampled_from([1e-3, 1.0, 30.0]), seed=seeds)
def test_sigmoid_and_tanh(dtype, function, shape, margin, other, scale, seed):
    """Within four units in the last place: two of the library's function, and two operations; y may be x."""
    x = PixelMatrix((scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype), margin)
    y = PixelMatrix(np.zeros(shape, dtype), other)
    expected = SIGMOIDAL[function][0](x.values.astype(np.float64))
    sigmoidal_forward(*x.arguments, *y.arguments, *shape, function)
    np.testing.assert_allclose(y.values, expected, rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)
    y.assert_guarded()
    sigmoidal_forward(*x.arguments, *x.arguments, *shape, function)
    np.testing.assert_array_equal(x.values, y.values)


@pytest.mark.parametrize("function", SIGMOIDAL)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
@given(shape=rows_and_channels, margin=margins, other=margins, seed=seeds)
def test_sigmoid_and_tanh_backward(dtype, function, accumulate, shape, margin, other, seed):
    """Three or four roundings relative to |dy|, since the slope is at most 1, and that of the sum; dx may be dy."""
    rng = np.random.default_rng(seed)
    dy = PixelMatrix(rng.standard_normal(shape).astype(dtype), margin)
    y = PixelMatrix(rng.uniform(-1 if function == TANH else 0, 1, shape).astype(dtype), other)
    start = rng.standard_normal(shape).astype(dtype)
    dx = PixelMatrix(start if accumulate else np.full(shape, np.nan, dtype), margin)
    exact = dy.values.astype(np.float64) * SIGMOIDAL[function][1](y.values.astype(np.float64)) + start * accumulate
    sigmoidal_backward(*dy.arguments, *y.arguments, *dx.arguments, *shape, function, accumulate)
    sizes = 2 * np.abs(dy.values.astype(np.float64)) + np.abs(start) * accumulate
    assert_within(dx.values, exact, (rounding(5, dtype) + rounding(5, np.float64)) * sizes)
    dx.assert_guarded()
    if not accumulate:
        sigmoidal_backward(*dy.arguments, *y.arguments, *dy.arguments, *shape, function, False)
        np.testing.assert_array_equal(dy.values, dx.values)


@pytest.mark.parametrize("function", SIGMOIDAL)
def test_sigmoid_and_tanh_at_their_ends(function):
    x = PixelMatrix(np.array([[-np.inf, -1e30, 1e30, np.inf, np.nan]], np.float32))
    sigmoidal_forward(*x.arguments, *x.arguments, 1, 5, function)
    low = 0 if function == SIGMOID else -1
    np.testing.assert_array_equal(x.values, np.array([[low, low, 1, 1, np.nan]], np.float32))


@pytest.mark.parametrize("function", SIGMOIDAL)
@settings(max_examples=30)
@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 20)), seed=seeds)
def test_sigmoid_and_tanh_gradient_by_central_differences(function, shape, seed):
    x, dy = (PixelMatrix(v) for v in np.random.default_rng(seed).standard_normal((2, *shape)))
    y, dx = PixelMatrix(np.zeros(shape)), PixelMatrix(np.zeros(shape))

    def loss():
        sigmoidal_forward(*x.arguments, *y.arguments, *shape, function)
        return np.vdot(y.values, dy.values)

    numerical = numerical_gradient(loss, x.values)
    loss()
    sigmoidal_backward(*dy.arguments, *y.arguments, *dx.arguments, *shape, function, False)
    np.testing.assert_allclose(dx.values, numerical, rtol=0, atol=1e-8)
