"""Sigmoid, tanh, dropout of whole channels and batch norm over features, through a graph."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.graph import layers
from cnnzoo.graph.network import Network
from cnnzoo.graph.tensor import Extent, Graph
from tests import reference
from tests.graph.steps import relative_error
from tests.graph.test_operators import (
    assert_gradients,
    batches,
    check,
    examples,
    extents,
    make_network,
    run_by_hand,
    seeds,
    widths,
)


@examples
@given(extents, widths, batches, seeds)
def test_sigmoid(extent, width, batch, seed):
    check(extent, width, batch, seed, layers.sigmoid, lambda x, state: 1 / (1 + np.exp(-x)))


@examples
@given(extents, widths, batches, seeds)
def test_tanh(extent, width, batch, seed):
    check(extent, width, batch, seed, layers.tanh, lambda x, state: np.tanh(x))


@examples
@given(extents, widths, batches, seeds)
def test_sigmoid_and_tanh_added(extent, width, batch, seed):
    """Two readers of one tensor: neither works in place, and the second gradient is added to the first."""

    def apply(x):
        return layers.add(layers.sigmoid(x), layers.tanh(x))

    check(extent, width, batch, seed, apply, lambda x, state: 1 / (1 + np.exp(-x)) + np.tanh(x))


@examples
@given(extents, widths, batches, st.floats(0.05, 0.9), seeds)
def test_dropout2d(extent, width, batch, rate, seed):
    """Gradients with the masks of one pass; without training nothing is dropped."""
    net = make_network(extent, width, lambda x: layers.dropout2d(x, rate))
    images = np.random.default_rng(seed).standard_normal((batch, *net.image_shape))
    assert relative_error(net.forward(images), run_by_hand(net, images, lambda x, state: x)) <= 1e-12
    assert_gradients(net, batch, seed)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout2d_masks(rate):
    """An image's channel is all dropped or all kept and scaled; each pass draws anew."""
    net = Network(layers.dropout2d(Graph(Extent(3, 2, 50)).input, rate).graph, name="masks", seed=3)
    ones = np.ones((200, 50, 3, 2), np.float32)
    masks = [net.forward(ones, training=True).reshape(200, 6, 50) for _ in range(2)]
    for mask in masks:
        np.testing.assert_array_equal(mask, np.broadcast_to(mask[:, :1], mask.shape))
        assert set(mask.ravel().tolist()) == {0.0, float(np.float32(1 / (1 - rate)))}
        kept = np.count_nonzero(mask[:, 0]) / (200 * 50)
        assert abs(kept - (1 - rate)) <= 5 * np.sqrt(rate * (1 - rate) / (200 * 50))
    assert abs(np.corrcoef(masks[0][:, 0].ravel(), masks[1][:, 0].ravel())[0, 1]) <= 5 / np.sqrt(200 * 50)


def test_dropout2d_of_rate_0_is_nothing():
    x = Graph(Extent(2, 2, 1)).input
    assert layers.dropout2d(x, 0) is x


@examples
@given(extents, widths, st.integers(2, 5), st.integers(1, 20), st.booleans(), seeds)
def test_batch_norm_over_features(extent, width, batch, features, relu, seed):
    """After a linear layer: statistics over the images alone."""

    def apply(x):
        y = layers.batch_norm(layers.linear(x, features, name="linear"), name="bn")
        return layers.relu(y) if relu else y

    def by_hand(x, state):
        y = x.transpose(0, 3, 1, 2).reshape(len(x), -1) @ state["linear.weight"].T + state["linear.bias"]
        y = reference.batch_norm(y, state["bn.weight"], state["bn.bias"], 1e-5)
        return (np.maximum(y, 0) if relu else y)[:, None, None, :]

    check(extent, width, batch, seed, apply, by_hand)
