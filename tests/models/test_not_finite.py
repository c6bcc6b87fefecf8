"""The first layer that is not finite, in the order of the forward pass."""

import numpy as np
import pytest

import cnnzoo
from tests.graph.steps import make_batch, run_step


def _poison(net, name):
    """Make one weight of a parameter infinite."""
    state = net.state_dict()
    state[name].reshape(-1)[0] = np.inf
    net.load_state_dict(state)


@pytest.mark.parametrize(
    ("model", "parameter", "layer"),
    [
        ("lenet5", "conv2.bias", "conv2"),
        ("resnet18", "layer2.0.bn1.weight", "layer2.0.bn1"),
        ("resnet18", "fc.weight", "fc"),
    ],
)
def test_layer_with_a_weight_that_is_not_finite(model, parameter, layer):
    net = cnnzoo.create_model(model)
    images, _ = make_batch(net, 2)
    net.forward(images, training=True)
    assert net.find_not_finite(images) is None
    _poison(net, parameter)
    assert net.find_not_finite(images) == layer


def test_layer_whose_output_overflows():
    """Weights of 1e15 in every layer: products of a few of them pass the largest float32."""
    net = cnnzoo.create_model("lenet5")
    net.load_state_dict({name: np.full_like(array, 1e15) for name, array in net.state_dict().items()})
    images, _ = make_batch(net, 2)
    with np.errstate(all="ignore"):
        net.forward(np.abs(images), training=True)
    assert net.find_not_finite(np.abs(images)) == "fc1"


@pytest.mark.parametrize("layer", ["features.1", "features.4"])
def test_batch_norm_that_overflows_where_it_is_applied(layer):
    """One that a convolution applies on load, and one that a max pool does."""
    net = cnnzoo.create_model("vgg16_bn")
    images, _ = make_batch(net, 4)
    state = net.state_dict()
    state[f"{layer}.weight"][:] = 3e38
    net.load_state_dict(state)
    with np.errstate(all="ignore"):
        net.forward(images, training=True)
    assert net.find_not_finite(images) == layer


def test_the_network_stays_as_it_was():
    net = cnnzoo.create_model("googlenet", dropout=0.5)
    images, labels = make_batch(net, 4)
    run_step(net, images, labels)
    state, step = net.state_dict(), net.random_step
    logits = net.forward(images, training=True)
    for name, buffer in net.buffers.items():
        buffer[:] = state[name]
    net.random_step = step
    assert net.find_not_finite(images) is None
    assert net.random_step == step
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    np.testing.assert_array_equal(net.forward(images, training=True), logits)


def test_arena_is_packed_as_it_was_unpacked():
    net = cnnzoo.create_model("vgg16")
    values = net.unpack(net.parameter_arena)
    assert values.keys() == net.gradients().keys()
    arena = np.zeros_like(net.parameter_arena)
    net.pack(values, arena)
    np.testing.assert_array_equal(arena, net.parameter_arena)
