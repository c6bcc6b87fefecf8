"""Batch norm: each kernel within rounding bounds, the whole against its definition, differences and PyTorch."""

import itertools

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnzoo.kernels.batch_norm import (
    add_line,
    batch_norm_backward,
    batch_norm_backward_finish,
    batch_norm_backward_sums,
    batch_norm_inference,
    find_line,
    merge_gradient_sums,
    normalize_forward,
)
from cnnzoo.kernels.blocks import block_count, block_rows
from tests import reference
from tests.gradients import assert_within, numerical_gradient, rounding
from tests.kernels.batch_norm_layer import EPS, Layer, drawn, finished, gradient_bound, statistics
from tests.kernels.pixel_matrix import PixelMatrix, empty, margins, seeds

DTYPES = [np.float32, np.float64]
VARIANTS = list(itertools.product([False, True], repeat=2))
# Tiny batches, channel counts next to vector widths, several blocks.
SHAPES = [(1, 5), (2, 3), (3, 17), (50, 64), (600, 67), (6000, 3)]

rows_and_channels = st.tuples(st.integers(1, 40), st.integers(1, 40))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("shape", SHAPES)
def test_block_statistics(dtype, offset, shape):
    """The mean takes n roundings: it is off by at most d = gamma_n mean|x|. Then M2 grows by n d^2, and rounds itself.

    At offset 1e4 the squares' difference E[x^2] - E[x]^2 would be off by 6 in float32, where the variance is 1.
    """
    x = PixelMatrix(drawn(shape, 0, offset).x, (1, 2), dtype)
    for rows_per_block in (block_rows(shape[1]), 7):
        partials = statistics(x, rows_per_block)
        for k, (mean, m2) in enumerate(partials):
            block = x.values[k * rows_per_block : (k + 1) * rows_per_block].astype(np.float64)
            n = len(block)
            mean_bound = (rounding(n + 1, dtype) + rounding(n, np.float64)) * np.abs(block).mean(axis=0)
            assert_within(mean, block.mean(axis=0), mean_bound)
            exact = ((block - block.mean(axis=0)) ** 2).sum(axis=0)
            # (x - mean) carries the mean's error, and cross terms with it vanish but for rounding.
            widened = exact + n * mean_bound**2
            assert_within(m2, exact, n * mean_bound**2 + rounding(n + 4, dtype) * 2 * widened)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=rows_and_channels, rows_per_block=st.integers(1, 50), seed=seeds)
def test_finish_merges_blocks(dtype, shape, rows_per_block, seed):
    """From given block sums all is float64, and each result is rounded once to the element type."""
    case, rows = drawn(shape, seed, 3.0), shape[0]
    gamma, beta = case.gamma.astype(dtype), case.beta.astype(dtype)
    partials = statistics(PixelMatrix(case.x, dtype=dtype), rows_per_block)
    running_mean, running_var = beta.copy(), np.abs(gamma)
    results = finished(partials, rows, rows_per_block, gamma, beta, running_mean, running_var, momentum=0.3)

    counts = np.array([min(rows_per_block, rows - k) for k in range(0, rows, rows_per_block)])[:, None]
    means, m2s = partials.astype(np.float64).transpose(1, 0, 2)
    mean = (counts * means).sum(axis=0) / rows
    m2 = (m2s + counts * (means - mean) ** 2).sum(axis=0)
    inv_std = 1 / np.sqrt(m2 / rows + EPS)
    wide_gamma, wide_beta = gamma.astype(np.float64), beta.astype(np.float64)
    expected = [mean, inv_std, wide_gamma * inv_std, wide_beta - mean * wide_gamma * inv_std]
    expected += [0.7 * wide_beta + 0.3 * mean, 0.7 * np.abs(wide_gamma) + 0.3 * m2 / max(rows - 1, 1)]
    sizes = np.abs(wide_beta) + (np.abs(partials).max() + 1) * (1 + np.abs(wide_gamma)) * (inv_std + 1)
    for actual, exact in zip([*results, running_mean, running_var], expected, strict=True):
        # Shift and the running statistics cancel: their float64 error is that of their terms.
        assert_within(actual, exact, rounding(1, dtype) * np.abs(exact) + rounding(rows + 20, np.float64) * sizes)


