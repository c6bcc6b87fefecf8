"""Batch norm on pixel matrices: statistics, the normalising pass with its fused ReLU and addition, and backward.

Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift", ICML
2015. The conventions are PyTorch's: the batch is normalised by its biased variance, the running variance takes the
unbiased one, and running = (1 - momentum) running + momentum batch.

With m rows, xhat = (x - mean) inv_std and y = gamma xhat + beta, one multiply-add a value does the work forward,
y = scale x + shift. With dz the gradient of y (masked where a ReLU follows), the paper's section 3 gives

1. dbeta = sum dz
2. dgamma = sum dz xhat
3. dx = gamma inv_std (dz - dbeta / m - xhat dgamma / m)

and with xhat written out, dx = scale dz + slope x + offset a channel, where

4. scale = gamma inv_std
5. slope = -scale inv_std dgamma / m
6. offset = -scale dbeta / m - slope mean

The first term is known where dz is made, so that a convolution's input gradient can store it and take the sums 1 and 2
as it goes. The others can wait: of several batch norms that read x they add up.

Statistics are never E[x^2] - E[x]^2. A block of rows has its mean and M2 = sum (x - mean)^2 taken in two passes, the
second one in cache; blocks are merged in float64 and in order.
"""

import math

import numpy as np
from numba import prange

from cnnzoo.kernels.blocks import STRIP, block_count, block_rows, row
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.elementwise import column_sums
from cnnzoo.kernels.simd import (
    add,
    lanes,
    load,
    multiply_add,
    pointer,
    positive_part,
    prefetch,
    store,
    subtract,
    where_positive,
    zeros,
)

ROWS_AHEAD = 6  # rows are asked for so long before they are read: those of a concatenation's parts lie apart


@worker
def block_statistics(x, ldx, rows, channels, mean, m2):
    """Write mean and M2, T[channels] each, of `rows` >= 1 rows."""
    px, p_mean, p_m2 = pointer(x), pointer(mean), pointer(m2)
    column_sums(x, ldx, rows, channels, mean)
    reciprocal = x.dtype.type(1 / rows)
    for c in range(channels):
        mean[c] *= reciprocal
    m2[:] = 0
    for start in range(0, rows, STRIP):
        for c in range(0, channels, lanes(px)):
            n = channels - c
            center, total = load(p_mean, c, n), load(p_m2, c, n)
            for r in range(start, min(start + STRIP, rows)):
                deviation = subtract(load(px, r * ldx + c, n), center)
                total = multiply_add(deviation, deviation, total)
            store(p_m2, c, n, total)


@kernel("void(T[::1], i8, i8, i8, i8, T[::1])", parallel=True)
def batch_norm_statistics(x, ldx, rows, channels, rows_per_block, partials):
    """Write the mean and M2 of each block of rows, for `merge_statistics`; partials is T[blocks * 2 * channels]."""
    for block in prange(block_count(rows, rows_per_block)):
        first = np.int64(block) * rows_per_block
        partial = row(partials, 2 * channels, block, 2 * channels)
        mean, m2 = row(partial, channels, 0, channels), row(partial, channels, 1, channels)
        block_statistics(x[first * ldx :], ldx, min(rows_per_block, rows - first), channels, mean, m2)


@worker
def _merge_channels(partials, ld, rows, rows_per_block, to_m2, mean, m2):
    """Write mean and M2 of channels, side by side, of which each block's mean is at ``partials[block * ld]``."""
    blocks = block_count(rows, rows_per_block)
    mean[:] = 0
    m2[:] = 0
    for block in range(blocks):
        count = min(rows_per_block, rows - block * rows_per_block)
        means = row(partials, ld, block, mean.size)
        for c in range(mean.size):
            mean[c] += count * np.float64(means[c])
    for c in range(mean.size):
        mean[c] /= rows
    for block in range(blocks):
        count = min(rows_per_block, rows - block * rows_per_block)
        means, m2s = row(partials, ld, block, mean.size), row(partials[to_m2:], ld, block, mean.size)
        for c in range(mean.size):
            m2[c] += m2s[c] + count * (means[c] - mean[c]) ** 2


CHANNEL_BLOCK = 16  # channels that one task merges: a cache line of float32


