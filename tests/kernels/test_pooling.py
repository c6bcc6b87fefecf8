"""Pooling against the definition, its gradients by central differences and the adjoint identity, and PyTorch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnzoo.kernels.batch_norm import normalize_forward
from cnnzoo.kernels.pooling import (
    NO_WINNER,
    average_pool_backward,
    average_pool_forward,
    global_average_pool_backward,
    global_average_pool_forward,
    max_pool_backward,
    max_pool_forward,
)
from tests import reference
from tests.gradients import assert_adjoint, assert_within, numerical_gradient, rounding
from tests.kernels.pixel_matrix import PixelMatrix, margins, seeds

DTYPES = [np.float32, np.float64]


@st.composite
def geometries(draw, largest=9, channels=40):
    """Draw images, height, width, channels and window, stride, padding with at least one output pixel."""
    window = draw(st.integers(1, 5))
    padding = draw(st.integers(0, window // 2))
    sizes = st.integers(max(1, window - 2 * padding), largest)
    shape = draw(st.integers(1, 3)), draw(sizes), draw(sizes), draw(st.integers(1, channels))
    return shape, window, draw(st.integers(1, 4)), padding


# The networks' own: 2x2/2, overlapping 3x3/2, 3x3/1, 4x4/4; then a window whose last place needs the byte's full range.
NETWORK_GEOMETRIES = [
    ((3, 32, 32, 64), 2, 2, 0),
    ((2, 16, 16, 192), 3, 2, 1),
    ((2, 7, 9, 50), 3, 1, 1),
    ((5, 8, 8, 64), 4, 4, 0),
    ((2, 15, 16, 3), 15, 1, 0),
]


def as_rows(x, margin=(0, 0), dtype=None):
    """Return the pixel matrix of x [N, H, W, C]."""
    return PixelMatrix(x.reshape(-1, x.shape[-1]), margin, dtype)


def output_shape(shape, window, stride, padding):
    images, height, width, channels = shape
    height = reference.output_size(height, window, stride, padding)
    return images, height, reference.output_size(width, window, stride, padding), channels


class Pool:
    """Max or average pooling of one geometry as functions of [N, H, W, C]; outputs stand between guards."""

    def __init__(self, kind, geometry, margin=(0, 0), dtype=np.float64, rectify=False, coefficients=()):
        self.shape, *self.window = geometry
        self.geometry = (*self.shape, *self.window)
        self.output_shape = output_shape(*geometry)
        self.is_max, self.rectify, self.margin, self.dtype = kind == "max", rectify, margin, dtype
        self.coefficients = np.array(coefficients, dtype)

    def forward(self, x, save=True):
        x, y = as_rows(x, self.margin, self.dtype), as_rows(np.zeros(self.output_shape), self.margin, self.dtype)
        if self.is_max:
            winner = np.full(y.values.size if save else 0, 254, np.uint8)
            max_pool_forward(*x.arguments, self.coefficients, *y.arguments, winner, *self.geometry, self.rectify)
            self.winner = winner
        else:
            average_pool_forward(*x.arguments, *y.arguments, *self.geometry)
        y.assert_guarded()
        return y.values.reshape(self.output_shape)

    def backward(self, dy, start=None):
        """Return dx, added to `start` if that is given."""
        dy = as_rows(dy, self.margin, self.dtype)
        dx = as_rows(np.full(self.shape, np.nan) if start is None else start, self.margin, self.dtype)
        saved = (self.winner,) if self.is_max else ()
        kernel = max_pool_backward if self.is_max else average_pool_backward
        kernel(*dy.arguments, *saved, *dx.arguments, *self.geometry, start is not None)
        dx.assert_guarded()
        return dx.values.reshape(self.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@given(geometry=geometries(), margin=margins, seed=seeds)
def test_max_pool_takes_the_first_maximum(dtype, geometry, margin, seed):
    # Few distinct values, all negative: ties abound, and padding would win if it counted as zero.
    x = -np.random.default_rng(seed).integers(1, 4, geometry[0])
    pool = Pool("max", geometry, margin, dtype)
    y, winner = reference.max_pool(x, *geometry[1:])
    np.testing.assert_array_equal(pool.forward(x), y)
    np.testing.assert_array_equal(pool.winner, winner.reshape(-1))
    np.testing.assert_array_equal(pool.forward(x, save=False), y)


@pytest.mark.parametrize("dtype", DTYPES)
@given(geometry=geometries(), margin=margins, seed=seeds)
def test_rectified_max_pool_is_the_max_pool_of_a_relu(dtype, geometry, margin, seed):
    """Forward bit for bit; backward the gradient of windows without a positive value goes nowhere."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-6, 3, geometry[0]).astype(dtype)  # in many windows nothing is positive, or several values are
    pool, plain = Pool("max", geometry, margin, dtype, rectify=True), Pool("max", geometry, margin, dtype)
    y = pool.forward(x)
    np.testing.assert_array_equal(y, plain.forward(np.maximum(x, 0)))
    np.testing.assert_array_equal(pool.winner, np.where(y.reshape(-1) > 0, plain.winner, NO_WINNER))
    np.testing.assert_array_equal(pool.forward(x, save=False), y)
    dy, start = (rng.standard_normal(shape).astype(dtype) for shape in (pool.output_shape, geometry[0]))
    pool.forward(x)
    expected, of_start = plain.backward(np.where(y > 0, dy, 0)), plain.backward(np.where(y > 0, dy, 0), start)
    np.testing.assert_array_equal(pool.backward(dy), expected)
    np.testing.assert_array_equal(pool.backward(dy, start), of_start)


