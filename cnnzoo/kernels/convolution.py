"""The contract of every convolution algorithm.

Activations are pixel matrices (NHWC rows with a leading dimension). Weights are [kernel, kernel, in / groups, out],
contiguous, so that one tap is the [in, out] matrix that multiplies a pixel. An algorithm has three passes::

    forward           y (+)= correlate(P(x), w) + b         P: a batch norm + ReLU of x applied on load, or nothing
    input_gradient    dx (+)= adjoint of forward in x       of Q(dy)
    weight_gradient   dw (+)= adjoint of forward in w       of P(x) and Q(dy)
                                                            Q: the backward of a batch norm + ReLU on load, or nothing

and forward may collect the batch-norm partial sums of its output while it lies in cache. Padding is zero after P.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

PLAIN, SCALE_SHIFT_RELU, GRADIENT, GRADIENT_RELU = range(4)


class Prologue(NamedTuple):
    """What is applied to a pixel matrix while it is loaded.

    Attributes
    ----------
    kind : int
        `PLAIN`; `SCALE_SHIFT_RELU`: max(0, scale * x + shift); `GRADIENT`: a * dy + b * z + c; `GRADIENT_RELU`: the
        same with dy zero where scale * z + shift <= 0.
    coefficients : ndarray
        Rows scale, shift, a, b, c of `channels` values each, flat; the first two alone for `SCALE_SHIFT_RELU`.
    z : ndarray
        The batch norm's input, for the gradients: a pixel matrix of the same rows.
    ldz : int
        The leading dimension of `z`.
    """

    kind: int
    coefficients: np.ndarray
    z: np.ndarray
    ldz: int


def plain(dtype: np.dtype) -> Prologue:
    """Return the prologue that does nothing."""
    nothing = np.empty(0, dtype)
    return Prologue(PLAIN, nothing, nothing, 0)


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