@kernel("void(T[::1], i8, i8, f8[::1], f8[::1])", parallel=True)
def merge_statistics(partials, rows, rows_per_block, mean, m2):
    """Merge the blocks of `batch_norm_statistics` to mean and M2 over all rows, f8[channels] each.

    Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979, for all
    blocks at once: mean = sum n_k mean_k / rows, M2 = sum M2_k + n_k (mean_k - mean)^2.
    """
    channels = mean.size
    for block in prange(block_count(channels, CHANNEL_BLOCK)):
        first = np.int64(block) * CHANNEL_BLOCK
        last = min(first + CHANNEL_BLOCK, channels)
        _merge_channels(
            partials[first:], 2 * channels, rows, rows_per_block, channels, mean[first:last], m2[first:last]
        )


@kernel("void(f8[::1], f8[::1], i8, T[::1], T[::1], f8, f8, T[::1], T[::1], T[::1], T[::1], T[::1], T[::1])")
def batch_norm_finish(
    batch_mean, m2, rows, gamma, beta, eps, momentum, running_mean, running_var, mean, inv_std, scale, shift
):
    """Update the running statistics and write what the other passes need, from those of `merge_statistics`.

    inv_std = 1 / sqrt(M2 / rows + eps), scale = gamma inv_std, shift = beta - mean scale; each T[channels]. One row
    has no unbiased variance, M2 / (rows - 1) = 0 / 0: there the running variance takes the biased one, 0.
    """
    for c in range(gamma.size):
        batch_inv_std = 1 / math.sqrt(m2[c] / rows + eps)
        mean[c] = batch_mean[c]
        inv_std[c] = batch_inv_std
        scale[c] = gamma[c] * batch_inv_std
        shift[c] = beta[c] - batch_mean[c] * gamma[c] * batch_inv_std
        running_mean[c] = (1 - momentum) * running_mean[c] + momentum * batch_mean[c]
        running_var[c] = (1 - momentum) * running_var[c] + momentum * m2[c] / max(rows - 1, 1)


@kernel("void(T[::1], T[::1], T[::1], T[::1], f8, T[::1], T[::1])")
def batch_norm_inference(gamma, beta, running_mean, running_var, eps, scale, shift):
    """Write the scale and shift that normalise by the running statistics."""
    for c in range(gamma.size):
        factor = gamma[c] / math.sqrt(running_var[c] + eps)
        scale[c] = factor
        shift[c] = beta[c] - running_mean[c] * factor


@worker
def _normalize_rows(x, ldx, scale, shift, residual, ldr, y, ldy, first, last, channels, add_residual, relu):
    for r in range(first, last):
        for c in range(0, channels, lanes(y)):
            n = channels - c
            z = multiply_add(load(x, r * ldx + c, n), load(scale, c, n), load(shift, c, n))
            if add_residual:
                z = add(z, load(residual, r * ldr + c, n))
            if relu:
                z = positive_part(z)
            store(y, r * ldy + c, n, z)


@kernel("void(T[::1], i8, T[::1], T[::1], T[::1], i8, T[::1], i8, i8, i8, bool_, bool_)", parallel=True)
def normalize_forward(x, ldx, scale, shift, residual, ldr, y, ldy, rows, channels, add_residual, relu):
    """y = x scale + shift, + residual if `add_residual`, max(that, 0) if `relu`; a NaN stays NaN.

    scale and shift are T[channels]; residual may be empty if not `add_residual`. y may be x or residual.
    """
    size = block_rows(channels)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        last = min(first + size, rows)
        px, pr, py = pointer(x), pointer(residual), pointer(y)
        _normalize_rows(
            px, ldx, pointer(scale), pointer(shift), pr, ldr, py, ldy, first, last, channels, add_residual, relu
        )


@worker
def _masked(dy, dy_at, x, x_at, y, y_at, scale, shift, c, n, relu, from_output):
    """Return dz: dy where the ReLU's input was positive, read off its output or computed again; without ReLU dy."""
    dz = load(dy, dy_at + c, n)
    if relu:
        if from_output:
            z = load(y, y_at + c, n)
        else:
            z = multiply_add(load(x, x_at + c, n), load(scale, c, n), load(shift, c, n))
        dz = where_positive(z, dz)
    return dz


