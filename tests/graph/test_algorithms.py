"""The choice of algorithms: by cost, by name, and as a network had them before."""

from itertools import product

import numpy as np
import pytest

from cnnzoo import cross_entropy
from cnnzoo.errors import ConfigError, ModelError, StateError
from cnnzoo.graph.algorithms import ALGORITHMS, NAMES, Passes, choose_algorithms, list_candidates, plan_algorithms
from cnnzoo.kernels.convolution import ConvolutionShape
from cnnzoo.models import create_model
from tests.graph import random_graphs
from tests.graph.steps import assert_close, make_batch, randomize, run_step
from tests.shapes import TAILS, list_convolutions

LARGE = ConvolutionShape(128, 16, 16, 128, 128, 3, 1, 1)
HALVING = ConvolutionShape(128, 16, 16, 128, 256, 3, 2, 1)
STRIDED = ConvolutionShape(128, 16, 16, 128, 128, 5, 2, 2)
SINGLE_IMAGE = ConvolutionShape(1, 4, 4, 512, 512, 3, 1, 1)
FEW_PIXELS = ConvolutionShape(128, 2, 2, 512, 512, 3, 1, 1)
FEW_PIXELS_OF_5X5 = ConvolutionShape(128, 2, 2, 512, 512, 5, 1, 2)


def test_the_cheapest_that_accepts_is_chosen():
    assert choose_algorithms(LARGE) == Passes("winograd", "winograd", "winograd")
    assert choose_algorithms(HALVING) == Passes("winograd", "winograd", "winograd")
    assert choose_algorithms(STRIDED) == Passes("im2col", "im2col", "im2col")
    assert choose_algorithms(SINGLE_IMAGE) == Passes("im2col", "im2col", "im2col")
    assert choose_algorithms(FEW_PIXELS) == Passes("winograd", "winograd", "winograd")
    assert choose_algorithms(FEW_PIXELS_OF_5X5) == Passes("dense", "dense", "dense")


def test_a_wanted_algorithm_is_taken_where_it_accepts():
    assert choose_algorithms(LARGE, "im2col") == Passes("im2col", "im2col", "im2col")
    assert choose_algorithms(SINGLE_IMAGE, "winograd") == Passes("winograd", "winograd", "winograd")
    assert choose_algorithms(STRIDED, "winograd") == Passes("im2col", "im2col", "im2col")


def test_every_shape_has_an_algorithm_and_every_candidate_a_cost():
    for shape in (*TAILS, *list_convolutions(["resnet18", "mobilenetv1", "googlenet"], images=8)):
        candidates = list_candidates(shape)
        assert set(choose_algorithms(shape)) <= set(candidates)
        if len(candidates) > 1:
            for algorithm in candidates.values():
                assert all(algorithm.costs(shape)[name] > 0 for name in Passes._fields)


def test_a_shape_that_none_accepts_names_every_reason(monkeypatch):
    monkeypatch.setattr("cnnzoo.graph.algorithms.ALGORITHMS", ALGORITHMS[:2])
    with pytest.raises(ModelError, match=r"depthwise: .*winograd: takes 3x3 and 5x5"):
        list_candidates(STRIDED)


def test_a_pinned_algorithm_has_to_accept():
    with pytest.raises(StateError, match="expected one of im2col, got winograd"):
        plan_algorithms(STRIDED, Passes("winograd", "im2col", "im2col"), np.float32)


def step(net):
    """Return the gradients of one step."""
    images = np.random.default_rng(0).standard_normal((2, *net.image_shape))
    net.backward(cross_entropy(net.forward(images, training=True), np.array([1, 2]))[1])
    return net.gradients()


