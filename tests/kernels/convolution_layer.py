"""One convolution as functions of [N, H, W, C] arrays, run by an algorithm; inputs of the tests, and error bounds."""

from typing import NamedTuple

import numpy as np

from cnnzoo.kernels.blocks import block_count
from cnnzoo.kernels.convolution import PLAIN, SCALE_MASKED, SCALE_SHIFT_RELU, Epilogue, Prologue
from tests import reference
from tests.gradients import assert_within, rounding
from tests.kernels.pixel_matrix import GUARD, PixelMatrix

GUARDS = 64


class Case(NamedTuple):
    """Random operands of one convolution, in the type that the kernels compute with."""

    x: np.ndarray
    w: np.ndarray
    dy: np.ndarray
    bias: np.ndarray


def weight_extents(shape):
    """Return the extents of a convolution's weights as the reference has them; depthwise ones lack the input's axis."""
    taps = (shape.kernel, shape.kernel)
    return (*taps, shape.in_channels) if shape.groups > 1 else (*taps, shape.in_channels, shape.out_channels)


def drawn(shape, seed, dtype=np.float64):
    """Return standard normal operands of a `ConvolutionShape`."""
    rng = np.random.default_rng(seed)
    extents = (
        (shape.images, shape.height, shape.width, shape.in_channels),
        weight_extents(shape),
        (shape.images, shape.out_height, shape.out_width, shape.out_channels),
        (shape.out_channels,),
    )
    return Case(*(rng.standard_normal(extent).astype(dtype) for extent in extents))


class OnLoad:
    """A prologue of random coefficients, for the kernels and as its definition reads in float64.

    Scale and shift are small multiples of 1/8.

    Attributes
    ----------
    roundings : int
        Relative errors that one value suffers while it is loaded: a product and a sum each.
    """

    def __init__(self, kind, extents, seed, dtype):
        self.kind, self.dtype = kind, dtype
        self.scale, self.shift = np.random.default_rng(seed).integers(-16, 17, (2, extents[-1])) / 8
        self.roundings = {PLAIN: 0, SCALE_SHIFT_RELU: 2}[kind]

    def argument(self):
        """Return the `Prologue`."""
        return Prologue(self.kind, np.concatenate([self.scale, self.shift]).astype(self.dtype))

    def apply(self, x):
        """Return P(x) in float64."""
        x = x.astype(np.float64)
        return x if self.kind == PLAIN else np.maximum(self.scale * x + self.shift, 0)

    def sizes(self, x):
        """Return the sum of the absolute values of the terms of P(x), which its rounding errors are relative to."""
        x = np.abs(x.astype(np.float64))
        return x if self.kind == PLAIN else np.abs(self.scale) * x + np.abs(self.shift)


class OnStore:
    """An epilogue of random coefficients, for the kernels and as its definition reads in float64.

    Scale, shift and x are small multiples of 1/8, so that their sum of products has no rounding error: the ReLU cuts
    the same values in every type, those at zero included.
    """

    def __init__(self, extents, rows_per_block, seed, dtype, margin=(0, 0)):
        rng = np.random.default_rng(seed)
        rows, channels = int(np.prod(extents[:-1])), extents[-1]
        self.dtype, self.rows_per_block = dtype, rows_per_block
        self.scale, self.shift, self.mean = rng.integers(-16, 17, (3, channels)) / 8
        self.x = rng.integers(-16, 17, extents) / 8
        self.mask = self.scale * self.x + self.shift > 0
        self._x = PixelMatrix(self.x.reshape(rows, channels), margin, dtype)
        self._memory, self._sums = _guarded(block_count(rows, rows_per_block) * 2 * channels, dtype)

    def argument(self):
        """Return the `Epilogue`."""
        coefficients = np.concatenate([self.scale, self.shift, self.mean]).astype(self.dtype)
        return Epilogue(SCALE_MASKED, coefficients, *self._x.arguments, self._sums)

    def blocks(self, dx):
        """Return the terms of the sums in float64: dz and dz (x - mean), [rows, channels] for each block."""
        dz = np.where(self.mask, dx, 0).astype(np.float64)
        terms = np.stack([dz, dz * (self.x - self.mean)]).reshape(2, -1, dx.shape[-1])
        return np.split(terms, range(self.rows_per_block, terms.shape[1], self.rows_per_block), axis=1)

    def sums(self):
        """Return the sums that were written, [blocks][2][channels]."""
        assert np.all(self._memory[self._sums.size :] == GUARD)
        return self._sums.reshape(-1, 2, len(self.scale))


