"""GoogLeNet of Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, table 1.

For images of 32x32 the stem is one 3x3 convolution with 64 channels and a max pool, so that the modules work on 16, 8
and 4 pixels. Every convolution is followed by batch norm and ReLU, as in the authors' later versions ("Batch
Normalization", ICML 2015), and the auxiliary classifiers, which it makes unnecessary, are left out.
"""

from cnnzoo.graph.layers import concatenate, conv_bn_relu, dropout, global_average_pool, linear, max_pool
from cnnzoo.graph.tensor import Tensor
from cnnzoo.models.registry import register

# Widths of each module: 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection.
MODULES = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}
POOL_AFTER = ("3b", "4e")


def _basic_conv(x: Tensor, channels: int, kernel: int, name: str) -> Tensor:
    return conv_bn_relu(x, channels, kernel, conv_name=f"{name}.conv", bn_name=f"{name}.bn")


def _inception(x: Tensor, name: str) -> Tensor:
    one, (reduce3, three), (reduce5, five), projection = MODULES[name]
    name = f"inception{name}"
    branch1 = _basic_conv(x, one, 1, f"{name}.branch1")
    branch2 = _basic_conv(_basic_conv(x, reduce3, 1, f"{name}.branch2.0"), three, 3, f"{name}.branch2.1")
    branch3 = _basic_conv(_basic_conv(x, reduce5, 1, f"{name}.branch3.0"), five, 5, f"{name}.branch3.1")
    branch4 = _basic_conv(max_pool(x, 3, stride=1, padding=1), projection, 1, f"{name}.branch4.1")
    return concatenate(branch1, branch2, branch3, branch4)


@register("googlenet", dropout=0.4)
def googlenet(x: Tensor, num_classes: int, rate: float) -> Tensor:
    """A stem and nine inception modules: 5,841,578 parameters."""
    x = max_pool(_basic_conv(x, 64, 3, "conv1"), 3, stride=2, padding=1)
    for name in MODULES:
        x = _inception(x, name)
        if name in POOL_AFTER:
            x = max_pool(x, 3, stride=2, padding=1)
    return linear(dropout(global_average_pool(x), rate), num_classes, name="fc")
