"""SGD against PyTorch's, and the sources' form against the formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.kernels.blocks import BLOCK_ELEMENTS
from cnnzoo.kernels.sgd import sgd_update
from tests.gradients import assert_within, rounding
from tests.kernels.pixel_matrix import seeds

# The rate rises, falls and stands still.
RATES = [0.1, 0.1, 0.05, 0.2, 0.002, 0.002]
# (momentum, weight decay, Nesterov)
SETTINGS = [(0.0, 0.0, False), (0.9, 0.0, False), (0.9, 5e-4, False), (0.9, 5e-4, True), (0.5, 0.1, True)]

lengths = st.sampled_from([1, 7, 100, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS + 17])


def update(w, dw, velocity, lr, momentum, weight_decay, nesterov=False, sources_form=False):
    """Update with one weight decay for all and gradients as they are."""
    bounds, weight_decays = np.array([0, w.size]), np.array([weight_decay])
    sgd_update(w, dw, velocity, bounds, weight_decays, 1.0, lr, momentum, nesterov, sources_form)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_equal_pytorchs(setting, dtype):
    """Over a changing rate, PyTorch's first step among them; a few roundings a step apart."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    momentum, weight_decay, nesterov = setting
    rng = np.random.default_rng(0)
    w = rng.standard_normal(BLOCK_ELEMENTS + 100).astype(dtype)
    parameter = torch.nn.Parameter(torch.tensor(w))
    options = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    optimizer = torch.optim.SGD([parameter], lr=RATES[0], **options)
    velocity = np.zeros_like(w)
    for lr in RATES:
        dw = rng.standard_normal(w.size).astype(dtype)
        update(w, dw, velocity, lr, momentum, weight_decay, nesterov)
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = torch.tensor(dw)
        optimizer.step()
    # Six steps of some eight roundings each, on values below 10.
    np.testing.assert_allclose(w, parameter.detach().numpy(), rtol=0, atol=10 * rounding(50, dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sources_form", [False, True])
@given(
    length=lengths,
    seed=seeds,
    lr=st.floats(0, 1),
    momentum=st.floats(0, 0.99),
    weight_decay=st.floats(0, 0.1),
    nesterov=st.booleans(),
)
def test_one_step_is_the_formula(dtype, sources_form, length, seed, lr, momentum, weight_decay, nesterov):
    """Each scalar is rounded to the element type, and at most ten operations follow one another."""
    w, dw, velocity = np.random.default_rng(seed).standard_normal((3, length)).astype(dtype)
    g = dw + weight_decay * w.astype(np.float64)
    if sources_form:
        v = momentum * velocity - lr * g
        step = momentum * v - lr * g if nesterov else v
    else:
        v = momentum * velocity + g
        step = -lr * (g + momentum * v) if nesterov else -lr * v
    size = np.abs(w) + np.abs(velocity) + 2 * (np.abs(dw) + np.abs(w))
    expected = w + step
    update(w, dw, velocity, lr, momentum, weight_decay, nesterov, sources_form)
    assert_within(velocity, v, rounding(14, dtype) * size)
    assert_within(w, expected, rounding(14, dtype) * 2 * size)


def test_forms_agree_until_the_rate_changes():
    rng = np.random.default_rng(1)
    start, gradients = rng.standard_normal(50), rng.standard_normal((4, 50))
    weights = []
    for sources_form in (False, True):
        w, velocity = start.copy(), np.zeros(50)
        for dw in gradients[:3]:
            update(w, dw, velocity, 0.1, 0.9, 0.0, sources_form=sources_form)
        before = w.copy()
        update(w, gradients[3], velocity, 0.01, 0.9, 0.0, sources_form=sources_form)
        weights.append((before, w))
    (pytorch_before, pytorch_after), (sources_before, sources_after) = weights
    np.testing.assert_allclose(pytorch_before, sources_before, rtol=0, atol=1e-14)
    # The sources' velocity keeps the old rate: 0.9 of the last step goes on in full, PyTorch's at a tenth.
    velocity = (gradients[0] * 0.9 + gradients[1]) * 0.9 + gradients[2]
    np.testing.assert_allclose(sources_after - pytorch_after, -0.9 * (0.1 - 0.01) * velocity, rtol=0, atol=1e-14)


def test_nan_gradient_reaches_its_weight_only():
    w, dw, velocity = np.ones(40), np.ones(40), np.zeros(40)
    dw[13] = np.nan
    update(w, dw, velocity, 0.1, 0.9, 0.0)
    np.testing.assert_array_equal(np.isnan(w), np.arange(40) == 13)


@pytest.mark.parametrize("sources_form", [False, True])
def test_segments_have_their_own_weight_decay(sources_form):
    """Bounds within blocks, at a block's end, and a segment longer than a block."""
    bounds = np.array([0, 5, BLOCK_ELEMENTS, BLOCK_ELEMENTS + 40, 3 * BLOCK_ELEMENTS + 11])
    weight_decays = np.array([0.0, 0.1, 0.0, 0.01])
    w, dw, velocity = np.random.default_rng(2).standard_normal((3, bounds[-1]))
    expected = [array.copy() for array in (w, velocity)]
    for first, last, weight_decay in zip(bounds[:-1], bounds[1:], weight_decays, strict=True):
        part, v = (array[first:last] for array in expected)
        update(part, dw[first:last].copy(), v, 0.1, 0.9, weight_decay, sources_form=sources_form)
    sgd_update(w, dw, velocity, bounds, weight_decays, 1.0, 0.1, 0.9, False, sources_form)
    np.testing.assert_array_equal(w, expected[0])
    np.testing.assert_array_equal(velocity, expected[1])


def test_scale_multiplies_the_gradient():
    w, dw, velocity = np.random.default_rng(3).standard_normal((3, 1000))
    expected, v = w.copy(), velocity.copy()
    update(expected, 0.25 * dw, v, 0.1, 0.9, 0.01)
    sgd_update(w, dw, velocity, np.array([0, 1000]), np.array([0.01]), 0.25, 0.1, 0.9, False, False)
    np.testing.assert_array_equal(w, expected)
