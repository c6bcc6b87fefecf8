"""Where a step's time goes: for each node and pass its time, its work, and how near that is to the machine's limit."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Pass = Literal["forward", "recompute", "backward", "update"]


@dataclass(frozen=True)
class Work:
    """What one node does in one pass.

    Attributes
    ----------
    name, kind : str
        The layer's name; its operator, with the algorithm where there is a choice.
    direction : "forward", "recompute", "backward" or "update"
    operations : int
        Additions and multiplications of weighted sums, by the direct method: a faster algorithm may exceed the limit.
    moved : int
        Bytes, if each array is read or written once.
    """

    name: str
    kind: str
    direction: Pass
    operations: int
    moved: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the ledger: `Work`, the median of its seconds over all steps, and what the machine needs at least."""

    work: Work
    seconds: float
    least_seconds: float

    @property
    def share(self) -> float:
        """Of the machine's limit: 1 is as fast as it can be."""
        return self.least_seconds / self.seconds


class Ledger:
    """Collects the seconds of each node and pass; a `Network` tells it of every one while it is its `ledger`."""

    def __init__(self) -> None:
        self._seconds: dict[Work, list[float]] = {}

    def record(self, work: Work, seconds: float) -> None:
        """Take note of one run."""
        self._seconds.setdefault(work, []).append(seconds)

    def clear(self) -> None:
        """Forget everything, such as steps that compiled."""
        self._seconds.clear()

    def rows(self, least_seconds: Callable[[float, float], float]) -> list[Row]:
        """Return the rows, the longest first.

        Parameters
        ----------
        least_seconds : callable
            The least time for so many operations and bytes moved, such as `cnnzoo.machine.Limits.least_seconds`.
        """
        usual: dict[tuple[str, str, Pass], Work] = {}  # a smaller last batch is left out
        for work, seconds in self._seconds.items():
            key = (work.name, work.kind, work.direction)
            if key not in usual or len(seconds) > len(self._seconds[usual[key]]):
                usual[key] = work
        rows = [
            Row(
                work=work,
                seconds=statistics.median(self._seconds[work]),
                least_seconds=least_seconds(work.operations, work.moved),
            )
            for work in usual.values()
        ]
        return sorted(rows, key=lambda row: -row.seconds)
