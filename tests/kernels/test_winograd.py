"""Winograd convolution: its matrices, exactly; all passes against the definition, with all that they do on the side."""

import math
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnzoo.kernels import winograd_planning
from cnnzoo.kernels.blocks import block_count
from cnnzoo.kernels.convolution import ConvolutionShape
from cnnzoo.kernels.forms import FORMS, forms_of
from cnnzoo.kernels.toom_cook import derive, derive_pair, derive_strided, derive_strided_gradient, transpose
from cnnzoo.kernels.winograd import Winograd
from cnnzoo.kernels.winograd_pairs import CHUNK_TILES
from cnnzoo.kernels.winograd_panels import part_rows
from cnnzoo.kernels.winograd_passes import BLOCK, DEPTH, all_tiles
from cnnzoo.kernels.winograd_products import CHUNK_DEPTH
from tests.kernels.convolution_layer import (
    Layer,
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

DTYPES = [np.float32, np.float64]
NETWORK_SHAPES = [s for s in list_convolutions(MODELS, images=1) if Winograd.refusal(s) is None]
SHAPES = [
    *(s for s in TAILS if Winograd.refusal(s) is None),
    # Weights in slabs, tasks of part of their columns; blocks of many tiles, of whole images, and of no run of pixels.
    ConvolutionShape(11, 16, 16, 260, 290, 3, 1, 1),
    ConvolutionShape(1, 4, 4, 1200, 90, 3, 1, 1),
    ConvolutionShape(3, 18, 13, 70, 40, 3, 1, 1),
    ConvolutionShape(40, 9, 9, 10, 12, 3, 1, 0),
    ConvolutionShape(1, 5, 400, 4, 8, 3, 1, 1),
    ConvolutionShape(2, 13, 11, 24, 40, 5, 1, 2),
    ConvolutionShape(2, 13, 22, 24, 40, 3, 2, 1),
    ConvolutionShape(1, 8, 8, 200, 300, 3, 2, 1),
    # Images that are a tile.
    ConvolutionShape(40, 2, 2, 70, 90, 3, 1, 1),
    # Products of whole matrices, a slab of columns at a time, with tails of columns and of a chunk of the depth.
    ConvolutionShape(70, 4, 4, 300, 513, 3, 1, 1),
    ConvolutionShape(70, 3, 4, 130, 520, 3, 1, 1),
    ConvolutionShape(70, 2, 2, 300, 250, 3, 1, 1),
    ConvolutionShape(70, 2, 2, 300, 500, 3, 1, 1),
    # Weights that tasks transform themselves, in several parts of their depth.
    ConvolutionShape(4, 4, 4, 300, 513, 3, 1, 1),
    ConvolutionShape(5, 3, 4, 257, 520, 3, 1, 1),
    # Of the weight gradient, slices; a tail of a chunk of tiles; a slot of several blocks of tiles.
    ConvolutionShape(20, 16, 16, 130, 130, 3, 1, 1),
    ConvolutionShape(100, 2, 2, 130, 130, 3, 1, 1),
    ConvolutionShape(300, 2, 2, 130, 60, 3, 1, 1),
]

fractions = st.integers(-9, 9).map(Fraction)


@st.composite
def shapes(draw, channels=40, largest_image=15):
    """Draw a convolution that the algorithm takes, with at least one output pixel; of every form about as often."""
    kernel, stride, is_tile = draw(st.sampled_from([(3, 1, False), (5, 1, False), (3, 2, False), (3, 1, True)]))
    if is_tile:
        numbers = st.integers(1, channels)
        return ConvolutionShape(draw(st.integers(1, 4)), 2, 2, draw(numbers), draw(numbers), 3, 1, 1)
    padding = draw(st.integers(0, kernel - 1)) if stride == 1 else 1
    sizes = st.integers(max(1, kernel - 2 * padding), largest_image)
    extents = draw(st.integers(1, 4)), draw(sizes), draw(sizes)
    return ConvolutionShape(
        *extents, draw(st.integers(1, channels)), draw(st.integers(1, channels)), kernel, stride, padding
    )


def name_of(s):
    return f"{s.images}x{s.height}x{s.width}-{s.in_channels}to{s.out_channels}-k{s.kernel}s{s.stride}p{s.padding}"


def weights_of_products(matrices):
    """Return the row of G for each row of B': its own, or the last."""
    return [min(i, len(matrices.weights) - 1) for i in range(len(matrices.input))]


class _Absolute:
    """The algorithm with the absolute values of its matrices, on absolute values: what rounding errors are relative to.

    Each number on the way to a result has an error relative to the sum of the absolute values of its terms.
    """

    def __init__(self, form):
        self.m, self.step = form.tile, form.step
        a, g, b = (np.abs(np.array(matrix, float)) for matrix in form.matrices)
        self.a, self.g, self.b = a, g[weights_of_products(form.matrices)], b
        self.window = self.b.shape[1]

    def tiles(self, x, size, step, padding, extents):
        """Return the [size, size] patches of x, `step` apart, that `extents` outputs need."""
        down, across = (-(-extent // self.m) for extent in extents)
        padded = np.zeros((x.shape[0], down * step + size, across * step + size, x.shape[3]))
        rows, columns = (min(x.shape[k], padded.shape[k] - padding) for k in (1, 2))
        padded[:, padding : padding + rows, padding : padding + columns] = np.abs(x)[:, :rows, :columns]
        return [
            [padded[:, i * step : i * step + size, j * step : j * step + size] for j in range(across)]
            for i in range(down)
        ]

    def correlate(self, x, w, padding, extents):
        u = np.einsum("ki,lj,ijco->klco", self.g, self.g, np.abs(w))
        rows = []
        for line in self.tiles(x, self.window, self.step, padding, extents):
            products = [np.einsum("ki,lj,nijc,klco->nklo", self.b, self.b, d, u, optimize=True) for d in line]
            rows.append(np.concatenate([np.einsum("ik,jl,nklo->nijo", self.a, self.a, m) for m in products], axis=2))
        return np.concatenate(rows, axis=1)[:, : extents[0], : extents[1]]

    def weight_gradient(self, x, dy, padding):
        extents = dy.shape[1:3]
        total = 0.0
        inputs_of_tiles = self.tiles(x, self.window, self.step, padding, extents)
        pairs = zip(inputs_of_tiles, self.tiles(dy, self.m, self.m, 0, extents), strict=True)
        for inputs, gradients in pairs:
            for d, dy_tile in zip(inputs, gradients, strict=True):
                v = np.einsum("ki,lj,nijc->nklc", self.b, self.b, d)
                z = np.einsum("ik,jl,nijo->nklo", self.a, self.a, dy_tile)
                total = total + np.einsum("nklc,nklo->klco", v, z)
        return np.einsum("ki,lj,klco->ijco", self.g, self.g, total)


# Roundings of the two transforms of each operand and of the result: a dot product of up to six terms, a constant.
TRANSFORMS = 3 * 2 * 7


def errors(shape, x, w, dy):
    """Return (roundings, sizes) of each pass."""
    *forms, padding, gradient_padding = forms_of(shape)
    forward, gradient = (_Absolute(FORMS[index]) for index in forms)
    rotated = np.flip(w, (0, 1)).swapaxes(2, 3)
    extents = (shape.out_height, shape.out_width), (shape.height, shape.width)
    tiles = shape.images * math.prod(-(-extent // forward.m) for extent in extents[0])
    return {
        "forward": (shape.in_channels + TRANSFORMS, forward.correlate(x, w, padding, extents[0])),
        "input_gradient": (
            shape.out_channels + TRANSFORMS,
            gradient.correlate(dy, rotated, gradient_padding, extents[1]),
        ),
        "weight_gradient": (tiles + TRANSFORMS, forward.weight_gradient(x, dy, padding)),
    }


def times(matrix, x):
    return [sum(c * value for c, value in zip(row, x, strict=True)) for row in matrix]


def apply(matrices, d, g):
    """Return A' [(G g) * (B' d)]."""
    weights, inputs = times(matrices.weights, g), times(matrices.input, d)
    pairs = zip(weights_of_products(matrices), inputs, strict=True)
    return times(matrices.output, [weights[row] * value for row, value in pairs])


def draw_fractions(data, count):
    return data.draw(st.lists(fractions, min_size=count, max_size=count))


@given(data=st.data(), m=st.integers(1, 4), r=st.integers(1, 5))
def test_matrices_give_the_correlation_exactly(data, m, r):
    if m + r - 1 > 6:
        with pytest.raises(ValueError, match="at most 6 multiplications"):
            derive(m, r)
        return
    d, g = draw_fractions(data, m + r - 1), draw_fractions(data, r)
    assert apply(derive(m, r), d, g) == [sum(d[i + k] * g[k] for k in range(r)) for i in range(m)]


@given(data=st.data(), m=st.integers(1, 5))
def test_matrices_of_stride_2_give_the_correlation_exactly(data, m):
    d, g = draw_fractions(data, 2 * m + 1), draw_fractions(data, 3)
    assert apply(derive_strided(m), d, g) == [sum(d[2 * i + k] * g[k] for k in range(3)) for i in range(m)]


@given(data=st.data(), m=st.integers(1, 5))
def test_matrices_of_stride_2_give_the_input_gradient_exactly(data, m):
    """At padding 1, output i reads inputs 2 i - 1, 2 i and 2 i + 1."""
    dy, g = draw_fractions(data, m + 1), draw_fractions(data, 3)
    dx = [Fraction(0)] * (2 * m)
    for i in range(m + 1):
        for k in range(3):
            if 0 <= 2 * i + k - 1 < 2 * m:
                dx[2 * i + k - 1] += dy[i] * g[k]
    assert apply(derive_strided_gradient(m), dy, g[::-1]) == dx


@given(data=st.data())
def test_matrices_of_a_pair_give_the_correlation_exactly(data):
    d, g = draw_fractions(data, 2), draw_fractions(data, 3)
    assert apply(derive_pair(), d, g) == [g[1] * d[0] + g[2] * d[1], g[0] * d[0] + g[1] * d[1]]


def test_transpose():
    assert transpose(((1, 2, 3), (4, 5, 6))) == ((1, 4), (2, 5), (3, 6))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=100)
@given(shape=shapes(), margin=margins, seed=seeds)
def test_all_passes(dtype, shape, margin, seed):
    assert_all_passes(Winograd, shape, dtype, seed, margin, errors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_tails(shape, dtype):
    assert_all_passes(Winograd, shape, dtype, margin=(1, 2), errors=errors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", NETWORK_SHAPES, ids=name_of)
def test_shapes_of_the_networks(shape, dtype):
    assert_all_passes(Winograd, shape, dtype, errors=errors)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=shapes(channels=140), margin=margins, seed=seeds)
def test_what_a_weight_gradient_shares_in_slices(dtype, shape, margin, seed):
    """Slices begin at multiples of a chunk of the planner's; here it has smaller ones than the kernel."""
    with mock.patch.multiple(winograd_planning, LARGEST_OWN=0, PAIRS_BYTES=2**16, SUMS_BYTES=2**40, CHUNK_TILES=2):
        assume(len(Winograd(shape, dtype)._weights.slices) > 1)
        assert_all_passes(Winograd, shape, dtype, seed, margin, errors)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=shapes(channels=140), margin=margins, seed=seeds)
def test_sums_of_a_weight_gradient_in_slabs(dtype, shape, margin, seed):
    with mock.patch.multiple(winograd_planning, LARGEST_OWN=0, PAIRS_BYTES=2**40, SUMS_BYTES=1):
        assert_all_passes(Winograd, shape, dtype, seed, margin, errors)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=shapes(channels=140, largest_image=12), margin=margins, seed=seeds, biased=st.booleans())
def test_products_of_whole_matrices(dtype, shape, margin, seed, biased):
    """With all that is done on the side, in one slab of columns or in several."""
    few = {"FEWEST_TILES": 0, "FEW_TILES": 10**6, "MANY_WEIGHTS_BYTES": 0, "PRODUCTS_BYTES": 2**20}
    assert_all_on_the_side(shape, dtype, seed, margin, biased, few, lambda c: c.products > 0)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=shapes(channels=140, largest_image=12), margin=margins, seed=seeds, biased=st.booleans())
def test_tasks_that_transform_their_weights_themselves(dtype, shape, margin, seed, biased):
    few = {"FEWEST_TILES": 10**6, "FEW_TILES": 10**6, "FEWEST_PANELS": 0, "MANY_WEIGHTS_BYTES": 0}
    assert_all_on_the_side(shape, dtype, seed, margin, biased, few, lambda c: c.weights == 0)


def assert_all_on_the_side(shape, dtype, seed, margin, biased, constants, is_taken):
    """Check all passes and all that they do on the side, planned with other `constants`."""
    with mock.patch.multiple(winograd_planning, **constants):
        plan = Winograd(shape, dtype)
        assume(is_taken(plan._forward) and is_taken(plan._gradient))
        assert_all_passes(Winograd, shape, dtype, seed, margin, errors)
        assert_bias_is_added(Winograd, shape, dtype, seed, margin, biased, errors)
        assert_rectified(Winograd, shape, dtype, seed, margin, biased)
        assert_statistics(Winograd, shape, dtype, seed, margin, biased)
        assert_batch_norm_on_load(Winograd, shape, dtype, seed, margin, errors)
        assert_batch_norm_gradient_on_store(Winograd, shape, dtype, seed, margin, errors)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=shapes(largest_image=9), margin=margins, seed=seeds, accumulate=st.booleans())
def test_bias(dtype, shape, margin, seed, accumulate):
    assert_bias_is_added(Winograd, shape, dtype, seed, margin, accumulate, errors)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=shapes(largest_image=12), margin=margins, seed=seeds, biased=st.booleans())
