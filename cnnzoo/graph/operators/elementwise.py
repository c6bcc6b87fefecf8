"""Addition of two tensors."""

from cnnzoo.errors import ModelError
from cnnzoo.graph.operator import Context, Operator
from cnnzoo.graph.tensor import Extent
from cnnzoo.kernels.elementwise import add_forward, copy_rows


class Add(Operator):
    """y = a + b."""

    forward_in_place = True

    def output_extent(self, *inputs: Extent) -> Extent:
        a, b = inputs
        if a != b:
            raise ModelError(f"{self.name}: expected two tensors of one shape, got {a} and {b}")
        return a

    def forward(self, c: Context) -> None:
        (a, b), y = c.x, c.y
        add_forward(a.data, a.ld, b.data, b.ld, y.data, y.ld, y.rows, y.channels)

    def backward(self, c: Context) -> None:
        for dx, accumulate in zip(c.dx, c.accumulate, strict=True):
            copy_rows(c.dy.data, c.dy.ld, dx.data, dx.ld, dx.rows, dx.channels, accumulate)
