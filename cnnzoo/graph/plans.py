"""The plans of one network: one for each number of images, in training and in inference, all in one arena."""

from collections.abc import Iterator, Mapping

import numpy as np

from cnnzoo.graph.liveness import aligned_zeros
from cnnzoo.graph.operator import Operator
from cnnzoo.graph.plan import OperatorArrays, Plan
from cnnzoo.graph.tensor import Graph


class Plans:
    """What has been planned of `graph` is kept until `clear`; the arena is as large as the largest plan that was bound.

    Parameters
    ----------
    graph : Graph
    dtype : dtype
    memory, storage : str, str or None
        As in `cnnzoo.graph.layout.lay_out`.

    Attributes
    ----------
    arena : ndarray of uint8
        What the bound plans share.
    """

    def __init__(self, graph: Graph, dtype: np.dtype, memory: str, storage: str | None):
        self._graph, self._setting = graph, (dtype, memory, storage)
        self._plans: dict[tuple[int, bool], Plan] = {}
        self._run: dict[tuple[int, bool], Plan] = {}
        self.arena = np.empty(0, np.uint8)

    def __iter__(self) -> Iterator[Plan]:
        """Iterate over the plans that have been bound, to be run: others were asked for their size alone."""
        return iter(self._run.values())

    def plan(self, images: int, training: bool) -> Plan:
        """Return the plan for a batch of `images`, which may not be bound."""
        if (images, training) not in self._plans:
            self._plans[images, training] = Plan(self._graph, images, training, *self._setting)
        return self._plans[images, training]

    def bind(self, images: int, training: bool, arrays: Mapping[Operator, OperatorArrays]) -> Plan:
        """Return the plan for a batch of `images`, bound to the arena, which grows where it is too small."""
        plan = self._run[images, training] = self.plan(images, training)
        if plan.arena_bytes > self.arena.size:
            for bound in self:
                bound.unbind()
            self.arena = np.empty(0, np.uint8)  # the old arena is freed before there is a new one
            self.arena = aligned_zeros(plan.arena_bytes, np.dtype(np.uint8))
        plan.bind(self.arena, arrays)
        return plan

    def arena_bytes(self, images: int, training: bool, memory: str) -> int:
        """Return what a plan takes, with another `memory` than these plans have or with theirs."""
        dtype, own, storage = self._setting
        if memory == own or not training:  # in inference nothing is kept that could be recomputed
            return self.plan(images, training).arena_bytes
        return Plan(self._graph, images, training, dtype, memory, storage).arena_bytes

    def clear(self) -> None:
        """Forget all plans."""
        self._plans.clear()
        self._run.clear()
