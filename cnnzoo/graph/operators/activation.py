"""ReLU and dropout."""

import numpy as np

from cnnzoo.graph.operator import Context, Operator, Requirements
from cnnzoo.graph.tensor import Extent
from cnnzoo.kernels.activation import dropout_backward, dropout_forward, relu_backward, relu_forward
from cnnzoo.kernels.elementwise import copy_rows


class ReLU(Operator):
    """y = max(0, x)."""

    saves_output = True
    forward_in_place = True
    backward_in_place = True

    def forward(self, c: Context) -> None:
        x, y = c.x[0], c.y
        relu_forward(x.data, x.ld, y.data, y.ld, y.rows, y.channels)

    def backward(self, c: Context) -> None:
        y, dy, dx = c.y, c.dy, c.dx[0]
        relu_backward(dy.data, dy.ld, y.data, y.ld, dx.data, dx.ld, y.rows, y.channels, c.accumulate[0])


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

    def requirements(self, images: int, training: bool, dtype: np.dtype, *inputs: Extent) -> Requirements:
        return Requirements(kept={"mask": (images * inputs[0].size, np.dtype(np.uint8))} if training else {})

    def forward(self, c: Context) -> None:
        x, y = c.x[0], c.y
        if c.training:
            key = np.uint64(c.random_key)
            dropout_forward(x.data, x.ld, y.data, y.ld, c.kept["mask"], y.rows, y.channels, self.rate, key)
        elif x.data.ctypes.data != y.data.ctypes.data:
            copy_rows(x.data, x.ld, y.data, y.ld, y.rows, y.channels, False)

    def backward(self, c: Context) -> None:
        y, dy, dx = c.y, c.dy, c.dx[0]
        dropout_backward(dy.data, dy.ld, c.kept["mask"], dx.data, dx.ld, y.rows, y.channels, self.rate, c.accumulate[0])
