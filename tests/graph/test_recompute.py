"""Activations that backward computes again, or widens, instead of finding them where forward left them.

Recomputing changes no bit, whatever is recomputed: on random graphs and delicate ones all that can be, on the networks
what the two choices of `memory` take.
"""

from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings

import cnnzoo
from cnnzoo.errors import ConfigError
from cnnzoo.graph import layers, layout, recompute
from cnnzoo.graph.ledger import Ledger
from cnnzoo.graph.network import Network
from cnnzoo.graph.operators.convolution import WeightedSum
from cnnzoo.graph.operators.pooling import MaxPool
from cnnzoo.graph.tensor import Extent, Graph
from cnnzoo.graph.timeline import can_be_recomputed, first_reads
from cnnzoo.models.registry import build_graph
from tests.graph.random_graphs import DELICATE, builders, make_network
from tests.graph.steps import (
    assert_equal,
    fill_arena,
    make_batch,
    randomize,
    relative_error,
    rewrite_and_lay_out,
    run_step,
)
from tests.graph.test_liveness import find_lower_bound, find_overlaps

STORAGES = ["bfloat16", "float16"]


@contextmanager
def choosing(choose):
    """Plan with another choice of what is recomputed, a function of the layout in which all is kept."""
    with mock.patch.object(layout, "choose_recomputed", lambda kept, choice: choose(kept)):
        yield


@contextmanager
def narrowing_all():
    """Plan with all narrowed that is not recomputed."""

    def choose(kept, recomputed):
        read = first_reads(kept.sharing, kept.timeline.backward_nodes)
        return [region for region in read if region.writers and region not in recomputed]

    with mock.patch.object(layout, "choose_narrowed", choose):
        yield


def nothing(kept):
    return set()


def all_that_can_be(kept):
    read = first_reads(kept.sharing, kept.timeline.backward_nodes)
    return {region for region in kept.sharing.regions if can_be_recomputed(kept.sharing, region, read)}


def every_other(kept):
    return set(list(all_that_can_be(kept))[::2])


def run(net, images=3):
    """Run two training passes, adding their gradients, in memory full of NaN; return all that comes out."""
    randomize(net)
    fill_arena(net, images, training=True)
    losses, logits = zip(
        *(run_step(net, *make_batch(net, images, seed), accumulate=seed > 0) for seed in (0, 1)), strict=True
    )
    gradients = {f"gradient of {name}": array for name, array in net.gradients().items()}
    return {"losses": np.array(losses), "logits": np.array(logits), **gradients, **net.state_dict()}


def assert_recomputing_changes_no_bit(build):
    with choosing(nothing):
        expected = run(make_network(build))
    assert all(np.isfinite(array).all() for array in expected.values())
    for choose in (all_that_can_be, every_other):
        with choosing(choose):
            assert_equal(run(make_network(build)), expected)


@settings(max_examples=200)
@given(build=builders())
def test_recomputing_changes_no_bit(build):
    assert_recomputing_changes_no_bit(build)


@pytest.mark.parametrize("build", DELICATE)
def test_delicate_graph(build):
    assert_recomputing_changes_no_bit(build)


def sum_beside_a_relu_in_place():
    """A slice of a concatenation is computed from a tensor whose memory a ReLU takes, and backward reads it no more."""
    x = layers.conv(Graph(Extent(6, 6, 3)).input, 4, 3, name="stem")
    overwritten = layers.conv(x, 4, 3, name="overwritten")  # the last one whose backward reads the concatenation
    both = layers.concatenate(x, layers.add(overwritten, x))
    rectified = layers.average_pool(layers.relu(overwritten), 2)
    pooled = layers.conv(layers.average_pool(both, 2), 4, 3, name="pooled")
    return layers.linear(layers.add(pooled, rectified), 3, name="head").graph


def test_what_is_computed_again_finds_its_inputs():
    """The pool's output needs the concatenation again, all of it."""

    def choose(kept):
        (producer,) = (node for node in kept.graph.nodes if node.name == "overwritten")
        return all_that_can_be(kept) - {kept.sharing.region(producer.output)}

    with choosing(nothing):
        expected = run(make_network(sum_beside_a_relu_in_place))
    with choosing(choose):
        assert_equal(run(make_network(sum_beside_a_relu_in_place)), expected)


@pytest.mark.parametrize("name", cnnzoo.list_models())
def test_choices_of_the_networks_change_no_bit(name):
    results = []
    for memory, share in (("fast", 0.0), ("fast", 1.0), ("lean", 1.0)):
        scaled = recompute.MEMORY[memory]._replace(share=share * recompute.MEMORY[memory].share)
        with mock.patch.dict(recompute.MEMORY, {memory: scaled}):
            results.append(run(cnnzoo.create_model(name, memory=memory), images=2))
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


def lay_out(name, images=128, **choices):
    return rewrite_and_lay_out(build_graph(name), images, **choices)


