"""Rewritings of a graph: which nodes are merged, which must not be, and that the networks compute the same."""

from collections import Counter

import numpy as np
import pytest

from cnnzoo.graph import layers
from cnnzoo.graph.layout import lay_out
from cnnzoo.graph.network import Network
from cnnzoo.graph.operators.activation import ReLU
from cnnzoo.graph.passes import (
    DEFAULT_PASSES,
    apply_batch_norm_on_load,
    collect_statistics,
    fuse_batch_norm_add,
    fuse_batch_norm_relu,
    fuse_convolution_relu,
    fuse_relu_max_pool,
    mask_gradient_on_store,
)
from cnnzoo.graph.tensor import Extent, Graph
from cnnzoo.graph.timeline import Step
from cnnzoo.models.registry import build_graph
from tests.graph import random_graphs
from tests.graph.steps import assert_close, make_batch, randomize, relative_error, rewrite, run_step

ALONE = {"Convolution", "Linear", "MaxPool", "AveragePool", "GlobalAveragePool", "Dropout", "Concatenation"}


def count_kinds(graph):
    return dict(Counter(node.operator.kind for node in graph.nodes))


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (
            "vgg16",
            {"Convolution": 13, "ReLU": 15, "MaxPool": 5, "Linear": 3, "Dropout": 2},
            {
                **{"Convolution": 5, "Convolution+ReLU": 8, "ReLU+MaxPool": 5, "Linear": 1, "Linear+ReLU": 2},
                **{"Dropout": 2},
            },
        ),
        (
            "vgg16_bn",
            {"Convolution": 13, "BatchNorm": 13, "ReLU": 15, "MaxPool": 5, "Linear": 3, "Dropout": 2},
            {"Convolution": 13, "BatchNorm+ReLU": 13, "MaxPool": 5, "Linear": 1, "Linear+ReLU": 2, "Dropout": 2},
        ),
        (
            "resnet18",
            {"Convolution": 20, "BatchNorm": 20, "ReLU": 17, "Add": 8, "GlobalAveragePool": 1, "Linear": 1},
            # Of 8 blocks, 3 have a projection, whose batch norm is the residual of the other one.
            {
                **{"Convolution": 20, "BatchNorm": 3, "BatchNorm+ReLU": 9, "BatchNorm+Add+ReLU": 8},
                **{"GlobalAveragePool": 1, "Linear": 1},
            },
        ),
    ],
)
def test_nodes_of_the_networks(name, before, after):
    graph = build_graph(name)
    assert count_kinds(graph) == before
    assert count_kinds(rewrite(graph)) == after


@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18", "densenet121", "mobilenetv1", "alexnet"])
def test_rewritten_networks_compute_the_same(name):
    """In float64: loss, logits, every gradient, running statistics and inference, with dropout."""
    results = []
    for passes in (DEFAULT_PASSES, ()):
        net = Network(build_graph(name), name=name, dtype="float64", passes=passes)
        randomize(net)
        loss, logits = run_step(net, *make_batch(net, 4))
        results.append(
            (loss, {"logits": logits, **net.gradients()}, net.state_dict(), net.forward(make_batch(net, 2)[0]))
        )
    (loss, arrays, state, inference), (expected_loss, *expected) = results
    assert loss == pytest.approx(expected_loss, rel=1e-12, abs=0)
    assert_close(arrays, expected[0], 1e-10)
    assert_close(state, expected[1], 1e-13)
    assert relative_error(inference, expected[2]) <= 1e-12


@pytest.mark.parametrize("number", range(len(DEFAULT_PASSES) + 1))
@pytest.mark.parametrize("build", random_graphs.DELICATE)
def test_each_pass_keeps_what_is_computed(build, number):
    """The first `number` passes against none."""
    results = []
    for passes in (DEFAULT_PASSES[:number], ()):
        net = random_graphs.make_network(build, passes)
        randomize(net)
        _, logits = run_step(net, *make_batch(net, 3))
        first = {f"first {name}": gradient for name, gradient in net.gradients().items()}
        run_step(net, *make_batch(net, 3), accumulate=True)
        results.append({"logits": logits, **first, **net.gradients()} | net.state_dict())
    assert_close(*results, 1e-9, floor=1e-3)


def stem(channels=4):
    return layers.conv(Graph(Extent(6, 6, 3)).input, channels, 3, bias=False, name="stem")


