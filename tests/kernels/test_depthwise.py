"""Depthwise convolution against the definition: all passes, batch norm on load, statistics, gradients, adjoints."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnzoo.kernels.blocks import block_count
from cnnzoo.kernels.convolution import PLAIN, SCALE_SHIFT_RELU, ConvolutionShape
from cnnzoo.kernels.depthwise import DepthwiseConvolution
from tests.gradients import assert_adjoint, assert_within, numerical_gradient, rounding
from tests.kernels.convolution_layer import (
    Layer,
    OnLoad,
    assert_all_passes,
    assert_batch_norm_on_load,
    assert_bias_is_added,
    assert_rectified,
    drawn,
    expected_passes,
)
from tests.kernels.pixel_matrix import margins, seeds

DTYPES = [np.float32, np.float64]


def depthwise(images, height, width, channels, kernel, stride=1, padding=0):
    return ConvolutionShape(images, height, width, channels, channels, kernel, stride, padding, groups=channels)


@st.composite
def shapes(draw, largest_kernel=6, channels=40, largest_image=13):
    """Draw a convolution with at least one output pixel, padding up to beyond the kernel; half of them 3x3."""
    kernel = draw(st.one_of(st.just(3), st.integers(1, largest_kernel)))
    padding = draw(st.integers(0, kernel + 1))
    sizes = st.integers(max(1, kernel - 2 * padding), largest_image)
    extents = draw(st.integers(1, 3)), draw(sizes), draw(sizes), draw(st.integers(1, channels))
    return depthwise(*extents, kernel, draw(st.integers(1, 4)), padding)


small_shapes = shapes(largest_kernel=4, largest_image=7)

# MobileNetV1's, each of its distinct ones.
NETWORK_SHAPES = [
    depthwise(3, size, size, channels, 3, stride, 1)
    for size, channels, stride in (
        (32, 32, 1), (32, 64, 2), (16, 128, 1), (16, 128, 2), (8, 256, 1), (8, 256, 2), (4, 512, 1), (4, 512, 2),
        (2, 1024, 1),
    )
]  # fmt: skip
# Channels beyond one task's and off the width of vectors; large images, that are fetched ahead; one row, one pixel.
TAILS = [
    depthwise(2, 5, 6, 515, 3, 1, 1),
    depthwise(1, 67, 65, 37, 3, 2, 1),
    depthwise(1, 40, 50, 33, 5, 1, 2),
    depthwise(1, 1, 9, 257, 3, 1, 1),
    depthwise(1, 1, 1, 3, 3, 1, 1),
    depthwise(1, 3, 3, 5, 3, 1, 0),
]


def name_of(shape):
    s = shape
    return f"{s.images}x{s.height}x{s.width}x{s.in_channels}-k{s.kernel}s{s.stride}p{s.padding}"


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=200)
@given(shape=shapes(), margin=margins, seed=seeds)
def test_all_passes(dtype, shape, margin, seed):
    assert_all_passes(DepthwiseConvolution, shape, dtype, seed, margin)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", TAILS, ids=name_of)
def test_tails(shape, dtype):
    assert_all_passes(DepthwiseConvolution, shape, dtype, margin=(1, 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", NETWORK_SHAPES, ids=name_of)
def test_shapes_of_the_networks(shape, dtype):
    assert_all_passes(DepthwiseConvolution, shape, dtype)


@given(shape=shapes(), seed=seeds)
def test_gradients_are_adjoints(shape, seed):
    x, w, dy, _ = drawn(shape, seed)
    layer = Layer(DepthwiseConvolution, shape)
    y = layer.forward(x, w)
    assert_adjoint(y, dy, x, layer.input_gradient(dy, w))
    assert_adjoint(y, dy, w, layer.weight_gradient(x, dy))


@settings(max_examples=30)
@given(shape=shapes(largest_kernel=3, channels=3, largest_image=5), seed=seeds)
def test_gradients_are_central_differences(shape, seed):
    """Of half the squared output, with a batch norm + ReLU on load, a bias and a y that is added to."""
    x, w, start, bias = drawn(shape, seed)
    layer, prologue = Layer(DepthwiseConvolution, shape), OnLoad(SCALE_SHIFT_RELU, x.shape, seed, np.float64)

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
def test_bias(dtype, shape, margin, seed, accumulate):
    assert_bias_is_added(DepthwiseConvolution, shape, dtype, seed, margin, accumulate)
    assert_rectified(DepthwiseConvolution, shape, dtype, seed, margin, biased=accumulate)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=st.one_of(small_shapes, st.sampled_from(TAILS)), margin=margins, seed=seeds)
def test_batch_norm_on_load_of_x(dtype, shape, margin, seed):
    """Padding is zero after max(0, scale x + shift), not before."""
    assert_batch_norm_on_load(DepthwiseConvolution, shape, dtype, seed, margin)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=st.one_of(shapes(), st.sampled_from(NETWORK_SHAPES)), margin=margins, seed=seeds, biased=st.booleans())
def test_statistics_of_the_output(dtype, shape, margin, seed, biased):
    """A block's mean is off by at most gamma_n max|y|, its M2 by that shift of each term and its own rounding."""
    x, w, _, bias = drawn(shape, seed, dtype)
    layer = Layer(DepthwiseConvolution, shape, dtype, margin)
    rows, step = shape.out_pixels, layer.algorithm.statistics_rows
    partials = np.full((block_count(rows, step), 2, shape.out_channels), np.nan, dtype)
    y = layer.forward(x, w, bias=bias if biased else None, statistics=partials.reshape(-1))
    y = y.reshape(rows, -1).astype(np.float64)
    for block, (mean, m2) in enumerate(partials):
        part = y[block * step : (block + 1) * step]
        count, largest = len(part), np.abs(part).max(axis=0)
        off = (rounding(count + 1, dtype) + rounding(count + 1, np.float64)) * largest
        assert_within(mean, part.mean(axis=0), off)
        exact = ((part - part.mean(axis=0)) ** 2).sum(axis=0)
        bound = count * 2 * off * (2 * largest + off) + rounding(count + 4, dtype) * 2 * exact
        assert_within(m2, exact, bound)


