"""Addition of two tensors, and concatenation of any number."""

from cnnzoo.errors import ModelError
from cnnzoo.graph.ledger import Pass
from cnnzoo.graph.operator import Context, Matrix, Operator
from cnnzoo.graph.tensor import Extent
from cnnzoo.kernels.elementwise import add_forward, copy_rows


class Add(Operator):
    """y = a + b."""

    forward_in_place = True

    def output_extent(self, *inputs: Extent) -> Extent:
        """Return the extent that both terms have; raise `ModelError` where they differ."""
        a, b = inputs
        if a != b:
            raise ModelError(f"{self.name}: expected two tensors of one shape, got {a} and {b}")
        return a

    def forward(self, c: Context) -> None:
        """y = a + b."""
        (a, b), y = c.x, c.y
        add_forward(a.data, a.ld, b.data, b.ld, y.data, y.ld, y.rows, y.channels)

    def backward(self, c: Context) -> None:
        """da (+)= dy, db (+)= dy."""
        for dx, accumulate in zip(c.dx, c.accumulate, strict=True):
            copy_rows(c.dy.data, c.dy.ld, dx.data, dx.ld, dx.rows, dx.channels, accumulate)


class Concatenation(Operator):
    """y = the inputs side by side, along channels.

    Inputs that lie in slices of the output cost nothing; the others are copied. So it is with the gradients.
    """

    concatenates = True

    def output_extent(self, *inputs: Extent) -> Extent:
        """Return the terms' height and width, with all their channels; raise `ModelError` where those differ."""
        height, width = inputs[0].height, inputs[0].width
        for x in inputs:
            if (x.height, x.width) != (height, width):
                raise ModelError(f"{self.name}: expected images of {height}x{width}, got {x.height}x{x.width}")
        return Extent(height, width, sum(x.channels for x in inputs))

    def forward(self, c: Context) -> None:
        """Copy the terms that do not lie in y."""
        for x, y in zip(c.x, _slices(c.y, c.x), strict=True):
            if not _is_same(x, y):
                copy_rows(x.data, x.ld, y.data, y.ld, x.rows, x.channels, False)

    def moved(self, c: Context, direction: Pass) -> int:
        """Return the bytes of the terms that are copied, read and written."""
        parts, whole = (c.dx, c.dy) if direction == "backward" else (c.x, c.y)
        pairs = zip(parts, _slices(whole, c.x), strict=True)
        return sum(2 * part.nbytes for part, place in pairs if not _is_same(part, place))

    def backward(self, c: Context) -> None:
        """Copy, or add, the slices of dy to the terms' gradients that do not lie in it."""
        for dx, dy, accumulate in zip(c.dx, _slices(c.dy, c.x), c.accumulate, strict=True):
            if not _is_same(dx, dy):
                copy_rows(dy.data, dy.ld, dx.data, dx.ld, dx.rows, dx.channels, accumulate)


def _slices(matrix: Matrix, terms: list[Matrix]) -> list[Matrix]:
    slices, channel = [], 0
    for term in terms:
        slices.append(Matrix(matrix.data[channel:], matrix.ld, matrix.rows, term.channels))
        channel += term.channels
    return slices


def _is_same(a: Matrix, b: Matrix) -> bool:
    return a.data.ctypes.data == b.data.ctypes.data and a.ld == b.ld