def test_batch_norm_and_relu():
    graph = layers.relu(layers.batch_norm(stem(), name="bn")).graph
    output = graph.output
    rewritten = fuse_batch_norm_relu(graph)
    assert count_kinds(rewritten) == {"Convolution": 1, "BatchNorm+ReLU": 1}
    assert rewritten.output is output is rewritten.nodes[-1].output


def test_batch_norm_addition_and_relu():
    x = stem()
    y = layers.conv(x, 4, 3, name="conv")
    for terms in ((layers.batch_norm(y, name="bn"), x), (x, layers.batch_norm(y, name="bn2"))):
        graph = layers.relu(layers.add(*terms)).graph
    rewritten = rewrite(graph, (fuse_batch_norm_add, fuse_batch_norm_relu))
    assert count_kinds(rewritten) == {"Convolution": 2, "BatchNorm+Add+ReLU": 2}
    for node in rewritten.nodes[2:]:
        assert node.inputs == (y, x)  # what is normalized, and the residual


def test_of_two_batch_norms_the_last_is_merged():
    x = stem()
    a, b = layers.batch_norm(x, name="first"), layers.batch_norm(layers.conv(x, 4, 3, name="conv"), name="last")
    graph = rewrite(layers.relu(layers.add(a, b)).graph)
    assert [(node.name, node.operator.kind) for node in graph.nodes if node.name in ("first", "last")] == [
        ("first", "BatchNorm"),
        ("last", "BatchNorm+Add+ReLU"),
    ]
    assert graph.nodes[-1].inputs[1] is a


def test_relu_and_max_pool():
    x = stem()
    y = layers.relu(x)
    pooled = layers.max_pool(y, 2)  # of a tensor that is read twice
    z = layers.add(layers.max_pool(layers.relu(x), 2), pooled)
    graph = fuse_relu_max_pool(layers.add(z, layers.max_pool(layers.max_pool(y, 2), 1)).graph)
    kinds = {node.name: node.operator.kind for node in graph.nodes if "pool" in node.name}
    assert kinds == {
        "max_pool1": "MaxPool",
        "max_pool2": "ReLU+MaxPool",
        "max_pool3": "MaxPool",
        "max_pool4": "MaxPool",
    }
    assert next(node.inputs for node in graph.nodes if node.name == "max_pool2") == (x,)


def test_convolution_and_relu():
    """With a bias, of its own output alone."""
    x = layers.conv(Graph(Extent(6, 6, 3)).input, 4, 3, name="biased")
    x = layers.relu(layers.conv(layers.relu(x), 4, 3, bias=False, name="plain"))
    x = layers.relu(layers.depthwise_conv(x, 3, bias=True, name="depthwise"))
    y = layers.conv(x, 4, 3, name="read_twice")
    graph = fuse_convolution_relu(layers.relu(layers.linear(layers.add(layers.relu(y), y), 5, name="linear")).graph)
    kinds = {node.name: node.operator.kind for node in graph.nodes if "relu" not in node.name}
    assert kinds == {
        **{
            "biased": "Convolution+ReLU",
            "plain": "Convolution",
            "depthwise": "Depthwise+ReLU",
            "read_twice": "Convolution",
        },
        **{"add1": "Add", "linear": "Linear+ReLU"},
    }
    assert sum(isinstance(node.operator, ReLU) for node in graph.nodes) == 2


def test_relu_after_batch_norm_and_before_max_pool():
    """The batch norm has it for nothing."""
    graph = rewrite(layers.max_pool(layers.relu(layers.batch_norm(stem(), name="bn")), 2).graph)
    assert count_kinds(graph) == {"Convolution": 1, "BatchNorm+ReLU": 1, "MaxPool": 1}


def read_twice():
    x = layers.batch_norm(stem(), name="bn")
    return layers.add(layers.relu(x), x)


def read_by_two_relus():
    x = layers.batch_norm(stem(), name="bn")
    return layers.add(layers.relu(x), layers.relu(x))


def added_to_itself():
    x = layers.batch_norm(stem(), name="bn")
    return layers.add(x, x)


def added_to_its_input():
    x = stem()
    return layers.add(layers.batch_norm(x, name="bn"), x)


def pooled_before_the_relu():
    return layers.relu(layers.max_pool(layers.batch_norm(stem(), name="bn"), 2))