@pytest.mark.parametrize("prologue", [False, True])
@given(shape=small_shapes, seed=seeds, value=st.sampled_from([np.nan, np.inf]))
def test_nan_and_infinity_reach_only_the_windows_that_meet_them(prologue, shape, seed, value):
    """Padding and neighboring channels are not multiplied: elsewhere every value is finite."""
    x, w, dy, _ = drawn(shape, seed)
    on_x = OnLoad(SCALE_SHIFT_RELU if prologue else PLAIN, x.shape, seed, np.float64)
    x.reshape(-1)[np.random.default_rng(seed).integers(0, x.size)] = value
    with np.errstate(invalid="ignore"):
        expected = expected_passes(shape, on_x.apply(x), w, dy)
    argument, layer = on_x if prologue else None, Layer(DepthwiseConvolution, shape)
    y = layer.forward(x, w, prologue=argument)
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(expected["forward"]))
    dw = layer.weight_gradient(x, dy, prologue=argument)
    np.testing.assert_array_equal(np.isfinite(dw), np.isfinite(expected["weight_gradient"]))


@pytest.mark.parametrize("shape", NETWORK_SHAPES[3:6], ids=name_of)
def test_same_bits_at_any_number_of_threads(shape):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba was started with one thread")
    x, w, dy, _ = drawn(shape, 0, np.float32)
    layer, results = Layer(DepthwiseConvolution, shape, np.float32), []
    before = numba.get_num_threads()
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            results.append((layer.forward(x, w), layer.input_gradient(dy, w), layer.weight_gradient(x, dy)))
    finally:
        numba.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_fixed_shapes_take_every_path():
    """Weight gradients with and without slots, by groups of channels; several blocks of statistics."""
    plans = [DepthwiseConvolution(shape, np.float32) for shape in (*TAILS, *NETWORK_SHAPES)]
    assert {plan.scratch["weight_gradient"].size() > 0 for plan in plans} == {False, True}
    assert {plan._group < plan.shape.in_channels for plan in plans} == {False, True}
    assert {plan.statistics_rows < plan.shape.out_pixels for plan in plans} == {False, True}
    assert {plan.shape.height * plan.shape.width * plan.shape.in_channels > 16384 for plan in plans} == {False, True}


def test_what_it_refuses():
    grouped = ConvolutionShape(1, 4, 4, 6, 6, 3, groups=3)
    assert DepthwiseConvolution.refusal(grouped) == "it takes as many groups as channels, not 3 of 6 to 6"
    assert DepthwiseConvolution.refusal(ConvolutionShape(1, 4, 4, 6, 12, 3, groups=6)) is not None
    assert DepthwiseConvolution.refusal(depthwise(1, 4, 4, 6, 3)) is None


@pytest.mark.parametrize("shape", [depthwise(2, 9, 8, 21, 3, 2, 1), depthwise(2, 7, 7, 16, 5, 1, 2)], ids=name_of)
def test_equals_pytorch(shape):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    x, w, dy, bias = drawn(shape, 0)
    images = torch.tensor(x).permute(0, 3, 1, 2).contiguous().requires_grad_()
    weight = torch.tensor(w).permute(2, 0, 1)[:, None].contiguous().requires_grad_()
    place = {"stride": shape.stride, "padding": shape.padding, "groups": shape.groups}
    y = torch.nn.functional.conv2d(images, weight, torch.tensor(bias), **place)
    y.backward(torch.tensor(dy).permute(0, 3, 1, 2))
    layer = Layer(DepthwiseConvolution, shape)
    tolerance = {"rtol": 0, "atol": 1e-13}
    np.testing.assert_allclose(layer.forward(x, w, bias=bias), y.detach().permute(0, 2, 3, 1).numpy(), **tolerance)
    np.testing.assert_allclose(layer.input_gradient(dy, w), images.grad.permute(0, 2, 3, 1).numpy(), **tolerance)
    dw = weight.grad[:, 0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(layer.weight_gradient(x, dy), dw, rtol=0, atol=1e-12)
