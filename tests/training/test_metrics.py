"""Metrics over uneven batches, and the interval of an accuracy."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.data import Batches, Split
from cnnzoo.training.metrics import Metrics, Mistake, Tally, evaluate, wilson_interval
from tests.training.stand_ins import LinearNetwork


def test_tally_weighs_by_images():
    tally = Tally(2)
    tally.add(1.0, np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), np.array([1, 1, 1]))
    tally.add(5.0, np.array([[2.0, 1.0]]), np.array([0]))
    metrics = tally.metrics
    assert (metrics.loss, metrics.accuracy, metrics.images) == (2.0, 0.75, 4)
    np.testing.assert_array_equal(metrics.confusion, [[1, 0], [1, 2]])
    assert metrics.class_accuracies == [1.0, 2 / 3]


def test_class_without_images_has_no_accuracy():
    metrics = Metrics(loss=0.0, confusion=np.array([[3, 1, 0], [0, 0, 0], [0, 0, 2]]), top5_accuracy=1.0)
    assert metrics.class_accuracies == [0.75, None, 1.0]


def test_top5_is_the_place_among_the_logits():
    logits = np.tile(np.arange(8.0), (8, 1))  # class 7 first, class 0 last
    tally = Tally(8)
    tally.add(0.0, logits, np.arange(8))
    assert (tally.metrics.accuracy, tally.metrics.top5_accuracy) == (1 / 8, 5 / 8)


def test_first_of_equal_logits_counts():
    tally = Tally(7)
    tally.add(0.0, np.zeros((7, 7)), np.arange(7))
    assert (tally.metrics.accuracy, tally.metrics.top5_accuracy) == (1 / 7, 5 / 7)
    np.testing.assert_array_equal(tally.metrics.confusion[:, 0], np.ones(7))


def test_of_mixed_labels_the_larger_share_counts():
    tally = Tally(3)
    tally.add(1.0, np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), np.array([[0.4, 0.6, 0.0], [0.7, 0.0, 0.3]]))
    np.testing.assert_array_equal(tally.metrics.confusion, [[0, 0, 1], [0, 1, 0], [0, 0, 0]])


def test_metrics_as_json():
    mistake = Mistake(index=7, label=1, predicted=0, probability=0.75)
    confusion = np.array([[45, 5], [7, 43]])
    metrics = Metrics(loss=0.5, confusion=confusion, top5_accuracy=1.0, mistakes=(mistake,))
    plain = json.loads(json.dumps(metrics.to_dict(("cat", "dog"))))
    low, high = wilson_interval(88, 100)
    assert plain == {
        "images": 100,
        "loss": 0.5,
        "accuracy": 0.88,
        "accuracy_interval": {"method": "Wilson score", "level": 0.95, "low": low, "high": high},
        "top5_accuracy": 1.0,
        "classes": [
            {"name": "cat", "images": 50, "accuracy": 0.9},
            {"name": "dog", "images": 50, "accuracy": 0.86},
        ],
        "confusion": [[45, 5], [7, 43]],
        "worst_mistakes": [{"index": 7, "class": "dog", "taken_for": "cat", "probability": 0.75}],
    }


@given(trials=st.integers(1, 100_000), share=st.floats(0, 1))
def test_wilson_interval_ends_where_the_score_test_does(trials, share):
    hits = round(share * trials)
    low, high = wilson_interval(hits, trials)
    assert 0 <= low <= hits / trials <= high <= 1
    for end, extreme in ((low, hits == 0), (high, hits == trials)):
        if extreme:
            assert end == hits / trials
        else:
            # A proportion p is within when |hits/trials - p| <= z sqrt(p (1 - p) / trials).
            z = abs(hits / trials - end) / math.sqrt(end * (1 - end) / trials)
            assert z == pytest.approx(1.959963984540054, rel=1e-6)


def test_wilson_interval_of_a_known_case():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I: 81 of 263.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


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


def test_worst_mistakes_are_those_of_the_highest_probability():
    rng = np.random.default_rng(0)
    split = Split(images=rng.integers(0, 256, (200, 3, 4, 4), dtype=np.uint8), labels=rng.integers(0, 10, 200))
    net = LinearNetwork(10, (3, 4, 4), "float64")
    chosen = np.arange(1, 200, 2)
    batches = Batches(split, 30, indices=chosen, mean=(0,) * 3, std=(0.01,) * 3, shuffle=False, dtype="float64")
    mistakes = evaluate(net, batches).mistakes
    logits = net.forward(split.images[chosen] / 2.55)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted, labels = logits.argmax(axis=1), split.labels[chosen]
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][:24]
    assert [m.index for m in mistakes] == chosen[worst].tolist()
    assert [(m.label, m.predicted) for m in mistakes] == list(zip(labels[worst], predicted[worst], strict=True))
    np.testing.assert_allclose([m.probability for m in mistakes], probabilities[worst, predicted[worst]], rtol=1e-12)
