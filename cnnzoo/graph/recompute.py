"""Which activations are not kept for backward: most bytes for the least time, while time allows.

Times are estimates: the cost table's for weighted sums, and so much for each value that a pass moves, or a pool's
window has. They depend on shapes alone, and so does the choice: what is narrowed is part of a run's bits. Scratch, of
which each thread has some, counts as for `CHOICE_THREADS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnnzoo.graph.algorithms import Planned
from cnnzoo.graph.sharing import Region
from cnnzoo.graph.timeline import can_be_recomputed, first_reads, schedule_recomputation
from cnnzoo.kernels.costs import MOVED_VALUE, POOLED_VALUE

if TYPE_CHECKING:
    from cnnzoo.graph.layout import Layout

HALF = np.dtype(np.uint16)
"""The bits of a narrowed activation."""

STORAGE = ("bfloat16", "float16")
"""The types to which activations that wait for backward may be narrowed."""

LARGEST_FLOAT16 = 65_504
INFINITE_FLOAT16 = 65_520
"""From here on values round to infinity in float16."""

CHOICE_THREADS = 2
"""The threads for whose scratch a peak is made low, however many there are."""


class Choice(NamedTuple):
    """What may be recomputed: the largest share of a step's estimated time, and whether more than one pass over memory.

    That is what weighted sums take, and what reads more than twice as much as it writes, as a pool with a stride does.
    """

    share: float
    more_than_a_pass: bool


MEMORY = {"fast": Choice(0.016, more_than_a_pass=False), "lean": Choice(0.2, more_than_a_pass=True)}


def choose_recomputed(kept: Layout, choice: Choice) -> list[Region]:
    """Return the regions to recompute, given the layout in which all are kept.

    Those that save most bytes for the time it takes to compute them again come first, as far as the share of a step's
    time allows.
    """
    peak = Peak(kept)
    costs = {k: forward_cost(kept, k) for k in range(len(kept.graph.nodes))}
    cost = {region: sum(costs[k] for k in region.writers) for region in peak.candidates}
    costly = {k for k in costs if not _takes_a_pass(kept, k)}
    allowed = [r for r in peak.candidates if choice.more_than_a_pass or costly.isdisjoint(r.writers)]
    order = sorted(allowed, key=lambda region: cost[region] / region.size)
    total = sum(costs[k] + backward_cost(kept, k) for k in kept.timeline.backward_nodes)
    return _lower(peak, order, cost, choice.share * total)


def _takes_a_pass(layout: Layout, k: int) -> bool:
    """Tell whether a node's forward is one pass over memory; see `Choice`."""
    node = layout.graph.nodes[k]
    read = sum(x.extent.size for x in node.inputs)
    return not isinstance(layout.requirements[k].state, Planned) and read <= 2 * node.output.extent.size


def choose_narrowed(kept: Layout, recomputed: Collection[Region]) -> list[Region]:
    """Return the regions to narrow, given the layout in which all are kept and what is recomputed; largest first."""
    peak = Peak(kept)
    reads = first_reads(kept.sharing, kept.timeline.backward_nodes)
    waiting = [region for region in kept.sharing.regions if region in reads and region.writers]  # not in a set's order
    order = sorted((region for region in waiting if region not in recomputed), key=lambda region: -region.size)
    return _lower(lambda narrowed: peak(recomputed, narrowed), order, dict.fromkeys(order, 0.0), 0.0)


def _lower(
    peak: Callable[[Collection[Region]], int], order: list[Region], cost: dict[Region, float], budget: float
) -> list[Region]:
    """Return regions that lower the peak together.

    They are tried in order: one is chosen if its cost fits in what is left of the budget and the peak does not rise.
    Those without which it is the same are put back in the end.
    """
    chosen: list[Region] = []
    lowest = peak(chosen)
    for region in order:
        height = peak([*chosen, region]) if cost[region] <= budget else lowest + 1
        if height <= lowest:
            chosen.append(region)
            lowest = height
            budget -= cost[region]
    for region in reversed(chosen.copy()):
        others = [other for other in chosen if other is not region]
        if peak(others) <= lowest:
            chosen = others
    return chosen


