"""Depthwise convolution: each channel has its own square kernel (channel multiplier 1), no im2col.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017, section 3.1.
Weights are [kernel * kernel, channels], so that all three passes run over vectors of channels. With w[i, j] at row i,
column j of the window::

    forward           y[p, q] = sum over i, j of x[p stride + i - padding, q stride + j - padding] w[i, j]
    input gradient    dx[h, v] = sum over i, j of dy[(h + padding - i) / stride, (v + padding - j) / stride] w[i, j],
                      over the taps for which both divide
    weight gradient   dw[i, j] = sum over p, q of x[p stride + i - padding, q stride + j - padding] dy[p, q]

The input gradient is a correlation too: at stride 1, with the taps backwards, of dy with ``stride - 1`` zeros between
its pixels. So one kernel serves both, which takes a stride of the windows and a dilation of the source.

A 3x3 window is held in registers and moves along a row of the source: a column comes in, a column goes out, and each
value is loaded once a row of outputs. Memory is waited for more than anything else, so what comes next is fetched
ahead, in the order of memory, which the hardware then joins; the windows themselves jump from pixel to pixel. Zeros
(padding, and between the pixels of dy) are loads of no elements, and are multiplied as if they were values.

The error is that of a dot product of kernel^2 terms, and of the output's pixels for the weight gradient.
"""

import numpy as np

from cnnzoo.kernels.blocks import block_count, block_rows
from cnnzoo.kernels.convolution import PLAIN, ConvolutionShape, Scratch, plain
from cnnzoo.kernels.correlation import add_slots
from cnnzoo.kernels.costs import STEP_VECTOR, count_vectors
from cnnzoo.kernels.depthwise_passes import BAND_ELEMENTS, depthwise_correlate, depthwise_weight_gradient

MINIMUM_TASKS = 32  # a weight gradient is cut into so many tasks where the shape allows, for machines of many cores
GROUP_CHANNELS = 256  # channels of one task of a weight gradient: its 3x3 sums are 9 KB of float32


def _geometry(height, width, dilation, out_height, out_width, channels, kernel, stride, padding, flipped) -> np.ndarray:
    band = max(1, BAND_ELEMENTS // (out_width * channels))
    fields = [height, width, dilation, out_height, out_width, kernel, stride, padding, flipped, band]
    return np.array(fields, np.int64)


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
    scratch : dict of str to Scratch
        What each pass ("forward", "input_gradient", "weight_gradient") needs as its argument of that name.
    statistics_rows : int
        Output pixels in a block of the batch-norm partial sums that `forward` collects.
    gradient_rows : None
        `input_gradient` takes no epilogue.
    """

    name = "depthwise"
    gradient_rows = None

    @staticmethod
    def refusal(shape: ConvolutionShape) -> str | None:
        """Return why this algorithm cannot take `shape`, or None if it can."""
        if shape.groups == shape.in_channels == shape.out_channels:
            return None
        return f"it takes as many groups as channels, not {shape.groups} of {shape.in_channels} to {shape.out_channels}"

    @staticmethod
    def multiply_adds(shape: ConvolutionShape) -> dict[str, int]:
        """Return the multiply-adds of each pass: those of the direct method, padding included."""
        return dict.fromkeys(("forward", "input_gradient", "weight_gradient"), shape.multiply_adds)

    @staticmethod
    def costs(shape: ConvolutionShape) -> dict[str, float]:
        """Return the estimated cost of each pass; see `cnnzoo.kernels.costs`."""
        cost = shape.out_pixels * shape.kernel**2 * count_vectors(shape.in_channels) * STEP_VECTOR
        return dict.fromkeys(("forward", "input_gradient", "weight_gradient"), cost)

    def __init__(self, shape: ConvolutionShape, dtype: np.dtype):
        self.shape = shape
        s, image, out_image = shape, (shape.height, shape.width), (shape.out_height, shape.out_width)
        self._forward = _geometry(*image, 1, *out_image, s.in_channels, s.kernel, s.stride, s.padding, False)
        padding = s.kernel - 1 - s.padding
        self._input_gradient = _geometry(*out_image, s.stride, *image, s.in_channels, s.kernel, 1, padding, True)
        self._nothing, self._plain = np.empty(0, dtype), plain(np.dtype(dtype))
        self._group = min(shape.in_channels, GROUP_CHANNELS)
        groups = block_count(shape.in_channels, self._group)
        self._slots = min(shape.images * shape.out_height, block_count(MINIMUM_TASKS, groups))
        slots = self._slots * shape.kernel**2 * shape.in_channels
        self.scratch = {
            "forward": Scratch(),
            "input_gradient": Scratch(),
            "weight_gradient": Scratch(slots if self._slots > 1 else 0),
        }
        self.statistics_rows = block_rows(shape.out_width * shape.out_channels) * shape.out_width

    def forward(
        self, x, ldx, w, y, ldy, scratch, prologue=None, accumulate=False, bias=None, statistics=None, rectify=False
    ):
        """y (+)= correlate(prologue(x), w) + b, each channel by itself, or max(0, that) if `rectify`.

        x and y are pixel matrices with leading dimensions `ldx` and `ldy`, `scratch` has
        ``scratch["forward"].size()`` elements, and `bias` is T[channels]. If `accumulate`, y is added to instead of
        overwritten. `statistics`, [ceil(out_pixels / statistics_rows)][mean, M2][channels], is written.
        """
        on_x = prologue or self._plain
        bias = self._nothing if bias is None else bias
        statistics = self._nothing if statistics is None else statistics
        depthwise_correlate(
            self._forward, self.shape.images, self.shape.in_channels, x, ldx, on_x.kind != PLAIN, on_x.coefficients,
            w, bias, y, ldy, accumulate, rectify, statistics,
        )  # fmt: skip

    def input_gradient(self, dy, lddy, w, dx, lddx, scratch, epilogue=None, accumulate=False):
        """dx (+)= the adjoint of `forward` in x, applied to dy; it takes no epilogue."""
        assert epilogue is None
        depthwise_correlate(
            self._input_gradient, self.shape.images, self.shape.in_channels, dy, lddy, False, self._nothing,
            w, self._nothing, dx, lddx, accumulate, False, self._nothing,
        )  # fmt: skip

    def weight_gradient(self, x, ldx, dy, lddy, dw, scratch, prologue=None, accumulate=False):
        """dw (+)= the adjoint of `forward` in w, from prologue(x) and dy."""
        on_x = prologue or self._plain
        in_slots = self._slots > 1
        depthwise_weight_gradient(
            self._forward, self.shape.images, self.shape.in_channels, x, ldx, on_x.kind != PLAIN, on_x.coefficients,
            dy, lddy, self._slots, self._group, scratch if in_slots else dw, accumulate and not in_slots,
        )  # fmt: skip
        if in_slots:
            add_slots(scratch, self._slots, dw.size, dw, accumulate)
