"""AlexNet of Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
NIPS 2012, section 3.5, without the split over two devices and without local response normalization.

For images of 32x32 the first convolution keeps its 11x11 kernel at stride 2, the pools do not overlap, and the widths
are those of a network of 2.3 million parameters.
"""

from cnnzoo.graph.layers import conv, dropout, linear, max_pool, relu
from cnnzoo.graph.tensor import Tensor
from cnnzoo.models.registry import register


@register("alexnet", dropout=0.5)
def alexnet(x: Tensor, num_classes: int, rate: float) -> Tensor:
    """Five convolutions and three fully connected layers: 2,347,946 parameters."""
    x = max_pool(relu(conv(x, 64, kernel=11, stride=2, name="features.0")), 2)
    x = max_pool(relu(conv(x, 96, kernel=5, name="features.3")), 2)
    x = relu(conv(x, 384, kernel=3, name="features.6"))
    x = relu(conv(x, 384, kernel=3, name="features.8"))
    x = max_pool(relu(conv(x, 64, kernel=3, name="features.10")), 4)
    x = relu(linear(dropout(x, rate), 256, name="classifier.1"))
    x = relu(linear(dropout(x, rate), 1024, name="classifier.4"))
    return linear(x, num_classes, name="classifier.6")
