"""Softmax cross-entropy against its definition, PyTorch, and bad input."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnzoo.errors import ConfigError, ModelError
from cnnzoo.kernels.cross_entropy import cross_entropy, cross_entropy_loss
from tests import reference
from tests.gradients import numerical_gradient
from tests.kernels.pixel_matrix import seeds

smoothings = st.sampled_from([0.0, 0.1, 1.0])


def drawn(images, classes, seed):
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal((images, classes)), rng.integers(0, classes, images)


@given(images=st.integers(1, 20), classes=st.integers(1, 50), smoothing=smoothings, seed=seeds)
def test_loss_is_the_definition(images, classes, smoothing, seed):
    logits, labels = drawn(images, classes, seed)
    loss, dlogits = cross_entropy(logits, labels, smoothing)
    assert isinstance(loss, float)
    assert cross_entropy_loss(logits, labels, smoothing) == loss
    assert loss == pytest.approx(reference.cross_entropy(logits, labels, smoothing), rel=1e-12, abs=1e-14)
    # Softmax and target both sum to 1.
    np.testing.assert_allclose(dlogits.sum(axis=1), 0, rtol=0, atol=1e-15)


@settings(max_examples=30)
@given(images=st.integers(1, 4), classes=st.integers(1, 8), smoothing=smoothings, seed=seeds)
def test_gradient_by_central_differences(images, classes, smoothing, seed):
    logits, labels = drawn(images, classes, seed)
    _, dlogits = cross_entropy(logits, labels, smoothing)
    numerical = numerical_gradient(lambda: cross_entropy(logits, labels, smoothing)[0], logits)
    np.testing.assert_allclose(dlogits, numerical, rtol=0, atol=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_pytorch(smoothing):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    logits, labels = drawn(32, 10, 0)
    given_logits = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(given_logits, torch.tensor(labels), label_smoothing=smoothing)
    expected.backward()
    loss, dlogits = cross_entropy(logits, labels, smoothing)
    assert loss == pytest.approx(expected.item(), rel=1e-14)
    np.testing.assert_allclose(dlogits, given_logits.grad.numpy(), rtol=0, atol=1e-16)


@given(images=st.integers(1, 20), classes=st.integers(1, 50), smoothing=smoothings, seed=seeds)
def test_certain_probabilities_are_labels(images, classes, smoothing, seed):
    logits, labels = drawn(images, classes, seed)
    loss, dlogits = cross_entropy(logits, labels, smoothing)
    soft_loss, soft_dlogits = cross_entropy(logits, np.eye(classes)[labels], smoothing)
    assert soft_loss == loss
    np.testing.assert_array_equal(soft_dlogits, dlogits)


@settings(max_examples=30)
@given(images=st.integers(1, 4), classes=st.integers(1, 8), smoothing=smoothings, seed=seeds)
def test_gradient_of_probabilities_by_central_differences(images, classes, smoothing, seed):
    logits, _ = drawn(images, classes, seed)
    targets = np.random.default_rng(seed).dirichlet(np.ones(classes), images)
    _, dlogits = cross_entropy(logits, targets, smoothing)
    numerical = numerical_gradient(lambda: cross_entropy(logits, targets, smoothing)[0], logits)
    np.testing.assert_allclose(dlogits, numerical, rtol=0, atol=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_probabilities_equal_pytorch(smoothing):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    logits, _ = drawn(32, 10, 0)
    targets = np.random.default_rng(1).dirichlet(np.ones(10), 32)
    given_logits = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(given_logits, torch.tensor(targets), label_smoothing=smoothing)
    expected.backward()
    loss, dlogits = cross_entropy(logits, targets, smoothing)
    assert loss == pytest.approx(expected.item(), rel=1e-14)
    np.testing.assert_allclose(dlogits, given_logits.grad.numpy(), rtol=0, atol=1e-16)


@pytest.mark.parametrize("row", [[0.5, 0.6], [1.5, -0.5], [0.0, 0.0], [math.nan, 1.0]])
def test_probabilities_that_are_none(row):
    with pytest.raises(ModelError, match="expected probabilities that add up to 1"):
        cross_entropy(np.zeros((1, 2)), np.array([row]))


def test_float32_is_rounded_once():
    logits, labels = drawn(32, 10, 1)
    logits = logits.astype(np.float32)
    loss, dlogits = cross_entropy(logits, labels)
    wide_loss, wide_dlogits = cross_entropy(logits.astype(np.float64), labels)
    assert loss == wide_loss
    assert dlogits.dtype == np.float32
    np.testing.assert_array_equal(dlogits, wide_dlogits.astype(np.float32))


def test_large_logits_do_not_overflow():
    loss, dlogits = cross_entropy(np.array([[1e4, -1e4, 0.0]]), np.array([1]))
    assert loss == 2e4
    np.testing.assert_array_equal(dlogits, [[1.0, -1.0, 0.0]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_diverged_logits_give_a_nan_loss(value):
    logits = np.zeros((3, 4), np.float32)
    logits[1, 2] = value
    loss, dlogits = cross_entropy(logits, np.zeros(3, np.int64))
    assert math.isnan(loss)
    assert np.isnan(dlogits[1]).any()
    assert np.isfinite(dlogits[[0, 2]]).all()


LOGITS, LABELS = np.zeros((3, 4)), np.array([0, 3, 1])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (LOGITS[0], LABELS, r"logits: expected .* \[N, classes\], got float64 \[4\]"),
        (LOGITS[:0], LABELS[:0], r"logits: expected .* got float64 \[0, 4\]"),
        (LOGITS.astype(int), LABELS, r"logits: expected float32 or float64 .* got int64 \[3, 4\]"),
        (LOGITS, LABELS[:2], r"labels: expected 3 integers, got int64 \[2\]"),
        (LOGITS, LABELS.astype(float), r"labels: expected 3 integers, got float64 \[3\]"),
        (LOGITS, np.zeros((3, 5)), r"labels: expected probabilities \[3, 4\], got float64 \[3, 5\]"),
        (LOGITS, np.array([0, 4, 1]), "labels: expected values from 0 to 3, got 0 to 4"),
        (LOGITS, np.array([0, -1, 1]), "labels: expected values from 0 to 3, got -1 to 1"),
    ],
)
def test_misshapen_input_is_refused(logits, labels, message):
    with pytest.raises(ModelError, match=message):
        cross_entropy(logits, labels)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, math.nan])
def test_label_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(ConfigError, match="label_smoothing: expected a value from 0 to 1, got"):
        cross_entropy(LOGITS, LABELS, smoothing)
