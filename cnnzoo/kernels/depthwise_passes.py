"""The compiled passes of depthwise convolution; see `depthwise` for what they compute."""

import numpy as np
from numba import prange

from cnnzoo.kernels.activation import relu_rows
from cnnzoo.kernels.batch_norm import block_statistics
from cnnzoo.kernels.blocks import block_count, block_rows, row
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.simd import add, lanes, load, multiply_add, pointer, positive_part, prefetch, store, zeros

BAND_ELEMENTS = 8192  # elements of a band of rows, about: 32 KB of float32

# A geometry is an int64 array with these fields. Tap (i, j) of output (p, q) meets the source, spread out by DILATION,
# at row p STRIDE + i - PADDING and column q STRIDE + j - PADDING. FLIPPED takes the taps backwards.
# BAND rows of outputs are computed together: a vector of channels after the other, whose weights stay in registers.
HEIGHT, WIDTH, DILATION, OUT_HEIGHT, OUT_WIDTH, KERNEL, STRIDE, PADDING, FLIPPED, BAND = range(10)


@worker
def _source(place, dilation, extent):
    """Return the row or column of the source at or before `place`, when spread out, and whether it is one there."""
    index = place if dilation == 1 else place // dilation
    return index, index * dilation == place and 0 <= index < extent


@worker
def _fetch(x, at, c, channels, ldx):
    """Ask for channels from c on of the pixel at `at`; return the next place in the order of memory."""
    prefetch(x, at + c)
    c += lanes(x)
    return (at, c) if c < channels else (at + ldx, 0)


@worker
def _pixel(x, at, count, on_load, scale, shift):
    """Return x[at : at + lanes], or max(that scale + shift, 0) if `on_load`; zeros if there are none to load."""
    value = load(x, at, count)
    if on_load and count > 0:
        value = positive_part(multiply_add(value, scale, shift))
    return value


@worker
def _scale_and_shift(coefficients, c, n, channels, on_load):
    if on_load:
        return load(coefficients, c, n), load(coefficients, channels + c, n)
    return zeros(coefficients), zeros(coefficients)


@worker
def _three(x, at, step, n):
    return load(x, at, n), load(x, at + step, n), load(x, at + 2 * step, n)


@worker
def _row(g, image, place, ldx, n):
    """Return where the source row at `place` begins, and n if there is one, else 0."""
    index, is_there = _source(place, g[DILATION], g[HEIGHT])
    return (image * g[HEIGHT] + index) * g[WIDTH] * ldx, n if is_there else 0


@worker
def _correlate_rows_3x3(
    g, image, first, last, channels, x, ldx, on_load, coefficients, w, bias, has_bias, y, ldy, accumulate
):
    width, dilation, stride, y_row = g[WIDTH], g[DILATION], g[STRIDE], g[OUT_WIDTH] * ldy
    first_column, first_phase = -g[PADDING] // dilation, -g[PADDING] % dilation
    columns = (g[OUT_WIDTH] - 1) * stride + 3
    tap, step = (8 * channels, -channels) if g[FLIPPED] != 0 else (0, channels)
    # The rows that come after these.
    next_x, _ = _row(g, image, (last - 1) * stride - g[PADDING] + 3, ldx, 0)
    next_y, x_c, y_c = (image * g[OUT_HEIGHT] + last) * y_row, 0, 0
    for c in range(0, channels, lanes(x)):
        n = channels - c
        w0, w1, w2 = _three(w, tap + c, step, n)
        w3, w4, w5 = _three(w, tap + 3 * step + c, step, n)
        w6, w7, w8 = _three(w, tap + 6 * step + c, step, n)
        scale, shift = _scale_and_shift(coefficients, c, n, channels, on_load)
        start = load(bias, c, n) if has_bias else zeros(x)
        out = (image * g[OUT_HEIGHT] + first) * y_row + c
        for p in range(first, last):
            top = p * stride - g[PADDING]
            at0, n0 = _row(g, image, top, ldx, n)
            at1, n1 = _row(g, image, top + 1, ldx, n)
            at2, n2 = _row(g, image, top + 2, ldx, n)
            a1 = a2 = b1 = b2 = d1 = d2 = zeros(x)
            column, phase, wait = first_column, first_phase, 2
            place = first_column * ldx + c
            for _ in range(columns):
                a0, a1, b0, b1, d0, d1 = a1, a2, b1, b2, d1, d2
                a2 = b2 = d2 = zeros(x)
                if phase == 0 and 0 <= column < width:
                    a2 = _pixel(x, at0 + place, n0, on_load, scale, shift)
                    b2 = _pixel(x, at1 + place, n1, on_load, scale, shift)
                    d2 = _pixel(x, at2 + place, n2, on_load, scale, shift)
                    for _ in range(stride):
                        next_x, x_c = _fetch(x, next_x, x_c, channels, ldx)
                phase += 1
                if phase == dilation:
                    phase = 0
                    column += 1
                    place += ldx
                if wait == 0:
                    total = add(start, load(y, out, n)) if accumulate else start
                    total = multiply_add(a0, w0, multiply_add(a1, w1, multiply_add(a2, w2, total)))
                    total = multiply_add(b0, w3, multiply_add(b1, w4, multiply_add(b2, w5, total)))
                    total = multiply_add(d0, w6, multiply_add(d1, w7, multiply_add(d2, w8, total)))
                    store(y, out, n, total)
                    next_y, y_c = _fetch(y, next_y, y_c, channels, ldy)
                    out += ldy
                    wait = stride
                wait -= 1


