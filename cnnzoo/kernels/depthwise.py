"""Depthwise convolution: each channel has its own square kernel (channel multiplier 1), no im2col.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017, section 3.1.
Weights are [kernel * kernel, channels], so that all three passes run over vectors of channels; `strips` holds the
vector code. With w[i, j] at row i, column j of the window::

    forward           y[p, q] = sum over i, j of x[p stride + i - padding, q stride + j - padding] w[i, j]
    input gradient    dx[h, v] = sum over i, j of dy[(h + padding - i) / stride, (v + padding - j) / stride] w[i, j],
                      over the taps for which both divide
    weight gradient   dw[i, j] = sum over p, q of x[p stride + i - padding, q stride + j - padding] dy[p, q]

The input gradient is a correlation too: pixels with the same (h mod stride, v mod stride) share their taps, every
stride-th one, and their sources step back by one pixel from tap to tap. So each of these stride^2 phases is forward at
stride 1 with its taps taken backwards.

The error is that of a dot product of kernel^2 terms, and of the output's pixels for the weight gradient.
"""

import numpy as np
from numba import prange

from cnnzoo.kernels.batch_norm import block_statistics
from cnnzoo.kernels.blocks import BLOCK_ELEMENTS, block_count, block_rows, row
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.convolution import PLAIN, ConvolutionShape, plain
from cnnzoo.kernels.correlation import add_slots
from cnnzoo.kernels.simd import pointer
from cnnzoo.kernels.strips import correlate_row, gradient_row

MINIMUM_TASKS = 32  # a weight gradient is cut into so many tasks where the shape allows, for machines of many cores
GROUP_CHANNELS = 256  # channels of one task of a weight gradient: its 3x3 sums are 9 KB of float32

# A geometry is one int64 array for each phase; these are its fields. Grid position (i, j) reads rows i * STEP +
# ROW_OFFSET + 0 .. ROWS - 1 of the source and writes target pixel (i * TARGET_STEP + TOP, j * TARGET_STEP + LEFT).
# Tap (a, b) is FIRST_TAP + a * ROW_TAPS + b * COLUMN_TAPS.
(
    SOURCE_HEIGHT, SOURCE_WIDTH, STEP, GRID_HEIGHT, GRID_WIDTH, TARGET_HEIGHT, TARGET_WIDTH, TARGET_STEP, TOP, LEFT,
    ROWS, COLUMNS, ROW_OFFSET, COLUMN_OFFSET, FIRST_TAP, ROW_TAPS, COLUMN_TAPS,
) = range(17)  # fmt: skip
FIELDS = 17


@worker
def _window(g, image, i, ldx):
    """Return the window of the first strip of grid row i, as `strips` takes it."""
    x_row = g[SOURCE_WIDTH] * ldx
    top, left = i * g[STEP] + g[ROW_OFFSET], g[COLUMN_OFFSET]
    at = (image * g[SOURCE_HEIGHT] + top) * x_row + left * ldx
    # Rows of an image that fits the cache with its neighbours come in time by themselves.
    ahead = BLOCK_ELEMENTS // x_row * x_row if g[SOURCE_HEIGHT] * x_row > BLOCK_ELEMENTS else 0
    return at, x_row, ldx, top, g[SOURCE_HEIGHT], left, g[SOURCE_WIDTH], ahead


@worker
def _taps(g, channels):
    return g[FIRST_TAP] * channels, g[ROW_TAPS] * channels, g[COLUMN_TAPS] * channels, g[ROWS], g[COLUMNS]


@worker
def _correlate_row(g, image, i, channels, x, ldx, prologue, coefficients, w, bias, has_bias, y, ldy, add):
    window, taps = _window(g, image, i, ldx), _taps(g, channels)
    target_row = image * g[TARGET_HEIGHT] + i * g[TARGET_STEP] + g[TOP]
    target = (target_row * g[TARGET_WIDTH] + g[LEFT]) * ldy, g[TARGET_STEP] * ldy, g[GRID_WIDTH]
    if g[ROWS] == 3 and g[COLUMNS] == 3 and g[STEP] == 1:
        correlate_row(3, 1, x, window, prologue, coefficients, w, taps, bias, has_bias, y, target, add, channels)
    elif g[ROWS] == 3 and g[COLUMNS] == 3 and g[STEP] == 2:
        correlate_row(3, 2, x, window, prologue, coefficients, w, taps, bias, has_bias, y, target, add, channels)
    else:
        correlate_row(1, g[STEP], x, window, prologue, coefficients, w, taps, bias, has_bias, y, target, add, channels)


