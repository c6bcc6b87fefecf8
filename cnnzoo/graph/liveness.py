"""Where each array of a plan lies in one arena: lifetimes in, offsets out.

A value lives from the step that writes it to the last step that reads it. Values whose lives overlap get places that
do not; the others share. Placing those that live longest first, each at the lowest free offset, comes within 2% of
the lower bound for these networks, or meets it. Where it does not, the largest come first instead, as Pisarchyk and Lee
place what inference needs ("Efficient Memory Management for Deep Neural Net Inference", 2020), if that takes less.
"""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


@dataclass(eq=False)
class Value:
    """An array of the arena.

    Attributes
    ----------
    size : int
        Bytes.
    first, last : int
        The steps between which it lives, both included.
    offset : int
        Bytes from the start of the arena; set by `place`.
    """

    size: int
    first: int
    last: int
    offset: int = -1

    def read_at(self, step: int) -> None:
        """Keep the value alive up to `step`."""
        self.last = max(self.last, step)


ORDERS = (lambda v: (v.first - v.last, -v.size, v.first), lambda v: (-v.size, v.first, v.last))
"""Those that live longest first, and the largest first."""


def aligned_zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """Return zeros, 1-d, that begin with a cache line."""
    raw = np.zeros(size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * dtype.itemsize].view(dtype)


def place(values: list[Value]) -> int:
    """Set the offset of every value and return the size of the arena in bytes."""
    best, bound = math.inf, _most_at_once(values)
    for order in ORDERS:
        in_order = sorted(values, key=order)
        offsets, total = _place_in_order(in_order)
        if total < best:
            best = total
            for value, offset in zip(in_order, offsets, strict=True):
                value.offset = offset
        if best == bound:
            break
    return int(best)


def _most_at_once(values: list[Value]) -> int:
    """Return the most bytes that live at one step, which no arena can be smaller than."""
    changes: Counter[int] = Counter()
    for value in values:
        changes[value.first] += _aligned(value.size)
        changes[value.last + 1] -= _aligned(value.size)
    return max(accumulate((changes[step] for step in sorted(changes)), initial=0))


def _place_in_order(values: list[Value]) -> tuple[list[int], int]:
    """Return each value's lowest free offset, if they come in this order, and where the last one ends."""
    sizes = np.array([_aligned(value.size) for value in values], np.int64)
    first, last = (np.array([getattr(value, end) for value in values], np.int64) for end in ("first", "last"))
    offsets, ends = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
    for i, size in enumerate(sizes):
        others = np.flatnonzero((first[:i] <= last[i]) & (first[i] <= last[:i]))
        others = others[np.argsort(offsets[others], kind="stable")]
        free = np.concatenate([[0], np.maximum.accumulate(ends[others])])  # where nothing before the next one lies
        gaps = np.flatnonzero(offsets[others] - free[:-1] >= size)
        offsets[i] = free[gaps[0]] if gaps.size else free[-1]
        ends[i] = offsets[i] + size
    return offsets.tolist(), int(ends.max(initial=0))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