@worker
def _correlate_row(g, image, p, channels, x, ldx, on_load, coefficients, w, bias, has_bias, y, ldy, accumulate):
    """One row of any kernel: a vector of one output after the other, tap by tap."""
    taps = g[KERNEL] * g[KERNEL]
    out = (image * g[OUT_HEIGHT] + p) * g[OUT_WIDTH] * ldy
    for q in range(g[OUT_WIDTH]):
        for c in range(0, channels, lanes(x)):
            n = channels - c
            scale, shift = _scale_and_shift(coefficients, c, n, channels, on_load)
            total = load(bias, c, n) if has_bias else zeros(x)
            if accumulate:
                total = add(total, load(y, out + q * ldy + c, n))
            for i in range(g[KERNEL]):
                r, is_row = _source(p * g[STRIDE] + i - g[PADDING], g[DILATION], g[HEIGHT])
                for j in range(g[KERNEL] if is_row else 0):
                    column, is_column = _source(q * g[STRIDE] + j - g[PADDING], g[DILATION], g[WIDTH])
                    if is_column:
                        at = ((image * g[HEIGHT] + r) * g[WIDTH] + column) * ldx + c
                        tap = i * g[KERNEL] + j
                        tap = taps - 1 - tap if g[FLIPPED] != 0 else tap
                        value = _pixel(x, at, n, on_load, scale, shift)
                        total = multiply_add(value, load(w, tap * channels + c, n), total)
            store(y, out + q * ldy + c, n, total)


@worker
def _band(g, r, last):
    """Return the image, first row and end of the band that starts at row `r` of all images and ends before `last`."""
    image, p = r // g[OUT_HEIGHT], r % g[OUT_HEIGHT]
    return image, p, min(p + g[BAND], p + last - r, g[OUT_HEIGHT])


@kernel(
    "void(i8[::1], i8, i8, T[::1], i8, bool_, T[::1], T[::1], T[::1], T[::1], i8, bool_, bool_, T[::1])",
    parallel=True,
)
def depthwise_correlate(
    g, images, channels, x, ldx, on_load, coefficients, w, bias, y, ldy, accumulate, rectify, statistics
):
    """y (+)= the correlation of geometry `g` of x with w, + bias, max(0, that) if `rectify`.

    `bias` and `statistics` may be empty. If `on_load`, x is max(x scale + shift, 0), `coefficients` [scale, shift]
    [channels]. Tasks are `block_rows` of output rows; statistics are theirs, [blocks][mean, M2][channels].
    """
    size = block_rows(g[OUT_WIDTH] * channels)
    rows = images * g[OUT_HEIGHT]
    for block in prange(block_count(rows, size)):
        first = np.int64(block) * size
        last = min(first + size, rows)
        px, pc, pw, pb, py = pointer(x), pointer(coefficients), pointer(w), pointer(bias), pointer(y)
        has_bias = bias.size > 0
        r = first
        while r < last:
            image, p, end = _band(g, r, last)
            if g[KERNEL] == 3:
                _correlate_rows_3x3(
                    g, image, p, end, channels, px, ldx, on_load, pc, pw, pb, has_bias, py, ldy, accumulate
                )
            else:
                for i in range(p, end):
                    _correlate_row(g, image, i, channels, px, ldx, on_load, pc, pw, pb, has_bias, py, ldy, accumulate)
            r += end - p
        if rectify:
            relu_rows(py, ldy, py, ldy, first * g[OUT_WIDTH], last * g[OUT_WIDTH], channels)
        if statistics.size > 0:
            pixels = (last - first) * g[OUT_WIDTH]
            mean = row(statistics, channels, 2 * np.int64(block), channels)
            m2 = row(statistics, channels, 2 * np.int64(block) + 1, channels)
            block_statistics(y[first * g[OUT_WIDTH] * ldy :], ldy, pixels, channels, mean, m2)


@worker
def _add_to(x, at, n, value):
    store(x, at, n, add(load(x, at, n), value))


@worker
def _add_three(x, at, step, n, first, second, third):
    _add_to(x, at, n, first)
    _add_to(x, at + step, n, second)
    _add_to(x, at + 2 * step, n, third)


