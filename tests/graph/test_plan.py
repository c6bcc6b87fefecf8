"""Plans of memory: what may share a place and what must not, on random graphs and on delicate ones.

A wrong lifetime shows as another result than that of the same network in which every array has a place of its own,
no operator works in place and every concatenation copies; there, plain central differences vouch for the gradients.
"""

import gc
import itertools
import weakref

import numpy as np
import pytest
from hypothesis import given, settings

from cnnzoo.errors import ConfigError
from cnnzoo.graph import plans
from cnnzoo.graph.layout import lay_out
from cnnzoo.graph.plan import Plan
from cnnzoo.models.registry import build_graph, create_model
from tests.graph.random_graphs import DELICATE, builders, dense_block, make_network, make_unshared_network, unshared
from tests.graph.steps import (
    assert_close,
    assert_equal,
    fill_arena,
    make_batch,
    randomize,
    rewrite_and_lay_out,
    run_step,
)
from tests.graph.test_liveness import find_lower_bound, find_overlaps

IMAGES = 3


def run(net):
    """Run a training pass and one in inference, each in memory full of NaN; return all that comes out."""
    randomize(net)
    images, labels = make_batch(net, IMAGES)
    fill_arena(net, IMAGES, training=True)
    loss, logits = run_step(net, images, labels)
    gradients = {f"gradient of {name}": array for name, array in net.gradients().items()}
    results = {"loss": np.array(loss), "logits": logits, **gradients, **net.state_dict()}
    fill_arena(net, IMAGES, training=False)
    results["inference"] = net.forward(images)
    return results


def splits_a_line(graph):
    """Tell whether the line of a concatenation's gradient goes to those of its terms, and so is added in other sums."""
    return bool(lay_out(graph, IMAGES, True, np.dtype(np.float64))[0].lines.split)


def assert_sharing_changes_nothing(build):
    """Not a bit; where a line is split, only rounding."""
    net = make_network(build)
    shared = run(net)
    with unshared():
        apart = run(make_unshared_network(build))
    if splits_a_line(net.graph):
        assert_close(apart, shared, 1e-11, floor=1e-3)
    else:
        assert_equal(apart, shared)
    assert all(np.isfinite(array).all() for array in shared.values())


def assert_passes_change_only_roundings(build):
    # The floor: before a batch norm, a bias has a gradient that is nothing but rounding errors.
    assert_close(run(make_network(build)), run(make_network(build, passes=())), 1e-9, floor=1e-3)


def assert_gradient_is_the_derivative(build):
    """Compare <gradient, d> with a central difference along a random direction d of all parameters.

    The step is short, for the loss has a kink at each ReLU: one between the two points spoils the difference.
    """
    net = make_network(build)
    randomize(net)
    images, labels = make_batch(net, IMAGES)
    run_step(net, images, labels)
    weights, gradient = net.parameter_arena.copy(), net.gradient_arena.copy()
    direction = np.random.default_rng(1).standard_normal(weights.size) * (weights != 0)
    step, losses = 1e-8, []
    for sign in (1, -1):
        net.parameter_arena[:] = weights + sign * step * direction
        net.random_step = 0
        losses.append(run_step(net, images, labels)[0])
    slope = (losses[0] - losses[1]) / (2 * step)
    # A loss of order 1 is right to about 1e-15, which the step makes 1e-7.
    size = np.linalg.norm(gradient) + 1
    assert abs(slope - gradient @ direction) <= 1e-6 * size


@settings(max_examples=300)
@given(build=builders())
def test_sharing_memory_changes_nothing(build):
    assert_sharing_changes_nothing(build)


@settings(max_examples=300)
@given(build=builders())
def test_passes_change_only_roundings(build):
    assert_passes_change_only_roundings(build)


@settings(max_examples=300)
@given(build=builders())
def test_gradient_is_the_derivative(build):
    assert_gradient_is_the_derivative(build)


@pytest.mark.parametrize("build", DELICATE)
def test_delicate_graph(build):
    assert_sharing_changes_nothing(build)
    assert_gradient_is_the_derivative(build)
    assert_passes_change_only_roundings(build)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "resnet18"])
def test_whole_networks_in_little_memory(name, training):
    """No two values that live at once share a byte, and the arena is hardly larger than what lives at once."""
    layout, arena_bytes = rewrite_and_lay_out(build_graph(name), 32, training)
    assert find_overlaps(layout.values) == []
    assert arena_bytes <= 1.05 * find_lower_bound(layout.values)


