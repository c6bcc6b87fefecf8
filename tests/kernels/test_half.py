"""Narrowing to two bytes and back, against NumPy's float16 and against the definition of bfloat16."""

import numpy as np
import pytest

from cnnzoo.kernels.blocks import BLOCK_ELEMENTS
from cnnzoo.kernels.half import narrow, widen

ALL_PATTERNS = np.arange(2**16, dtype=np.uint16)


def _narrow(x, brain):
    y = np.empty(x.size, np.uint16)
    narrow(x.view(np.uint32), y, brain)
    return y


def _widen(y, brain):
    x = np.empty(y.size, np.uint32)
    widen(y, x, brain)
    return x.view(np.float32)


def _any_floats(count):
    """Return float32 of any bits: all exponents, both signs, NaN and infinities among them."""
    bits = np.random.default_rng(0).integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32)
    return bits.view(np.float32)


def _float16_neighborhood():
    """Return all numbers of float16, the middles between them, and the float32 next to each of these."""
    numbers = np.arange(0, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (numbers[1:] + numbers[:-1]) / 2
    numbers = np.concatenate([numbers, middles, np.float32([65504, 65519.996, 65520, 1e38, np.inf])])
    near = [np.nextafter(numbers, np.float32(end)) for end in (0, np.inf)]
    positive = np.concatenate([numbers, *near])
    return np.concatenate([positive, -positive])


@pytest.mark.parametrize("x", [_float16_neighborhood(), _any_floats(3 * BLOCK_ELEMENTS + 5)])
def test_float16_is_rounded_as_numpy_rounds(x):
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    actual = _narrow(x, brain=False).view(np.float16)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(x))
    known = ~np.isnan(x)
    np.testing.assert_array_equal(actual.view(np.uint16)[known], expected.view(np.uint16)[known])


def test_float16_is_widened_exactly():
    np.testing.assert_array_equal(_widen(ALL_PATTERNS, brain=False), ALL_PATTERNS.view(np.float16).astype(np.float32))
    signs = np.signbit(_widen(ALL_PATTERNS[[0, 0x8000]], brain=False))
    assert signs.tolist() == [False, True]


def test_bfloat16_is_the_nearest_with_ties_to_even():
    x = _any_floats(3 * BLOCK_ELEMENTS + 5)
    known = np.isfinite(x)
    actual = _narrow(x, brain=True)
    bits = x.view(np.uint32).astype(np.int64)
    below, rest = bits >> 16, bits & 0xFFFF
    up = (rest > 0x8000) | ((rest == 0x8000) & (below % 2 == 1))
    np.testing.assert_array_equal(actual[known], (below + up)[known].astype(np.uint16))


@pytest.mark.parametrize("bits", [0x3F808000, 0x3F818000, 0xBF808000, 0x00008000, 0x00018000])
def test_bfloat16_ties(bits):
    (half,) = _narrow(np.array([bits], np.uint32).view(np.float32), brain=True)
    assert half % 2 == 0
    assert abs((int(half) << 16) - bits) == 0x8000


@pytest.mark.parametrize("brain", [True, False])
def test_what_is_not_finite(brain):
    payloads = np.array([0x7F800001, 0x7FC00000, 0xFF800001, 0x7FFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(_widen(_narrow(payloads, brain), brain)).all()
    infinities = np.array([np.inf, -np.inf, 3.4e38, -3.4e38], np.float32)
    np.testing.assert_array_equal(_widen(_narrow(infinities, brain), brain), np.sign(infinities) * np.inf)


@pytest.mark.parametrize("brain", [True, False])
def test_what_was_widened_narrows_to_itself(brain):
    x = _widen(ALL_PATTERNS, brain)
    known = ~np.isnan(x)
    np.testing.assert_array_equal(_narrow(x, brain)[known], ALL_PATTERNS[known])