@given(
    shape=rows_and_channels, rows_per_block=st.integers(1, 50), seed=seeds, offset=st.sampled_from([0.0, 1.0, 100.0])
)
def test_statistics_are_those_of_the_whole_batch(shape, rows_per_block, seed, offset):
    x = PixelMatrix(drawn(shape, seed, offset).x)
    ones, zeros = np.ones(shape[1]), np.zeros(shape[1])
    running_mean, running_var = zeros.copy(), zeros.copy()
    partials = statistics(x, rows_per_block)
    mean, inv_std, _, _ = finished(partials, shape[0], rows_per_block, ones, zeros, running_mean, running_var, 1.0)
    atol = 1e-13 * (1 + offset)
    np.testing.assert_allclose(mean, x.values.mean(axis=0), rtol=0, atol=atol)
    np.testing.assert_allclose(running_mean, x.values.mean(axis=0), rtol=0, atol=atol)
    np.testing.assert_allclose(inv_std, (x.values.var(axis=0) + EPS) ** -0.5, rtol=1e-12)
    # One row has no unbiased variance; cnnzoo takes the biased one, 0.
    unbiased = x.values.var(axis=0, ddof=1) if shape[0] > 1 else zeros
    np.testing.assert_allclose(running_var, unbiased, rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("added", "relu"), VARIANTS)
@given(
    shape=rows_and_channels, margin=margins, other=margins, seed=seeds, place=st.sampled_from(["new", "x", "residual"])
)
def test_normalize(dtype, added, relu, shape, margin, other, seed, place):
    """A product and two sums round at most three times; max(., 0) does not, and brings no value further away."""
    case = drawn(shape, seed)
    x, residual = PixelMatrix(case.x, margin, dtype), PixelMatrix(case.residual, other, dtype)
    scale, shift = case.gamma.astype(dtype), case.beta.astype(dtype)
    assume(added or place != "residual")
    y = {"new": PixelMatrix(np.zeros(shape), margin, dtype), "x": x, "residual": residual}[place]
    wide = x.values.astype(np.float64), residual.values * np.float64(added)
    expected = wide[0] * scale + shift + wide[1]
    sizes = np.abs(wide[0] * scale) + np.abs(shift) + np.abs(wide[1])
    given_residual = residual.arguments if added else (empty(dtype), 0)
    normalize_forward(*x.arguments, scale, shift, *given_residual, *y.arguments, *shape, added, relu)
    expected = np.maximum(expected, 0) if relu else expected
    assert_within(y.values, expected, (rounding(3, dtype) + rounding(3, np.float64)) * sizes)
    assert not relu or np.all(y.values >= 0)
    y.assert_guarded()


def test_normalize_over_several_blocks():
    shape = 700, 67
    case = drawn(shape, 1)
    layer = Layer(case.x, case.gamma, case.beta, case.residual, relu=True, margin=(1, 2), rows_per_block=100)
    expected = np.maximum(reference.batch_norm(case.x, case.gamma, case.beta, EPS) + case.residual, 0)
    np.testing.assert_allclose(layer.forward(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("relu", [False, True])
def test_nan_passes_forward_into_its_channel_only(relu):
    case = drawn((60, 21), 2)
    case.x[17, 5] = np.nan
    layer = Layer(case.x, case.gamma, case.beta, relu=relu)
    np.testing.assert_array_equal(np.isnan(layer.forward()), np.arange(21) == np.full((60, 1), 5))
    dx, dgamma, _, _ = layer.backward(case.dy, from_output=False)
    np.testing.assert_array_equal(np.isnan(dx).any(axis=0), np.arange(21) == 5)
    np.testing.assert_array_equal(np.isnan(dgamma), np.arange(21) == 5)


@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (3.0, 1e-4), (3.0, 1e-9), (3.0, 0.0)])
@given(shape=rows_and_channels, margin=margins, seed=seeds, rows_per_block=st.integers(1, 50))
def test_forward_and_backward_are_the_definitions(offset, spread, shape, margin, seed, rows_per_block):
    """Down to a variance far below eps, and to none."""
    case = drawn(shape, seed, offset, spread)
    layer = Layer(case.x, case.gamma, case.beta, margin=margin, rows_per_block=rows_per_block)
    y = layer.forward()
    expected = reference.batch_norm(case.x, case.gamma, case.beta, EPS)
    sizes = np.abs(case.x * layer.scale) + np.abs(layer.mean * layer.scale) + np.abs(case.beta)
    assert_within(y, expected, rounding(2 * shape[0] + 20, np.float64) * sizes)
    dx, dgamma, dbeta, _ = layer.backward(case.dy, from_output=False)
    expected_dx, expected_dgamma, expected_dbeta = reference.batch_norm_gradients(case.dy, case.x, case.gamma, EPS)
    assert_within(dx, expected_dx, 2 * gradient_bound(layer, case.dy))
    term_sizes = np.abs(case.dy) * (np.abs(case.x) + np.abs(layer.mean)) * layer.inv_std
    assert_within(dgamma, expected_dgamma, rounding(3 * shape[0] + 30, np.float64) * term_sizes.sum(axis=0))
    assert_within(dbeta, expected_dbeta, rounding(2 * shape[0], np.float64) * np.abs(case.dy).sum(axis=0))


