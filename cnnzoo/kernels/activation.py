"""ReLU, sigmoid, tanh and dropout.

References: Nair and Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", ICML 2010; Srivastava et
al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014 (section 10: inverted scaling).
"""

import math

import numpy as np
from numba import prange

from cnnzoo.kernels.blocks import STRIP, block_count, block_rows, row
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.elementwise import add_partials
from cnnzoo.kernels.simd import add, lanes, load, pointer, positive_part, store, where_positive


@worker
def relu_rows(x, ldx, y, ldy, first, last, channels):
    for r in range(first, last):
        for c in range(0, channels, lanes(y)):
            n = channels - c
            store(y, r * ldy + c, n, positive_part(load(x, r * ldx + c, n)))


@kernel("void(T[::1], i8, T[::1], i8, i8, i8)", parallel=True)
def relu_forward(x, ldx, y, ldy, rows, channels):
    """y = max(x, 0), a NaN stays NaN; y may be x."""
    size = block_rows(channels)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        relu_rows(pointer(x), ldx, pointer(y), ldy, first, min(first + size, rows), channels)


@worker
def _relu_backward_rows(dy, lddy, y, ldy, dx, lddx, first, last, channels, accumulate):
    for r in range(first, last):
        for c in range(0, channels, lanes(y)):
            n = channels - c
            value = where_positive(load(y, r * ldy + c, n), load(dy, r * lddy + c, n))
            if accumulate:
                value = add(value, load(dx, r * lddx + c, n))
            store(dx, r * lddx + c, n, value)


@kernel("void(T[::1], i8, T[::1], i8, T[::1], i8, i8, i8, bool_)", parallel=True)
def relu_backward(dy, lddy, y, ldy, dx, lddx, rows, channels, accumulate):
    """dx = dy where the output y > 0, else 0; or dx += it if `accumulate`. dx may be dy."""
    size = block_rows(channels)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        last = min(first + size, rows)
        _relu_backward_rows(pointer(dy), lddy, pointer(y), ldy, pointer(dx), lddx, first, last, channels, accumulate)


@worker
def _rectify_gradient_rows(dy, lddy, y, ldy, first, last, channels, sums):
    for start in range(first, last, STRIP):
        for c in range(0, channels, lanes(y)):
            n = channels - c
            total = load(sums, c, n)
            for r in range(start, min(start + STRIP, last)):
                value = where_positive(load(y, r * ldy + c, n), load(dy, r * lddy + c, n))
                store(dy, r * lddy + c, n, value)
                total = add(total, value)
            store(sums, c, n, total)


@kernel("void(T[::1], i8, T[::1], i8, i8, i8, T[::1], T[::1], bool_)", parallel=True)
def rectify_gradient(dy, lddy, y, ldy, rows, channels, partials, sums, accumulate):
    """dy = dy where the output y > 0, else 0; and its sum over rows as `sum_rows` takes it, a bias's gradient."""
    size = block_rows(channels)
    blocks = block_count(rows, size)
    for block in prange(blocks):
        first = np.int64(block) * size
        partial = row(partials, channels, block, channels)
        partial[:] = 0
        _rectify_gradient_rows(
            pointer(dy), lddy, pointer(y), ldy, first, min(first + size, rows), channels, pointer(partial)
        )
    add_partials(partials, blocks, sums, accumulate)


SIGMOID, TANH = range(2)


@worker
def _sigmoidal_rows(x, ldx, y, ldy, rows, channels, function):
    one = x.dtype.type(1)
    for r in range(rows):
        xr, yr = row(x, ldx, r, channels), row(y, ldy, r, channels)
        if function == SIGMOID:
            for c in range(channels):
                yr[c] = one / (one + math.exp(-xr[c]))
        else:
            for c in range(channels):
                yr[c] = math.tanh(xr[c])


@kernel("void(T[::1], i8, T[::1], i8, i8, i8, i8)", parallel=True)
def sigmoidal_forward(x, ldx, y, ldy, rows, channels, function):
    """y = 1 / (1 + exp(-x)) for the function `SIGMOID`, tanh(x) for `TANH`; y may be x."""
    size = block_rows(channels)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        _sigmoidal_rows(x[first * ldx :], ldx, y[first * ldy :], ldy, min(size, rows - first), channels, function)


