"""The nested algorithms of Winograd's convolutions: which matrices, and how their tiles lie."""

from typing import NamedTuple

from cnnzoo.kernels.convolution import ConvolutionShape
from cnnzoo.kernels.toom_cook import Matrices, derive, derive_pair, derive_strided, derive_strided_gradient


class Form(NamedTuple):
    """One nested algorithm: tiles of `tile` x `tile` outputs, from windows of inputs that lie `step` apart."""

    matrices: Matrices
    step: int

    @property
    def tile(self) -> int:
        return len(self.matrices.output)

    @property
    def products(self) -> int:
        """Multiplications of a tile, for each pair of channels."""
        return len(self.matrices.input) ** 2

    @property
    def distinct_weights(self) -> int:
        """Transformed weights of a pair of channels: fewer than the products, where some take the same."""
        return len(self.matrices.weights) ** 2

    @property
    def order(self) -> list[tuple[int, int]]:
        """Return each product and the weights that it takes, both counted by rows; those of the same weights together.

        So these lie in a near cache but for the first, or, in the weight gradient, their sums do.
        """
        n, rows = len(self.matrices.input), len(self.matrices.weights)
        row = [min(i, rows - 1) for i in range(n)]
        pairs = [(i * n + j, row[i] * rows + row[j]) for i in range(n) for j in range(n)]
        return sorted(pairs, key=lambda pair: pair[1])


# Indices of FORMS: a correlation at stride 1, by its kernel; a 3x3 one at stride 2, and its gradient in the input; one
# of 3x3 at stride 1 and padding 1 on images of 2x2 pixels, each a tile.
STRIDE_1_KERNEL_3, STRIDE_1_KERNEL_5, STRIDE_2, STRIDE_2_GRADIENT, IMAGE_OF_4 = range(5)
FORMS = (
    Form(derive(4, 3), step=4),
    Form(derive(2, 5), step=2),
    Form(derive_strided(4), step=8),
    Form(derive_strided_gradient(4), step=4),
    Form(derive_pair(), step=2),
)

# The forms of forward and of the input gradient, by kernel and stride.
BY_KERNEL_AND_STRIDE = {
    (3, 1): (STRIDE_1_KERNEL_3, STRIDE_1_KERNEL_3),
    (5, 1): (STRIDE_1_KERNEL_5, STRIDE_1_KERNEL_5),
    (3, 2): (STRIDE_2, STRIDE_2_GRADIENT),
}


class FormsOf(NamedTuple):
    """The forms of a convolution, indices of `FORMS`, and the padding of the windows that their tiles read.

    The weight gradient has forward's.
    """

    forward: int
    input_gradient: int
    padding: int
    gradient_padding: int


def forms_of(s: ConvolutionShape) -> FormsOf:
    """Return the forms of the convolution of shape `s`."""
    if (s.kernel, s.stride, s.padding, s.height, s.width) == (3, 1, 1, 2, 2):
        return FormsOf(IMAGE_OF_4, IMAGE_OF_4, 0, 0)
    gradient_padding = s.kernel - 1 - s.padding if s.stride == 1 else 0
    return FormsOf(*BY_KERNEL_AND_STRIDE[s.kernel, s.stride], s.padding, gradient_padding)
