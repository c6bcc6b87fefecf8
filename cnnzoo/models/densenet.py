"""DenseNet-121 of Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks", CVPR 2017,
table 1: the bottleneck version with compression (DenseNet-BC).

For images of 32x32 the 7x7 stem with stride 2 and its max pool become one 3x3 convolution with 64 channels, so that
the four blocks work on 32, 16, 8 and 4 pixels. k is `growth_rate`, theta `compression`.
"""

from cnnzoo.errors import ModelError
from cnnzoo.graph.layers import (
    average_pool,
    batch_norm,
    concatenate,
    conv,
    conv_bn_relu,
    global_average_pool,
    linear,
    relu,
)
from cnnzoo.graph.tensor import Tensor
from cnnzoo.models.registry import register

BLOCKS = (6, 12, 24, 16)
BOTTLENECK = 4  # a layer's 1x1 convolution makes 4k channels, k the growth rate


def _bn_relu_conv(x: Tensor, channels: int, kernel: int, bn_name: str, conv_name: str) -> Tensor:
    return conv(relu(batch_norm(x, name=bn_name)), channels, kernel, bias=False, name=conv_name)


def _dense_layer(x: Tensor, growth_rate: int, name: str) -> Tensor:
    y = _bn_relu_conv(x, BOTTLENECK * growth_rate, 1, f"{name}.norm1", f"{name}.conv1")
    y = _bn_relu_conv(y, growth_rate, 3, f"{name}.norm2", f"{name}.conv2")
    return concatenate(x, y)


def _transition(x: Tensor, compression: float, name: str) -> Tensor:
    x = _bn_relu_conv(x, int(x.channels * compression), 1, f"{name}.norm", f"{name}.conv")
    return average_pool(x, 2)


@register("densenet121")
def densenet121(
    x: Tensor, num_classes: int, dropout: float, *, growth_rate: int = 32, compression: float = 0.5
) -> Tensor:
    """A 3x3 stem and four dense blocks of 6, 12, 24 and 16 layers: 6,956,426 parameters."""
    if not 0 < compression <= 1:
        raise ModelError(f"compression: expected a share above 0 and at most 1, got {compression}")
    x = conv_bn_relu(x, 2 * growth_rate, kernel=3, conv_name="features.conv0", bn_name="features.norm0")
    for block, layers in enumerate(BLOCKS, start=1):
        for layer in range(1, layers + 1):
            x = _dense_layer(x, growth_rate, f"features.denseblock{block}.denselayer{layer}")
        if block < len(BLOCKS):
            x = _transition(x, compression, f"features.transition{block}")
    x = relu(batch_norm(x, name="features.norm5"))
    return linear(global_average_pool(x), num_classes, name="classifier")
