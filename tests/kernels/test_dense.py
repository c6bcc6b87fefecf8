"""Convolution of images of few pixels against the definition, with all that its passes do on the side."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.kernels.convolution import ConvolutionShape
from cnnzoo.kernels.dense import Dense, list_pairs
from tests.kernels.convolution_layer import (
    assert_all_passes,
    assert_batch_norm_on_load,
    assert_bias_is_added,
    assert_rectified,
    assert_statistics,
)
from tests.kernels.pixel_matrix import margins, seeds

DTYPES = [np.float32, np.float64]

# Tasks of part of the columns, several blocks of images, blocks of channels with tails.
SHAPES = [
    ConvolutionShape(130, 2, 2, 70, 100, 3, 1, 1),
    ConvolutionShape(2, 2, 2, 512, 512, 3, 1, 1),
    ConvolutionShape(3, 1, 4, 5, 7, 3, 2, 1),
    ConvolutionShape(2, 2, 2, 65, 3, 5, 1, 2),
]


ACCEPTED = [
    (height, width, kernel, stride, padding)
    for height, width in itertools.product(range(1, 5), repeat=2)
    for kernel, stride in itertools.product(range(1, 6), range(1, 3))
    for padding in range(kernel)
    if min(height, width) + 2 * padding >= kernel
    and Dense.refusal(ConvolutionShape(1, height, width, 1, 1, kernel, stride, padding)) is None
]


@st.composite
def shapes(draw):
    """Draw a convolution that the algorithm takes."""
    height, width, *window = draw(st.sampled_from(ACCEPTED))
    channels = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return ConvolutionShape(draw(st.integers(1, 70)), height, width, *channels, *window)


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=shapes(), margin=margins, seed=seeds)
def test_all_passes(dtype, shape, margin, seed):
    assert_all_passes(Dense, shape, dtype, seed, margin)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fixed_shapes(shape, dtype):
    assert_all_passes(Dense, shape, dtype, margin=(1, 2))


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=shapes(), margin=margins, seed=seeds, flag=st.booleans())
def test_bias_statistics_and_batch_norm_on_load(dtype, shape, margin, seed, flag):
    assert_bias_is_added(Dense, shape, dtype, seed, margin, accumulate=flag)
    assert_rectified(Dense, shape, dtype, seed, margin, biased=flag)
    assert_statistics(Dense, shape, dtype, seed, margin, biased=flag)
    assert_batch_norm_on_load(Dense, shape, dtype, seed, margin)


def test_pairs_leave_out_the_padding():
    assert len(list_pairs(ConvolutionShape(1, 2, 2, 1, 1, 3, 1, 1))) == 16
    assert list_pairs(ConvolutionShape(1, 1, 2, 1, 1, 3, 1, 1)) == [(0, 0, 4), (0, 1, 5), (1, 0, 3), (1, 1, 4)]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (ConvolutionShape(1, 4, 4, 4, 4, 3, 1, 1), "images of up to 4 pixels"),
        (ConvolutionShape(1, 2, 2, 4, 4, 1, 1, 1), "images of up to 4 pixels"),
        (ConvolutionShape(1, 1, 1, 4, 4, 1, 2, 1), "padding alone"),
        (ConvolutionShape(1, 2, 2, 4, 4, 1, 2), "reach no output"),
        (ConvolutionShape(1, 2, 2, 4, 4, 3, 1, 1, 4), "no groups"),
    ],
)
def test_refusals(shape, reason):
    assert reason in Dense.refusal(shape)
