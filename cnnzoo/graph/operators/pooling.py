"""Max, average and global average pooling."""

import numpy as np

from cnnzoo.errors import ModelError
from cnnzoo.graph.operator import Context, Operator, Requirements
from cnnzoo.graph.tensor import Extent
from cnnzoo.kernels.pooling import (
    average_pool_backward,
    average_pool_forward,
    global_average_pool_backward,
    global_average_pool_forward,
    max_pool_backward,
    max_pool_forward,
)

_NOT_KEPT = np.empty(0, np.uint8)


class _WindowPool(Operator):
    """A pool over square windows.

    Parameters
    ----------
    name : str
    window, stride, padding : int
        The stride is the window's size where it is None.
    """

    def __init__(self, name: str, window: int, stride: int | None, padding: int):
        super().__init__(name)
        stride = window if stride is None else stride
        if window < 1 or stride < 1:
            raise ModelError(f"{name}: expected a window and a stride of 1 or more, got {window}, {stride}")
        if not 0 <= 2 * padding <= window:
            raise ModelError(f"{name}: expected a padding of at most half the window of {window}, got {padding}")
        self.window, self.stride, self.padding = window, stride, padding

    def output_extent(self, *inputs: Extent) -> Extent:
        """Return one pixel for each window; raise `ModelError` where none fits."""
        x = inputs[0]
        height, width = ((size + 2 * self.padding - self.window) // self.stride + 1 for size in (x.height, x.width))
        if height < 1 or width < 1:
            raise ModelError(f"{self.name}: expected an image no smaller than its window of {self.window}, got {x}")
        return Extent(height, width, x.channels)

    def requirements(self, images: int, training: bool, dtype: np.dtype, *inputs: Extent) -> Requirements:
        """Hand the input's extent to the passes."""
        return Requirements(state=inputs[0])

    def pooled(self, *inputs: Extent) -> int:
        """Return the values of all windows, padding among them."""
        return self.output_extent(*inputs).size * self.window**2

    def _geometry(self, c: Context) -> tuple[int, ...]:
        x = c.state
        return c.images, x.height, x.width, x.channels, self.window, self.stride, self.padding


class MaxPool(_WindowPool):
    """y = the maximum of each window, max(0, it) with a ReLU before it, which is set by a fusion pass.

    Padding never wins. A window has at most 15 pixels a side.
    """

    relu = False
    applies_batch_norm = False  # the input is a deferred batch norm + ReLU, applied on load; set by a pass

    def __init__(self, name: str, window: int, stride: int | None, padding: int):
        super().__init__(name, window, stride, padding)
        if window > 15:  # the winner's place in it is kept as a byte
            raise ModelError(f"{name}: expected a window of at most 15, got {window}")

    @property
    def kind(self) -> str:
        """With the ReLU that was merged into it."""
        return "ReLU+" * self.relu + "MaxPool"

    def requirements(self, images: int, training: bool, dtype: np.dtype, *inputs: Extent) -> Requirements:
        """Keep where each window's maximum lies, in training: a byte a value of y."""
        size = images * self.output_extent(*inputs).size
        return Requirements(inputs[0], {"winner": (size, np.dtype(np.uint8))} if training else {})

    def forward(self, c: Context) -> None:
        """y = the maximum of each window, of 0 too with a ReLU, or with the batch norm + ReLU of x applied on load."""
        x, y, winner = c.x[0], c.y, c.kept.get("winner", _NOT_KEPT)
        coefficients = c.lent("coefficients") if self.applies_batch_norm else np.empty(0, x.data.dtype)
        max_pool_forward(x.data, x.ld, coefficients, y.data, y.ld, winner, *self._geometry(c), self.relu)

    def backward(self, c: Context) -> None:
        """dx (+)= dy at each window's maximum, if it passed the ReLU; the sum of those of windows that share it."""
        dy, dx = c.dy, c.dx[0]
        max_pool_backward(dy.data, dy.ld, c.kept["winner"], dx.data, dx.ld, *self._geometry(c), c.accumulate[0])


class AveragePool(_WindowPool):
    """y = the mean of each window, zeros of the padding included."""

    def forward(self, c: Context) -> None:
        """y = the mean of each window."""
        x, y = c.x[0], c.y
        average_pool_forward(x.data, x.ld, y.data, y.ld, *self._geometry(c))

    def backward(self, c: Context) -> None:
        """dx (+)= dy / window^2, summed over the windows of each pixel."""
        dy, dx = c.dy, c.dx[0]
        average_pool_backward(dy.data, dy.ld, dx.data, dx.ld, *self._geometry(c), c.accumulate[0])


class GlobalAveragePool(Operator):
    """y = the mean over all pixels of an image (Lin, Chen and Yan, "Network in Network", ICLR 2014)."""

    def output_extent(self, *inputs: Extent) -> Extent:
        """Return one pixel."""
        return Extent(1, 1, inputs[0].channels)

    def forward(self, c: Context) -> None:
        """y = the mean of each image's pixels."""
        x, y = c.x[0], c.y
        global_average_pool_forward(x.data, x.ld, y.data, y.ld, c.images, x.rows // c.images, x.channels)

    def backward(self, c: Context) -> None:
        """dx (+)= dy / pixels, at every pixel."""
        dy, dx = c.dy, c.dx[0]
        pixels = dx.rows // c.images
        global_average_pool_backward(dy.data, dy.ld, dx.data, dx.ld, c.images, pixels, dx.channels, c.accumulate[0])
