"""The ledger: a row for each node and pass, its work counted, its time the median."""

import numpy as np
import pytest

from cnnzoo.graph.ledger import Ledger, Work
from cnnzoo.models import create_model
from tests.graph import random_graphs
from tests.graph.steps import make_batch, run_step

IMAGES = 2


@pytest.fixture(scope="module")
def ledgers():
    """Return the ledgers of two steps of two networks, the second step with a smaller batch."""
    found = {}
    for name in ("lenet5", "densenet121"):
        net = create_model(name, seed=0, image_shape=(3, 32, 32))
        net.ledger = found[name] = Ledger()
        for images in (IMAGES, IMAGES, 1 + (name == "densenet121")):
            logits = net.forward(np.ones((images, 3, 32, 32), np.float32), training=True)
            net.backward(np.ones_like(logits))
        net.forward(np.ones((7, 3, 32, 32), np.float32))  # in inference: not counted
    return found


def _no_limits(operations, moved):
    return 0.0


def test_a_row_for_each_node_and_pass(ledgers):
    rows = ledgers["lenet5"].rows(_no_limits)
    works = [(row.work.name, row.work.direction) for row in rows]
    assert len(works) == len(set(works))
    layers = {row.work.name for row in rows if row.work.direction == "forward"}
    assert layers >= {"conv1", "conv2", "fc1", "fc2", "fc3"}
    assert layers == {row.work.name for row in rows if row.work.direction == "backward"}
    assert all(row.seconds > 0 for row in rows)
    assert [row.seconds for row in rows] == sorted((row.seconds for row in rows), reverse=True)


def test_work_of_a_convolution(ledgers):
    """conv2 of LeNet-5: 16 maps of 5x5x6; on 32x32 images 16x16 pixels come in and 12x12 go out."""
    rows = {(row.work.name, row.work.direction): row.work for row in ledgers["lenet5"].rows(_no_limits)}
    operations = 2 * IMAGES * 12 * 12 * 16 * 5 * 5 * 6
    x, y, w = IMAGES * 16 * 16 * 6 * 4, IMAGES * 12 * 12 * 16 * 4, (5 * 5 * 6 * 16 + 16) * 4
    forward, backward = rows["conv2", "forward"], rows["conv2", "backward"]
    assert (forward.operations, forward.moved) == (operations, x + y + w)
    # Two products; read: dy, x, w; written: dx, dw.
    assert (backward.operations, backward.moved) == (2 * operations, x + y + w + x + w)
    # The images need no gradient.
    assert rows["conv1", "backward"].operations == rows["conv1", "forward"].operations


def test_what_a_layer_with_a_relu_moves(ledgers):
    """fc1 of LeNet-5: 6x6x16 values in, 120 out. Backward masks dy by y first: read, read and written."""
    rows = {(row.work.name, row.work.direction): row.work for row in ledgers["lenet5"].rows(_no_limits)}
    x, y, w = IMAGES * 576 * 4, IMAGES * 120 * 4, (576 * 120 + 120) * 4
    assert rows["fc1", "forward"].kind.startswith("Linear+ReLU")
    assert rows["fc1", "forward"].moved == x + y + w
    assert rows["fc1", "backward"].moved == (y + y + y) + y + x + x + w + w


def test_what_a_convolution_moves_whose_gradient_came_masked():
    """Read: dy, x, w and the sums of the bias's gradient; written: dx and dw. The output is not read again."""
    net = random_graphs.make_network(random_graphs.convolutions_before_convolutions, dtype="float32")
    net.ledger = Ledger()
    run_step(net, *make_batch(net, IMAGES))
    rows = {(row.work.name, row.work.direction): row.work for row in net.ledger.rows(_no_limits)}
    pixels = next(node.output.extent.pixels for node in net.graph.nodes if node.name == "wide")
    x = y = IMAGES * pixels * 16 * 4
    w, sums = (3 * 3 * 16 * 16 + 16) * 4, 2 * 16 * 8
    assert rows["wide", "backward"].kind.startswith("Convolution+ReLU")
    assert rows["wide", "backward"].moved == y + x + w + sums + x + w


def test_concatenation_in_place_moves_nothing(ledgers):
    works = [row.work for row in ledgers["densenet121"].rows(_no_limits)]
    concatenations = [work for work in works if work.kind.startswith("Concatenation") and work.direction == "forward"]
    assert concatenations
    assert all(work.moved == 0 for work in concatenations)


def test_median_of_the_usual_batch_and_share_of_the_limit():
    ledger = Ledger()
    usual, smaller = (Work("conv", "Convolution", "forward", n, 2 * n) for n in (100, 10))
    for seconds in (5.0, 1.0, 3.0):
        ledger.record(usual, seconds)
    ledger.record(smaller, 0.1)
    (row,) = ledger.rows(lambda operations, moved: operations / 100 + moved / 400)
    assert row.work == usual
    assert row.seconds == 3
    assert row.share == pytest.approx(0.5)
    ledger.clear()
    assert ledger.rows(_no_limits) == []
