"""Loss and accuracy over uneven batches."""

import numpy as np
import pytest

from cnnzoo.data import Batches, Split
from cnnzoo.training.metrics import Tally, evaluate
from tests.training.stand_ins import LinearNetwork


def test_tally_weighs_by_images():
    tally = Tally()
    tally.add(1.0, np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), np.array([1, 1, 1]))
    tally.add(5.0, np.array([[2.0, 1.0]]), np.array([0]))
    assert (tally.metrics.loss, tally.metrics.accuracy, tally.metrics.images) == (2.0, 0.75, 4)


def test_evaluate_covers_each_image_once_in_inference_mode():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 23)
    split = Split(images=rng.integers(0, 256, (23, 3, 4, 4), dtype=np.uint8), labels=labels)
    net = LinearNetwork(10, (3, 4, 4), "float64")
    batches = Batches(split, 11, mean=(0, 0, 0), std=(1, 1, 1), shuffle=False, dtype="float64")
    seen = []
    metrics = evaluate(net, batches, lambda tally: seen.append(tally.images))
    assert seen == [11, 22, 23]
    assert net.training_flags == [False] * 3
    logits = net.forward(split.images / 255.0)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(23), labels]
    assert metrics.loss == pytest.approx(losses.mean(), rel=1e-12)
    assert metrics.accuracy == np.mean(logits.argmax(axis=1) == labels)
    assert metrics.images == 23