@pytest.mark.parametrize("dtype", DTYPES)
@given(geometry=geometries(), margin=margins, seed=seeds)
def test_coefficients_are_applied_on_load(dtype, geometry, margin, seed):
    """Bit for bit the rectified pool of scale x + shift, whole numbers here; a third row is not read."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-6, 7, geometry[0]).astype(dtype)
    scale, shift = rng.integers(-2, 3, (2, geometry[0][-1]))
    applied = Pool("max", geometry, margin, dtype, coefficients=(*scale, *shift, *np.full(scale.size, np.nan)))
    plain = Pool("max", geometry, margin, dtype, rectify=True)
    np.testing.assert_array_equal(applied.forward(x), plain.forward(x * scale + shift))
    np.testing.assert_array_equal(applied.winner, plain.winner)


@pytest.mark.parametrize("dtype", DTYPES)
@given(geometry=geometries(), seed=seeds)
def test_coefficients_round_as_batch_norm_does(dtype, geometry, seed):
    """Bit for bit the pool of what batch norm + ReLU writes, NaN and infinity among it; saved or not."""
    rng = np.random.default_rng(seed)
    channels = geometry[0][-1]
    x = rng.standard_normal(geometry[0]).astype(dtype)
    x.reshape(-1)[rng.random(x.size) < 0.05] = rng.choice([np.nan, np.inf, -np.inf])
    scale, shift = rng.standard_normal((2, channels)).astype(dtype)
    scale[rng.random(channels) < 0.1] = 0
    z, flat = np.empty_like(x), x.reshape(-1)
    arguments = flat, channels, scale, shift, flat, channels, z.reshape(-1), channels, flat.size // channels, channels
    normalize_forward(*arguments, False, True)
    applied = Pool("max", geometry, dtype=dtype, coefficients=(*scale, *shift))
    plain = Pool("max", geometry, dtype=dtype, rectify=True)
    expected = plain.forward(z)
    np.testing.assert_array_equal(applied.forward(x), expected)
    np.testing.assert_array_equal(applied.winner, plain.winner)
    np.testing.assert_array_equal(applied.forward(x, save=False), expected)


@pytest.mark.parametrize("geometry", NETWORK_GEOMETRIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_max_pool_of_the_networks(geometry, dtype):
    rng = np.random.default_rng(0)
    x, pool = rng.standard_normal(geometry[0]).astype(dtype), Pool("max", geometry, (1, 2), dtype)
    y, winner = reference.max_pool(x, *geometry[1:])
    np.testing.assert_array_equal(pool.forward(x), y)
    np.testing.assert_array_equal(pool.winner, winner.reshape(-1))
    dy, start = rng.standard_normal(y.shape).astype(dtype), rng.standard_normal(x.shape).astype(dtype)
    dx = reference.max_pool_input_gradient(dy, winner, *geometry)
    sizes = reference.max_pool_input_gradient(np.abs(dy), winner, *geometry)
    # Each pixel lies in at most window^2 windows.
    bound = rounding(geometry[1] ** 2, dtype)
    assert_within(pool.backward(dy), dx, bound * sizes)
    assert_within(pool.backward(dy, start), start + dx, bound * (sizes + np.abs(start)))


@settings(max_examples=30)
@given(geometry=geometries(largest=6, channels=5), seed=seeds)
def test_max_pool_gradient_by_central_differences(geometry, seed):
    rng = np.random.default_rng(seed)
    shape = geometry[0]
    # All values differ by 1e-3 at least, far more than a step.
    x = rng.permutation(np.prod(shape)).reshape(shape) * 1e-3
    pool = Pool("max", geometry)
    dy = rng.standard_normal(pool.output_shape)
    numerical = numerical_gradient(lambda: np.vdot(pool.forward(x), dy), x)
    pool.forward(x)
    np.testing.assert_allclose(pool.backward(dy), numerical, rtol=0, atol=1e-8)


@given(geometry=geometries(), margin=margins, seed=seeds)
def test_max_pool_backward_is_the_adjoint_of_picking_the_winners(geometry, margin, seed):
    rng = np.random.default_rng(seed)
    x, other = rng.standard_normal((2, *geometry[0]))
    pool = Pool("max", geometry, margin)
    dy = rng.standard_normal(pool.output_shape)
    pool.forward(x)
    parts = reference.windows(other, *geometry[1:], 0.0)
    picked = np.take_along_axis(parts, pool.winner.reshape(1, *dy.shape).astype(int), axis=0)[0]
    assert_adjoint(picked, dy, other, pool.backward(dy))


@pytest.mark.parametrize("geometry", [((2, 7, 6, 5), 3, 2, 1), ((2, 8, 8, 33), 2, 2, 0), ((1, 5, 5, 17), 4, 1, 2)])
@pytest.mark.parametrize("values", [[np.nan, 0.0, 1.0], [-np.inf, -np.inf, -1.0], [-np.inf]])
@pytest.mark.parametrize("rectify", [False, True])
def test_max_pool_of_nan_and_infinity_is_pytorchs(geometry, values, rectify):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    rng = np.random.default_rng(0)
    x, pool = rng.choice(values, geometry[0]), Pool("max", geometry, rectify=rectify)
    images = torch.tensor(x).permute(0, 3, 1, 2).contiguous().requires_grad_()
    expected = torch.nn.functional.max_pool2d(torch.relu(images) if rectify else images, *geometry[1:])
    np.testing.assert_array_equal(pool.forward(x), expected.detach().permute(0, 2, 3, 1).numpy())
    dy = rng.standard_normal(pool.output_shape)
    expected.backward(torch.tensor(dy).permute(0, 3, 1, 2))
    np.testing.assert_allclose(pool.backward(dy), images.grad.permute(0, 2, 3, 1).numpy(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@given(geometry=geometries(), margin=margins, seed=seeds)
def test_average_pool(dtype, geometry, margin, seed):
    """window^2 - 1 additions, 1 / window^2 rounded, one product; backward rounds each term twice more."""
    rng = np.random.default_rng(seed)
    pool = Pool("average", geometry, margin, dtype)
    x, start = (v.astype(dtype) for v in rng.standard_normal((2, *geometry[0])))
    dy = rng.standard_normal(pool.output_shape).astype(dtype)
    bound = rounding(geometry[1] ** 2 + 2, dtype) + rounding(geometry[1] ** 2 + 2, np.float64)
    window = geometry[1:]
    assert_within(pool.forward(x), reference.average_pool(x, *window), bound * reference.average_pool(abs(x), *window))
    dx = reference.average_pool_input_gradient(dy, *geometry)
    sizes = reference.average_pool_input_gradient(np.abs(dy), *geometry)
    assert_within(pool.backward(dy), dx, bound * sizes)
    assert_within(pool.backward(dy, start), start + dx, bound * (sizes + np.abs(start)))


@given(geometry=geometries(), margin=margins, seed=seeds)
def test_average_pool_backward_is_the_adjoint(geometry, margin, seed):
    rng = np.random.default_rng(seed)
    pool = Pool("average", geometry, margin)
    x, dy = rng.standard_normal(geometry[0]), rng.standard_normal(pool.output_shape)
    assert_adjoint(pool.forward(x), dy, x, pool.backward(dy))


def test_average_pool_passes_nan_to_its_windows():
    x = np.zeros((1, 6, 6, 20))
    x[0, 1, 4, 7] = np.nan
    y = Pool("average", (x.shape, 2, 2, 0)).forward(x)
    expected = np.zeros((1, 3, 3, 20))
    expected[0, 0, 2, 7] = np.nan
    np.testing.assert_array_equal(y, expected)


def global_average(x, images, margin):
    y = PixelMatrix(np.zeros((images, x.values.shape[1]), x.values.dtype), margin)
    global_average_pool_forward(*x.arguments, *y.arguments, images, len(x.values) // images, x.values.shape[1])
    y.assert_guarded()
    return y.values


@pytest.mark.parametrize("dtype", DTYPES)
@given(images=st.integers(1, 40), pixels=st.integers(1, 49), channels=st.integers(1, 40), margin=margins, seed=seeds)
def test_global_average_pool(dtype, images, pixels, channels, margin, seed):
    """pixels - 1 additions, 1 / pixels rounded, one product."""
    rng = np.random.default_rng(seed)
    x = PixelMatrix(rng.standard_normal((images * pixels, channels)), margin, dtype)
    grouped = x.values.astype(np.float64).reshape(images, pixels, channels)
    bound = rounding(pixels + 2, dtype) + rounding(pixels + 2, np.float64)
    assert_within(global_average(x, images, margin), grouped.mean(axis=1), bound * np.abs(grouped).mean(axis=1))


@given(images=st.integers(1, 40), pixels=st.integers(1, 49), channels=st.integers(1, 40), margin=margins, seed=seeds)
def test_global_average_pool_backward_is_the_adjoint(images, pixels, channels, margin, seed):
    rng = np.random.default_rng(seed)
    shape = images * pixels, channels
    x, dy = PixelMatrix(rng.standard_normal(shape), margin), PixelMatrix(rng.standard_normal((images, channels)))
    dx, start = PixelMatrix(np.full(shape, np.nan), margin), PixelMatrix(rng.standard_normal(shape))
    global_average_pool_backward(*dy.arguments, *dx.arguments, images, pixels, channels, False)
    dx.assert_guarded()
    assert_adjoint(global_average(x, images, margin), dy.values, x.values, dx.values)
    expected = start.values + dx.values
    global_average_pool_backward(*dy.arguments, *start.arguments, images, pixels, channels, True)
    np.testing.assert_allclose(start.values, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_pools_are_pytorchs(window):
    functional = pytest.importorskip("torch.nn.functional", reason="compares with PyTorch")
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    x = np.random.default_rng(1).standard_normal((2, 9, 8, 21))
    images = torch.tensor(x).permute(0, 3, 1, 2)
    for kind, function in (("max", functional.max_pool2d), ("average", functional.avg_pool2d)):
        expected = function(images, *window).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(Pool(kind, (x.shape, *window)).forward(x), expected, rtol=0, atol=1e-15)
