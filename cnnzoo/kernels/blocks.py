"""How work is split: into blocks of rows whose size follows from the shape, and where vectors cut it from those of the
processor, but never from the number of threads; and so do the bits of sums."""

from numba.extending import register_jitable

BLOCK_ELEMENTS = 16384
"""Elements of a block, about: 64 KB of float32 stay in a core's cache between two passes over them."""

STRIP = 8
"""Rows whose sum of a vector of channels stays in a register, before that of the next vector: sums of all rows, and
what else reads many of them, keep to the order of memory."""


@register_jitable
def block_rows(channels):
    """Return how many rows of `channels` values make a block; callable from Python and from kernels."""
    return max(1, BLOCK_ELEMENTS // channels)


@register_jitable
def block_count(rows, rows_per_block):
    """Return how many blocks of `rows_per_block` rows cover `rows` rows; callable from Python and from kernels."""
    return (rows + rows_per_block - 1) // rows_per_block


@register_jitable
def padded_ld(columns):
    """Return a leading dimension for gathered rows: whole cache lines, and no power of two; callable from both."""
    return (columns + 15) // 16 * 16 + 16


@register_jitable
def row(x, ld, r, channels):
    """Return row `r` of a pixel matrix with leading dimension `ld` as a view of `channels` values."""
    return x[r * ld : r * ld + channels]
