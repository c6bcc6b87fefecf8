"""Which arrays a graph needs at one batch size, how long each lives, and where it lies in the arena.

Activations lie in the regions of `cnnzoo.graph.sharing`, and live as `cnnzoo.graph.timeline` says. The same sharing
holds for gradients: that of an input may take the place of the output's, or be a slice of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from cnnzoo.errors import ConfigError, suggest
from cnnzoo.graph.lines import Lines
from cnnzoo.graph.liveness import Value, place
from cnnzoo.graph.operator import Loan, Requirements
from cnnzoo.graph.recompute import CHOICE_THREADS, HALF, MEMORY, STORAGE, choose_narrowed, choose_recomputed
from cnnzoo.graph.sharing import Region, Sharing
from cnnzoo.graph.tensor import Graph, Node, Tensor
from cnnzoo.graph.timeline import Step, Timeline, find_backward_nodes, find_influenced
from cnnzoo.kernels.convolution import Scratch


class GradientPlace(NamedTuple):
    """Where a gradient or its line lies: channels `channel` and up of a value whose rows have `ld` channels."""

    value: Value
    channel: int
    ld: int


class Layout:
    """Lifetimes of everything that a plan works on.

    Parameters
    ----------
    graph : Graph
    images : int
    training : bool
    dtype : dtype
    sharing : Sharing
    recomputed, narrowed : collection of Region
        As in `Timeline`.
    threads : int, optional
        For which there is scratch; as many as there can be, unless given.

    Attributes
    ----------
    requirements : list of Requirements
        For each node.
    numbers : dict of Operator to int
        Each operator's node.
    timeline : Timeline
    values : list of Value
        All of the following; they have no place yet.
    forward_values, narrowed_values, backward_values : dict of Region to Value
        Activations: where forward leaves them, as bits of two bytes, and where backward finds what was not kept.
    kept : list of dict of str to Value
        For each node.
    scratch, backward_scratch, recompute_scratch : of Value
        For each node, or by its number.
    gradients : dict of Tensor to GradientPlace
    accumulate : dict of int to list of bool
        For each node that runs backward and each of its inputs: its gradient is written already.
    wanted : set of Tensor
        Tensors whose gradients somebody reads.
    lines : Lines
    line_places : dict of Tensor to GradientPlace
        Two rows, slope and offset, for each gradient that lacks them at first.
    accumulate_line : set of int
        Batch norms that add to the line of their input, instead of writing it.
    """

    def __init__(
        self,
        graph: Graph,
        images: int,
        training: bool,
        dtype: np.dtype,
        sharing: Sharing,
        recomputed: Collection[Region] = frozenset(),
        narrowed: Collection[Region] = frozenset(),
        threads: int | None = None,
    ):
        self.graph, self.images, self.training, self.dtype = graph, images, training, np.dtype(dtype)
        self._nodes, self.sharing, self._threads = graph.nodes, sharing, threads
        self.values: list[Value] = []
        self.requirements: list[Requirements] = [
            node.operator.requirements(images, training, self.dtype, *(x.extent for x in node.inputs))
            for node in self._nodes
        ]
        self.lines = Lines(sharing, find_backward_nodes(sharing), self.requirements)
        self.timeline = Timeline(sharing, recomputed, narrowed, self.lines.added, self.lines.masked)
        self.wanted = find_influenced(sharing)
        self.numbers = {node.operator: k for k, node in enumerate(self._nodes)}
        self.forward_values: dict[Region, Value] = {}
        self.narrowed_values: dict[Region, Value] = {}
        self.backward_values: dict[Region, Value] = {}
        self.kept: list[dict[str, Value]] = [{} for _ in self._nodes]
        self.scratch: list[Value] = []
        self.backward_scratch: dict[int, Value] = {}
        self.recompute_scratch: dict[int, Value] = {}
        self.gradients: dict[Tensor, GradientPlace] = {}
        self.accumulate: dict[int, list[bool]] = {}
        self.line_places: dict[Tensor, GradientPlace] = {}
        self.accumulate_line: set[int] = set()
        self._touch_region(sharing.region(graph.input), False, 0)  # the images are there before the first step
        for number, step in enumerate(self.timeline.steps):
            self._live(number, step)

    def loans(self, node: Node, forward: bool) -> list[Loan]:
        """Return what a node borrows in its forward pass, or when it runs later, of what the lenders have."""
        needs = [(loan, self.requirements[self.numbers[loan.lender]]) for loan in node.operator.borrows]
        return [loan for loan, need in needs if loan.name in need.kept or (forward and loan.name in need.lent)]

    def activation(self, tensor: Tensor, restored: bool) -> Value:
        """Return the value in which an activation lies: where forward leaves it, or where backward finds it."""
        region = self.sharing.region(tensor)
        moved = restored and region in self.backward_values
        return self.backward_values[region] if moved else self.forward_values[region]

    def _live(self, number: int, step: Step) -> None:
        """Make the values that a step begins, and keep alive those that it reads."""
        for region, restored in self.timeline.touched(step):
            self._touch_region(region, restored, number)
        k = step.number
        if step.action in ("narrow", "widen"):
            region = self.sharing.regions[k]
            if region not in self.narrowed_values:
                self.narrowed_values[region] = self._new(self.images * region.size, number, HALF)
            self.narrowed_values[region].read_at(number)
        elif step.action == "loss":
            if self.training:
                self.gradients[self.graph.output] = self._whole_gradient(self.graph.output, number)
        else:
            self._touch_kept(k, step, number)
            need = self.requirements[k]
            if step.action == "forward":
                self.scratch.append(self._new_scratch(need.forward_scratch, number))
            elif step.action == "recompute":
                self.recompute_scratch[k] = self._new_scratch(need.forward_scratch, number)
            else:
                self.backward_scratch[k] = self._new_scratch(need.backward_scratch, number)
                self._place_gradients(k, number)
                self._place_lines(k, number)

    def _new(self, elements: int, step: int, dtype: np.dtype | None = None) -> Value:
        value = Value(elements * (dtype or self.dtype).itemsize, step, step)
        self.values.append(value)
        return value

    def _new_scratch(self, needs: tuple[Scratch, ...], step: int) -> Value:
        return self._new(max((need.size(self._threads) for need in needs), default=0), step)

    def _touch_region(self, region: Region, restored: bool, step: int) -> None:
        values = self.backward_values if restored else self.forward_values
        if region not in values:
            values[region] = self._new(self.images * region.size, step)
        values[region].read_at(step)

    def _touch_kept(self, k: int, step: Step, number: int) -> None:
        """Keep alive what a node keeps and what it borrows; what is lent serves forward steps alone."""
        need, node = self.requirements[k], self._nodes[k]
        if step.action == "forward":
            for name, (count, dtype) in {**need.kept, **need.lent}.items():
                self.kept[k][name] = self._new(count, number, dtype)
        for name in need.kept:
            self.kept[k][name].read_at(number)
        for loan in self.loans(node, forward=step.action == "forward"):
            self.kept[self.numbers[loan.lender]][loan.name].read_at(number)

    def _whole_gradient(self, tensor: Tensor, step: int) -> GradientPlace:
        return GradientPlace(self._new(self.images * tensor.extent.size, step), 0, tensor.channels)

    def _place_gradients(self, k: int, step: int) -> None:
        """Place the gradients that a backward pass writes, and keep alive those that it reads or adds to."""
        node = self._nodes[k]
        dy = self.gradients[node.output]
        dy.value.read_at(step)
        self.accumulate[k] = []
        channel = 0
        for i, read in enumerate(node.inputs):
            x = self.lines.begun.get(read, read)
            self.accumulate[k].append(x in self.gradients)
            if x in self.gradients:
                self.gradients[x].value.read_at(step)
            elif read in self.wanted or not node.operator.skips_unwanted:
                in_place = i == 0 and node.operator.backward_in_place and x.extent == node.output.extent
                slice_of_dy = GradientPlace(dy.value, dy.channel + channel, dy.ld)
                fits = x not in self.sharing.contiguous or slice_of_dy.ld == x.channels
                if (in_place or node.operator.concatenates) and fits:
                    self.gradients[x] = slice_of_dy
                else:
                    self.gradients[x] = self._whole_gradient(x, step)
            if x in self.gradients:
                self.gradients[read] = self.gradients[x]
            channel += x.channels

    def _place_lines(self, k: int, step: int) -> None:
        """Place the line that a batch norm writes, and keep alive those that are read or added to."""
        node = self._nodes[k]
        if node.output in self.lines.begun:
            x = node.inputs[0]
            if x in self.line_places:
                self.accumulate_line.add(k)
                self.line_places[x].value.read_at(step)
            else:
                self.line_places[x] = GradientPlace(self._new(2 * x.channels, step), 0, x.channels)
        if k in self.lines.added:
            self.line_places[node.output].value.read_at(step)
        elif k in self.lines.split:
            value, channel, ld = self.line_places[node.output]
            for x in node.inputs:
                self.line_places[x] = GradientPlace(value, channel, ld)
                channel += x.channels


def check_memory_choice(memory: str, storage: str | None, dtype: np.dtype) -> None:
    """Raise `ConfigError` where `lay_out` does not know them, or cannot narrow that type."""
    if memory not in MEMORY:
        raise ConfigError(f"memory: expected one of {', '.join(MEMORY)}, got {memory!r}{suggest(str(memory), MEMORY)}")
    if storage is not None and storage not in STORAGE:
        raise ConfigError(f"storage: expected one of {', '.join(STORAGE)}, got {storage!r}")
    if storage is not None and dtype != np.float32:
        raise ConfigError(f"storage: expected dtype float32 with {storage}, got {dtype}")


def lay_out(
    graph: Graph, images: int, training: bool, dtype: np.dtype, memory: str = "fast", storage: str | None = None
) -> tuple[Layout, int]:
    """Return the layout of a graph with a place for every value, and the bytes of the arena.

    Parameters
    ----------
    graph : Graph
    images : int
    training : bool
    dtype : dtype
    memory : str
        One of `MEMORY`: how much may be recomputed.
    storage : str or None
        Of activations that wait for backward, are not recomputed, and would make the peak higher as they are:
        "bfloat16" or "float16"; None for `dtype`.
    """
    sharing = Sharing(graph, training)
    recomputed, narrowed = [], []
    if training:
        kept = Layout(graph, images, training, dtype, sharing, threads=CHOICE_THREADS)
        recomputed = choose_recomputed(kept, MEMORY[memory])
        narrowed = choose_narrowed(kept, recomputed) if storage else []
    layout = Layout(graph, images, training, dtype, sharing, recomputed, narrowed)
    return layout, place(layout.values)