@pytest.mark.parametrize("name", cnnzoo.list_models())
def test_the_more_is_recomputed_the_less_is_kept(name):
    sizes = []
    for choose in (nothing, None):
        for memory in recompute.MEMORY if choose is None else ["fast"]:
            with choosing(choose) if choose else mock.patch.dict(recompute.MEMORY):
                laid_out, size = lay_out(name, memory=memory)
            assert find_overlaps(laid_out.values) == []
            assert size <= 1.02 * find_lower_bound(laid_out.values)
            sizes.append(size)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("memory", ["fast", "lean"])
@pytest.mark.parametrize("name", ["densenet121", "resnet18", "googlenet"])
def test_time_stays_within_the_share(name, memory):
    kept = lay_out(name)[0]
    laid_out, _ = lay_out(name, memory=memory)
    forward = [recompute.forward_cost(kept, k) for k in range(len(kept.graph.nodes))]
    total = sum(forward[k] + recompute.backward_cost(kept, k) for k in kept.timeline.backward_nodes)
    again = sum(forward[step.number] for step in laid_out.timeline.steps if step.action == "recompute")
    assert again <= recompute.MEMORY[memory].share * total
    # DenseNet's batch norms are applied on load: it has nothing left to recompute but convolutions.
    assert again > 0 or (name, memory) == ("densenet121", "fast")


@pytest.mark.parametrize(("memory", "is_strided"), [("fast", False), ("lean", True)])
def test_strided_pools_are_more_than_a_pass(memory, is_strided):
    """With all the time there is; pools whose windows lie a pixel apart are one pass."""
    unlimited = recompute.MEMORY[memory]._replace(share=1.0)
    with mock.patch.dict(recompute.MEMORY, {memory: unlimited}):
        laid_out, _ = lay_out("googlenet", memory=memory)
    again = [laid_out.graph.nodes[step.number] for step in laid_out.timeline.steps if step.action == "recompute"]
    strides = {node.operator.stride for node in again if isinstance(node.operator, MaxPool)}
    assert strides == ({1, 2} if is_strided else {1})
    assert any(isinstance(node.operator, WeightedSum) for node in again) == is_strided


def test_values_of_windows():
    assert MaxPool("pool", 3, 2, 1).pooled(Extent(8, 6, 5)) == 4 * 3 * 5 * 9


def test_peak_is_not_underestimated():
    """What the choice goes by, against the lifetimes of the layout that it leads to."""
    with choosing(nothing):
        kept, _ = lay_out("densenet121", images=16)
    peak = recompute.Peak(kept)
    for choose in (nothing, every_other, all_that_can_be):
        chosen = choose(kept)
        rest = [region for region in all_that_can_be(kept) if region not in chosen]
        for narrowed in ([], rest):
            actual = layout.Layout(kept.graph, 16, True, np.dtype(np.float32), kept.sharing, chosen, narrowed)
            # The estimate rounds no value up to whole cache lines.
            assert find_lower_bound(actual.values) <= peak(chosen, narrowed) * 1.001


@pytest.mark.parametrize("name", ["mobilenetv1", "googlenet", "resnet18"])
def test_what_is_narrowed_does_not_depend_on_threads(name, monkeypatch):
    """Rounding is part of a run's bits."""
    steps = []
    for threads in (1, 2, 16):
        monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", threads)
        laid_out, _ = lay_out(name, storage="bfloat16")
        steps.append([(step.action, step.number) for step in laid_out.timeline.steps])
    assert steps[0] == steps[1] == steps[2]
    assert "narrow" in {action for action, _ in steps[0]}


def test_dense_layers_keep_their_concatenation_alone():
    """Lean, DenseNet computes its bottlenecks again: Pleiss et al., "Memory-Efficient Implementation of DenseNets"."""
    laid_out, _ = lay_out("densenet121", memory="lean")
    again = {laid_out.graph.nodes[step.number].name for step in laid_out.timeline.steps if step.action == "recompute"}
    assert {f"features.denseblock1.denselayer{layer}.conv1" for layer in range(1, 7)} <= again
    assert not any(name.endswith("conv2") for name in again)