def test_a_network_tells_its_algorithms_and_takes_them_back():
    net = create_model("alexnet", dtype="float64", dropout=0, algorithm="winograd")
    gradients = step(net)
    algorithms = net.algorithms()
    assert algorithms["features.0 @2"] == ["im2col"] * 3  # 11x11
    assert algorithms["features.6 @2"] == ["winograd"] * 3
    other = create_model("alexnet", dtype="float64", dropout=0, algorithm="im2col")
    before = step(other)
    assert other.algorithms()["features.6 @2"] == ["im2col"] * 3
    other.pin_algorithms(algorithms)
    for name, gradient in step(other).items():
        np.testing.assert_array_equal(gradient, gradients[name])
        np.testing.assert_allclose(before[name], gradient, rtol=0, atol=1e-10 * np.abs(gradient).max())
    assert other.algorithms() == algorithms


def test_names_that_are_none():
    with pytest.raises(ConfigError, match=rf"algorithm: expected one of {', '.join(NAMES)}, got 'winnograd'.*winograd"):
        create_model("lenet5", algorithm="winnograd")
    net = create_model("lenet5")
    for key in ("nothing @2", "conv1", "conv1 @many", "conv1 @²"):
        with pytest.raises(
            StateError, match=f"algorithms: expected those of one of the network's convolutions, got {key}"
        ):
            net.pin_algorithms({key: ["im2col"] * 3})
    with pytest.raises(StateError, match="expected one of winograd, im2col, got winnograd"):
        net.pin_algorithms({"conv1 @2": ["im2col"] * 3, "conv2 @2": ["winnograd"] * 3})
    step(net)
    assert net.algorithms() == create_and_run("lenet5")


def create_and_run(name):
    """Return the algorithms of a network that nothing was pinned for."""
    net = create_model(name)
    step(net)
    return net.algorithms()


def test_what_was_asked_for_its_size_alone_is_not_told_as_run():
    net = create_model("lenet5")
    net.arena_bytes(16, training=True)
    assert net.algorithms() == {}
    net.forward(np.zeros((4, 1, 28, 28), np.float32))
    assert {name.partition(" ")[2] for name in net.algorithms()} == {"@4"}


def find_on_load(net):
    """Return what the batch norm before the wide convolution is, which Winograd's algorithm computes by the table."""
    nodes = {node.name: node.operator for node in net.graph.nodes}
    conv, batch_norm = nodes["conv"], nodes["bn"]
    assert conv.applies_batch_norm == batch_norm.deferred == bool(conv.borrows)
    return conv.applies_batch_norm


def run_from_random_weights(net):
    randomize(net)
    loss, logits = run_step(net, *make_batch(net, 3))
    return {"loss": loss, "logits": logits} | net.gradients()


def test_batch_norm_on_load_follows_the_preferred_algorithm():
    expected = run_from_random_weights(random_graphs.make_network(random_graphs.batch_norm_before_winograd, passes=()))
    net = random_graphs.make_network(random_graphs.batch_norm_before_winograd)
    start = net.state_dict()
    for name, on_load in ((None, True), ("im2col", False), ("winograd", True), ("im2col", False), (None, True)):
        net.prefer_algorithm(name)
        net.load_state_dict(start)
        assert find_on_load(net) == on_load
        assert_close(run_from_random_weights(net), expected, 1e-10, floor=1e-6)
        assert net.algorithms()["conv @3"] == [name or "winograd"] * 3
    plain = random_graphs.make_network(random_graphs.batch_norm_before_winograd, passes=())
    plain.prefer_algorithm("winograd")
    assert not find_on_load(plain)


@pytest.mark.parametrize("passes", [*product(("im2col", "winograd"), repeat=3)])
def test_pinned_algorithms_take_batch_norm_on_load_too(passes):
    expected = run_from_random_weights(random_graphs.make_network(random_graphs.batch_norm_before_winograd, passes=()))
    net = random_graphs.make_network(random_graphs.batch_norm_before_winograd)
    net.pin_algorithms({"conv @3": passes})
    assert find_on_load(net)
    assert_close(run_from_random_weights(net), expected, 1e-10, floor=1e-6)
    assert net.algorithms()["conv @3"] == list(passes)