@pytest.mark.parametrize(("added", "relu"), VARIANTS)
@settings(max_examples=25)
@given(shape=st.tuples(st.integers(1, 6), st.integers(1, 9)), seed=seeds)
def test_gradients_by_central_differences(added, relu, shape, seed):
    case = drawn(shape, seed)
    if shape[0] > 1:
        # A variance of 1: the third derivatives that bound the difference's error stay near 1.
        case.x /= case.x.std(axis=0)
    layer = Layer(case.x, case.gamma, case.beta, case.residual if added else None, relu)
    z = reference.batch_norm(case.x, case.gamma, case.beta, EPS) + case.residual * added
    # No step across the ReLU's edge.
    assume(not relu or np.abs(z).min() > 1e-3)

    def numerical(values):
        return numerical_gradient(lambda: np.vdot(layer.forward(), case.dy), values)

    inputs = [layer.x.values, layer.gamma, layer.beta] + ([layer.residual.values] if added else [])
    expected = [numerical(values) for values in inputs]
    layer.forward()
    actual = layer.backward(case.dy, from_output=added)
    for gradient, numeric in zip(actual, expected, strict=False):
        np.testing.assert_allclose(gradient, numeric, rtol=0, atol=2e-8)


@pytest.mark.parametrize("spread", [1e-4, 0.0])
def test_gradient_by_central_differences_near_zero_variance(spread):
    """The variance, 1e-8 or 0, is far below eps: y bends over sqrt(eps) = 3e-3, so steps are 1e-7.

    The third derivative is about scale / eps = 3e7, an error of 3e7 1e-14 / 6 = 5e-8, next to gradients of 300; the
    loss's own rounding, 1e-14 / 1e-7, adds 1e-7.
    """
    case = drawn((5, 7), 3, 0.5, spread)
    layer = Layer(case.x, case.gamma, case.beta)
    expected = numerical_gradient(lambda: np.vdot(layer.forward(), case.dy), layer.x.values, step=1e-7)
    layer.forward()
    dx, *_ = layer.backward(case.dy, from_output=False)
    np.testing.assert_allclose(dx, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("added", "from_output"), [(False, False), (False, True), (True, True)])
@given(shape=rows_and_channels, margin=margins, seed=seeds)
def test_backward_masks_by_relu(added, from_output, shape, margin, seed):
    case = drawn(shape, seed)
    layer = Layer(case.x, case.gamma, case.beta, case.residual if added else None, relu=True, margin=margin)
    y = layer.forward()
    dz = np.where(y > 0, case.dy, 0)
    expected_dx, expected_dgamma, expected_dbeta = reference.batch_norm_gradients(dz, case.x, case.gamma, EPS)
    dx, dgamma, dbeta, dresidual = layer.backward(case.dy, from_output)
    assert_within(dx, expected_dx, 2 * gradient_bound(layer, dz))
    np.testing.assert_allclose(dgamma, expected_dgamma, rtol=0, atol=1e-12)
    np.testing.assert_allclose(dbeta, expected_dbeta, rtol=0, atol=1e-12)
    if added:
        np.testing.assert_array_equal(dresidual, dz)