def test_ledger_has_rows_of_what_runs_again():
    net = cnnzoo.create_model("resnet18", image_shape=(3, 16, 16), storage="bfloat16")
    net.ledger = Ledger()
    run_step(net, *make_batch(net, 2))
    rows = [row.work for row in net.ledger.rows(lambda operations, moved: 1.0)]
    again = {(work.name, work.kind) for work in rows if work.direction == "recompute"}
    assert ("bn1", "BatchNorm+ReLU") in again
    kinds = {(work.kind, work.direction) for work in rows}
    assert {("narrow bfloat16", "forward"), ("widen bfloat16", "backward")} <= kinds


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", cnnzoo.list_models())
def test_narrowed_storage_rounds_gradients_alone(name, storage):
    """The logits have the same bits. Gradients are off by more than roundings: some ReLUs' masks are seen in them."""
    results = []
    for choice in (None, storage, storage):
        net = cnnzoo.create_model(name, storage=choice)
        randomize(net)
        fill_arena(net, 4, training=True)
        loss, logits = run_step(net, *make_batch(net, 4))
        results.append({"loss": np.array(loss), "logits": logits, "gradient": net.gradient_arena.copy()})
    assert_equal(results[2], results[1])
    np.testing.assert_array_equal(results[1]["logits"], results[0]["logits"])
    error = relative_error(results[1]["gradient"], results[0]["gradient"])
    assert error > 0 or name == "lenet5"  # of which nothing is narrowed but the mask of a ReLU
    assert error < {"bfloat16": 0.2, "float16": 0.06}[storage]


@pytest.mark.parametrize("images", [2, 4])
def test_what_is_narrowed_does_not_depend_on_addresses(images):
    """A node's saved regions are a set: of those of one size, none goes first because of where it lies in memory."""
    found = []
    for order in (list, reversed):

        def first_reads_in_order(*arguments, order=order):
            return dict(order(list(first_reads(*arguments).items())))

        with mock.patch.object(recompute, "first_reads", first_reads_in_order):
            planned, _ = rewrite_and_lay_out(build_graph("resnet18"), images, storage="bfloat16")
        regions = planned.sharing.regions
        found.append([k for k, region in enumerate(regions) if region in planned.narrowed_values])
    assert found[0]
    assert found[0] == found[1]


def make_small_network(storage):
    """Return a network without a ReLU, so that backward reads all of the stem's output."""
    x = layers.conv(Graph(Extent(6, 6, 4)).input, 8, 3, name="stem")
    layers.linear(layers.conv(x, 8, 3, name="conv"), 3, name="head")
    net = Network(x.graph, name="small", seed=5, storage=storage)
    randomize(net)
    return net


@pytest.mark.parametrize(("storage", "unit"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
def test_narrowed_activations_are_rounded_once(storage, unit):
    """Without a ReLU, a convolution's weight gradient is off by a rounding of its input for each value."""
    gradients = []
    for choice in (None, storage):
        net = make_small_network(choice)
        with narrowing_all():
            run_step(net, *make_batch(net, 4))
        gradients.append(net.gradients())
    assert 0 < relative_error(gradients[1]["conv.weight"], gradients[0]["conv.weight"]) <= unit
    # The images are not narrowed, and what the stem's gradient is made of was not either.
    np.testing.assert_array_equal(gradients[1]["stem.weight"], gradients[0]["stem.weight"])


@pytest.mark.parametrize(("storage", "is_finite", "layer"), [("float16", False, "stem"), ("bfloat16", True, None)])
def test_layer_beyond_what_is_stored(storage, is_finite, layer):
    net = make_small_network(storage)
    images, labels = make_batch(net, 4)
    with narrowing_all():
        run_step(net, images, labels)
        assert net.find_not_finite(images, stored=True) is None
        images *= 1e6
        loss, _ = run_step(net, images, labels)
    assert np.isfinite(loss)
    assert np.isfinite(net.gradient_arena).all() == is_finite
    assert net.find_not_finite(images) is None
    assert net.find_not_finite(images, stored=True) == layer
    images[0, 0, 0, 0] = np.inf  # then storage is not to blame
    assert net.find_not_finite(images, stored=True) is None


@pytest.mark.parametrize(("memory", "part"), [("fast", 0.9), ("lean", 1.0)])
@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18", "densenet121"])
def test_narrowed_storage_takes_less(name, memory, part, monkeypatch):
    """Where much is recomputed, or little kept, what one step needs at once is most of the peak."""
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", recompute.CHOICE_THREADS)
    plain, narrowed = (lay_out(name, memory=memory, storage=storage) for storage in (None, "bfloat16"))
    assert narrowed[1] <= part * plain[1]
    assert find_overlaps(narrowed[0].values) == []


@pytest.mark.parametrize("build", DELICATE)
def test_narrowed_delicate_graph(build):
    results = []
    for memory in ("fast", "lean"):
        net = Network(build(), name="small", seed=5, memory=memory, storage="float16")
        with narrowing_all():
            results.append(run(net))
    for result in results:
        assert all(np.isfinite(array).all() for array in result.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "leen"}, "memory: expected one of fast, lean, got 'leen'; did you mean lean?"),
        ({"storage": "int8"}, "storage: expected one of bfloat16, float16, got 'int8'"),
        ({"storage": "float16", "dtype": "float64"}, "storage: expected dtype float32 with float16, got float64"),
    ],
)
def test_unknown_choices(options, message):
    with pytest.raises(ConfigError) as caught:
        cnnzoo.create_model("lenet5", **options)
    assert str(caught.value).startswith(message.split(";")[0])