@worker
def _backward_sums(
    dy, lddy, x, ldx, y, ldy, mean, scale, shift, first, last, channels, relu, from_output, sums, products
):
    for r in range(first, last):
        for c in range(0, channels, lanes(dy)):
            n = channels - c
            prefetch(dy, (r + ROWS_AHEAD) * lddy + c)
            prefetch(x, (r + ROWS_AHEAD) * ldx + c)
            dz = _masked(dy, r * lddy, x, r * ldx, y, r * ldy, scale, shift, c, n, relu, from_output)
            centered = subtract(load(x, r * ldx + c, n), load(mean, c, n))
            store(sums, c, n, add(load(sums, c, n), dz))
            store(products, c, n, multiply_add(dz, centered, load(products, c, n)))


@kernel(
    "void(T[::1], i8, T[::1], i8, T[::1], i8, T[::1], T[::1], T[::1], i8, i8, bool_, bool_, T[::1])",
    parallel=True,
)
def batch_norm_backward_sums(dy, lddy, x, ldx, y, ldy, scale, shift, mean, rows, channels, relu, from_output, partials):
    """Write each block's sums of dz and dz (x - mean) to partials, T[blocks * 2 * channels]; blocks of `block_rows`.

    dz = dy without `relu`. With it, dz = dy where the output y > 0 if `from_output`, else where x scale + shift > 0;
    then y may be empty.
    """
    size = block_rows(channels)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        partial = row(partials, 2 * channels, block, 2 * channels)
        partial[:] = 0
        products = partial[channels:]
        _backward_sums(
            pointer(dy), lddy, pointer(x), ldx, pointer(y), ldy, pointer(mean), pointer(scale), pointer(shift),
            first, min(first + size, rows), channels, relu, from_output, pointer(partial), pointer(products),
        )  # fmt: skip


@worker
def batch_norm_gradient_block(
    dy, dy_at, lddy, x, x_at, ldx, coefficients, channels, first, count, rows, strip, dx, dx_at, lddx, accumulate,
    sums, sums_at,
):  # fmt: skip
    """dx (+)= scale dz of channels first .. first + count of `channels`; write the sums of dz and of dz (x - mean).

    dz = dy where x scale + shift > 0, else 0. dy, x and dx are `rows` rows from ``dy[dy_at]``, ``x[x_at]`` and
    ``dx[dx_at]`` on, the first of the channels there; coefficients are [scale, shift, mean][channels], and the sums go
    to ``sums[sums_at + first]`` and ``sums[sums_at + channels + first]``. A `strip` is the rows that are taken before
    the next vector of channels: many keep the sums in registers, few keep to the order of memory.
    """
    pdy, px, pdx, p, ps = pointer(dy), pointer(x), pointer(dx), pointer(coefficients), pointer(sums)
    for start in range(0, rows, strip):
        for c in range(0, count, lanes(pdx)):
            n, at = count - c, first + c
            scale, shift, mean = load(p, at, n), load(p, channels + at, n), load(p, 2 * channels + at, n)
            sum_dz, sum_product = zeros(pdx), zeros(pdx)
            if start > 0:
                sum_dz, sum_product = load(ps, sums_at + at, n), load(ps, sums_at + channels + at, n)
            for r in range(start, min(start + strip, rows)):
                value = load(px, x_at + r * ldx + c, n)
                dz = where_positive(multiply_add(value, scale, shift), load(pdy, dy_at + r * lddy + c, n))
                sum_dz = add(sum_dz, dz)
                sum_product = multiply_add(dz, subtract(value, mean), sum_product)
                to = dx_at + r * lddx + c
                base = load(pdx, to, n) if accumulate else zeros(pdx)
                store(pdx, to, n, multiply_add(scale, dz, base))
            store(ps, sums_at + at, n, sum_dz)
            store(ps, sums_at + channels + at, n, sum_product)


@worker
def _add_sums(partials, ld, blocks, sums):
    sums[:] = 0
    for block in range(blocks):
        part = row(partials, ld, block, sums.size)
        for c in range(sums.size):
            sums[c] += part[c]


@kernel("void(T[::1], i8, f8[::1])", parallel=True)
def merge_gradient_sums(partials, blocks, sums):
    """sums[2 * channels] = those of all blocks, in order, that `batch_norm_backward_sums` or an epilogue wrote."""
    for group in prange(block_count(sums.size, CHANNEL_BLOCK)):
        first = np.int64(group) * CHANNEL_BLOCK
        _add_sums(partials[first:], sums.size, blocks, sums[first : min(first + CHANNEL_BLOCK, sums.size)])


