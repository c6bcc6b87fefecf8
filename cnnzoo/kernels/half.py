"""Two bytes a value: float32 rounded to bfloat16 or to IEEE's float16, and back.

Integer arithmetic on the bits does it, so that the result is the same on machines without such conversions, and in the
step's mode that takes denormal numbers for zeros. Both round to the nearest, ties to even. bfloat16 is the upper half
of a float32. float16 has 5 bits of exponent with bias 15 and 10 of fraction: what is 65,520 or more becomes infinite,
what is below 2^-14 is a multiple of 2^-24. A NaN stays NaN.
"""

import numpy as np
from numba import prange

from cnnzoo.kernels.blocks import BLOCK_ELEMENTS, block_count
from cnnzoo.kernels.compile import kernel, worker


@worker
def _to_bfloat16(bits):
    # Half a unit of the last place, less one where that place is even: a tie is carried to the even neighbor.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return (bits >> np.uint32(16)) | np.uint32(0x40) if is_nan else rounded


@worker
def _to_float16(bits):
    magnitude = bits & np.uint32(0x7FFFFFFF)
    sign = (bits >> np.uint32(16)) & np.uint32(0x8000)
    odd = (magnitude >> np.uint32(13)) & np.uint32(1)
    # The exponent's bias goes from 127 to 15; 13 bits of the fraction are rounded off.
    normal = (magnitude - np.uint32(112 << 23) + np.uint32(0xFFF) + odd) >> np.uint32(13)
    # Below 2^-14 the fraction, with its leading 1, is shifted to units of 2^-24; from 25 places on nothing is left.
    shift = np.uint32(126) - (magnitude >> np.uint32(23))
    shift = min(shift, np.uint32(25)) if magnitude < np.uint32(113 << 23) else np.uint32(25)
    fraction = (magnitude & np.uint32(0x7FFFFF)) | np.uint32(0x800000)
    half = (np.uint32(1) << (shift - np.uint32(1))) - np.uint32(1)
    small = (fraction + half + ((fraction >> shift) & np.uint32(1))) >> shift
    value = small if magnitude < np.uint32(113 << 23) else normal
    value = np.uint32(0x7C00) if magnitude >= np.uint32(0x477FF000) else value
    value = np.uint32(0x7E00) if magnitude > np.uint32(0x7F800000) else value
    return sign | value


@worker
def _from_float16(half):
    magnitude = (half & np.uint32(0x7FFF)) << np.uint32(13)
    sign = (half & np.uint32(0x8000)) << np.uint32(16)
    normal = magnitude + np.uint32(112 << 23)
    # 2^-14 + fraction - 2^-14: both are normal numbers, and the difference is exact.
    small = np.uint32(magnitude + np.uint32(113 << 23)).view(np.float32) - np.float32(2.0**-14)
    value = normal if magnitude >= np.uint32(1 << 23) else np.float32(small).view(np.uint32)
    value = magnitude + np.uint32(224 << 23) if magnitude >= np.uint32(31 << 23) else value
    return sign | value


@worker
def _narrow(x, y, brain):
    if brain:
        for i in range(x.size):
            y[i] = np.uint16(_to_bfloat16(x[i]))
    else:
        for i in range(x.size):
            y[i] = np.uint16(_to_float16(x[i]))


@worker
def _widen(y, x, brain):
    if brain:
        for i in range(x.size):
            x[i] = np.uint32(y[i]) << np.uint32(16)
    else:
        for i in range(x.size):
            x[i] = _from_float16(np.uint32(y[i]))


@kernel("void(u4[::1], u2[::1], bool_)", parallel=True)
def narrow(x, y, brain):
    """Write to y the values of x, bits of float32, as bits of bfloat16 if `brain`, else of float16; equal lengths."""
    for block in prange(block_count(x.size, BLOCK_ELEMENTS)):
        first = np.int64(block) * BLOCK_ELEMENTS
        last = min(first + BLOCK_ELEMENTS, x.size)
        _narrow(x[first:last], y[first:last], brain)


@kernel("void(u2[::1], u4[::1], bool_)", parallel=True)
def widen(y, x, brain):
    """Write to x, bits of float32, the values of y as `narrow` writes them; exact."""
    for block in prange(block_count(x.size, BLOCK_ELEMENTS)):
        first = np.int64(block) * BLOCK_ELEMENTS
        last = min(first + BLOCK_ELEMENTS, x.size)
        _widen(y[first:last], x[first:last], brain)
