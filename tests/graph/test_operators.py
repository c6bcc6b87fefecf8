"""Each operator through a graph: against its definition in plain NumPy, and its gradients against central differences.

The operator under test stands between a 1x1 convolution, whose parameters' gradients pass through it, and a linear
layer over all pixels. The loss is <logits, dlogits> for a random dlogits, and so linear in the last layers.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnzoo.errors import ModelError
from cnnzoo.graph import layers
from cnnzoo.graph.network import Network
from cnnzoo.graph.tensor import Extent, Graph
from tests import reference
from tests.gradients import numerical_gradient
from tests.graph.steps import randomize, relative_error

extents = st.builds(Extent, height=st.integers(1, 7), width=st.integers(1, 7), channels=st.integers(1, 4))
batches = st.integers(1, 4)
widths = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)
examples = settings(max_examples=15)


def make_network(extent, width, apply, features=2):
    """Return a float64 network: 1x1 convolution to `width` channels, apply(x), linear layer."""
    x = layers.conv(Graph(extent).input, width, 1, name="before")
    layers.linear(apply(x), features, name="after")
    net = Network(x.graph, name="small", seed=1, dtype="float64")
    randomize(net)
    return net


def assert_gradients(net, batch, seed):
    """Compare every element of the gradient arena, the unused ones included, with a central difference.

    ReLUs and maxima have kinks; the step is so short that none is met. Rounding then limits the difference of a loss
    of order 10 to about 1e-15 * 10 / 1e-7.
    """
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((batch, *net.image_shape))
    dlogits = rng.standard_normal((batch, net.num_classes))

    def loss():
        net.random_step = 0
        return np.vdot(net.forward(images, training=True), dlogits)

    loss()
    net.backward(dlogits)
    expected = numerical_gradient(loss, net.parameter_arena, step=1e-7)
    error = np.abs(net.gradient_arena - expected).max()
    assert error <= 1e-6 * (1 + np.abs(expected).max())


def run_by_hand(net, images, apply):
    """Return the logits that the definition gives; `apply` takes and returns NHWC arrays."""
    state = net.state_dict()
    x = images.transpose(0, 2, 3, 1) @ state["before.weight"][:, :, 0, 0].T + state["before.bias"]
    y = apply(x, state).transpose(0, 3, 1, 2).reshape(len(images), -1)  # PyTorch flattens with channels first
    return y @ state["after.weight"].T + state["after.bias"]


def check(extent, width, batch, seed, apply, by_hand, training=True):
    net = make_network(extent, width, apply)
    images = np.random.default_rng(seed).standard_normal((batch, *net.image_shape))
    expected = run_by_hand(net, images, by_hand)
    assert relative_error(net.forward(images, training=training), expected, floor=1e-3) <= 1e-10
    assert_gradients(net, batch, seed)


def image_no_smaller_than(extent, window, padding=0):
    smallest = min(extent.height, extent.width) + 2 * padding
    return min(window, smallest)


@examples
@given(extents, widths, batches, widths, st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.booleans(), seeds)
def test_convolution(extent, width, batch, channels, kernel, stride, padding, bias, seed):
    kernel = image_no_smaller_than(extent, kernel, padding)

    def apply(x):
        return layers.conv(x, channels, kernel, stride=stride, padding=padding, bias=bias, name="conv")

    def by_hand(x, state):
        w = state["conv.weight"].transpose(2, 3, 1, 0)
        return reference.conv2d(x, w, state.get("conv.bias"), stride, padding)

    check(extent, width, batch, seed, apply, by_hand)


@examples
@given(extents, widths, batches, widths, seeds)
def test_linear_over_pixels(extent, width, batch, features, seed):
    def by_hand(x, state):
        y = x.transpose(0, 3, 1, 2).reshape(len(x), -1) @ state["linear.weight"].T + state["linear.bias"]
        return y[:, None, None, :]

    check(extent, width, batch, seed, lambda x: layers.linear(x, features, name="linear"), by_hand)


@examples
@given(extents, widths, batches, seeds)
def test_relu(extent, width, batch, seed):
    check(extent, width, batch, seed, layers.relu, lambda x, state: np.maximum(x, 0))


@examples
@given(extents, widths, batches, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), seeds)
def test_max_pool(extent, width, batch, window, stride, padding, seed):
    window = image_no_smaller_than(extent, window)
    padding = min(padding, window // 2)

    def by_hand(x, state):
        return reference.max_pool(x, window, stride, padding)[0]

    def apply(x):
        return layers.max_pool(x, window, stride=stride, padding=padding)

    check(extent, width, batch, seed, apply, by_hand)


@examples
@given(extents, widths, batches, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), seeds)
def test_average_pool(extent, width, batch, window, stride, padding, seed):
    window = image_no_smaller_than(extent, window)
    padding = min(padding, window // 2)

    def by_hand(x, state):
        return reference.average_pool(x, window, stride, padding)

    def apply(x):
        return layers.average_pool(x, window, stride=stride, padding=padding)

    check(extent, width, batch, seed, apply, by_hand)


@examples
@given(extents, widths, batches, seeds)
def test_global_average_pool(extent, width, batch, seed):
    def by_hand(x, state):
        return x.mean(axis=(1, 2), keepdims=True)

    check(extent, width, batch, seed, layers.global_average_pool, by_hand)


@examples
@given(extents, widths, batches, seeds)
def test_addition(extent, width, batch, seed):
    def by_hand(x, state):
        return np.maximum(x, 0) + x

    check(extent, width, batch, seed, lambda x: layers.add(layers.relu(x), x), by_hand)


@examples
@given(extents, widths, batches, widths, seeds)
def test_concatenation(extent, width, batch, channels, seed):
    def apply(x):
        return layers.concatenate(layers.conv(x, channels, 1, bias=False, name="conv"), x, layers.relu(x))

    def by_hand(x, state):
        return np.concatenate([x @ state["conv.weight"][:, :, 0, 0].T, x, np.maximum(x, 0)], axis=3)

    check(extent, width, batch, seed, apply, by_hand)


@examples
@given(extents, widths, st.integers(2, 4), st.booleans(), st.booleans(), seeds)
def test_batch_norm(extent, width, batch, relu, residual, seed):
    """Alone, and merged with the addition and the ReLU that follow it; statistics over at least two rows."""

    def apply(x):
        y = layers.batch_norm(layers.conv(x, width, 1, bias=False, name="conv"), name="bn")
        y = layers.add(y, x) if residual else y
        return layers.relu(y) if relu else y

    def by_hand(x, state):
        y = (x @ state["conv.weight"][:, :, 0, 0].T).reshape(-1, width)
        y = reference.batch_norm(y, state["bn.weight"], state["bn.bias"], 1e-5).reshape(x.shape)
        y = y + x if residual else y
        return np.maximum(y, 0) if relu else y

    check(extent, width, batch, seed, apply, by_hand)


@examples
@given(extents, widths, st.integers(2, 4), seeds)
def test_batch_norm_in_inference_uses_running_statistics(extent, width, batch, seed):
    net = make_network(extent, width, lambda x: layers.relu(layers.batch_norm(x, name="bn")))
    images = np.random.default_rng(seed).standard_normal((batch, *net.image_shape))

    def by_hand(x, state):
        factor = state["bn.weight"] / np.sqrt(state["bn.running_var"] + 1e-5)
        return np.maximum((x - state["bn.running_mean"]) * factor + state["bn.bias"], 0)

    assert relative_error(net.forward(images), run_by_hand(net, images, by_hand)) <= 1e-12


def test_running_statistics():
    """new = 0.9 old + 0.1 batch, the batch's variance unbiased; in inference they stay."""
    net = make_network(Extent(3, 2, 2), 3, lambda x: layers.batch_norm(x, name="bn"))
    images = np.random.default_rng(0).standard_normal((4, *net.image_shape))
    before = net.state_dict()
    net.forward(images, training=True)
    net.forward(images)
    after = net.state_dict()
    x = images.transpose(0, 2, 3, 1) @ before["before.weight"][:, :, 0, 0].T + before["before.bias"]
    rows = x.reshape(-1, 3)
    for name, batch in (("bn.running_mean", rows.mean(axis=0)), ("bn.running_var", rows.var(axis=0, ddof=1))):
        np.testing.assert_allclose(after[name], 0.9 * before[name] + 0.1 * batch, rtol=1e-12)