class Layer:
    """A convolution by one algorithm, on pixel matrices that stand between guards.

    Scratch memory is NaN when a pass begins and no larger than the pass says it is; outputs that are overwritten are
    NaN before.
    """

    def __init__(self, algorithm, shape, dtype=np.float64, margin=(0, 0)):
        self.shape, self.dtype, self.margin = shape, np.dtype(dtype), margin
        self.algorithm = algorithm(shape, self.dtype)

    def forward(self, x, w, start=None, prologue=None, bias=None, statistics=None, rectify=None):
        """Return y, added to `start` if that is given."""
        s = self.shape
        x = self._matrix(x)
        y = self._output((s.images, s.out_height, s.out_width, s.out_channels), start)
        w = np.ascontiguousarray(w, self.dtype).reshape(-1)
        arguments = (*x.arguments, w, *y.arguments)
        options = {"prologue": prologue, "bias": bias, "statistics": statistics, "rectify": rectify}
        self._run("forward", arguments, accumulate=start is not None, **options)
        y.assert_guarded()
        return y.values.reshape(s.images, s.out_height, s.out_width, s.out_channels)

    def input_gradient(self, dy, w, start=None, epilogue=None):
        """Return dx, added to `start` if that is given."""
        s = self.shape
        dy, dx = self._matrix(dy), self._output((s.images, s.height, s.width, s.in_channels), start)
        w = np.ascontiguousarray(w, self.dtype).reshape(-1)
        arguments = (*dy.arguments, w, *dx.arguments)
        self._run("input_gradient", arguments, accumulate=start is not None, epilogue=epilogue)
        dx.assert_guarded()
        return dx.values.reshape(s.images, s.height, s.width, s.in_channels)

    def weight_gradient(self, x, dy, start=None, prologue=None):
        """Return dw, added to `start` if that is given."""
        extents = weight_extents(self.shape)
        memory, dw = _guarded(int(np.prod(extents)), self.dtype)
        if start is not None:
            dw[:] = start.reshape(-1)
        arguments = (*self._matrix(x).arguments, *self._matrix(dy).arguments, dw)
        self._run("weight_gradient", arguments, accumulate=start is not None, prologue=prologue)
        assert np.all(memory[dw.size :] == GUARD)
        return dw.reshape(extents)

    def _run(self, name, arguments, **options):
        """Run a pass with those of the options that are not None."""
        options = {
            k: v.argument() if isinstance(v, (OnLoad, OnStore)) else v for k, v in options.items() if v is not None
        }
        memory, scratch = _guarded(self.algorithm.scratch[name].size(), self.dtype)
        getattr(self.algorithm, name)(*arguments, scratch, **options)
        assert np.all(memory[scratch.size :] == GUARD)

    def _matrix(self, x):
        return PixelMatrix(x.reshape(-1, x.shape[-1]), self.margin, self.dtype)

    def _output(self, extents, start):
        return self._matrix(np.full(extents, np.nan) if start is None else start)


def _guarded(size, dtype):
    """Return an array that ends with guards, and the view of its first `size` elements, all NaN."""
    memory = np.full(size + GUARDS, GUARD, dtype)
    memory[:size] = np.nan
    return memory, memory[:size]


def expected_passes(shape, x, w, dy):
    """Return forward, input_gradient and weight_gradient by the reference, in float64."""
    place = {"stride": shape.stride, "padding": shape.padding}
    if shape.groups > 1:
        return {
            "forward": reference.depthwise_conv2d(x, w, **place),
            "input_gradient": reference.depthwise_conv2d_input_gradient(dy, w, x.shape, **place),
            "weight_gradient": reference.depthwise_conv2d_weight_gradient(x, dy, w.shape[:2], **place),
        }
    return {
        "forward": reference.conv2d(x, w, **place),
        "input_gradient": reference.conv2d_input_gradient(dy, w, x.shape, **place),
        "weight_gradient": reference.conv2d_weight_gradient(x, dy, w.shape[:2], **place),
    }