@pytest.mark.parametrize(
    "build", [read_twice, read_by_two_relus, added_to_itself, added_to_its_input, pooled_before_the_relu]
)
def test_not_merged(build):
    graph = build().graph
    before = count_kinds(graph)
    assert count_kinds(rewrite(graph)) == before


def test_two_additions_keep_the_first_apart():
    """(bn + x) is read by an addition and a ReLU: merged with neither of them, but with its own addition."""
    x = stem()
    y = layers.add(layers.batch_norm(layers.conv(x, 4, 3, name="conv"), name="bn"), x)
    graph = rewrite(layers.add(layers.relu(y), y).graph)
    assert count_kinds(graph) == {"Convolution": 2, "BatchNorm+Add": 1, "ReLU": 1, "Add": 1}


def test_statistics_are_collected_by_convolutions_alone():
    x = layers.conv(stem(), 4, 3, name="conv")
    y = layers.batch_norm(x, name="after_convolution")
    y = layers.batch_norm(layers.max_pool(y, 2), name="after_pool")
    y = layers.batch_norm(layers.linear(y, 5, name="linear"), name="after_linear")
    graph = collect_statistics(y.graph)
    borrowers = [node.name for node in graph.nodes if node.operator.borrows]
    collectors = [node.name for node in graph.nodes if getattr(node.operator, "collects_statistics", False)]
    assert (borrowers, collectors) == (["after_convolution"], ["conv"])


def test_a_dense_block_measures_each_channel_once():
    """Each layer's first batch norm knows what the one before it read, and gets what the layer between has made."""
    graph = collect_statistics(random_graphs.dense_block())
    operators = {node.name: node.operator for node in graph.nodes}
    expected = {
        "norm0.1": [(8, "stem", "statistics")],
        "norm1.1": [(8, "norm0.1", "moments"), (3, "conv0.2", "statistics")],
        "norm2.1": [(11, "norm1.1", "moments"), (3, "conv1.2", "statistics")],
        "norm": [(14, "norm2.1", "moments"), (3, "conv2.2", "statistics")],
    }
    for name, parts in expected.items():
        assert operators[name].parts == tuple((n, (operators[lender], array)) for n, lender, array in parts)


def test_statistics_of_parts_that_nobody_measured():
    """A batch norm takes those of a pool's output itself, beside those of a convolution's."""
    x = stem()
    both = layers.concatenate(layers.max_pool(x, 2), layers.conv(x, 5, 3, stride=2, name="conv"))
    graph = collect_statistics(layers.batch_norm(both, name="bn").graph)
    operators = {node.name: node.operator for node in graph.nodes}
    assert operators["bn"].parts == ((4, None), (5, (operators["conv"], "statistics")))
    assert operators["bn"].borrows == ((operators["conv"], "statistics"),)


@pytest.mark.parametrize(
    ("kernel", "channels", "relu", "residual", "again", "deferred"),
    [
        (1, 4, True, False, False, True),
        (3, 4, True, False, False, False),  # by im2col, which would normalize each value nine times
        (3, 16, True, False, False, True),  # by Winograd's algorithm
        (1, 4, False, False, False, False),
        (1, 4, True, True, False, False),
        (1, 4, True, False, True, False),  # somebody else reads the normalized tensor
    ],
)
def test_batch_norm_on_load(kernel, channels, relu, residual, again, deferred):
    x = stem(channels)
    y = layers.batch_norm(layers.conv(x, channels, 3, name="conv"), name="bn")
    y = layers.add(y, x) if residual else y
    y = layers.relu(y) if relu else y
    z = layers.conv(y, channels, kernel, name="reader")
    graph = (layers.add(z, y) if again else z).graph
    graph = rewrite(graph, (fuse_batch_norm_add, fuse_batch_norm_relu, apply_batch_norm_on_load))
    nodes = {node.name: node.operator for node in graph.nodes}
    assert nodes["bn"].deferred == nodes["reader"].applies_batch_norm == deferred