@pytest.mark.parametrize("shape", [(9, 5), (700, 67)])
def test_backward_accumulates_and_works_in_place(shape):
    case = drawn(shape, 4)
    layer = Layer(case.x, case.gamma, case.beta, case.residual, relu=True, margin=(1, 3))
    y = layer.forward()
    dx, dgamma, dbeta, dresidual = layer.backward(case.dy, from_output=True)
    in_place, *_ = layer.backward(case.dy, from_output=True, in_place=True)
    np.testing.assert_array_equal(in_place, dx)
    start = np.random.default_rng(5).standard_normal((2, *shape))
    added = layer.backward(case.dy, True, start[0], start[1], case.gamma, case.beta)
    expected = start[0] + dx, case.gamma + dgamma, case.beta + dbeta, start[1] + dresidual
    for actual, wanted in zip(added, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(added[3], start[1] + np.where(y > 0, case.dy, 0))


@pytest.mark.parametrize(("relu", "from_output"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_sums_in_float32(relu, from_output, shape):
    """A block's sum of dz takes n roundings; dz (x - mean) two more a term."""
    case, rng, (rows, channels) = drawn(shape, 6), np.random.default_rng(7), shape
    dy, x = PixelMatrix(case.dy, (1, 2), np.float32), PixelMatrix(case.x, (0, 1), np.float32)
    y = PixelMatrix(case.residual, (2, 0), np.float32) if from_output else None
    scale, shift, mean = saved = rng.uniform(0.1, 2, (3, channels)).astype(np.float32)
    blocks, size = block_count(rows, block_rows(channels)), block_rows(channels)
    partials = np.full((blocks, 2, channels), np.nan, np.float32)
    output = y.arguments if from_output else (empty(np.float32), 0)
    batch_norm_backward_sums(
        *dy.arguments, *x.arguments, *output, *saved, rows, channels, relu, from_output, partials.reshape(-1)
    )
    wide = x.values.astype(np.float64)
    z = y.values if from_output else wide * scale + shift
    dz = np.where(z > 0, dy.values, 0) if relu else dy.values
    terms = np.stack([dz, dz * (wide - mean)], axis=1)
    for k, partial in enumerate(partials):
        block = terms[k * size : (k + 1) * size]
        bound = rounding(len(block) + 4, np.float32) * np.abs(block).sum(axis=0)
        assert_within(partial, block.sum(axis=0), bound)


@pytest.mark.parametrize("accumulate", [False, True])
@given(channels=st.integers(1, 40), rows=st.integers(1, 3000), seed=seeds)
def test_backward_finish_in_float32(accumulate, channels, rows, seed):
    """From given block sums all is float64; each result is rounded once to float32."""
    rng = np.random.default_rng(seed)
    partials = rng.standard_normal((block_count(rows, block_rows(channels)), 2, channels)).astype(np.float32)
    scale, mean, inv_std = rng.standard_normal((3, channels)).astype(np.float32)
    results = rng.standard_normal((4, channels)).astype(np.float32)
    start = results.astype(np.float64) * accumulate
    gradient_sums = np.full(2 * channels, np.nan)
    merge_gradient_sums(partials.reshape(-1), len(partials), gradient_sums)
    batch_norm_backward_finish(gradient_sums, inv_std, *results[:2], accumulate)
    find_line(gradient_sums, rows, scale, mean, inv_std, *results[2:], accumulate)
    sum_dz, products = partials.sum(axis=0, dtype=np.float64)
    sum_dz_xhat, wide = products * inv_std, scale.astype(np.float64)
    slope = -wide * inv_std * sum_dz_xhat / rows
    offset = -wide * sum_dz / rows - slope * mean
    noise = rounding(len(partials) + 20, np.float64) * np.abs(partials).sum(axis=(0, 1))
    noise = noise * (1 + np.abs(inv_std)) * (1 + np.abs(wide * inv_std)) * (1 + np.abs(mean))
    for actual, exact, before in zip(results, (sum_dz_xhat, sum_dz, slope, offset), start, strict=True):
        exact = exact + before
        assert_within(actual, exact, rounding(1, np.float32) * np.abs(exact) + noise * (1 + np.abs(before)))


@given(shape=rows_and_channels, margin=margins, other=margins, seed=seeds)
def test_line_is_added(shape, margin, other, seed):
    """slope x + offset, whose product and sum round, is added with one rounding more."""
    case = drawn(shape, seed)
    x, y = PixelMatrix(case.x, margin), PixelMatrix(case.dy, other)
    slope, offset = case.gamma, case.beta
    add_line(*x.arguments, slope, offset, *y.arguments, *shape)
    y.assert_guarded()
    sizes = np.abs(case.x * slope) + np.abs(offset) + np.abs(case.dy)
    assert_within(y.values, case.dy + slope * case.x + offset, rounding(6, np.float64) * sizes)


@pytest.mark.parametrize("shape", SHAPES)
def test_backward_pass_in_float32(shape):
    """scale dz + slope x + offset, and what it is added to: at most six roundings of terms of these sizes."""
    case, rng, (rows, channels) = drawn(shape, 8), np.random.default_rng(9), shape
    dy, x, y = (PixelMatrix(v, (2, 1), np.float32) for v in (case.dy, case.x, case.residual))
    dx = PixelMatrix(rng.standard_normal(shape), (0, 3), np.float32)
    scale, shift, slope, offset = rng.standard_normal((4, channels)).astype(np.float32)
    dz = np.where(y.values > 0, dy.values, 0).astype(np.float64)
    terms = np.stack([scale * dz, slope * x.values.astype(np.float64), np.broadcast_to(offset, shape), dx.values])
    matrices = *dy.arguments, *x.arguments, *y.arguments
    nothing = empty(np.float32), 0
    line = slope, offset
    batch_norm_backward(*matrices, scale, shift, *line, *dx.arguments, *nothing, rows, channels, True, True, True, 0)
    assert_within(dx.values, terms.sum(axis=0), rounding(6, np.float32) * np.abs(terms).sum(axis=0))
    dx.assert_guarded()


@pytest.mark.parametrize("dtype", DTYPES)
def test_inference_normalises_by_the_running_statistics(dtype):
    """Four roundings in scale, two more in shift, of terms no larger than the sizes taken here."""
    rng = np.random.default_rng(10)
    gamma, beta, running_mean = rng.standard_normal((3, 37)).astype(dtype)
    running_var = rng.uniform(0, 2, 37).astype(dtype)
    running_var[:3] = 0
    scale, shift = np.empty((2, 37), dtype)
    batch_norm_inference(gamma, beta, running_mean, running_var, EPS, scale, shift)
    expected = gamma / np.sqrt(running_var.astype(np.float64) + EPS)
    assert_within(scale, expected, rounding(4, dtype) * np.abs(expected))
    sizes = np.abs(beta) + np.abs(running_mean * expected)
    assert_within(shift, beta - running_mean * expected, rounding(7, dtype) * sizes)


@given(shape=rows_and_channels, seed=seeds)
def test_backward_with_frozen_statistics_is_the_adjoint(shape, seed):
    case, zeros = drawn(shape, seed), np.zeros(shape[1])
    x, dy, dx = PixelMatrix(case.x), PixelMatrix(case.dy), PixelMatrix(np.full(shape, np.nan))
    nothing, scale = (empty(), 0), case.gamma
    line = zeros, zeros
    batch_norm_backward(
        *dy.arguments,
        *x.arguments,
        *nothing,
        scale,
        zeros,
        *line,
        *dx.arguments,
        *nothing,
        *shape,
        False,
        False,
        False,
        0,
    )
    np.testing.assert_array_equal(dx.values, scale * case.dy)


def test_layer_is_pytorchs():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    case = drawn((90, 21), 11, offset=2.0)
    x, residual, gamma, beta = (
        torch.tensor(v, requires_grad=True) for v in (case.x, case.residual, case.gamma, case.beta)
    )
    running = torch.zeros(21, dtype=torch.float64), torch.ones(21, dtype=torch.float64)
    normalized = torch.nn.functional.batch_norm(x, *running, gamma, beta, training=True, momentum=0.1, eps=EPS)
    expected = torch.relu(normalized + residual)
    expected.backward(torch.tensor(case.dy))

    layer = Layer(case.x, case.gamma, case.beta, case.residual, relu=True, rows_per_block=16)
    np.testing.assert_allclose(layer.forward(), expected.detach().numpy(), rtol=0, atol=1e-12)
    gradients = layer.backward(case.dy, from_output=True)
    for actual, tensor in zip(gradients, (x, gamma, beta, residual), strict=True):
        np.testing.assert_allclose(actual, tensor.grad.numpy(), rtol=0, atol=1e-12)
    running_mean, running_var = np.zeros(21), np.ones(21)
    finished(statistics(layer.x, 16), 90, 16, case.gamma, case.beta, running_mean, running_var)
    np.testing.assert_allclose(running_mean, running[0].numpy(), rtol=1e-12)
    np.testing.assert_allclose(running_var, running[1].numpy(), rtol=1e-12)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_same_bits_at_any_thread_count():
    case = drawn((3000, 40), 12)
    layer = Layer(case.x, case.gamma, case.beta, case.residual, relu=True)
    results = []
    threads = numba.get_num_threads()
    try:
        for count in (1, 2):
            numba.set_num_threads(count)
            y = layer.forward().copy()
            results.append([y, *layer.backward(case.dy, from_output=True)])
    finally:
        numba.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