@worker
def _gradient_rows_3x3(g, image, first, last, channels, count, x, ldx, on_load, coefficients, dy, lddy, dw):
    width, stride, dy_row = g[WIDTH], g[STRIDE], g[OUT_WIDTH] * lddy
    columns = (g[OUT_WIDTH] - 1) * stride + 3
    next_x, _ = _row(g, image, (last - 1) * stride - g[PADDING] + 3, ldx, 0)
    next_dy, x_c, dy_c = (image * g[OUT_HEIGHT] + last) * dy_row, 0, 0
    for c in range(0, count, lanes(x)):
        n = count - c
        scale, shift = _scale_and_shift(coefficients, c, n, channels, on_load)
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = zeros(x)
        out = (image * g[OUT_HEIGHT] + first) * dy_row + c
        for p in range(first, last):
            top = p * stride - g[PADDING]
            at0, n0 = _row(g, image, top, ldx, n)
            at1, n1 = _row(g, image, top + 1, ldx, n)
            at2, n2 = _row(g, image, top + 2, ldx, n)
            a1 = a2 = b1 = b2 = d1 = d2 = zeros(x)
            column, wait = -g[PADDING], 2
            place = column * ldx + c
            for _ in range(columns):
                a0, a1, b0, b1, d0, d1 = a1, a2, b1, b2, d1, d2
                a2 = b2 = d2 = zeros(x)
                if 0 <= column < width:
                    a2 = _pixel(x, at0 + place, n0, on_load, scale, shift)
                    b2 = _pixel(x, at1 + place, n1, on_load, scale, shift)
                    d2 = _pixel(x, at2 + place, n2, on_load, scale, shift)
                    for _ in range(stride):
                        next_x, x_c = _fetch(x, next_x, x_c, count, ldx)
                column += 1
                place += ldx
                if wait == 0:
                    z = load(dy, out, n)
                    s0, s1, s2 = multiply_add(a0, z, s0), multiply_add(a1, z, s1), multiply_add(a2, z, s2)
                    s3, s4, s5 = multiply_add(b0, z, s3), multiply_add(b1, z, s4), multiply_add(b2, z, s5)
                    s6, s7, s8 = multiply_add(d0, z, s6), multiply_add(d1, z, s7), multiply_add(d2, z, s8)
                    next_dy, dy_c = _fetch(dy, next_dy, dy_c, count, lddy)
                    out += lddy
                    wait = stride
                wait -= 1
        _add_three(dw, c, channels, n, s0, s1, s2)
        _add_three(dw, 3 * channels + c, channels, n, s3, s4, s5)
        _add_three(dw, 6 * channels + c, channels, n, s6, s7, s8)


@worker
def _gradient_row(g, image, p, channels, count, x, ldx, on_load, coefficients, dy, lddy, dw):
    """One row of any kernel: tap by tap, each over the row of outputs."""
    out = (image * g[OUT_HEIGHT] + p) * g[OUT_WIDTH] * lddy
    for i in range(g[KERNEL]):
        r, is_row = _source(p * g[STRIDE] + i - g[PADDING], 1, g[HEIGHT])
        at = (image * g[HEIGHT] + r) * g[WIDTH] * ldx
        for j in range(g[KERNEL] if is_row else 0):
            for c in range(0, count, lanes(x)):
                n = count - c
                scale, shift = _scale_and_shift(coefficients, c, n, channels, on_load)
                total = zeros(x)
                for q in range(g[OUT_WIDTH]):
                    column, is_column = _source(q * g[STRIDE] + j - g[PADDING], 1, g[WIDTH])
                    if is_column:
                        value = _pixel(x, at + column * ldx + c, n, on_load, scale, shift)
                        total = multiply_add(value, load(dy, out + q * lddy + c, n), total)
                _add_to(dw, (i * g[KERNEL] + j) * channels + c, n, total)


@kernel(
    "void(i8[::1], i8, i8, T[::1], i8, bool_, T[::1], T[::1], i8, i8, i8, T[::1], bool_)",
    parallel=True,
)
def depthwise_weight_gradient(
    g, images, channels, x, ldx, on_load, coefficients, dy, lddy, slots, group, dw, accumulate
):
    """dw[slots, taps, channels] (+)= each slot's part of the weight gradient of forward's geometry `g`.

    x as in `depthwise_correlate`. Tasks are groups of `group` channels by slots, which are ranges of output rows.
    """
    rows, groups = images * g[OUT_HEIGHT], block_count(channels, group)
    taps = g[KERNEL] * g[KERNEL]
    for item in prange(slots * groups):
        slot, c = np.int64(item) // groups, np.int64(item) % groups * group
        count = min(group, channels - c)
        part = dw[slot * taps * channels + c : (slot + 1) * taps * channels]
        if not accumulate:
            for tap in range(taps):
                part[tap * channels : tap * channels + count] = 0
        px, pc, pz, pw = pointer(x[c:]), pointer(coefficients[c:]), pointer(dy[c:]), pointer(part)
        r, last = slot * rows // slots, (slot + 1) * rows // slots
        while r < last:
            image, p, end = _band(g, r, last)
            if g[KERNEL] == 3:
                _gradient_rows_3x3(g, image, p, end, channels, count, px, ldx, on_load, pc, pz, lddy, pw)
            else:
                for i in range(p, end):
                    _gradient_row(g, image, i, channels, count, px, ldx, on_load, pc, pz, lddy, pw)
            r += end - p