def test_relu(dtype, shape, margin, seed, biased):
    assert_rectified(Winograd, shape, dtype, seed, margin, biased)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=shapes(largest_image=9), margin=margins, seed=seeds)
def test_batch_norm_on_load_of_x(dtype, shape, margin, seed):
    assert_batch_norm_on_load(Winograd, shape, dtype, seed, margin, errors)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=shapes(largest_image=12), margin=margins, seed=seeds)
def test_batch_norm_gradient_on_store_of_dx(dtype, shape, margin, seed):
    assume(Winograd(shape, dtype).gradient_rows is not None)
    assert_batch_norm_gradient_on_store(Winograd, shape, dtype, seed, margin, errors)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=shapes(largest_image=12), margin=margins, seed=seeds, biased=st.booleans())
def test_statistics_of_the_output(dtype, shape, margin, seed, biased):
    assert_statistics(Winograd, shape, dtype, seed, margin, biased)


def test_statistics_want_blocks_that_are_runs_of_pixels():
    planned = Winograd(ConvolutionShape(1, 5, 400, 4, 8, 3, 1, 1), np.float32)
    assert planned.statistics_rows is None
    assert planned.gradient_rows is None


@given(shape=shapes(largest_image=9), seed=seeds)
def test_nan_reaches_all_that_depends_on_it(shape, seed):
    """It may reach the rest of a tile too."""
    x, w, dy, _ = drawn(shape, seed)
    x.reshape(-1)[np.random.default_rng(seed).integers(0, x.size)] = np.nan
    expected, layer = expected_passes(shape, x, w, dy), Layer(Winograd, shape)
    assert np.all(np.isnan(layer.forward(x, w))[np.isnan(expected["forward"])])
    assert np.all(np.isnan(layer.weight_gradient(x, dy))[np.isnan(expected["weight_gradient"])])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.float64, 1e-10)])