@pytest.mark.parametrize(
    ("name", "tensors", "limit"), [("vgg16", 2, 70.2e6), ("vgg16_bn", 2, 70.2e6), ("resnet18", 3, 105e6)]
)
def test_inference_keeps_nothing_for_backward(name, tensors, limit):
    """At once it needs a convolution's input and output, and a shortcut if there is one; scratch is small."""
    net = create_model(name)
    largest = 128 * 4 * max(node.output.extent.size for node in net.graph.nodes)
    assert tensors * largest <= net.arena_bytes(128, training=False) <= limit


def test_memory_grows_with_the_batch():
    net = create_model("resnet18")
    sizes = [net.arena_bytes(images, training=True) for images in (1, 2, 8, 64)]
    assert sizes == sorted(set(sizes))
    # The scratch of the weights does not grow.
    assert 10 * sizes[0] < sizes[3] < 64 * sizes[0]


def test_lines_of_a_dense_block_add_up():
    """Each tensor's is added where its node begins backward, those of the concatenations with their terms'.

    The 3x3 convolutions are too narrow for Winograd's algorithm, so that the lines are those of the first batch norms.
    """
    layout, _ = rewrite_and_lay_out(dense_block(), IMAGES)
    names = [node.name for node in layout.graph.nodes]
    added = {names[k] for k in layout.lines.added}
    assert added == {"stem", "conv0.2", "conv1.2"}
    accumulating = {names[k] for k in layout.accumulate_line}
    assert accumulating == {"norm0.1", "norm1.1"}  # after that of the layers behind


def test_dense_block_grows_in_one_buffer():
    """Concatenations, their terms and all their gradients are slices: nothing is copied."""
    layout, _ = rewrite_and_lay_out(dense_block(), IMAGES)
    for places in (layout.sharing.places, layout.gradients):
        terms = [places[x] for node in layout.graph.nodes if node.operator.concatenates for x in node.inputs]
        assert len({memory for memory, _, _ in terms}) == 1
        # From the first channel on: the stem's 8, then 3 more a layer.
        assert [(channel, ld) for _, channel, ld in terms] == [(c, 17) for c in (0, 8, 0, 11, 0, 14)]


def test_a_batch_is_planned_once(monkeypatch):
    made = []
    monkeypatch.setattr(plans, "Plan", lambda *arguments: made.append(arguments[1:3]) or Plan(*arguments))
    net = create_model("lenet5", memory="fast")
    sizes = [net.arena_bytes(4, training, memory) for training in (True, False) for memory in (None, "fast", "lean")]
    assert made == [(4, True), (4, True), (4, False)]
    assert len(set(sizes[3:])) == 1
    net.forward(np.zeros((4, 1, 28, 28), np.float32), training=True)
    assert len(made) == 3


@pytest.mark.parametrize("training", [True, False])
def test_bytes_of_an_unknown_choice_of_memory_are_refused(training):
    with pytest.raises(ConfigError, match=r"memory: expected one of fast, lean, got 'leen'.*lean"):
        create_model("lenet5").arena_bytes(4, training, "leen")


def test_larger_arena_frees_the_smaller_one():
    net = make_network(dense_block)
    net.forward(make_batch(net, 2)[0], training=True)
    net.forward(make_batch(net, 1)[0])
    old = weakref.ref(net._plans.arena)
    net.forward(make_batch(net, 50)[0], training=True)
    gc.collect()
    assert old() is None
    assert net._plans.arena.size == net.arena_bytes(50, training=True)
    # Smaller batches use the larger arena from then on.
    arena = net._plans.arena
    net.forward(make_batch(net, 2)[0], training=True)
    assert net._plans.arena is arena


def test_interrupt_while_memory_is_bound(monkeypatch):
    net = create_model("resnet18", image_shape=(3, 8, 8))
    bind = Plan._context

    def interrupted(plan, k, node, owned):
        if k == 5:
            raise KeyboardInterrupt
        return bind(plan, k, node, owned)

    images = make_batch(net, 2)[0]
    with monkeypatch.context() as patch:
        patch.setattr(Plan, "_context", interrupted)
        with pytest.raises(KeyboardInterrupt):
            net.forward(images)
    fresh = create_model("resnet18", image_shape=(3, 8, 8))
    np.testing.assert_array_equal(net.forward(images), fresh.forward(images))


def test_arrays_begin_at_cache_lines():
    net = create_model("resnet18")
    net.forward(make_batch(net, 2)[0])
    starts = [array.ctypes.data for array in (net._plans.arena, net.parameter_arena, net.gradient_arena)]
    assert [start % 64 for start in starts] == [0, 0, 0]
    segments = net.parameter_segments()
    assert all(start * net.dtype.itemsize % 64 == 0 for _, start, _, _ in segments)
    assert all(stop <= start for (_, _, stop, _), (_, start, _, _) in itertools.pairwise(segments))
