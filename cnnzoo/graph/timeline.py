"""The order in which a plan's steps run, and where backward gets the activations from that forward did not keep.

An activation that backward reads is kept, as a rule. Its region may instead be recomputed: the nodes that wrote it run
forward once more, just before the first backward step that reads it (gradient checkpointing; Chen, Xu, Zhang and
Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016). Or it may be narrowed: rounded to two bytes a value
after the last forward step that reads it, and widened before the first backward step that does. In between its memory
serves others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

from cnnzoo.graph.sharing import Region, Sharing
from cnnzoo.graph.tensor import Tensor

Action = Literal["forward", "narrow", "loss", "widen", "recompute", "backward"]


class Step(NamedTuple):
    """A node, or a region, by number, and what is done with it; the loss outside has the number 0."""

    action: Action
    number: int


class Timeline:
    """The steps of a training pass, or of one in inference.

    Parameters
    ----------
    sharing : Sharing
    recomputed, narrowed : collection of Region
        Those that forward does not keep; none of them is in both.
    read_again : collection of int
        Nodes whose backward reads their output, besides what their operators save.
    masked : collection of Tensor
        As `Lines.masked`: what backward does not read again after the reader that masks the gradient.

    Attributes
    ----------
    steps : list of Step
    backward_nodes : list of int
        The nodes that run backward, in that order.
    restored : set of Region
        Those that backward finds elsewhere than forward left them.
    """

    def __init__(
        self,
        sharing: Sharing,
        recomputed: Collection[Region] = frozenset(),
        narrowed: Collection[Region] = frozenset(),
        read_again: Collection[int] = frozenset(),
        masked: Collection[Tensor] = frozenset(),
    ):
        self._sharing, self._nodes = sharing, sharing.graph.nodes
        self._narrowed, self._read_again, self._masked = narrowed, read_again, masked
        self.restored = {*recomputed, *narrowed}
        self.backward_nodes = find_backward_nodes(sharing)
        self._runs_again = schedule_recomputation(sharing, first_reads(sharing, self.backward_nodes), recomputed)
        self.steps = [*self._forward(), Step("loss", 0), *self._backward()]

    def touched(self, step: Step) -> Iterator[tuple[Region, bool]]:
        """Yield the regions that a step reads or writes, each with whether it is where backward looks."""
        if step.action in ("narrow", "widen"):
            yield self._sharing.regions[step.number], step.action == "widen"
        elif step.action == "loss":
            yield self._sharing.region(self._sharing.graph.output), False
        elif step.action == "backward":
            node = self._nodes[step.number]
            regions = self._sharing.saved(node, node.output in self._masked)
            if step.number in self._read_again:
                regions.add(self._sharing.region(node.output))
            for region in regions:
                yield region, region in self.restored
        else:
            for tensor in self._operands(step.number):
                region = self._sharing.region(tensor)
                yield region, step.action == "recompute" and region in self.restored

    def _operands(self, k: int) -> tuple[Tensor, ...]:
        return (*self._nodes[k].inputs, self._nodes[k].output)

    def _forward(self) -> Iterator[Step]:
        number = {region: i for i, region in enumerate(self._sharing.regions)}
        last = {self._sharing.region(tensor): k for k in range(len(self._nodes)) for tensor in self._operands(k)}
        for k in range(len(self._nodes)):
            yield Step("forward", k)
            for region in self._narrowed:
                if last[region] == k:
                    yield Step("narrow", number[region])

    def _backward(self) -> Iterator[Step]:
        number = {region: i for i, region in enumerate(self._sharing.regions)}
        waiting = set(self._narrowed)
        for k in self.backward_nodes:
            again = self._runs_again.get(k, [])
            read = self._sharing.saved(self._nodes[k])
            read |= {self._sharing.region(tensor) for j in again for tensor in self._operands(j)}
            for region in sorted(waiting & read, key=number.__getitem__):
                yield Step("widen", number[region])
            waiting -= read
            yield from (Step("recompute", j) for j in again)
            yield Step("backward", k)


def find_influenced(sharing: Sharing) -> set[Tensor]:
    """Return the tensors on which a parameter has an influence: not the images, nor what is made of them alone."""
    influenced: set[Tensor] = set()
    for node in sharing.graph.nodes:
        if node.operator.parameters or any(x in influenced for x in node.inputs):
            influenced.add(node.output)
    return influenced


def find_backward_nodes(sharing: Sharing) -> list[int]:
    """Return the nodes that run backward, last first: a parameter has an influence on them, and they on the logits."""
    if not sharing.training:
        return []
    nodes, influenced = sharing.graph.nodes, find_influenced(sharing)
    reached = {sharing.graph.output}
    found = []
    for k in reversed(range(len(nodes))):
        if nodes[k].output in reached & influenced:
            reached.update(nodes[k].inputs)
            found.append(k)
    return found


def first_reads(sharing: Sharing, backward_nodes: list[int]) -> dict[Region, int]:
    """Return, for each region that backward reads, the node whose backward pass does so first."""
    return {region: k for k in reversed(backward_nodes) for region in sharing.saved(sharing.graph.nodes[k])}


def schedule_recomputation(
    sharing: Sharing, first_read: dict[Region, int], recomputed: Collection[Region]
) -> dict[int, list[int]]:
    """Return the nodes that run forward again just before each backward pass, in order.

    What a region is computed from may be a region to be recomputed too, and then comes first. Writers behind the node
    that runs backward are left out: nobody reads their output any more.
    """
    nodes = sharing.graph.nodes
    again: dict[int, set[int]] = {}
    done: set[Region] = set()
    for first in sorted(recomputed, key=lambda region: -first_read[region]):
        k, pending = first_read[first], [first]
        while pending:
            region = pending.pop()
            if region in done or region not in recomputed:
                continue
            done.add(region)
            writers = [j for j in region.writers if j <= k]
            again.setdefault(k, set()).update(writers)
            pending += [sharing.region(x) for j in writers for x in nodes[j].inputs]
    return {k: sorted(numbers) for k, numbers in again.items()}


def can_be_recomputed(sharing: Sharing, region: Region, first_read: dict[Region, int]) -> bool:
    """Return whether the nodes that wrote a region find their inputs as they were, once forward is through.

    All of them may run again: for a region that is computed from this one, and that backward reads before it.
    """
    if region not in first_read or sharing.graph.input in region.tensors:
        return False
    inputs = {x for j in region.writers for x in sharing.graph.nodes[j].inputs}
    return all(sharing.region(x) is region or x not in sharing.region(x).overwritten for x in inputs)
