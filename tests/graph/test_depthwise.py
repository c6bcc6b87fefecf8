"""Depthwise convolution in a graph: its definition, its gradients, and batch norms before and after it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnzoo.errors import ModelError
from cnnzoo.graph import layers
from cnnzoo.graph.initializers import fans
from cnnzoo.graph.network import Network
from cnnzoo.graph.operators.batch_norm import BatchNorm
from cnnzoo.graph.operators.depthwise import Depthwise
from cnnzoo.graph.passes import fuse_batch_norm_relu
from cnnzoo.graph.tensor import Extent, Graph
from tests import reference
from tests.graph.steps import assert_close, make_batch, randomize, run_step
from tests.graph.test_operators import batches, check, examples, extents, image_no_smaller_than, seeds, widths


@examples
@given(extents, widths, batches, st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.booleans(), seeds)
def test_depthwise_convolution(extent, width, batch, kernel, stride, padding, bias, seed):
    kernel = image_no_smaller_than(extent, kernel, padding)

    def apply(x):
        return layers.depthwise_conv(x, kernel, stride=stride, padding=padding, bias=bias, name="conv")

    def by_hand(x, state):
        w = state["conv.weight"][:, 0].transpose(1, 2, 0)
        return reference.depthwise_conv2d(x, w, stride, padding) + state.get("conv.bias", 0)

    check(extent, width, batch, seed, apply, by_hand)


def separable_block(x, stride, width, name):
    """One of MobileNet's: depthwise and pointwise, a batch norm and a ReLU after each."""
    x = layers.depthwise_conv(x, 3, stride=stride, name=f"{name}.conv1")
    x = layers.relu(layers.batch_norm(x, name=f"{name}.bn1"))
    x = layers.conv(x, width, 1, bias=False, name=f"{name}.conv2")
    return layers.relu(layers.batch_norm(x, name=f"{name}.bn2"))


def separable_graph(height=9, width=10, channels=3):
    x = layers.conv_bn_relu(Graph(Extent(height, width, channels)).input, 17, 3, conv_name="conv1", bn_name="bn1")
    x = separable_block(x, 1, 20, "layers.0")
    x = separable_block(x, 2, 24, "layers.1")
    layers.linear(layers.global_average_pool(x), 4, name="linear")
    return x.graph


@settings(max_examples=10)
@given(height=st.integers(3, 12), width=st.integers(3, 12), channels=st.integers(1, 4), batch=st.integers(2, 5))
def test_fused_batch_norms_change_nothing(height, width, channels, batch):
    """Statistics collected on the way out and batch norm applied on load, against passes of their own."""
    nets = [
        Network(separable_graph(height, width, channels), name="separable", seed=2, dtype="float64", **passes)
        for passes in ({}, {"passes": ()})
    ]
    results = []
    for net in nets:
        randomize(net)
        loss, logits = run_step(net, *make_batch(net, batch))
        results.append((net.gradients(), net.state_dict(), {"loss": loss, "logits": logits}))
    for fused, plain in zip(*results, strict=True):
        assert_close(fused, plain, 1e-10, floor=1e-6)


def test_batch_norms_around_it_are_fused():
    net = Network(separable_graph(), name="separable")
    nodes = {node.name: node.operator for node in net.graph.nodes}
    for number in (0, 1):
        depthwise, batch_norm = nodes[f"layers.{number}.conv1"], nodes[f"layers.{number}.bn1"]
        assert isinstance(depthwise, Depthwise)
        assert isinstance(batch_norm, BatchNorm)
        assert depthwise.collects_statistics
        assert depthwise.applies_batch_norm
        assert batch_norm.borrows == ((depthwise, "statistics"),)
        assert batch_norm.deferred
    assert not any(node.operator.collects_statistics for node in fuse_batch_norm_relu(separable_graph()).nodes
                   if isinstance(node.operator, Depthwise))  # fmt: skip


def test_parameters():
    """PyTorch's layout, [channels, 1, kernel, kernel], whose fan in is kernel^2."""
    x = layers.depthwise_conv(Graph(Extent(40, 40, 4000)).input, 3, bias=True, name="conv")
    (parameter, bias) = x.graph.nodes[0].operator.parameters
    assert parameter.shape == (4000, 1, 3, 3)
    assert bias.shape == (4000,)
    assert fans(parameter.shape)[0] == 9
    net = Network(layers.linear(layers.global_average_pool(x), 2, name="linear").graph, name="small", seed=0)
    weight = net.state_dict()["conv.weight"]
    # He normal: 36,000 draws of variance 2 / 9, whose mean square is within 5 standard deviations.
    assert abs(np.mean(np.square(weight, dtype=np.float64)) - 2 / 9) <= 5 * (2 / 9) * np.sqrt(2 / weight.size)


def test_multiply_adds():
    x = layers.depthwise_conv(Graph(Extent(8, 6, 5)).input, 3, stride=2, name="conv")
    (node,) = x.graph.nodes
    assert node.operator.kind == "Depthwise"
    assert node.operator.multiply_adds(Extent(8, 6, 5)) == 4 * 3 * 5 * 9


@pytest.mark.parametrize(
    ("options", "extent"),
    [
        ({"kernel": 3}, (3, 4, 6)),
        ({"kernel": 3, "stride": 2}, (3, 2, 3)),
        ({"kernel": 5, "padding": 0}, None),
        ({"kernel": 3, "stride": 0}, None),
    ],
)
def test_extents(options, extent):
    x = Graph(Extent(4, 6, 3)).input
    if extent is None:
        with pytest.raises(ModelError, match=r"^conv: expected"):
            layers.depthwise_conv(x, name="conv", **options)
    else:
        y = layers.depthwise_conv(x, name="conv", **options)
        assert (y.extent.channels, y.extent.height, y.extent.width) == extent


def test_depthwise_of_a_slice():
    """It reads, and writes its gradient into, a term of a concatenation."""

    def build():
        x = layers.conv(Graph(Extent(6, 5, 3)).input, 5, 1, name="a")
        y = layers.depthwise_conv(x, 3, name="b")
        return layers.linear(layers.concatenate(y, x, layers.relu(y)), 3, name="head").graph

    results = []
    for concatenates in (True, False):
        graph = build()
        for node in graph.nodes:
            node.operator.concatenates = node.operator.concatenates and concatenates
        net = Network(graph, name="small", seed=1, dtype="float64")
        loss, _ = run_step(net, *make_batch(net, 3))
        results.append({"loss": loss} | net.gradients())
    assert_close(*results, 1e-12)
