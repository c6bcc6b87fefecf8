"""ResNet-18 of He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, table 1.

For images of 32x32 the 7x7 stem with stride 2 and the max pool that follows it become one 3x3 convolution, so that the
four stages work on 32, 16, 8 and 4 pixels. Where a stage changes the shape, the shortcut is a projection (option B).
"""

from cnnzoo.graph.layers import add, batch_norm, conv, conv_bn_relu, global_average_pool, linear, relu
from cnnzoo.graph.tensor import Tensor
from cnnzoo.models.registry import register

STAGES = ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2))  # channels, blocks, stride of the first block


def _basic_block(x: Tensor, channels: int, stride: int, name: str) -> Tensor:
    shortcut = x  # first forward and last backward: a projection's input gradient has few pixels to be added to another
    if stride != 1 or x.channels != channels:
        shortcut = conv(x, channels, kernel=1, stride=stride, bias=False, name=f"{name}.downsample.0")
        shortcut = batch_norm(shortcut, name=f"{name}.downsample.1")
    y = conv_bn_relu(x, channels, kernel=3, stride=stride, conv_name=f"{name}.conv1", bn_name=f"{name}.bn1")
    y = conv(y, channels, kernel=3, bias=False, name=f"{name}.conv2")
    return relu(add(batch_norm(y, name=f"{name}.bn2"), shortcut))


@register("resnet18")
def resnet18(x: Tensor, num_classes: int, dropout: float) -> Tensor:
    """A 3x3 stem and eight basic blocks: 11,173,962 parameters."""
    x = conv_bn_relu(x, 64, kernel=3, conv_name="conv1", bn_name="bn1")
    for stage, (channels, blocks, stride) in enumerate(STAGES, start=1):
        for block in range(blocks):
            x = _basic_block(x, channels, stride if block == 0 else 1, name=f"layer{stage}.{block}")
    return linear(global_average_pool(x), num_classes, name="fc")
