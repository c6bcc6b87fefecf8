"""Convolution against the definition: all passes, what is applied on load and on the way out, gradients, adjoints."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnzoo.kernels.convolution import PLAIN, SCALE_SHIFT_RELU, ConvolutionShape
from cnnzoo.kernels.im2col import SMALL_WEIGHT_BYTES, Im2col
from tests.gradients import assert_adjoint, numerical_gradient
from tests.kernels.convolution_layer import (
    Layer,
    OnLoad,
    assert_all_passes,
    assert_batch_norm_gradient_on_store,
    assert_batch_norm_on_load,
    assert_bias_is_added,
    assert_rectified,
    assert_statistics,
    drawn,
    expected_passes,
)
from tests.kernels.pixel_matrix import margins, seeds
from tests.shapes import MODELS, TAILS, list_convolutions

ALGORITHMS = [Im2col]
DTYPES = [np.float32, np.float64]
NETWORK_SHAPES = list(list_convolutions(MODELS, images=1))

pytestmark = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.name)


@st.composite
def shapes(draw, largest_kernel=11, channels=40, largest_image=16):
    """Draw a convolution with at least one output pixel, padding up to the kernel's size included."""
    kernel = draw(st.integers(1, largest_kernel))
    padding = draw(st.integers(0, kernel))
    sizes = st.integers(max(1, kernel - 2 * padding), largest_image)
    extents = draw(st.integers(1, 3)), draw(sizes), draw(sizes)
    in_channels, out_channels = draw(st.integers(1, channels)), draw(st.integers(1, channels))
    return ConvolutionShape(*extents, in_channels, out_channels, kernel, draw(st.integers(1, 4)), padding)


# Enough pixels that weight gradients are summed in slots.
large_images = st.builds(
    ConvolutionShape,
    images=st.just(3),
    height=st.integers(34, 40),
    width=st.integers(34, 40),
    in_channels=st.integers(1, 20),
    out_channels=st.integers(1, 40),
    kernel=st.integers(1, 3),
    padding=st.integers(0, 3),
)
small_shapes = shapes(largest_kernel=4, largest_image=9)
# So many input channels that an epilogue takes them in parts.
wide = st.builds(
    ConvolutionShape,
    images=st.integers(1, 3),
    height=st.just(20),
    width=st.just(16),
    in_channels=st.integers(129, 300),
    out_channels=st.integers(1, 9),
    kernel=st.just(1),
)


def name_of(shape):
    """Return a test's name for a shape: images x height x width, channels, kernel, stride, padding."""
    s = shape
    image = f"{s.images}x{s.height}x{s.width}"
    return f"{image}-{s.in_channels}to{s.out_channels}-k{s.kernel}s{s.stride}p{s.padding}"


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=200)
@given(shape=st.one_of(shapes(), large_images), margin=margins, seed=seeds)
def test_all_passes(algorithm, dtype, shape, margin, seed):
    assert_all_passes(algorithm, shape, dtype, seed, margin)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", TAILS, ids=name_of)
