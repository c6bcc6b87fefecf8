"""MobileNetV1 of Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
2017 (arXiv:1704.04861), table 1.

For images of 32x32 the stem has stride 1 (`stem_stride`, 2 in the paper), so that the blocks work on 32, 16, 8, 4 and 2
pixels instead of 112 to 7. The last block has stride 1: the table's "s2" there would not keep its 7x7 pixels.
`width_multiplier` is the paper's alpha (section 3.3), which thins every layer.
"""

from cnnzoo.errors import ModelError
from cnnzoo.graph.initializers import xavier_uniform
from cnnzoo.graph.layers import batch_norm, conv_bn_relu, depthwise_conv, global_average_pool, linear, relu
from cnnzoo.graph.tensor import Tensor
from cnnzoo.models.registry import register

STEM = 32
BLOCKS = (  # channels and stride
    (64, 1),
    (128, 2), (128, 1),
    (256, 2), (256, 1),
    (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip


def _separable_block(x: Tensor, channels: int, stride: int, name: str) -> Tensor:
    x = depthwise_conv(x, kernel=3, stride=stride, name=f"{name}.conv1")
    x = relu(batch_norm(x, name=f"{name}.bn1"))
    return conv_bn_relu(x, channels, kernel=1, init=xavier_uniform, conv_name=f"{name}.conv2", bn_name=f"{name}.bn2")


@register("mobilenetv1")
def mobilenetv1(
    x: Tensor, num_classes: int, dropout: float, *, width_multiplier: float = 1.0, stem_stride: int = 1
) -> Tensor:
    """A 3x3 stem and 13 depthwise separable blocks: 3,217,226 parameters."""
    if not 0 < width_multiplier <= 1:
        raise ModelError(f"width_multiplier: expected a share above 0 and at most 1, got {width_multiplier}")
    x = conv_bn_relu(x, int(STEM * width_multiplier), kernel=3, stride=stem_stride, conv_name="conv1", bn_name="bn1")
    for block, (channels, stride) in enumerate(BLOCKS):
        x = _separable_block(x, int(channels * width_multiplier), stride, f"layers.{block}")
    return linear(global_average_pool(x), num_classes, name="linear")
