"""ReLU, sigmoid, tanh and dropout."""

import numpy as np

from cnnzoo.graph.operator import Context, Operator, Requirements
from cnnzoo.graph.tensor import Extent
from cnnzoo.kernels.activation import (
    SIGMOID,
    TANH,
    dropout_backward,
    dropout_forward,
    relu_backward,
    relu_forward,
    sigmoidal_backward,
    sigmoidal_forward,
)
from cnnzoo.kernels.elementwise import copy_rows


class ReLU(Operator):
    """y = max(0, x)."""

    saves_output = True
    forward_in_place = True
    backward_in_place = True

    def forward(self, c: Context) -> None:
        """y = max(0, x)."""
        x, y = c.x[0], c.y
        relu_forward(x.data, x.ld, y.data, y.ld, y.rows, y.channels)

    def backward(self, c: Context) -> None:
        """dx (+)= dy where y > 0, else 0."""
        y, dy, dx = c.y, c.dy, c.dx[0]
        relu_backward(dy.data, dy.ld, y.data, y.ld, dx.data, dx.ld, y.rows, y.channels, c.accumulate[0])


class _Sigmoidal(Operator):
    """An S-shaped function; backward needs its output alone."""

    saves_output = True
    forward_in_place = True
    backward_in_place = True
    function: int

    def forward(self, c: Context) -> None:
        """y = the function of x."""
        x, y = c.x[0], c.y
        sigmoidal_forward(x.data, x.ld, y.data, y.ld, y.rows, y.channels, self.function)

    def backward(self, c: Context) -> None:
        """dx (+)= dy times the derivative, from y."""
        y, dy, dx, add = c.y, c.dy, c.dx[0], c.accumulate[0]
        sigmoidal_backward(dy.data, dy.ld, y.data, y.ld, dx.data, dx.ld, y.rows, y.channels, self.function, add)


class Sigmoid(_Sigmoidal):
    """y = 1 / (1 + exp(-x))."""

    function = SIGMOID


class Tanh(_Sigmoidal):
    """y = tanh(x)."""

    function = TANH


class Dropout(Operator):
    """y = x * mask / (1 - rate) in training, each value dropped by itself; y = x in inference.

    Srivastava et al., "Dropout", JMLR 15, 2014, with the scaling in training.
    """

    forward_in_place = True
    backward_in_place = True
    draws = True

    def __init__(self, name: str, rate: float):
        super().__init__(name)
        self.rate = rate

    def drawn(self, x: Extent) -> int:
        """Return how many values of an image are drawn for."""
        return x.size

    def requirements(self, images: int, training: bool, dtype: np.dtype, *inputs: Extent) -> Requirements:
        """Keep the mask, in training: a byte for each value, or channel, that is drawn for."""
        mask = images * self.drawn(inputs[0]), np.dtype(np.uint8)
        return Requirements(state=inputs[0].size // self.drawn(inputs[0]), kept={"mask": mask} if training else {})

    def forward(self, c: Context) -> None:
        """Draw a mask and apply it; in inference, copy x unless it lies in y."""
        x, y = c.x[0], c.y
        if c.training:
            key = np.uint64(c.random_key)
            mask, repeats = c.kept["mask"], c.state
            dropout_forward(x.data, x.ld, y.data, y.ld, mask, y.rows, y.channels, repeats, self.rate, key)
        elif x.data.ctypes.data != y.data.ctypes.data:
            copy_rows(x.data, x.ld, y.data, y.ld, y.rows, y.channels, False)

    def backward(self, c: Context) -> None:
        """dx (+)= dy * mask / (1 - rate)."""
        dy, dx, mask, repeats, add = c.dy, c.dx[0], c.kept["mask"], c.state, c.accumulate[0]
        dropout_backward(dy.data, dy.ld, mask, dx.data, dx.ld, dx.rows, dx.channels, repeats, self.rate, add)


class Dropout2d(Dropout):
    """Dropout of whole channels of an image.

    Tompson et al., "Efficient Object Localization Using Convolutional Networks", CVPR 2015, section 3.2: neighboring
    pixels tell the same, so that one dropped by itself is not missed.
    """

    def drawn(self, x: Extent) -> int:
        """Return the channels: one draw for each."""
        return x.channels
