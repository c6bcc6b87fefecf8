"""Each whole network's gradient is the derivative of its loss along a random direction, in float64.

The direction is one in all parameters, each tensor in proportion to its size, and in the images. A loss is computed to
about 1e-15, so the central difference of two at a distance of 2 h is off by that over h from rounding, and by h^2 times
a third derivative from the cut series, which is less at these steps. That holds where the loss is smooth: biases are
moved off the kinks of the ReLUs first, and no ReLU and no max pool may decide otherwise at one end than at the other.
"""

import numpy as np
import pytest

import cnnzoo
from cnnzoo.graph.layers import conv
from cnnzoo.graph.network import Network
from cnnzoo.graph.tensor import Extent, Graph
from cnnzoo.kernels.cross_entropy import cross_entropy
from cnnzoo.models.registry import get_model
from tests.graph.kinks import clear_relus, read_branches
from tests.graph.steps import make_batch, randomize, run_step

# GoogLeNet's nine max pools at stride 1 have a third of a million windows an image: some winners change within 1e-7.
STEPS = dict.fromkeys(cnnzoo.list_models(), 1e-7) | {"googlenet": 1e-8}


def make_graph(name):
    """Return a model with its own dropout behind a 1x1 convolution, so that it has a gradient of the images."""
    model = get_model(name)
    channels, height, width = model.image_shape
    graph = Graph(Extent(height, width, channels))
    model.build(conv(graph.input, channels, kernel=1, bias=False, name="images"), 10, model.dropout)
    return graph


def make_networks(name, images):
    """Return the network off its kinks, and the same without fusion passes, whose ReLUs and pools can be read."""
    nets = [Network(make_graph(name), name=name, dtype="float64", **options) for options in ({}, {"passes": ()})]
    randomize(nets[0])
    identity = np.eye(images.shape[1])[:, :, None, None]
    state = clear_relus(make_graph(name), nets[0].state_dict() | {"images.weight": identity}, images)
    for net in nets:
        net.load_state_dict(state)
    return nets


def make_direction(net):
    """Return a random direction in the parameter arena; the convolution in front of the images stays the identity."""
    rng = np.random.default_rng(1)
    direction = np.zeros_like(net.parameter_arena)
    for name, start, stop, _ in net.parameter_segments():
        if name != "images.weight":
            size = np.sqrt(np.mean(net.parameter_arena[start:stop] ** 2))
            direction[start:stop] = size * rng.standard_normal(stop - start)
    return direction


def read_image_gradient(net, shape):
    """Return the gradient [N, C, H, W] of the images after a backward pass, whose last step leaves it in the arena."""
    images, channels, height, width = shape
    gradient = net._plans.bind(images, True, net._arrays).gradient(net.graph.nodes[0].output)
    return gradient.data.reshape(images, height, width, channels).transpose(0, 3, 1, 2).copy()


@pytest.mark.parametrize("name", cnnzoo.list_models())
def test_gradient_is_the_derivative_along_a_random_direction(name):
    images, labels = make_batch(cnnzoo.create_model(name, dtype="float64"), 4)
    net, plain = make_networks(name, images)
    weights, direction = net.parameter_arena.copy(), make_direction(net)
    image_direction = np.random.default_rng(2).standard_normal(images.shape)
    run_step(net, images, labels, label_smoothing=0.1)
    in_parameters = net.gradient_arena @ direction
    in_images = np.vdot(read_image_gradient(net, images.shape), image_direction)

    def run_at(network, distance):
        network.random_step = 0  # the same dropout masks
        network.parameter_arena[:] = weights + distance * direction
        logits = network.forward(images + distance * image_direction, training=True)
        return cross_entropy(logits, labels, label_smoothing=0.1)[0]

    step, branches = STEPS[name], []
    for distance in (-step, step):
        plain.parameter_arena[:] = weights + distance * direction
        branches.append(read_branches(plain, images + distance * image_direction))
    for layer, branch in branches[0].items():
        np.testing.assert_array_equal(branch, branches[1][layer], err_msg=layer)
    slope = (run_at(net, step) - run_at(net, -step)) / (2 * step)
    assert slope == pytest.approx(in_parameters + in_images, rel=1e-14 / step, abs=0)
    assert min(abs(slope), abs(in_parameters), abs(in_images)) > 0.01