@kernel(
    "void(i8[::1], i8, i8, T[::1], i8, bool_, T[::1], T[::1], T[::1], T[::1], i8, bool_, T[::1])",
    parallel=True,
)
def depthwise_correlate(
    geometry, images, channels, x, ldx, prologue, coefficients, w, bias, y, ldy, accumulate, statistics
):
    """y (+)= the phases of `geometry` of prologue(x) with w, + bias; `bias` and `statistics` may be empty.

    The first phase has the tallest and widest grid. Tasks are `block_rows` of its rows; statistics are theirs,
    [blocks][mean, M2][channels], and want one phase.
    """
    height, width = geometry[GRID_HEIGHT], geometry[GRID_WIDTH]
    size = block_rows(width * channels)
    rows = images * height
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        last = min(first + size, rows)
        for r in range(first, last):
            image, i = divmod(r, height)
            for phase in range(geometry.size // FIELDS):
                g = geometry[phase * FIELDS : (phase + 1) * FIELDS]
                if i < g[GRID_HEIGHT]:
                    _correlate_row(
                        g, image, i, channels, pointer(x), ldx, prologue, pointer(coefficients), pointer(w),
                        pointer(bias), bias.size > 0, pointer(y), ldy, accumulate,
                    )  # fmt: skip
        if statistics.size > 0:
            pixels = (last - first) * width
            mean = row(statistics, channels, 2 * np.int64(block), channels)
            m2 = row(statistics, channels, 2 * np.int64(block) + 1, channels)
            block_statistics(y[first * width * ldy :], ldy, pixels, channels, mean, m2)


@kernel(
    "void(i8[::1], i8, i8, T[::1], i8, bool_, T[::1], T[::1], i8, i8, i8, T[::1], bool_)",
    parallel=True,
)
def depthwise_weight_gradient(
    g, images, channels, x, ldx, prologue, coefficients, dy, lddy, slots, group, dw, accumulate
):
    """dw[slots, taps, channels] (+)= each slot's part of the weight gradient of forward's geometry `g`.

    Tasks are groups of `group` channels by slots, which are ranges of output rows.
    """
    rows, groups = images * g[GRID_HEIGHT], block_count(channels, group)
    taps = g[ROWS] * g[COLUMNS]
    for item in prange(slots * groups):
        slot, c = np.int64(item) // groups, np.int64(item) % groups * group
        count = min(group, channels - c)
        part = dw[slot * taps * channels + c : (slot + 1) * taps * channels]
        if not accumulate:
            for tap in range(taps):
                part[tap * channels : tap * channels + count] = 0
        for r in range(slot * rows // slots, (slot + 1) * rows // slots):
            _gradient_row(
                g, r // g[GRID_HEIGHT], r % g[GRID_HEIGHT], channels, count, pointer(x[c:]), ldx, prologue,
                pointer(coefficients[c:]), pointer(dy[c:]), lddy, pointer(part),
            )  # fmt: skip


@worker
def _gradient_row(g, image, i, channels, count, x, ldx, prologue, coefficients, dy, lddy, dw):
    window, taps = _window(g, image, i, ldx), _taps(g, channels)
    source = (image * g[GRID_HEIGHT] + i) * g[GRID_WIDTH] * lddy, lddy, g[GRID_WIDTH]
    if g[ROWS] == 3 and g[COLUMNS] == 3 and g[STEP] == 1:
        gradient_row(3, 1, x, window, prologue, coefficients, channels, dy, source, dw, taps, count)
    elif g[ROWS] == 3 and g[COLUMNS] == 3 and g[STEP] == 2:
        gradient_row(3, 2, x, window, prologue, coefficients, channels, dy, source, dw, taps, count)
    else:
        gradient_row(1, g[STEP], x, window, prologue, coefficients, channels, dy, source, dw, taps, count)


def _forward_geometry(s: ConvolutionShape) -> np.ndarray:
    grid = (s.out_height, s.out_width)
    fields = [s.height, s.width, s.stride, *grid, *grid, 1, 0, 0, s.kernel, s.kernel]
    return np.array([*fields, -s.padding, -s.padding, 0, s.kernel, 1], np.int64)


def _gradient_geometry(s: ConvolutionShape) -> np.ndarray:
    """Return the phases of the input gradient, the one of pixel (0, 0) first."""
    phases = []
    for top in range(min(s.stride, s.height)):
        for left in range(min(s.stride, s.width)):
            grid = [-(-(s.height - top) // s.stride), -(-(s.width - left) // s.stride)]
            # The first tap, how many there are, and the source of the last one, for rows and for columns.
            row, column = (top + s.padding) % s.stride, (left + s.padding) % s.stride
            rows, columns = (len(range(first, s.kernel, s.stride)) for first in (row, column))
            row_offset = (top + s.padding) // s.stride - rows + 1
            column_offset = (left + s.padding) // s.stride - columns + 1
            last_tap = (row + (rows - 1) * s.stride) * s.kernel + column + (columns - 1) * s.stride
            fields = [s.out_height, s.out_width, 1, *grid, s.height, s.width, s.stride, top, left, rows, columns]
            phases += [*fields, row_offset, column_offset, last_tap, -s.stride * s.kernel, -s.stride]
    return np.array(phases, np.int64)


class DepthwiseConvolution:
    """The three passes of one depthwise convolution, planned once.

    Pixel matrices as in `cnnzoo.kernels.convolution`; weights are [kernel * kernel, channels]. Forward and the weight
    gradient take a prologue of x, as the other convolutions do; the gradients take dy as it is.

    Parameters
    ----------
    shape : ConvolutionShape
        Its extents; groups, in_channels and out_channels are the same.
    dtype : dtype
        float32 or float64.

    Attributes
    ----------
    scratch_sizes : dict of str to int
        Elements of `dtype` that each pass ("forward", "input_gradient", "weight_gradient") needs as `scratch`.
    statistics_rows : int
        Output pixels in a block of the batch-norm partial sums that `forward` collects.
    """

    name = "depthwise"

    @staticmethod
    def refusal(shape: ConvolutionShape) -> str | None:
        """Return why this algorithm cannot take `shape`, or None if it can."""
        if shape.groups == shape.in_channels == shape.out_channels:
            return None
        return f"it takes as many groups as channels, not {shape.groups} of {shape.in_channels} to {shape.out_channels}"

    def __init__(self, shape: ConvolutionShape, dtype: np.dtype):
        self.shape = shape
        self._forward, self._input_gradient = _forward_geometry(shape), _gradient_geometry(shape)
        self._nothing, self._plain = np.empty(0, dtype), plain(np.dtype(dtype))
        self._group = min(shape.in_channels, GROUP_CHANNELS)
        groups = block_count(shape.in_channels, self._group)
        self._slots = min(shape.images * shape.out_height, block_count(MINIMUM_TASKS, groups))
        slots = self._slots * shape.kernel**2 * shape.in_channels
        self.scratch_sizes = {"forward": 0, "input_gradient": 0, "weight_gradient": slots if self._slots > 1 else 0}
        self.statistics_rows = block_rows(shape.out_width * shape.out_channels) * shape.out_width

    def forward(self, x, ldx, w, y, ldy, scratch, prologue=None, accumulate=False, bias=None, statistics=None):
        """y (+)= correlate(prologue(x), w) + b, each channel by itself.

        Parameters
        ----------
        x, y : ndarray of T[::1]
            Pixel matrices [images * height * width, channels] and [out_pixels, channels], leading dimensions `ldx` and
            `ldy`.
        w : ndarray of T[::1]
            Weights [kernel * kernel, channels].
        scratch : ndarray of T[::1]
            ``scratch_sizes["forward"]`` elements.
        prologue : Prologue, optional
            Applied to `x`: nothing, or scale, shift and ReLU.
        accumulate : bool
            Add to `y` instead of overwriting it.
        bias : ndarray of T[channels], optional
        statistics : ndarray of T, optional
            [ceil(out_pixels / statistics_rows)][mean, M2][channels], written.
        """
        on_x = prologue or self._plain
        bias = self._nothing if bias is None else bias
        statistics = self._nothing if statistics is None else statistics
        depthwise_correlate(
            self._forward, self.shape.images, self.shape.in_channels, x, ldx, on_x.kind != PLAIN, on_x.coefficients,
            w, bias, y, ldy, accumulate, statistics,
        )  # fmt: skip

    def input_gradient(self, dy, lddy, w, dx, lddx, scratch, accumulate=False):
        """dx (+)= the adjoint of `forward` in x, applied to dy."""
        depthwise_correlate(
            self._input_gradient, self.shape.images, self.shape.in_channels, dy, lddy, False, self._nothing,
            w, self._nothing, dx, lddx, accumulate, self._nothing,
        )  # fmt: skip

    def weight_gradient(self, x, ldx, dy, lddy, dw, scratch, x_prologue=None, accumulate=False):
        """dw (+)= the adjoint of `forward` in w, from x_prologue(x) and dy."""
        on_x = x_prologue or self._plain
        in_slots = self._slots > 1
        depthwise_weight_gradient(
            self._forward, self.shape.images, self.shape.in_channels, x, ldx, on_x.kind != PLAIN, on_x.coefficients,
            dy, lddy, self._slots, self._group, scratch if in_slots else dw, accumulate and not in_slots,
        )  # fmt: skip
        if in_slots:
            add_slots(scratch, self._slots, dw.size, dw, accumulate)
