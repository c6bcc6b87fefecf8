"""ReLU and dropout.

References: Nair and Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", ICML 2010; Srivastava et
al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014 (section 10: inverted scaling).
"""

import numpy as np
from numba import prange

from cnnzoo.kernels.blocks import block_count, block_rows, row
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.simd import add, lanes, load, pointer, positive_part, store, where_positive


@worker
def _relu_rows(x, ldx, y, ldy, first, last, channels):
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
        _relu_rows(pointer(x), ldx, pointer(y), ldy, first, min(first + size, rows), channels)


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


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@worker
def _mix(z):
    """Scramble 64 bits: the finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@worker
def _dropout_rows(x, ldx, y, ldy, mask, rows, channels, rate, key, first):
    zero, scale = x.dtype.type(0), x.dtype.type(1 / (1 - rate))
    # Dropped are the values whose 32 random bits, taken as a fraction, lie below the rate.
    threshold = np.uint64(rate * 4294967296.0)
    for r in range(rows):
        xr, yr, kept = row(x, ldx, r, channels), row(y, ldy, r, channels), row(mask, channels, r, channels)
        start = key + np.uint64((first + r) * channels) * _GOLDEN
        for c in range(channels):
            keep = (_mix(start + np.uint64(c) * _GOLDEN) >> np.uint64(32)) >= threshold
            kept[c] = keep
            yr[c] = xr[c] * scale if keep else zero


@kernel("void(T[::1], i8, T[::1], i8, u1[::1], i8, i8, f8, u8)", parallel=True)
def dropout_forward(x, ldx, y, ldy, mask, rows, channels, rate, key):
    """y = x / (1 - rate) where kept and 0 where dropped; y may be x.

    `mask`, u1[rows * channels], becomes 1 where kept. Each value is dropped with probability `rate`, 0 <= rate < 1, by
    a hash of `key` and its place row * channels + c alone. A caller gives each layer and step its own key.
    """
    size = block_rows(channels)
    base = _mix(key)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        count = min(size, rows - first)
        places = mask[first * channels :]
        _dropout_rows(x[first * ldx :], ldx, y[first * ldy :], ldy, places, count, channels, rate, base, first)


@worker
def _dropout_backward_rows(dy, lddy, mask, dx, lddx, rows, channels, rate, accumulate):
    zero, scale = dy.dtype.type(0), dy.dtype.type(1 / (1 - rate))
    for r in range(rows):
        dyr, kept, dxr = row(dy, lddy, r, channels), row(mask, channels, r, channels), row(dx, lddx, r, channels)
        if accumulate:
            for c in range(channels):
                dxr[c] += dyr[c] * scale if kept[c] else zero
        else:
            for c in range(channels):
                dxr[c] = dyr[c] * scale if kept[c] else zero


@kernel("void(T[::1], i8, u1[::1], T[::1], i8, i8, i8, f8, bool_)", parallel=True)
def dropout_backward(dy, lddy, mask, dx, lddx, rows, channels, rate, accumulate):
    """dx = dy / (1 - rate) where the mask kept the value, else 0; or dx += it if `accumulate`. dx may be dy."""
    size = block_rows(channels)
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        count = min(size, rows - first)
        places = mask[first * channels :]
        _dropout_backward_rows(
            dy[first * lddy :], lddy, places, dx[first * lddx :], lddx, count, channels, rate, accumulate
        )