@pytest.mark.parametrize(
    ("window", "stride", "residual", "again", "deferred"),
    [
        (2, 2, False, False, True),
        (3, 2, False, False, True),
        (3, 1, False, False, False),  # would load each value nine times
        (5, 2, False, False, False),  # six times
        (2, 2, True, False, False),
        (2, 2, False, True, False),  # somebody else reads the normalized tensor
    ],
)
def test_batch_norm_on_load_of_a_max_pool(window, stride, residual, again, deferred):
    x = stem()
    y = layers.batch_norm(layers.conv(x, 4, 3, name="conv"), name="bn")
    y = layers.relu(layers.add(y, x) if residual else y)
    pools = [layers.max_pool(y, window, stride=stride, padding=window // 3) for _ in range(1 + again)]
    graph = (layers.concatenate(*pools) if again else pools[0]).graph
    graph = rewrite(graph, (fuse_batch_norm_add, fuse_batch_norm_relu, apply_batch_norm_on_load))
    for _ in range(2):  # the pass may run again
        nodes = {node.name: node.operator for node in graph.nodes}
        assert nodes["bn"].deferred == nodes["max_pool1"].applies_batch_norm == deferred
        assert nodes["max_pool1"].borrows == (((nodes["bn"], "coefficients"),) if deferred else ())
        graph = apply_batch_norm_on_load(graph)


def find_masked(graph, images=2):
    """Return the names of the nodes whose readers mask their gradients."""
    layout, _ = lay_out(graph, images, True, np.dtype(np.float32))
    return {node.name for node in graph.nodes if node.output in layout.lines.masked}


def test_gradients_are_masked_where_the_algorithm_has_an_epilogue():
    """Im2col at stride 2 and a depthwise convolution have none."""
    graph = rewrite(random_graphs.convolutions_before_convolutions())
    assert find_masked(graph) == {"first", "wide", "pointwise"}
    assert find_masked(graph, images=64) == {"first", "wide", "pointwise"}
    operators = {node.name: node.operator for node in graph.nodes}
    keeping = {name for name, operator in operators.items() if getattr(operator, "keeps_gradient_sums", False)}
    assert keeping == {"first", "wide", "pointwise", "narrow", "strided"}
    assert operators["wide"].borrows == ((operators["first"], "gradient_sums"),)


@pytest.mark.parametrize(
    ("relu", "bias", "again", "masked"),
    [
        (True, True, False, True),
        (False, True, False, False),
        (True, False, False, False),  # without a bias a ReLU stays by itself
        (True, True, True, False),  # somebody else adds to the gradient
    ],
)
def test_gradients_that_are_not_masked_on_store(relu, bias, again, masked):
    x = layers.conv(Graph(Extent(6, 6, 3)).input, 4, 3, bias=bias, name="conv")
    y = layers.relu(x) if relu else x
    z = layers.conv(y, 4, 3, name="reader")
    graph = rewrite((layers.add(z, y) if again else z).graph)
    assert find_masked(graph) == ({"conv"} if masked else set())


@pytest.mark.parametrize("algorithm", ["im2col", "winograd"])
def test_masked_gradients_are_those_of_a_relu_by_itself(algorithm):
    """In float32: the same mask for every value, so that what differs are roundings of sums."""
    results = []
    without = [each for each in DEFAULT_PASSES if each is not mask_gradient_on_store]
    assert len(without) == len(DEFAULT_PASSES) - 1
    for passes in (DEFAULT_PASSES, without):
        net = random_graphs.make_network(random_graphs.convolutions_before_convolutions, passes, "float32")
        randomize(net)
        net.prefer_algorithm(algorithm)
        run_step(net, *make_batch(net, 5))
        run_step(net, *make_batch(net, 3, seed=1), accumulate=True)
        results.append(net.gradients())
    assert_close(*results, 1e-5)


def test_a_reader_that_does_not_run_backward_masks_nothing():
    """Its input is what the graph returns, which has its gradient from outside."""
    graph = Graph(Extent(6, 6, 3))
    y = layers.relu(layers.conv(graph.input, 4, 3, name="conv"))
    layers.conv(y, 4, 3, name="dead")
    graph.output = y
    assert find_masked(rewrite(graph)) == set()


def test_what_is_masked_is_not_kept_for_the_node_that_made_it():
    """The ReLU's output is read last by the reader's backward, not by the producer's."""
    graph = rewrite(random_graphs.convolutions_before_convolutions())
    layout, _ = lay_out(graph, 2, True, np.dtype(np.float32))
    steps = layout.timeline.steps
    for k, node in enumerate(graph.nodes):
        if node.output in layout.lines.masked:
            last = steps[layout.activation(node.output, restored=True).last]
            assert last == Step("backward", k + 1)