@examples
@given(extents, widths, batches, st.floats(0.05, 0.9), seeds)
def test_dropout(extent, width, batch, rate, seed):
    """Gradients with the masks of one pass; without training nothing is dropped."""
    net = make_network(extent, width, lambda x: layers.dropout(x, rate))
    images = np.random.default_rng(seed).standard_normal((batch, *net.image_shape))
    assert relative_error(net.forward(images), run_by_hand(net, images, lambda x, state: x)) <= 1e-12
    assert_gradients(net, batch, seed)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_masks(rate):
    """Values are kept with probability 1 - rate and then scaled; each layer and each pass draws anew."""
    x = Graph(Extent(100, 100, 3)).input
    y = layers.dropout(x, rate)
    net = Network(layers.concatenate(y, layers.dropout(x, rate)).graph, name="masks", seed=3)
    ones = np.ones((1, 3, 100, 100), np.float32)
    # Logits are the values in NHWC order: 3 channels of the first layer, 3 of the second.
    masks = [net.forward(ones, training=True).reshape(-1, 2, 3)[:, layer].ravel() for layer in (0, 1)]
    masks.append(net.forward(ones, training=True).reshape(-1, 2, 3)[:, 0].ravel())
    for mask in masks:
        assert set(mask.tolist()) == {0.0, float(np.float32(1 / (1 - rate)))}
        kept = np.count_nonzero(mask) / mask.size
        assert abs(kept - (1 - rate)) <= 5 * np.sqrt(rate * (1 - rate) / mask.size)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(masks[a], masks[b])[0, 1]) <= 5 / np.sqrt(masks[a].size)


