"""Mean-squared error against its definition, PyTorch, and bad input."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnzoo.errors import ModelError
from cnnzoo.kernels.mean_squared_error import mean_squared_error
from tests.gradients import numerical_gradient
from tests.kernels.pixel_matrix import seeds

extents = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)


@given(extent=extents, seed=seeds)
def test_loss_is_the_definition(extent, seed):
    outputs, targets = np.random.default_rng(seed).standard_normal((2, *extent))
    loss, doutputs = mean_squared_error(outputs, targets)
    assert isinstance(loss, float)
    squares = [(o - t) ** 2 for o, t in zip(outputs.ravel(), targets.ravel(), strict=True)]
    assert loss == pytest.approx(math.fsum(squares) / len(squares), rel=1e-14)
    assert doutputs.shape == extent


@settings(max_examples=30)
@given(extent=extents, seed=seeds)
def test_gradient_by_central_differences(extent, seed):
    outputs, targets = np.random.default_rng(seed).standard_normal((2, *extent))
    _, doutputs = mean_squared_error(outputs, targets)
    # A difference of a quadratic function has no error but rounding.
    numerical = numerical_gradient(lambda: mean_squared_error(outputs, targets)[0], outputs)
    np.testing.assert_allclose(doutputs, numerical, rtol=0, atol=1e-9)


def test_equals_pytorch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    outputs, targets = np.random.default_rng(0).standard_normal((2, 32, 10))
    given_outputs = torch.tensor(outputs, requires_grad=True)
    expected = torch.nn.functional.mse_loss(given_outputs, torch.tensor(targets))
    expected.backward()
    loss, doutputs = mean_squared_error(outputs, targets)
    assert loss == pytest.approx(expected.item(), rel=1e-14)
    np.testing.assert_allclose(doutputs, given_outputs.grad.numpy(), rtol=0, atol=1e-16)


def test_float32_is_rounded_once():
    outputs, targets = np.random.default_rng(1).standard_normal((2, 32, 10)).astype(np.float32)
    loss, doutputs = mean_squared_error(outputs, targets)
    wide_loss, wide_doutputs = mean_squared_error(outputs.astype(np.float64), targets)
    assert loss == wide_loss
    np.testing.assert_array_equal(doutputs, wide_doutputs.astype(np.float32), strict=True)


def test_integer_targets():
    loss, doutputs = mean_squared_error(np.array([1.0, 2.0, 4.0]), np.array([1, 0, 1]))
    assert loss == pytest.approx(13 / 3)
    np.testing.assert_allclose(doutputs, [0, 4 / 3, 2])


def test_nan_is_seen():
    loss, doutputs = mean_squared_error(np.array([np.nan, 1.0, np.inf]), np.array([0.0, 1.0, np.inf]))
    assert math.isnan(loss)
    np.testing.assert_array_equal(doutputs, [np.nan, 0, np.nan])


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (np.zeros(3, np.int64), np.zeros(3), "outputs: expected float32 or float64, not empty, got int64 [3]"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "outputs: expected float32 or float64, not empty, got float64 [0, 3]"),
        (np.zeros((2, 3)), np.zeros(3), "targets: expected real numbers [2, 3], got float64 [3]"),
        (np.zeros(2), np.array(["a", "b"]), "targets: expected real numbers [2], got <U1 [2]"),
    ],
)
def test_bad_input(outputs, targets, message):
    with pytest.raises(ModelError) as caught:
        mean_squared_error(outputs, targets)
    assert str(caught.value) == message
