"""What will be read or written next is brought into the cache while a product, which needs no memory, is computed.

A core can wait for a few lines of memory at a time, and then stops. So lines are asked for a few at a time: those of
rows with gaps between products or their tiles; those of a run of memory one by one, in the course of a sum, where the
machine sees a sequence and is ahead of it.
"""

from typing import Any, NamedTuple

from cnnzoo.kernels.compile import worker
from cnnzoo.kernels.simd import address, pointer, prefetch, prefetch_to_write

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


class Run(NamedTuple):
    """Memory without gaps, to be prefetched; any address will do.

    Attributes
    ----------
    start : int
        Its address.
    size : int
        Bytes.
    """

    start: int
    size: int


@worker
def is_run(region):
    """Tell whether there are no gaps between a region's rows."""
    return region.columns == region.ld or region.rows == 0


@worker
def run_of(region, itemsize):
    """Return a region as a run; what lies in gaps between its rows belongs to it, and it is asked for to be read."""
    return Run(address(region.matrix) + region.at * itemsize, region.rows * region.ld * itemsize)


@worker
def run_at(x, at, count):
    """Return ``x[at : at + count]`` as a run."""
    return Run(address(pointer(x)) + at * x.itemsize, count * x.itemsize)


@worker
def columns_of(region, first, count):
    """Return some columns of a region."""
    return Region(region.matrix, region.at + first, region.ld, region.rows, count, region.to_write)


@worker
def part_of_runs(runs, part, parts):
    """Return one of so many parts of runs that are asked for one after the other.

    A part that straddles two runs is taken to go on behind the first: what it asks for there is harmless, and the
    beginning of the second is not asked for.
    """
    total = 0
    for run in runs:
        total += run.size
    begin, end = total * part // parts, total * (part + 1) // parts
    size = end - begin
    for run in runs:
        if begin < run.size:
            return Run(run.start + begin, size)
        begin -= run.size
    return Run(runs[0].start, 0)


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
def are_asked_for(now, later, panels, size):
    """Tell whether products ask for all of these runs, as `run_ahead` shares them out, if a panel's ask for `size`."""
    both = now[0].size + now[1].size
    return both + later.size <= size if panels == 1 else both <= size and later.size <= (panels - 1) * size


@worker
def run_ahead(now, later, panel, panels, product, products):
    """Return what a product asks for: of two runs that the first panel wants when it is finished, then of the other.

    A single panel asks for all of them.
    """
    if panels == 1:
        return part_of_runs((now[0], now[1], later), product, products)
    if panel == 0:
        return part_of_runs(now, product, products)
    return part_of_runs((later,), (panel - 1) * products + product, (panels - 1) * products)


@worker
def regions_ahead(now, later, panel, panels, product, products, first, count):
    """Return what a product asks for: of two regions the panel's columns, of the other one what follows."""
    parts = inverse(products)
    return (
        part_of(columns_of(now[0], first, count), product, parts),
        part_of(columns_of(now[1], first, count), product, parts),
        part_of(later, panel * products + product, inverse(panels * products)),
    )


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
