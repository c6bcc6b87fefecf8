"""Which arrays a graph needs at one batch size, how long each lives, and where it lies in the arena.

Step k < n runs node k forward, step n is the loss outside, step 2n - k runs node k backward.

Several tensors may share one value: the output of an operator that works in place and its input where nobody reads
that later, the terms of a concatenation, which are slices of its output, and the output of an operator that leaves its
work to the next one's load. The same holds for gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cnnzoo.graph.liveness import Value, place
from cnnzoo.graph.operator import Requirements
from cnnzoo.graph.tensor import Graph, Tensor


class Place(NamedTuple):
    """Where a tensor lies: channels `channel` and up of a value whose rows have `ld` channels."""

    value: Value
    channel: int
    ld: int


class Layout:
    """Lifetimes and places of everything that a plan works on.

    Parameters
    ----------
    graph : Graph
    images : int
    training : bool
    dtype : dtype

    Attributes
    ----------
    requirements : list of Requirements
        For each node; so are `kept`, `scratch` and `backward_scratch`.
    activations, gradients : dict of Tensor to Place
    accumulate : dict of int to list of bool
        For each node that runs backward, in that order, and each of its inputs: its gradient is written already.
    wanted : set of Tensor
        Tensors whose gradients somebody reads.
    arena_bytes : int
    """

    def __init__(self, graph: Graph, images: int, training: bool, dtype: np.dtype):
        self.graph, self.images, self.training, self.dtype = graph, images, training, np.dtype(dtype)
        self._nodes = graph.nodes
        self._values: list[Value] = []
        self._contiguous = {x for node in graph.nodes if node.operator.needs_contiguous for x in node.inputs}
        self._slices = _concatenation_slices(graph, self._contiguous)
        self.requirements: list[Requirements] = [
            node.operator.requirements(images, training, self.dtype, *(x.extent for x in node.inputs))
            for node in self._nodes
        ]
        self.activations = self._place_activations()
        self.kept = [self._live_kept(k) for k in range(len(self._nodes))]
        self.scratch = [self._new(need.forward_scratch, k, k) for k, need in enumerate(self.requirements)]
        self.backward_scratch: dict[int, Value] = {}
        self.gradients: dict[Tensor, Place] = {}
        self.accumulate: dict[int, list[bool]] = {}
        self.wanted = _influenced(graph)
        if training:
            self._place_gradients()
        self.arena_bytes = place(self._values)

    def _new(self, elements: int, first: int, last: int, dtype: np.dtype | None = None) -> Value:
        value = Value(elements * (dtype or self.dtype).itemsize, first, last)
        self._values.append(value)
        return value

    def _whole(self, tensor: Tensor, first: int, last: int) -> Place:
        return Place(self._new(self.images * tensor.extent.size, first, last), 0, tensor.channels)

    def _backward_step(self, k: int) -> int:
        return 2 * len(self._nodes) - k

    def _last_uses(self) -> dict[Tensor, int]:
        """Return the last step that reads each activation."""
        last = {self.graph.input: 0} | {node.output: k for k, node in enumerate(self._nodes)}
        for k, node in enumerate(self._nodes):
            for i, x in enumerate(node.inputs):
                saved = self.training and i in node.operator.saves_inputs
                last[x] = max(last[x], self._backward_step(k) if saved else k)
            if self.training and node.operator.saves_output:
                last[node.output] = max(last[node.output], self._backward_step(k))
        last[self.graph.output] = max(last[self.graph.output], len(self._nodes))
        return last

    def _place_activations(self) -> dict[Tensor, Place]:
        last = self._last_uses()
        places = {self.graph.input: self._whole(self.graph.input, 0, last[self.graph.input])}
        roots: dict[Tensor, Place] = {}
        for k, node in enumerate(self._nodes):
            x, y = node.inputs[0], node.output
            if node.operator.deferred:
                places[y] = places[x]
            elif y in self._slices:
                root, channel = self._slices[y]
                if root not in roots:
                    roots[root] = self._whole(root, k, k)
                places[y] = Place(roots[root].value, channel, root.channels)
            elif y in roots:
                places[y] = roots[y]
            elif node.operator.forward_in_place and places[x].value.last == k and x not in self._slices:
                places[y] = places[x]
            else:
                places[y] = self._whole(y, k, k)
            places[y].value.read_at(last[y])
        return places

    def _live_kept(self, k: int) -> dict[str, Value]:
        operator = self._nodes[k].operator
        readers = [n for n, node in enumerate(self._nodes) for loan in node.operator.borrows if loan.lender is operator]
        last = max([self._backward_step(k) if self.training else k, *readers])
        return {name: self._new(count, k, last, dtype) for name, (count, dtype) in self.requirements[k].kept.items()}

    def _place_gradients(self) -> None:
        nodes = self._nodes
        self.gradients[self.graph.output] = self._whole(self.graph.output, len(nodes), len(nodes))
        for k in reversed(range(len(nodes))):
            node, step = nodes[k], self._backward_step(k)
            if node.output not in self.wanted or node.output not in self.gradients:
                continue  # no parameter lies above it, or the logits do not depend on it
            dy = self.gradients[node.output]
            dy.value.read_at(step)
            self.backward_scratch[k] = self._new(self.requirements[k].backward_scratch, step, step)
            self.accumulate[k] = []
            channel = 0
            for i, x in enumerate(node.inputs):
                self.accumulate[k].append(x in self.gradients)
                if x in self.gradients:
                    self.gradients[x].value.read_at(step)
                elif x in self.wanted or not node.operator.skips_unwanted:
                    in_place = i == 0 and node.operator.backward_in_place and x.extent == node.output.extent
                    slice_of_dy = Place(dy.value, dy.channel + channel, dy.ld)
                    fits = x not in self._contiguous or slice_of_dy.ld == x.channels
                    if (in_place or node.operator.concatenates) and fits:
                        self.gradients[x] = slice_of_dy
                    else:
                        self.gradients[x] = self._whole(x, step, step)
                channel += x.channels


def _concatenation_slices(graph: Graph, contiguous: set[Tensor]) -> dict[Tensor, tuple[Tensor, int]]:
    """Return, for each term of a concatenation, the tensor of whose buffer it is a slice, and its first channel.

    A concatenation that is itself a term is a slice, and its terms are slices of the same buffer: so a dense block's
    features grow in one place. A term of two concatenations lies in the last one's; the other one copies it.
    """
    deferred = {node.output for node in graph.nodes if node.operator.deferred}
    excluded = deferred | contiguous | {graph.input}
    slices: dict[Tensor, tuple[Tensor, int]] = {}
    for node in reversed(graph.nodes):
        if not node.operator.concatenates:
            continue
        root, channel = slices.get(node.output, (node.output, 0))
        for x in node.inputs:
            if x not in slices and x not in excluded:
                slices[x] = (root, channel)
            channel += x.channels
    return slices


def _influenced(graph: Graph) -> set[Tensor]:
    """Return the tensors on which a parameter has an influence: not the images, nor what is made of them alone."""
    influenced: set[Tensor] = set()
    for node in graph.nodes:
        if node.operator.parameters or any(x in influenced for x in node.inputs):
            influenced.add(node.output)
    return influenced
