"""Crop, flip and normalize in one kernel against the same steps one by one in plain NumPy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.kernels.augment import crop_flip_normalize


def crop_flip_normalize_reference(images, indices, top, left, flip, table):
    height, width = images.shape[2:]
    border = max(height, width) + max(abs(top).max(), abs(left).max())
    padded = np.pad(images[indices], ((0, 0), (0, 0), (border, border), (border, border)))
    y = np.empty((len(indices), *images.shape[1:]), table.dtype)
    for i in range(len(indices)):
        t, s = border + top[i], border + left[i]
        crop = padded[i, :, t : t + height, s : s + width]
        crop = crop[:, :, ::-1] if flip[i] else crop
        for c in range(images.shape[1]):
            y[i, c] = table[c][crop[c]]
    return y


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 9), st.integers(1, 35)),
    n=st.integers(1, 6),
    padding=st.integers(0, 40),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32),
)
def test_against_numpy(shape, n, padding, dtype, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    indices = rng.integers(0, shape[0], n)
    top, left = rng.integers(-padding, padding + 1, (2, n))
    flip = rng.integers(0, 2, n, dtype=np.uint8)
    table = rng.standard_normal((shape[1], 256)).astype(dtype)
    y = np.full((n, *shape[1:]), np.nan, dtype)
    crop_flip_normalize(
        images.reshape(-1), indices, top.copy(), left.copy(), flip, table.reshape(-1), *shape[1:], y.reshape(-1)
    )
    # No arithmetic is done on the pixels, so there is nothing to round.
    np.testing.assert_array_equal(y, crop_flip_normalize_reference(images, indices, top, left, flip, table))
