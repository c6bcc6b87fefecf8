"""LeNet-5 of LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998,
section II.B, in the form that is usual today: images of 28x28 padded by 2 in the first convolution, ReLU instead of
the scaled tanh, max pools instead of trained subsampling, all-to-all second convolution, softmax instead of the
radial basis functions.
"""

from cnnzoo.graph.initializers import he_uniform
from cnnzoo.graph.layers import conv, linear, max_pool, relu
from cnnzoo.graph.tensor import Tensor
from cnnzoo.models.registry import register


@register("lenet5", image_shape=(1, 28, 28))
def lenet5(x: Tensor, num_classes: int, dropout: float) -> Tensor:
    """Two convolutions and three fully connected layers: 61,706 parameters for 10 classes."""
    x = max_pool(relu(conv(x, 6, kernel=5, padding=2, init=he_uniform, name="conv1")), 2)
    x = max_pool(relu(conv(x, 16, kernel=5, padding=0, init=he_uniform, name="conv2")), 2)
    x = relu(linear(x, 120, init=he_uniform, name="fc1"))
    x = relu(linear(x, 84, init=he_uniform, name="fc2"))
    return linear(x, num_classes, init=he_uniform, name="fc3")