def test_dropout_of_rate_0_is_nothing():
    x = Graph(Extent(2, 2, 1)).input
    assert layers.dropout(x, 0) is x
    assert x.graph.nodes == []


def images(height=4, width=6, channels=3):
    return Graph(Extent(height, width, channels)).input


@pytest.mark.parametrize(
    ("apply", "extent"),
    [
        (lambda x: layers.conv(x, 5, 3, name="c"), (5, 4, 6)),
        (lambda x: layers.conv(x, 5, 1, name="c", stride=2), (5, 2, 3)),
        (lambda x: layers.conv(x, 5, 4, name="c", padding=0), (5, 1, 3)),
        (lambda x: layers.conv(x, 5, 5, name="c", stride=3, padding=2), (5, 2, 2)),
        (lambda x: layers.batch_norm(x, name="b"), (3, 4, 6)),
        (layers.relu, (3, 4, 6)),
        (lambda x: layers.dropout(x, 0.5), (3, 4, 6)),
        (lambda x: layers.max_pool(x, 2), (3, 2, 3)),
        (lambda x: layers.max_pool(x, 3, stride=2, padding=1), (3, 2, 3)),
        (lambda x: layers.average_pool(x, 3, stride=1), (3, 2, 4)),
        (layers.global_average_pool, (3, 1, 1)),
        (lambda x: layers.linear(x, 7, name="l"), (7, 1, 1)),
        (lambda x: layers.concatenate(x, layers.conv(x, 2, 1, name="c"), x), (8, 4, 6)),
    ],
)
def test_extents(apply, extent):
    y = apply(images())
    assert (y.extent.channels, y.extent.height, y.extent.width) == extent
    assert str(y.extent) == "x".join(map(str, extent))


def conv(x, channels, kernel, **options):
    return layers.conv(x, channels, kernel, name="conv", **options)


CONV_EXPECTS = "conv: expected channels, kernel and stride of 1 or more and no negative padding"


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (
            lambda x: layers.add(x, layers.max_pool(x, 2)),
            "add1: expected two tensors of one shape, got 3x4x6 and 3x2x3",
        ),
        (lambda x: layers.add(conv(x, 1, 1), x), "add1: expected two tensors of one shape, got 1x4x6 and 3x4x6"),
        (lambda x: layers.concatenate(x, layers.max_pool(x, 2)), "concatenate1: expected images of 4x6, got 2x3"),
        (lambda x: layers.add(x, images()), "add1: expected tensors of one graph, got some of another"),
        (lambda x: conv(x, 8, 5, padding=0), "conv: expected an image no smaller than its 5x5 kernel"),
        (lambda x: conv(x, 0, 3), f"{CONV_EXPECTS}, got 0, 3, 1 and 1"),
        (lambda x: conv(x, 8, 0, padding=2), f"{CONV_EXPECTS}, got 8, 0, 1 and 2"),
        (lambda x: conv(x, 8, 3, stride=0), f"{CONV_EXPECTS}, got 8, 3, 0 and 1"),
        (lambda x: conv(x, 8, 3, padding=-1), f"{CONV_EXPECTS}, got 8, 3, 1 and -1"),
        (lambda x: layers.max_pool(x, 5), "max_pool1: expected an image no smaller than its window of 5, got 3x4x6"),
        (
            lambda x: layers.max_pool(x, 3, padding=2),
            "max_pool1: expected a padding of at most half the window of 3, got 2",
        ),
        (
            lambda x: layers.max_pool(x, 2, stride=0),
            "max_pool1: expected a window and a stride of 1 or more, got 2, 0",
        ),
        (lambda x: layers.max_pool(x, 16), "max_pool1: expected a window of at most 15, got 16"),
        (lambda x: layers.average_pool(x, 0), "average_pool1: expected a window and a stride of 1 or more, got 0, 0"),
        (
            lambda x: layers.average_pool(x, 7),
            "average_pool1: expected an image no smaller than its window of 7, got 3x4x6",
        ),
    ],
)
def test_what_does_not_fit(apply, message):
    with pytest.raises(ModelError) as caught:
        apply(images())
    assert str(caught.value) == message


def test_two_layers_of_one_name():
    x = layers.conv(layers.conv(images(), 3, 1, name="conv"), 3, 1, name="conv")
    with pytest.raises(ModelError, match=r"^small: expected each parameter's name once, got two of conv\.weight$"):
        Network(x.graph, name="small")


def test_numbers_of_layers_without_parameters():
    x = images()
    for _ in range(3):
        x = layers.relu(layers.add(layers.max_pool(x, 1), x))
    expected = [f"{kind}{number}" for number in (1, 2, 3) for kind in ("max_pool", "add", "relu")]
    assert [node.name for node in x.graph.nodes] == expected