def test_error_at_512_channels(dtype, tolerance):
    """Relative to the largest result, on standard normal operands."""
    shape = ConvolutionShape(4, 4, 4, 512, 512, 3, 1, 1)
    x, w, dy, _ = drawn(shape, 0, dtype)
    layer = Layer(Winograd, shape, dtype)
    actual = {
        "forward": layer.forward(x, w),
        "input_gradient": layer.input_gradient(dy, w),
        "weight_gradient": layer.weight_gradient(x, dy),
    }
    for name, exact in expected_passes(shape, *(a.astype(np.float64) for a in (x, w, dy))).items():
        assert np.abs(actual[name] - exact).max() <= tolerance * np.abs(exact).max()


def blocks_of_tiles(plan):
    """Return how many blocks of tiles the weight gradient of a plan sums."""
    g = plan._weights.geometry
    return block_count(int(all_tiles.py_func(g)), int(g[BLOCK]))


def ends_in_part(counts, size):
    """Tell whether one of so many is cut into several pieces of `size`, of which the last is shorter."""
    return any(count > size and count % size > 0 for count in counts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fixed_shapes_take_every_path(dtype):
    plans = [Winograd(shape, dtype) for shape in (*SHAPES, *NETWORK_SHAPES)]
    own = [plan for plan in plans if not plan._weights.is_shared]
    assert {plan._weights.slots > 1 for plan in own} == {False, True}
    assert any(blocks_of_tiles(plan) > plan._weights.slots for plan in own)
    assert {plan._weights.row_block < plan.shape.in_channels for plan in own} == {False, True}
    assert {plan._weights.column_block < plan.shape.out_channels for plan in own} == {False, True}
    shared = [plan for plan in plans if plan._weights.is_shared]
    assert {len(plan._weights.slices) > 1 for plan in shared} == {False, True}
    assert {ends_in_part([count for _, count in plan._weights.slices], CHUNK_TILES) for plan in shared} == {False, True}
    assert {plan._weights.slab < plan.shape.out_channels for plan in shared} == {False, True}
    assert {plan._weights.group < plan._weights.slab for plan in shared} == {False, True}
    correlations = [c for plan in plans for c in (plan._forward, plan._gradient)]
    for by_products in (False, True):
        chosen = [c for c in correlations if c.weights > 0 and (c.products > 0) == by_products]
        assert {c.slab < c.columns for c in chosen} == {False, True}
        assert {c.group < c.slab for c in chosen} == {False, True}
    depths = [int(c.geometry[DEPTH]) for c in correlations if c.products > 0]
    assert {ends_in_part([depth], CHUNK_DEPTH) for depth in depths} == {False, True}
    depths = [int(c.geometry[DEPTH]) for c in correlations if c.weights == 0]
    assert {ends_in_part([depth], part_rows(depth)) for depth in depths} == {False, True}
    assert {plan.statistics_rows is None for plan in plans} == {False, True}


@pytest.mark.parametrize("unit", range(1, 97))
def test_blocks_of_whole_rows_of_tiles_leave_little_to_narrow_register_tiles(unit):
    tiles = winograd_planning._block_of_whole(unit)
    assert tiles % unit == 0
    assert tiles <= max(unit, 28)
    if unit <= 10:
        assert tiles // 12 + tiles % 12 // 4 + tiles % 4 <= 2.3 * tiles / 12


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (ConvolutionShape(1, 8, 8, 4, 4, 5, 2, 1), "3x3 ones at stride 2"),
        (ConvolutionShape(1, 8, 8, 4, 4, 3, 2, 0), "a padding of 1"),
        (ConvolutionShape(1, 8, 8, 4, 4, 3, 1, 3), "less padding"),
        (ConvolutionShape(1, 8, 8, 4, 4, 1), "takes 3x3 and 5x5"),
        (ConvolutionShape(1, 8, 8, 4, 4, 3, 1, 1, 4), "no groups"),
    ],
)
def test_refusals(shape, reason):
    assert reason in Winograd.refusal(shape)