def count_terms(shape):
    """Return the number of terms of the sums in each pass."""
    taps = shape.kernel**2
    return {
        "forward": taps * shape.in_channels // shape.groups,
        "input_gradient": taps * shape.out_channels // shape.groups,
        "weight_gradient": shape.out_pixels,
    }


def error_bound(roundings, sizes, dtype):
    """Return how far a result may be from the exact one.

    A sum of n products puts at most n roundings on the way of each term, in whatever order: that of the product and
    those of n - 1 sums. So |error| <= gamma_n sum |x| |w|. An operation before or after the sum adds one rounding, and
    to `sizes` what it adds to the sum. The float64 reference has such an error too.

    Parameters
    ----------
    roundings : int
        On the way of any term to the result.
    sizes : ndarray of float64
        The sum of the absolute values of all terms.
    """
    return (rounding(roundings, dtype) + rounding(roundings, np.float64)) * sizes


def dot_errors(shape, x, w, dy):
    """Return (roundings, sizes) of each pass where every result is one sum of products.

    Parameters
    ----------
    x, w, dy : ndarray
        The operands, or what their errors are relative to.
    """
    sizes = expected_passes(shape, np.abs(x), np.abs(w), np.abs(dy))
    return {name: (terms, sizes[name]) for name, terms in count_terms(shape).items()}


def assert_all_passes(algorithm, shape, dtype, seed=0, margin=(0, 0), errors=dot_errors):
    """Assert that each pass, overwriting and accumulating, is within its rounding errors of the reference."""
    x, w, dy, _ = drawn(shape, seed, dtype)
    layer = Layer(algorithm, shape, dtype, margin)
    operands = {"forward": (x, w), "input_gradient": (dy, w), "weight_gradient": (x, dy)}
    allowed = errors(shape, x, w, dy)
    for name, exact in expected_passes(shape, x, w, dy).items():
        run, (roundings, sizes) = getattr(layer, name), allowed[name]
        assert_within(run(*operands[name]), exact, error_bound(roundings, sizes, dtype))
        start = np.random.default_rng(seed).standard_normal(exact.shape).astype(dtype)
        bound = error_bound(roundings + 1, sizes + np.abs(start), dtype)
        assert_within(run(*operands[name], start), start + exact, bound)


def assert_bias_is_added(algorithm, shape, dtype, seed, margin, accumulate, errors=dot_errors):
    """Assert that forward adds the bias, to what was there if `accumulate`."""
    x, w, start, bias = drawn(shape, seed, dtype)
    y = Layer(algorithm, shape, dtype, margin).forward(x, w, start if accumulate else None, bias=bias)
    added = bias + start.astype(np.float64) * accumulate
    exact = expected_passes(shape, x, w, start)["forward"] + added
    roundings, sizes = errors(shape, x, w, start)["forward"]
    sizes = sizes + np.abs(bias) + np.abs(start) * accumulate
    assert_within(y, exact, error_bound(roundings + 2, sizes, dtype))


def assert_rectified(algorithm, shape, dtype, seed, margin, biased):
    """Assert that forward with a ReLU gives max(0, y), bit for bit and NaN where y is, and the statistics of that.

    y is with a bias, or added to what was there.
    """
    x, w, start, bias = drawn(shape, seed, dtype)
    layer = Layer(algorithm, shape, dtype, margin)
    options = {"bias": bias} if biased else {"start": start}
    for _ in range(2):
        expected = np.maximum(layer.forward(x, w, **options), 0)
        np.testing.assert_array_equal(layer.forward(x, w, rectify=True, **options), expected)
        x.reshape(-1)[np.random.default_rng(seed).integers(0, x.size)] = np.nan
    if layer.algorithm.statistics_rows is not None:
        assert_statistics(algorithm, shape, dtype, seed, margin, biased, rectify=True)


