"""What will be read or written next is brought into the cache while a product, which needs no memory, is computed.

A core can wait for a few lines of memory at a time, and then stops; asked for a few at a time, between products or
their tiles, they come without anyone's waiting.
"""

from typing import Any, NamedTuple

from cnnzoo.kernels.compile import worker
from cnnzoo.kernels.simd import prefetch, prefetch_to_write

CACHE_LINE = 64  # bytes


class Region(NamedTuple):
    """Columns of some rows of a pixel matrix, to be prefetched; any address will do.

    Attributes
    ----------
    matrix : pointer
        What `cnnzoo.kernels.simd.pointer` returns of it.
    at : int
        Place of the first element.
    ld : int
        Leading dimension.
    rows, columns : int
        How many.
    to_write : bool
        They will be written, and are wanted as this thread's alone.
    """

    matrix: Any
    at: int
    ld: int
    rows: int
    columns: int
    to_write: bool


@worker
def inverse(parts):
    """Return what `part_of` takes of the number of parts: it is asked for each, and divisions are slow."""
    return (1 << 32) // max(1, parts) + 1


@worker
def part_of(region, part, inverse_parts):
    """Return a part of a region's rows, about as many in each."""
    first, last = part * region.rows * inverse_parts >> 32, (part + 1) * region.rows * inverse_parts >> 32
    at = region.at + first * region.ld
    return Region(region.matrix, at, region.ld, last - first, region.columns, region.to_write)


@worker
def prefetch_region(region, itemsize):
    """Ask for all of a region, whose elements have `itemsize` bytes."""
    for r in range(region.rows):
        at = region.at + r * region.ld
        for c in range(0, region.columns, CACHE_LINE // itemsize):
            if region.to_write:
                prefetch_to_write(region.matrix, at + c)
            else:
                prefetch(region.matrix, at + c)
