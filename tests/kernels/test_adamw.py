"""AdamW against PyTorch's, its weight decay by segments, and NaN."""

import numpy as np
import pytest

from cnnzoo.kernels.adamw import adamw_update
from cnnzoo.kernels.blocks import BLOCK_ELEMENTS
from tests.gradients import rounding

RATES = [1e-3, 1e-3, 5e-4, 1e-2, 1e-4, 1e-4, 0.0, 1e-3]
SIZE = BLOCK_ELEMENTS + 100


def run(w, gradients, bounds, weight_decays, scale=1.0, betas=(0.9, 0.999), epsilon=1e-8):
    """Take a step with each gradient, at its rate of `RATES`, from running means of zeros."""
    mean, square = np.zeros_like(w), np.zeros_like(w)
    for step, (lr, dw) in enumerate(zip(RATES, gradients, strict=False), start=1):
        adamw_update(w, dw, mean, square, bounds, weight_decays, scale, lr, *betas, epsilon, step)


@pytest.mark.parametrize(
    ("betas", "epsilon", "weight_decay"),
    [((0.9, 0.999), 1e-8, 0.0), ((0.9, 0.999), 1e-8, 0.01), ((0.0, 0.9), 1e-3, 0.1), ((0.8, 0.0), 1e-6, 0.5)],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_equal_pytorchs(betas, epsilon, weight_decay, dtype):
    """Over a changing rate, from the first step on; a few roundings a step apart."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    rng = np.random.default_rng(0)
    w = rng.standard_normal(SIZE).astype(dtype)
    parameter = torch.nn.Parameter(torch.tensor(w))
    options = {"betas": betas, "eps": epsilon, "weight_decay": weight_decay}
    optimizer = torch.optim.AdamW([parameter], lr=1.0, **options)
    gradients = rng.standard_normal((len(RATES), SIZE)).astype(dtype)
    for lr, dw in zip(RATES, gradients, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = torch.tensor(dw)
        optimizer.step()
    start = w.copy()
    run(w, gradients, np.array([0, SIZE]), np.array([weight_decay]), betas=betas, epsilon=epsilon)
    assert np.abs(w - start).max() > 1e-3
    # Eight steps of some twelve roundings each, on weights below 5 and quotients of a few.
    np.testing.assert_allclose(w, parameter.detach().numpy(), rtol=0, atol=5 * rounding(100, dtype))


def test_segments_have_their_own_weight_decay():
    bounds = np.array([0, 5, BLOCK_ELEMENTS, BLOCK_ELEMENTS + 40, 2 * BLOCK_ELEMENTS + 11])
    weight_decays = np.array([0.0, 0.1, 0.0, 0.5])
    rng = np.random.default_rng(1)
    w, gradients = rng.standard_normal(bounds[-1]), rng.standard_normal((3, bounds[-1]))
    expected = w.copy()
    for first, last, weight_decay in zip(bounds[:-1], bounds[1:], weight_decays, strict=True):
        alone = np.ascontiguousarray(gradients[:, first:last])
        run(expected[first:last], alone, np.array([0, last - first]), np.array([weight_decay]))
    run(w, gradients, bounds, weight_decays)
    np.testing.assert_array_equal(w, expected)


def test_scale_multiplies_the_gradient():
    rng = np.random.default_rng(2)
    w, gradients = rng.standard_normal(1000), rng.standard_normal((3, 1000))
    expected, whole = w.copy(), (np.array([0, 1000]), np.array([0.01]))
    run(expected, 0.25 * gradients, *whole)
    run(w, gradients, *whole, scale=0.25)
    np.testing.assert_array_equal(w, expected)


def test_nan_gradient_reaches_its_weight_only():
    w, dw = np.ones(40), np.ones((1, 40))
    dw[0, 13] = np.nan
    run(w, dw, np.array([0, 40]), np.array([0.0]))
    np.testing.assert_array_equal(np.isnan(w), np.arange(40) == 13)
