"""VGG-16, configuration D of Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, table 1.

For images of 32x32 the five pools leave one pixel of 512 channels, so the hidden layers of the classifier shrink from
4096 to 512 (`classifier_width`); dropout 0.5 stays as in section 3.1. With batch norm, the convolutions lose their
biases.
"""

from collections.abc import Iterator
from itertools import count

from cnnzoo.graph.initializers import he_uniform
from cnnzoo.graph.layers import batch_norm, conv, dropout, linear, max_pool, relu
from cnnzoo.graph.tensor import Tensor
from cnnzoo.models.registry import register

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _features(x: Tensor, normalize: bool) -> Tensor:
    module = count()  # PyTorch numbers the modules of `features` one by one, ReLUs and pools too
    for stage in STAGES:
        for channels in stage:
            x = _conv_relu(x, channels, module, normalize)
        x = max_pool(x, 2)
        next(module)
    return x


def _conv_relu(x: Tensor, channels: int, module: Iterator[int], normalize: bool) -> Tensor:
    x = conv(x, channels, kernel=3, bias=not normalize, init=he_uniform, name=f"features.{next(module)}")
    if normalize:
        x = batch_norm(x, name=f"features.{next(module)}")
    next(module)
    return relu(x)


def _classifier(x: Tensor, num_classes: int, rate: float, width: int) -> Tensor:
    x = dropout(relu(linear(x, width, name="classifier.0")), rate)
    x = dropout(relu(linear(x, width, name="classifier.3")), rate)
    return linear(x, num_classes, name="classifier.6")


@register("vgg16", dropout=0.5)
def vgg16(x: Tensor, num_classes: int, rate: float, *, classifier_width: int = 512) -> Tensor:
    """13 convolutions 3x3 with bias, 5 max pools, 3 fully connected layers: 15,245,130 parameters."""
    return _classifier(_features(x, normalize=False), num_classes, rate, classifier_width)


@register("vgg16_bn", dropout=0.5)
def vgg16_bn(x: Tensor, num_classes: int, rate: float, *, classifier_width: int = 512) -> Tensor:
    """The same with batch norm after each convolution: 15,249,354 parameters."""
    return _classifier(_features(x, normalize=True), num_classes, rate, classifier_width)