def test_tails(algorithm, shape, dtype):
    assert_all_passes(algorithm, shape, dtype, margin=(1, 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", NETWORK_SHAPES, ids=name_of)
def test_shapes_of_the_networks(algorithm, shape, dtype):
    assert_all_passes(algorithm, shape, dtype)


@given(shape=st.one_of(shapes(), large_images), seed=seeds)
def test_gradients_are_adjoints(algorithm, shape, seed):
    x, w, dy, _ = drawn(shape, seed)
    layer = Layer(algorithm, shape)
    y = layer.forward(x, w)
    assert_adjoint(y, dy, x, layer.input_gradient(dy, w))
    assert_adjoint(y, dy, w, layer.weight_gradient(x, dy))


@settings(max_examples=30)
@given(shape=shapes(largest_kernel=3, channels=3, largest_image=5), seed=seeds)
def test_gradients_are_central_differences(algorithm, shape, seed):
    """Of half the squared output, with a batch norm + ReLU on load, a bias and a y that is added to."""
    x, w, start, bias = drawn(shape, seed)
    layer, prologue = Layer(algorithm, shape), OnLoad(SCALE_SHIFT_RELU, x.shape, seed, np.float64)

    def loss():
        return np.square(layer.forward(x, w, start, prologue, bias)).sum() / 2

    y = layer.forward(x, w, start, prologue, bias)
    # The loss is a square: differences have no error but rounding, of the loss over their step.
    tolerance = {"rtol": 0, "atol": 1e-9 * (1 + loss())}
    dw = layer.weight_gradient(x, y, prologue=prologue)
    np.testing.assert_allclose(dw, numerical_gradient(loss, w), **tolerance)
    np.testing.assert_allclose(y.sum(axis=(0, 1, 2)), numerical_gradient(loss, bias), **tolerance)
    dx = layer.input_gradient(y, w) * prologue.scale * (prologue.apply(x) > 0)
    np.testing.assert_allclose(dx, numerical_gradient(loss, x), **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=small_shapes, margin=margins, seed=seeds, accumulate=st.booleans())
def test_bias(algorithm, dtype, shape, margin, seed, accumulate):
    assert_bias_is_added(algorithm, shape, dtype, seed, margin, accumulate)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=small_shapes, margin=margins, seed=seeds, biased=st.booleans())
def test_relu(algorithm, dtype, shape, margin, seed, biased):
    assert_rectified(algorithm, shape, dtype, seed, margin, biased)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=small_shapes, margin=margins, seed=seeds)
def test_batch_norm_on_load_of_x(algorithm, dtype, shape, margin, seed):
    assert_batch_norm_on_load(algorithm, shape, dtype, seed, margin)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=st.one_of(small_shapes, large_images, wide), margin=margins, seed=seeds)
def test_batch_norm_gradient_on_store_of_dx(algorithm, dtype, shape, margin, seed):
    assert_batch_norm_gradient_on_store(algorithm, replace(shape, stride=1), dtype, seed, margin)


def test_strides_take_no_epilogue(algorithm):
    """The pixels of a phase are no run of rows."""
    assert algorithm(ConvolutionShape(1, 4, 4, 3, 5, 1, 2), np.float32).gradient_rows is None


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=shapes(largest_kernel=4, largest_image=12), margin=margins, seed=seeds, biased=st.booleans())
def test_statistics_of_the_output(algorithm, dtype, shape, margin, seed, biased):
    assert_statistics(algorithm, shape, dtype, seed, margin, biased)


@pytest.mark.parametrize("prologue", [False, True])
@given(shape=small_shapes, seed=seeds)
def test_nan_passes_where_the_window_meets_it(algorithm, prologue, shape, seed):
    x, w, dy, _ = drawn(shape, seed)
    on_x = OnLoad(SCALE_SHIFT_RELU if prologue else PLAIN, x.shape, seed, np.float64)
    place = np.random.default_rng(seed).integers(0, x.size)
    x.reshape(-1)[place] = np.nan
    expected, layer = expected_passes(shape, on_x.apply(x), w, dy), Layer(algorithm, shape)
    argument = on_x if prologue else None
    np.testing.assert_array_equal(np.isnan(layer.forward(x, w, prologue=argument)), np.isnan(expected["forward"]))
    dw = layer.weight_gradient(x, dy, prologue=argument)
    np.testing.assert_array_equal(np.isnan(dw), np.isnan(expected["weight_gradient"]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fixed_shapes_take_every_path(algorithm, dtype):
    """Weight gradients with and without slots, in blocks of rows and of columns; tasks of part of the columns."""
    plans = [algorithm(shape, dtype) for shape in (*TAILS, *NETWORK_SHAPES)]
    assert {plan._slots > 1 for plan in plans} == {False, True}
    assert any(plan._slot_size * plan.dtype.itemsize > plan._slots * SMALL_WEIGHT_BYTES for plan in plans)
    assert any(plan._slots > 1 and plan._row_block < plan._forward.depth for plan in plans)
    assert any(plan._slots == 1 and plan._row_block < plan._forward.depth for plan in plans)
    assert {plan._column_block < plan.shape.out_channels for plan in plans} == {False, True}
    assert {plan._forward.group < plan.shape.out_channels for plan in plans} == {False, True}