def assert_batch_norm_on_load(algorithm, shape, dtype, seed, margin, errors=dot_errors):
    """Assert that max(0, scale x + shift) is applied to x, and padding is zero after it."""
    x, w, dy, _ = drawn(shape, seed, dtype)
    layer, prologue = Layer(algorithm, shape, dtype, margin), OnLoad(SCALE_SHIFT_RELU, x.shape, seed, dtype)
    expected = expected_passes(shape, prologue.apply(x), w, dy)
    allowed = errors(shape, prologue.sizes(x), w, dy)
    actual = {
        "forward": layer.forward(x, w, prologue=prologue),
        "weight_gradient": layer.weight_gradient(x, dy, prologue=prologue),
    }
    for name, result in actual.items():
        roundings, sizes = allowed[name]
        assert_within(result, expected[name], error_bound(roundings + prologue.roundings, sizes, dtype))


def assert_batch_norm_gradient_on_store(algorithm, shape, dtype, seed, margin, errors=dot_errors):
    """Assert that scale dz is stored, or added, and the sums of dz and dz (x - mean) are taken of each block."""
    x, w, dy, _ = drawn(shape, seed, dtype)
    layer = Layer(algorithm, shape, dtype, margin)
    exact = expected_passes(shape, x, w, dy)["input_gradient"]
    roundings, sizes = errors(shape, x, w, dy)["input_gradient"]
    start = np.random.default_rng(seed).standard_normal(exact.shape).astype(dtype)
    for before in (None, start):
        epilogue = OnStore(exact.shape, layer.algorithm.gradient_rows, seed, dtype, margin)
        dx = layer.input_gradient(dy, w, before, epilogue)
        base = 0 if before is None else before.astype(np.float64)
        bound = error_bound(roundings + 2, np.abs(epilogue.scale) * sizes * epilogue.mask + np.abs(base), dtype)
        assert_within(dx, base + epilogue.scale * np.where(epilogue.mask, exact, 0), bound)
        terms, allowed = epilogue.blocks(exact), epilogue.blocks(sizes)
        for actual, block, size in zip(epilogue.sums(), terms, allowed, strict=True):
            bound = error_bound(roundings + block.shape[1] + 2, np.abs(size).sum(axis=1), dtype)
            assert_within(actual, block.sum(axis=1), bound)


def assert_statistics(algorithm, shape, dtype, seed, margin, biased, rectify=None):
    """Assert that merged partial sums are the output's mean and M2 = sum (y - mean)^2.

    A block's mean is off by at most d = gamma_n mean|y|; it enters M2 as a shift, and M2 rounds itself.
    """
    x, w, _, bias = drawn(shape, seed, dtype)
    layer = Layer(algorithm, shape, dtype, margin)
    rows, step = shape.out_pixels, layer.algorithm.statistics_rows
    counts = np.array([min(step, rows - first) for first in range(0, rows, step)])
    partials = np.full((block_count(rows, step), 2, shape.out_channels), np.nan, dtype)
    y = layer.forward(x, w, bias=bias if biased else None, statistics=partials.reshape(-1), rectify=rectify)
    y = y.reshape(rows, -1).astype(np.float64)
    mean, m2 = _merged(partials, counts)
    largest = np.abs(y).max(axis=0)
    off = (rounding(step + 1, dtype) + rounding(rows + 4, np.float64)) * largest
    assert_within(mean, y.mean(axis=0), off)
    # Sums of (y - m_k)^2 and n_k (m_k - mean)^2 with each m off by `off`, each deviation below 2 max|y|.
    exact = ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    assert_within(m2, exact, rows * 4 * off * (2 * largest + off) + rounding(rows + 4, dtype) * 2 * exact)


def _merged(partials, counts):
    """Return the mean, and M2 = sum (y - mean)^2, of blocks of `counts` rows, in float64."""
    means, m2s = partials.astype(np.float64).transpose(1, 0, 2)
    counts = counts[:, np.newaxis]
    mean = (counts * means).sum(axis=0) / counts.sum()
    return mean, (m2s + counts * (means - mean) ** 2).sum(axis=0)
