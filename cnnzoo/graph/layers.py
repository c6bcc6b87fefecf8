"""The functions of which a network is built: each applies one operator, or a usual group of them, to a tensor.

`name` is PyTorch's name of the module whose parameters the operator holds.
"""

from cnnzoo.errors import ModelError
from cnnzoo.graph.initializers import Initializer, he_normal, xavier_uniform
from cnnzoo.graph.operators.activation import Dropout, Dropout2d, ReLU, Sigmoid, Tanh
from cnnzoo.graph.operators.batch_norm import BatchNorm
from cnnzoo.graph.operators.convolution import Convolution, Linear
from cnnzoo.graph.operators.depthwise import Depthwise
from cnnzoo.graph.operators.elementwise import Add, Concatenation
from cnnzoo.graph.operators.pooling import AveragePool, GlobalAveragePool, MaxPool
from cnnzoo.graph.tensor import Graph, Tensor


def _numbered(graph: Graph, kind: str) -> str:
    return f"{kind}{sum(node.name.startswith(kind) for node in graph.nodes) + 1}"


def conv(
    x: Tensor,
    channels: int,
    kernel: int,
    *,
    name: str,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = True,
    init: Initializer = he_normal,
) -> Tensor:
    """Convolve; without `padding`, an odd kernel at stride 1 keeps the size of the image."""
    padding = _padding(name, channels, kernel, stride, padding)
    return x.graph.apply(Convolution(name, x.channels, channels, kernel, stride, padding, bias, init), x)


def depthwise_conv(
    x: Tensor,
    kernel: int,
    *,
    name: str,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = False,
    init: Initializer = he_normal,
) -> Tensor:
    """Convolve each channel with a kernel of its own; without `padding` as `conv`."""
    padding = _padding(name, x.channels, kernel, stride, padding)
    return x.graph.apply(Depthwise(name, x.channels, kernel, stride, padding, bias, init), x)


def _padding(name: str, channels: int, kernel: int, stride: int, padding: int | None) -> int:
    """Return the padding of a convolution, whose extents are checked."""
    padding = (kernel - 1) // 2 if padding is None else padding
    if kernel < 1 or stride < 1 or channels < 1 or padding < 0:
        expected = "channels, kernel and stride of 1 or more and no negative padding"
        raise ModelError(f"{name}: expected {expected}, got {channels}, {kernel}, {stride} and {padding}")
    return padding


def batch_norm(x: Tensor, *, name: str) -> Tensor:
    """Normalize each channel over the batch."""
    return x.graph.apply(BatchNorm(name, x.channels), x)


def relu(x: Tensor) -> Tensor:
    """Return max(0, x)."""
    return x.graph.apply(ReLU(_numbered(x.graph, "relu")), x)


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x))."""
    return x.graph.apply(Sigmoid(_numbered(x.graph, "sigmoid")), x)


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent of x."""
    return x.graph.apply(Tanh(_numbered(x.graph, "tanh")), x)


def conv_bn_relu(
    x: Tensor,
    channels: int,
    kernel: int,
    *,
    conv_name: str,
    bn_name: str,
    stride: int = 1,
    init: Initializer = he_normal,
) -> Tensor:
    """Convolve without bias, normalize, rectify."""
    x = conv(x, channels, kernel, stride=stride, bias=False, init=init, name=conv_name)
    return relu(batch_norm(x, name=bn_name))


def linear(x: Tensor, features: int, *, name: str, init: Initializer = xavier_uniform) -> Tensor:
    """Apply a fully connected layer to all values of an image."""
    if features < 1:
        raise ModelError(f"{name}: expected 1 feature or more, got {features}")
    return x.graph.apply(Linear(name, x.extent, features, init), x)


def dropout(x: Tensor, rate: float) -> Tensor:
    """Drop values with probability `rate` in training; a rate of 0 adds nothing to the graph."""
    return x if rate == 0 else x.graph.apply(Dropout(_numbered(x.graph, "dropout"), rate), x)


def dropout2d(x: Tensor, rate: float) -> Tensor:
    """Drop whole channels of an image with probability `rate` in training; a rate of 0 adds nothing to the graph."""
    return x if rate == 0 else x.graph.apply(Dropout2d(_numbered(x.graph, "dropout2d"), rate), x)


def add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b."""
    return a.graph.apply(Add(_numbered(a.graph, "add")), a, b)


def concatenate(*tensors: Tensor) -> Tensor:
    """Put tensors of one height and width side by side along channels."""
    graph = tensors[0].graph
    return graph.apply(Concatenation(_numbered(graph, "concatenate")), *tensors)


def max_pool(x: Tensor, window: int, *, stride: int | None = None, padding: int = 0) -> Tensor:
    """Take the maximum of each window; the stride is the window's size unless given."""
    return x.graph.apply(MaxPool(_numbered(x.graph, "max_pool"), window, stride, padding), x)


def average_pool(x: Tensor, window: int, *, stride: int | None = None, padding: int = 0) -> Tensor:
    """Take the mean of each window; the stride is the window's size unless given."""
    return x.graph.apply(AveragePool(_numbered(x.graph, "average_pool"), window, stride, padding), x)


def global_average_pool(x: Tensor) -> Tensor:
    """Take the mean of each channel over all pixels."""
    return x.graph.apply(GlobalAveragePool(_numbered(x.graph, "global_average_pool")), x)
