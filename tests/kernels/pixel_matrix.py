"""Pixel matrices as tests hand them to kernels: a channel slice of a wider buffer, with guards around it."""

import numpy as np
from hypothesis import strategies as st

GUARD = -12345.75

margins = st.tuples(st.integers(0, 3), st.integers(0, 5))
"""Columns before and after the slice."""

seeds = st.integers(0, 2**32 - 1)


class PixelMatrix:
    """Rows of values in a buffer whose other columns hold a guard value.

    Attributes
    ----------
    values : numpy.ndarray
        View [rows, channels] of the values.
    arguments : tuple
        The flat buffer, from the first value on, and the leading dimension, as kernels take them.
    """

    def __init__(self, values, margin=(0, 0), dtype=None):
        rows, channels = values.shape
        before, after = margin
        self._ld = before + channels + after
        self._all = np.full((rows, self._ld), GUARD, dtype=dtype or values.dtype)
        self._columns = slice(before, before + channels)
        self.values = self._all[:, self._columns]
        self.values[...] = values
        self.arguments = self._all.reshape(-1)[before:], self._ld

    def assert_guarded(self):
        """Assert that no column outside the slice was written."""
        assert np.all(np.delete(self._all, self._columns, axis=1) == GUARD)


def empty(dtype=np.float64):
    """Return the array that stands for "there is none"."""
    return np.empty(0, dtype)
