"""Sums of squares and running averages over a flat arena."""

import math

import numpy as np
import pytest

from cnnzoo.kernels.arena import average_update, sum_squares
from cnnzoo.kernels.blocks import BLOCK_ELEMENTS, block_count
from tests.gradients import assert_within, rounding

LENGTHS = [1, 7, BLOCK_ELEMENTS - 1, 5 * BLOCK_ELEMENTS + 17]
DTYPES = [np.float32, np.float64]


def _sum_squares(x):
    return sum_squares(x, np.empty(block_count(x.size, BLOCK_ELEMENTS)))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_of_squares(length, dtype):
    x = np.random.default_rng(0).standard_normal(length).astype(dtype)
    exact = math.fsum(float(value) ** 2 for value in x)
    assert abs(_sum_squares(x) - exact) <= rounding(length + 1, np.float64) * exact


def test_float32_neither_overflows_nor_vanishes():
    assert _sum_squares(np.full(4, 1e30, np.float32)) == pytest.approx(4e60, rel=1e-6)
    assert _sum_squares(np.full(4, 1e-30, np.float32)) == pytest.approx(4e-60, rel=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, BLOCK_ELEMENTS, 2 * BLOCK_ELEMENTS + 4])
def test_what_is_not_finite_makes_the_sum_not_finite(value, place):
    x = np.ones(2 * BLOCK_ELEMENTS + 5, np.float32)
    x[place] = value
    assert not math.isfinite(_sum_squares(x))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_average_moves_by_its_share(length, dtype):
    average, x = np.random.default_rng(1).standard_normal((2, length)).astype(dtype)
    expected = average + 0.125 * (x.astype(np.float64) - average)
    size = np.abs(average) + np.abs(x)
    average_update(average, x, 0.125)
    assert_within(average, expected, rounding(4, dtype) * size)
