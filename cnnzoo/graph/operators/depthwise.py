"""Depthwise convolution."""

from cnnzoo.graph.initializers import Initializer
from cnnzoo.graph.operators.convolution import Convolution


class Depthwise(Convolution):
    """y = correlate(x, w) + b, each channel with a kernel of its own (Howard et al., "MobileNets", 2017, section 3.1).

    Parameters
    ----------
    name : str
    channels, kernel, stride, padding : int
    bias : bool
    initializer : Initializer
        Of the weight [channels, 1, kernel, kernel], whose fan in is kernel^2; the bias begins at zero.
    """

    def __init__(
        self, name: str, channels: int, kernel: int, stride: int, padding: int, bias: bool, initializer: Initializer
    ):
        super().__init__(name, channels, channels, kernel, stride, padding, bias, initializer, groups=channels)
