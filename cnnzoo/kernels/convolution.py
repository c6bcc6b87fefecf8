"""The contract of every convolution algorithm.

Activations are pixel matrices (NHWC rows with a leading dimension). Weights are [kernel, kernel, in / groups, out],
contiguous, so that one tap is the [in, out] matrix that multiplies a pixel. An algorithm has three passes::

    forward           y (+)= correlate(P(x), w) + b         P: a batch norm + ReLU of x applied on load, or nothing
    input_gradient    dx (+)= Q(adjoint of forward in x)    Q: the first half of P's backward, or nothing
    weight_gradient   dw (+)= adjoint of forward in w       of P(x) and dy

and forward may collect the batch-norm partial sums of its output while it lies in cache. Padding is zero after P.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

PLAIN, SCALE_SHIFT_RELU, SCALE_MASKED = range(3)  # nothing, a prologue, an epilogue


class Prologue(NamedTuple):
    """What is applied to a pixel matrix while it is loaded.

    Attributes
    ----------
    kind : int
        `PLAIN`; `SCALE_SHIFT_RELU`: max(0, scale * x + shift).
    coefficients : ndarray
        Rows scale and shift of `channels` values each, flat; more may follow.
    """

    kind: int
    coefficients: np.ndarray


class Epilogue(NamedTuple):
    """What is applied to an input gradient before it is stored: as much of a batch norm's backward as is known there.

    With a scale of 1, a shift of 0 and a mean of 0 that is all of the backward of a ReLU, by its output.

    Of dx, what is stored is scale * dz with dz = dx where scale * x + shift > 0 and 0 elsewhere; what depends on the
    sums of dz is added later (`cnnzoo.kernels.batch_norm`, steps 3 to 6).

    Attributes
    ----------
    kind : int
        `PLAIN` or `SCALE_MASKED`.
    coefficients : ndarray
        Rows scale, shift and mean of `channels` values each, flat.
    x : ndarray
        The batch norm's input, or the ReLU's output, a pixel matrix of dx's rows.
    ldx : int
        The leading dimension of `x`.
    sums : ndarray
        [ceil(rows / gradient_rows)][sum of dz, sum of dz (x - mean)][channels], written.
    """

    kind: int
    coefficients: np.ndarray
    x: np.ndarray
    ldx: int
    sums: np.ndarray


class Scratch(NamedTuple):
    """Elements that a pass works in, besides its operands.

    Attributes
    ----------
    shared : int
        For all threads together.
    each : int
        For each thread.
    """

    shared: int = 0
    each: int = 0

    def size(self, threads: int | None = None) -> int:
        """Return the elements for that many threads, or for as many as there can be."""
        return self.shared + (threads or numba.config.NUMBA_NUM_THREADS) * self.each


def plain(dtype: np.dtype) -> Prologue:
    """Return the prologue that does nothing."""
    return Prologue(PLAIN, np.empty(0, dtype))


def plain_epilogue(dtype: np.dtype) -> Epilogue:
    """Return the epilogue that does nothing."""
    nothing = np.empty(0, dtype)
    return Epilogue(PLAIN, nothing, nothing, 0, nothing)


@dataclass(frozen=True)
class ConvolutionShape:
    """The extents of one convolution: a square kernel, one stride and one padding for both axes.

    The channels fall into `groups`, in order, which are convolved by themselves: as many as there are channels in a
    depthwise convolution.
    """

    images: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def out_height(self) -> int:
        return (self.height + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def out_width(self) -> int:
        return (self.width + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def out_pixels(self) -> int:
        """Rows of the output's pixel matrix."""
        return self.images * self.out_height * self.out_width

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one pass by the direct method, padding included."""
        return self.out_pixels * self.out_channels * (self.in_channels // self.groups) * self.kernel**2
