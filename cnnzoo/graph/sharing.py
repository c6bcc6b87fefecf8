"""Which activations of a graph share memory, and who writes and reads it.

Several tensors may lie in one region: the output of an operator that works in place and its input where nobody reads
that later, the terms of a concatenation, which are slices of its output, and the output of an operator that leaves its
work to the next one's load.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from cnnzoo.graph.tensor import Graph, Node, Tensor


@dataclass(eq=False)
class Region:
    """Memory that one or several activations share.

    Attributes
    ----------
    size : int
        Elements for one image.
    tensors : list of Tensor
    writers : list of int
        The nodes that write to it, by number, in order.
    overwritten : set of Tensor
        Those of its tensors that a later node replaced, working in place.
    """

    size: int
    tensors: list[Tensor] = field(default_factory=list)
    writers: list[int] = field(default_factory=list)
    overwritten: set[Tensor] = field(default_factory=set)


class Place(NamedTuple):
    """Where a tensor lies: channels `channel` and up of a region whose rows have `ld` channels."""

    region: Region
    channel: int
    ld: int


class Sharing:
    """The regions of a graph's activations.

    Parameters
    ----------
    graph : Graph
    training : bool
        Backward reads what the operators save.

    Attributes
    ----------
    places : dict of Tensor to Place
    regions : list of Region
    contiguous : set of Tensor
        Those that may not be slices.
    """

    def __init__(self, graph: Graph, training: bool):
        self.graph, self.training = graph, training
        self.contiguous = {x for node in graph.nodes if node.operator.needs_contiguous for x in node.inputs}
        self.places: dict[Tensor, Place] = {}
        self.regions: list[Region] = []
        self._place(_concatenation_slices(graph, self.contiguous))

    def region(self, tensor: Tensor) -> Region:
        """Return the region in which a tensor lies."""
        return self.places[tensor].region

    def saved(self, node: Node, masked: bool = False) -> set[Region]:
        """Return the regions that the backward pass of a node reads; not its output if the gradient comes masked."""
        tensors = [node.inputs[i] for i in node.operator.saves_inputs]
        reads_output = node.operator.saves_output and not masked
        return {self.region(x) for x in [*tensors, *[node.output] * reads_output]}

    def _last_reads(self) -> dict[Tensor, int]:
        """Return the last node that reads each tensor forward; the number of nodes where the loss or backward does."""
        after = len(self.graph.nodes)
        last = {self.graph.input: 0} | {node.output: k for k, node in enumerate(self.graph.nodes)}
        for k, node in enumerate(self.graph.nodes):
            for i, x in enumerate(node.inputs):
                last[x] = max(last[x], after if self.training and i in node.operator.saves_inputs else k)
            if self.training and node.operator.saves_output:
                last[node.output] = after
        last[self.graph.output] = after
        return last

    def _place(self, slices: dict[Tensor, tuple[Tensor, int]]) -> None:
        last_read = self._last_reads()
        self._enter(self.graph.input, self._new(self.graph.input))
        roots: dict[Tensor, Place] = {}
        for k, node in enumerate(self.graph.nodes):
            x, y = node.inputs[0], node.output
            shared = self.places[x]
            if node.operator.deferred:
                self._enter(y, shared)
                continue
            if y in slices:
                root, channel = slices[y]
                if root not in roots:
                    roots[root] = self._new(root)
                place = Place(roots[root].region, channel, root.channels)
            elif y in roots:
                place = roots[y]
            elif (
                node.operator.forward_in_place
                and x not in slices
                and max(last_read[tensor] for tensor in shared.region.tensors) == k
            ):
                place = shared
                shared.region.overwritten.update(shared.region.tensors)
            else:
                place = self._new(y)
            self._enter(y, place)
            place.region.writers.append(k)

    def _new(self, tensor: Tensor) -> Place:
        self.regions.append(Region(tensor.extent.size))
        return Place(self.regions[-1], 0, tensor.channels)

    def _enter(self, tensor: Tensor, place: Place) -> None:
        self.places[tensor] = place
        place.region.tensors.append(tensor)


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
