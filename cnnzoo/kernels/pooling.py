"""Max, average and global average pooling on NHWC pixel matrices, windows square, output sizes rounded down.

Backward gathers: each input pixel sums over the windows that cover it, in one order, so nothing is shared between
threads. An output row p covers the input rows p * stride - padding + i, 0 <= i < window; so input row h lies in the
output rows from ceil((h + padding - window + 1) / stride) to floor((h + padding) / stride). Columns are alike.
"""

import numpy as np
from numba import prange

from cnnzoo.kernels.blocks import block_count, block_rows, row
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.simd import (
    lanes,
    load,
    multiply_add,
    pointer,
    splat,
    store,
    store_bytes,
    where_greater,
)

NO_WINNER = 255
"""Kept instead of a place in a window where nothing of it is positive, behind a ReLU."""


@worker
def _output_size(size, window, stride, padding):
    return (size + 2 * padding - window) // stride + 1


@worker
def _taps(position, size, window, stride, padding):
    """Return the first and past-the-last tap of the window of output `position` that lie in the input."""
    start = position * stride - padding
    return max(0, -start), min(window, size - start)


@worker
def _covering(position, outputs, window, stride, padding):
    """Return the first and past-the-last output whose window covers input `position`."""
    first = max(0, (position + padding - window + stride) // stride)
    return first, min(outputs, (position + padding) // stride + 1)


@worker
def _max_pool_row(
    x, ldx, first, coefficients, applies, y, ldy, y_at, winner, saves, p, height, width, channels, window, stride,
    padding, rectify,
):  # fmt: skip
    """One output row `p` of one image: `first` is the image's first pixel in x, `y_at` the row's first in y.

    `applies`: the coefficients are applied on load; `rectify` has to be set then.
    """
    top, bottom = _taps(p, height, window, stride, padding)
    for q in range(_output_size(width, window, stride, padding)):
        left, right = _taps(q, width, window, stride, padding)
        corner = first + (p * stride - padding) * width + q * stride - padding
        for c in range(0, channels, lanes(y)):
            n = channels - c
            scale = shift = splat(y, 0)
            if applies:
                scale, shift = load(coefficients, c, n), load(coefficients, channels + c, n)
            if rectify:
                best, place = splat(y, 0), splat(y, NO_WINNER)
            else:
                best, place = load(x, (corner + top * width + left) * ldx + c, n), splat(y, top * window + left)
            for i in range(top, bottom):
                for j in range(left, right):
                    value = load(x, (corner + i * width + j) * ldx + c, n)
                    if applies:
                        value = multiply_add(value, scale, shift)
                    place = where_greater(value, best, splat(y, i * window + j), place)
                    best = where_greater(value, best, value, best)
            store(y, (y_at + q) * ldy + c, n, best)
            if saves:
                store_bytes(winner, (y_at + q) * channels + c, n, place)


@kernel("void(T[::1], i8, T[::1], T[::1], i8, u1[::1], i8, i8, i8, i8, i8, i8, i8, bool_)", parallel=True)
def max_pool_forward(
    x, ldx, coefficients, y, ldy, winner, images, height, width, channels, window, stride, padding, rectify
):
    """y = the maximum of each window, or of it and 0 if `rectify`; the first of equals wins, and a NaN, as in PyTorch.

    `coefficients`, scale and shift [2][channels] at least, are applied on load: y = the maximum of each window of scale
    x + shift and of 0. Empty, they are not.

    `winner`, u1[images * output pixels * channels], becomes the winner's place in its window, counted along rows, or
    `NO_WINNER` where that 0 is the maximum; empty, nothing is saved. Padding never wins: each window must cover a pixel
    (2 * padding <= window). window <= 15.
    """
    out_height = _output_size(height, window, stride, padding)
    out_width = _output_size(width, window, stride, padding)
    size = block_rows(out_width * channels)
    out_rows = images * out_height
    for block in prange(block_count(out_rows, size)):
        first = np.int64(block) * size
        for r in range(first, min(first + size, out_rows)):
            _max_pool_row(
                pointer(x), ldx, r // out_height * height * width, pointer(coefficients), coefficients.size > 0,
                pointer(y), ldy, r * out_width, pointer(winner), winner.size > 0, r % out_height, height, width,
                channels, window, stride, padding, rectify or coefficients.size > 0,
            )  # fmt: skip


@worker
def _start(dxr, accumulate):
    """Prepare a gradient row for the sums that follow."""
    if not accumulate:
        dxr[:] = 0


@worker
def _add_where_chosen(dyr, chosen, tap, dxr):
    zero = dyr.dtype.type(0)
    for c in range(dxr.size):
        dxr[c] += dyr[c] if chosen[c] == tap else zero


@worker
def _max_pool_row_backward(dy, lddy, winner, dx, lddx, h, height, width, channels, window, stride, padding, accumulate):
    """One input row `h` of one image: dy and winner are the image, dx is the row."""
    out_width = _output_size(width, window, stride, padding)
    top, bottom = _covering(h, _output_size(height, window, stride, padding), window, stride, padding)
    for w in range(width):
        left, right = _covering(w, out_width, window, stride, padding)
        dxr = row(dx, lddx, w, channels)
        _start(dxr, accumulate)
        for p in range(top, bottom):
            for q in range(left, right):
                tap = (h + padding - p * stride) * window + w + padding - q * stride
                at = p * out_width + q
                _add_where_chosen(row(dy, lddy, at, channels), row(winner, channels, at, channels), np.uint8(tap), dxr)


@kernel("void(T[::1], i8, u1[::1], T[::1], i8, i8, i8, i8, i8, i8, i8, i8, bool_)", parallel=True)
def max_pool_backward(dy, lddy, winner, dx, lddx, images, height, width, channels, window, stride, padding, accumulate):
    """dx = the sum of dy over the windows that each input won, or dx += it if `accumulate`; winner is forward's."""
    out_pixels = _output_size(height, window, stride, padding) * _output_size(width, window, stride, padding)
    size = block_rows(width * channels)
    for block in prange(block_count(images * height, size)):
        first = np.int64(block) * size
        for r in range(first, min(first + size, images * height)):
            at = r // height * out_pixels
            _max_pool_row_backward(
                dy[at * lddy :],
                lddy,
                winner[at * channels :],
                dx[r * width * lddx :],
                lddx,
                r % height,
                height,
                width,
                channels,
                window,
                stride,
                padding,
                accumulate,
            )


@worker
def _add(xr, yr):
    for c in range(yr.size):
        yr[c] += xr[c]


@worker
def _add_scaled(xr, factor, yr):
    for c in range(yr.size):
        yr[c] += xr[c] * factor


@worker
def _scale(yr, factor):
    for c in range(yr.size):
        yr[c] *= factor


@worker
def _average_pool_row(x, ldx, y, ldy, p, height, width, channels, window, stride, padding):
    """One output row `p` of one image: x is the image, y is the row."""
    top, bottom = _taps(p, height, window, stride, padding)
    for q in range(_output_size(width, window, stride, padding)):
        left, right = _taps(q, width, window, stride, padding)
        yr = row(y, ldy, q, channels)
        corner = (p * stride - padding) * width + q * stride - padding
        yr[:] = 0
        for i in range(top, bottom):
            for j in range(left, right):
                _add(row(x, ldx, corner + i * width + j, channels), yr)
        _scale(yr, y.dtype.type(1 / (window * window)))


@kernel("void(T[::1], i8, T[::1], i8, i8, i8, i8, i8, i8, i8, i8)", parallel=True)
def average_pool_forward(x, ldx, y, ldy, images, height, width, channels, window, stride, padding):
    """y = the sum of each window / window^2: padding counts as zeros (PyTorch's count_include_pad=True)."""
    out_height = _output_size(height, window, stride, padding)
    out_width = _output_size(width, window, stride, padding)
    size = block_rows(out_width * channels)
    out_rows = images * out_height
    for block in prange(block_count(out_rows, size)):
        first = np.int64(block) * size
        for r in range(first, min(first + size, out_rows)):
            image, y_row = x[r // out_height * height * width * ldx :], y[r * out_width * ldy :]
            _average_pool_row(image, ldx, y_row, ldy, r % out_height, height, width, channels, window, stride, padding)


@worker
def _average_pool_row_backward(dy, lddy, dx, lddx, h, height, width, channels, window, stride, padding, accumulate):
    """One input row `h` of one image: dy is the image, dx is the row."""
    out_width = _output_size(width, window, stride, padding)
    top, bottom = _covering(h, _output_size(height, window, stride, padding), window, stride, padding)
    factor = dy.dtype.type(1 / (window * window))
    for w in range(width):
        left, right = _covering(w, out_width, window, stride, padding)
        dxr = row(dx, lddx, w, channels)
        _start(dxr, accumulate)
        for p in range(top, bottom):
            for q in range(left, right):
                _add_scaled(row(dy, lddy, p * out_width + q, channels), factor, dxr)


@kernel("void(T[::1], i8, T[::1], i8, i8, i8, i8, i8, i8, i8, i8, bool_)", parallel=True)
def average_pool_backward(dy, lddy, dx, lddx, images, height, width, channels, window, stride, padding, accumulate):
    """dx = the sum of dy / window^2 over the windows that cover each input, or dx += it if `accumulate`."""
    out_pixels = _output_size(height, window, stride, padding) * _output_size(width, window, stride, padding)
    size = block_rows(width * channels)
    for block in prange(block_count(images * height, size)):
        first = np.int64(block) * size
        for r in range(first, min(first + size, images * height)):
            image, dx_row = dy[r // height * out_pixels * lddy :], dx[r * width * lddx :]
            _average_pool_row_backward(
                image, lddy, dx_row, lddx, r % height, height, width, channels, window, stride, padding, accumulate
            )


@kernel("void(T[::1], i8, T[::1], i8, i8, i8, i8)", parallel=True)
def global_average_pool_forward(x, ldx, y, ldy, images, pixels, channels):
    """y[n] = the mean of the `pixels` rows of image n."""
    size = block_rows(pixels * channels)
    for block in prange(block_count(images, size)):
        first = np.int64(block) * size
        for n in range(first, min(first + size, images)):
            yr = row(y, ldy, n, channels)
            yr[:] = 0
            for p in range(n * pixels, (n + 1) * pixels):
                _add(row(x, ldx, p, channels), yr)
            _scale(yr, y.dtype.type(1 / pixels))


@kernel("void(T[::1], i8, T[::1], i8, i8, i8, i8, bool_)", parallel=True)
def global_average_pool_backward(dy, lddy, dx, lddx, images, pixels, channels, accumulate):
    """dx = dy[n] / pixels in each of the `pixels` rows of image n, or dx += it if `accumulate`."""
    size = block_rows(pixels * channels)
    for block in prange(block_count(images, size)):
        first = np.int64(block) * size
        for n in range(first, min(first + size, images)):
            for p in range(n * pixels, (n + 1) * pixels):
                dxr = row(dx, lddx, p, channels)
                _start(dxr, accumulate)
                _add_scaled(row(dy, lddy, n, channels), dy.dtype.type(1 / pixels), dxr)