@worker
def _sigmoidal_backward_rows(dy, lddy, y, ldy, dx, lddx, rows, channels, function, accumulate):
    zero, one = y.dtype.type(0), y.dtype.type(1)
    for r in range(rows):
        dyr, yr, dxr = row(dy, lddy, r, channels), row(y, ldy, r, channels), row(dx, lddx, r, channels)
        for c in range(channels):
            # sigmoid' = y (1 - y), tanh' = 1 - y^2 = (1 + y) (1 - y)
            slope = (yr[c] if function == SIGMOID else one + yr[c]) * (one - yr[c])
            dxr[c] = dyr[c] * slope + (dxr[c] if accumulate else zero)


@kernel("void(T[::1], i8, T[::1], i8, T[::1], i8, i8, i8, i8, bool_)", parallel=True)
def sigmoidal_backward(dy, lddy, y, ldy, dx, lddx, rows, channels, function, accumulate):
    """dx = dy times the function's slope, by its output y; or dx += it if `accumulate`. dx may be dy."""
    size = block_rows(channels)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        count = min(size, rows - first)
        _sigmoidal_backward_rows(
            dy[first * lddy :], lddy, y[first * ldy :], ldy, dx[first * lddx :], lddx, count, channels, function,
            accumulate,
        )  # fmt: skip


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@worker
def _mix(z):
    """Scramble 64 bits: the finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@worker
def _dropout_rows(x, ldx, y, ldy, mask, first, last, channels, repeats, rate, key):
    zero, scale = x.dtype.type(0), x.dtype.type(1 / (1 - rate))
    # Dropped are the values whose 32 random bits, taken as a fraction, lie below the rate.
    threshold = np.uint64(rate * 4294967296.0)
    for r in range(first, last):
        draw = r // repeats
        xr, yr, kept = row(x, ldx, r, channels), row(y, ldy, r, channels), row(mask, channels, draw, channels)
        start = key + np.uint64(draw * channels) * _GOLDEN
        is_first = r % repeats == 0
        for c in range(channels):
            keep = (_mix(start + np.uint64(c) * _GOLDEN) >> np.uint64(32)) >= threshold
            if is_first:
                kept[c] = keep
            yr[c] = xr[c] * scale if keep else zero


@kernel("void(T[::1], i8, T[::1], i8, u1[::1], i8, i8, i8, f8, u8)", parallel=True)
def dropout_forward(x, ldx, y, ldy, mask, rows, channels, repeats, rate, key):
    """y = x / (1 - rate) where kept and 0 where dropped; y may be x.

    `repeats` rows, which divide `rows`, share a draw: 1 to drop each value by itself, the pixels of an image to drop
    whole channels of it. `mask`, u1[rows / repeats * channels], becomes 1 where kept. Each draw drops with probability
    `rate`, 0 <= rate < 1, by a hash of `key` and its place in the mask alone. A caller gives each layer and step its
    own key.
    """
    size = block_rows(channels)
    base = _mix(key)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        _dropout_rows(x, ldx, y, ldy, mask, first, min(first + size, rows), channels, repeats, rate, base)


@worker
def _dropout_backward_rows(dy, lddy, mask, dx, lddx, first, last, channels, repeats, rate, accumulate):
    zero, scale = dy.dtype.type(0), dy.dtype.type(1 / (1 - rate))
    for r in range(first, last):
        dyr, dxr = row(dy, lddy, r, channels), row(dx, lddx, r, channels)
        kept = row(mask, channels, r // repeats, channels)
        if accumulate:
            for c in range(channels):
                dxr[c] += dyr[c] * scale if kept[c] else zero
        else:
            for c in range(channels):
                dxr[c] = dyr[c] * scale if kept[c] else zero


@kernel("void(T[::1], i8, u1[::1], T[::1], i8, i8, i8, i8, f8, bool_)", parallel=True)
def dropout_backward(dy, lddy, mask, dx, lddx, rows, channels, repeats, rate, accumulate):
    """dx = dy / (1 - rate) where the mask kept the value, else 0; or dx += it if `accumulate`. dx may be dy."""
    size = block_rows(channels)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        last = min(first + size, rows)
        _dropout_backward_rows(dy, lddy, mask, dx, lddx, first, last, channels, repeats, rate, accumulate)