class Peak:
    """The most bytes that live at once, for any regions to recompute and to narrow.

    Nodes that run again, and what they need, are counted in the backward step before which they run; so is a region
    that is widened. So the peak is never too low.
    """

    def __init__(self, kept: Layout):
        self._sharing, timeline = kept.sharing, kept.timeline
        self._bytes = {region: value.size for region, value in kept.forward_values.items()}
        self._step = {step.number: i for i, step in enumerate(timeline.steps) if step.action == "backward"}
        self._first_read = first_reads(kept.sharing, timeline.backward_nodes)
        self._scratch = [value.size for value in kept.scratch]
        self._lives = {region: (value.first, value.last) for region, value in kept.forward_values.items()}
        self._itemsize = kept.dtype.itemsize
        # Where forward reads a region last, and where backward reads it first and last.
        self._forward_ends: dict[Region, int] = {}
        self._starts: dict[Region, int] = {}
        self._ends: dict[Region, int] = {}
        for i, step in enumerate(timeline.steps):
            for region, _ in timeline.touched(step):
                if step.action == "backward":
                    self._starts.setdefault(region, i)
                    self._ends[region] = i
                else:
                    self._forward_ends[region] = i
        self._changes = np.zeros(len(timeline.steps) + 1, np.int64)
        for value in kept.values:
            self._add(self._changes, value.size, value.first, value.last)
        self.candidates = [
            region for region in kept.sharing.regions if can_be_recomputed(kept.sharing, region, self._first_read)
        ]

    def __call__(self, recomputed: Collection[Region], narrowed: Collection[Region] = ()) -> int:
        """Return the bytes for these regions to recompute and to narrow."""
        changes = self._changes.copy()
        starts, ends = self._starts.copy(), self._ends.copy()
        touched = {*narrowed}
        for k, numbers in schedule_recomputation(self._sharing, self._first_read, recomputed).items():
            step = self._step[k]
            for j in numbers:
                self._add(changes, self._scratch[j], step, step)
                for region in self._operands(j):
                    touched.add(region)
                    starts[region] = min(step, starts.get(region, step))
                    ends[region] = max(step, ends.get(region, step))
        for region in touched:
            size, life = self._bytes[region], self._lives[region]
            self._add(changes, -size, *life)
            if region in recomputed or region in narrowed:
                self._add(changes, size, life[0], self._forward_ends[region])
                self._add(changes, size, starts[region], ends[region])
            else:
                self._add(changes, size, life[0], max(life[1], ends[region]))
            if region in narrowed:
                half = size * HALF.itemsize // self._itemsize
                self._add(changes, half, self._forward_ends[region], starts[region])
        return int(np.cumsum(changes).max())

    def _operands(self, k: int) -> Iterator[Region]:
        node = self._sharing.graph.nodes[k]
        return (self._sharing.region(tensor) for tensor in (*node.inputs, node.output))

    @staticmethod
    def _add(changes: np.ndarray, size: int, first: int, last: int) -> None:
        changes[first] += size
        changes[last + 1] -= size


def _moved(layout: Layout, k: int) -> float:
    """Return the time that a node takes to read its inputs, to compare windows and to write its output, in one pass."""
    node = layout.graph.nodes[k]
    output = layout.sharing.region(node.output)
    if node.operator.concatenates and all(layout.sharing.region(x) is output for x in node.inputs):
        return 0.0
    values = sum(x.extent.size for x in (*node.inputs, node.output))
    pooled = node.operator.pooled(*(x.extent for x in node.inputs))
    return layout.images * (values * MOVED_VALUE + pooled * POOLED_VALUE)


def forward_cost(layout: Layout, k: int) -> float:
    """Return the estimated time of a node's forward pass, in units of `cnnzoo.kernels.costs`."""
    planned = layout.requirements[k].state
    cost = 0.0 if layout.graph.nodes[k].operator.deferred else _moved(layout, k)
    if isinstance(planned, Planned):
        cost += planned.forward.costs(planned.forward.shape)["forward"]
    return cost


def backward_cost(layout: Layout, k: int) -> float:
    """Return the estimated time of a node's backward pass."""
    planned = layout.requirements[k].state
    is_begun = layout.graph.nodes[k].output in layout.lines.begun
    cost = 0.0 if is_begun else 2 * _moved(layout, k)
    if isinstance(planned, Planned):
        cost += planned.weight_gradient.costs(planned.weight_gradient.shape)["weight_gradient"]
        if layout.graph.nodes[k].inputs[0] in layout.wanted:
            cost += planned.input_gradient.costs(planned.input_gradient.shape)["input_gradient"]
    return cost