@kernel("void(f8[::1], T[::1], T[::1], T[::1], bool_)")
def batch_norm_backward_finish(sums, inv_std, dgamma, dbeta, accumulate):
    """Write dgamma and dbeta, T[channels], from the sums of dz and of dz (x - mean), or add to them."""
    channels = dgamma.size
    for c in range(channels):
        sum_dz_xhat = sums[channels + c] * inv_std[c]
        dbeta[c] = dbeta[c] + sums[c] if accumulate else sums[c]
        dgamma[c] = dgamma[c] + sum_dz_xhat if accumulate else sum_dz_xhat


@kernel("void(f8[::1], i8, T[::1], T[::1], T[::1], T[::1], T[::1], bool_)")
def find_line(sums, rows, scale, mean, inv_std, slope, offset, accumulate):
    """Write slope and offset, T[channels], from the sums of dz and of dz (x - mean) over `rows`, or add to them.

    dx = scale dz + slope x + offset, steps 3 to 6 above.
    """
    channels = scale.size
    for c in range(channels):
        wide = np.float64(scale[c])
        of_x = -wide * inv_std[c] * inv_std[c] * sums[channels + c] / rows
        rest = -wide * sums[c] / rows - of_x * mean[c]
        slope[c] = slope[c] + of_x if accumulate else of_x
        offset[c] = offset[c] + rest if accumulate else rest


@worker
def _add_line(x, ldx, slope, offset, y, ldy, first, last, channels):
    for r in range(first, last):
        for c in range(0, channels, lanes(y)):
            n = channels - c
            value = multiply_add(load(slope, c, n), load(x, r * ldx + c, n), load(offset, c, n))
            store(y, r * ldy + c, n, add(load(y, r * ldy + c, n), value))


@kernel("void(T[::1], i8, T[::1], T[::1], T[::1], i8, i8, i8)", parallel=True)
def add_line(x, ldx, slope, offset, y, ldy, rows, channels):
    """y += slope x + offset, slope and offset T[channels]: what was left out of the gradient y of x."""
    size = block_rows(channels)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        last = min(first + size, rows)
        _add_line(pointer(x), ldx, pointer(slope), pointer(offset), pointer(y), ldy, first, last, channels)


@worker
def _backward_rows(
    dy, lddy, x, ldx, y, ldy, scale, shift, slope, offset, dx, lddx, dresidual, lddr, first, last, channels, relu,
    from_output, accumulate, residual_kind,
):  # fmt: skip
    for r in range(first, last):
        for c in range(0, channels, lanes(dx)):
            n = channels - c
            if lddy > channels:
                prefetch(dy, (r + ROWS_AHEAD) * lddy + c)
            dz = _masked(dy, r * lddy, x, r * ldx, y, r * ldy, scale, shift, c, n, relu, from_output)
            if residual_kind == 1:
                store(dresidual, r * lddr + c, n, dz)
            elif residual_kind == 2:
                store(dresidual, r * lddr + c, n, add(load(dresidual, r * lddr + c, n), dz))
            value = multiply_add(load(slope, c, n), load(x, r * ldx + c, n), load(offset, c, n))
            value = multiply_add(load(scale, c, n), dz, value)
            if accumulate:
                value = add(load(dx, r * lddx + c, n), value)
            store(dx, r * lddx + c, n, value)


@kernel(
    "void(T[::1], i8, T[::1], i8, T[::1], i8, T[::1], T[::1], T[::1], T[::1], T[::1], i8, T[::1], i8,"
    " i8, i8, bool_, bool_, bool_, i8)",
    parallel=True,
)
def batch_norm_backward(
    dy, lddy, x, ldx, y, ldy, scale, shift, slope, offset, dx, lddx, dresidual, lddr, rows, channels, relu, from_output,
    accumulate, residual_kind,
):  # fmt: skip
    """dx = scale dz + slope x + offset, or dx += it if `accumulate`; dz as in `batch_norm_backward_sums`. dx may be dy.

    residual_kind 0: there is no residual, and dresidual may be empty; 1: dresidual = dz; 2: dresidual += dz.
    """
    size = block_rows(channels)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        _backward_rows(
            pointer(dy), lddy, pointer(x), ldx, pointer(y), ldy, pointer(scale), pointer(shift), pointer(slope),
            pointer(offset), pointer(dx), lddx, pointer(dresidual), lddr, first, min(first + size, rows),
            channels, relu, from_output, accumulate, residual_kind,
        )  # fmt: skip
