"""Which gradients lack what follows from the sums of a batch norm, and where it is added.

Where a batch norm's backward is begun by its reader, the gradient of its input x lacks slope x + offset, a line, which
follows from sums over the batch. The lines of all batch norms that read x add up, and are added to the gradient once:
when the node that made x begins its backward. The gradients of a concatenation's terms are slices of its own, and take
their parts of its line with them.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnnzoo.graph.operator import Requirements
from cnnzoo.graph.sharing import Sharing
from cnnzoo.graph.tensor import Tensor


class Lines:
    """The lines of a plan's gradients.

    Parameters
    ----------
    sharing : Sharing
    backward_nodes : list of int
        As `find_backward_nodes` returns them.
    requirements : sequence of Requirements
        For each node.

    Attributes
    ----------
    begun : dict of Tensor to Tensor
        Inputs of the batch norms whose backward the readers of their outputs begin, by those outputs.
    masked : set of Tensor
        Inputs whose gradients are stored as they are before the ReLU that made these.
    added, split : set of int
        The nodes before whose backward the line of their output is added to its gradient; concatenations whose line
        goes to their terms instead.
    """

    def __init__(self, sharing: Sharing, backward_nodes: list[int], requirements: Sequence[Requirements]):
        nodes = sharing.graph.nodes
        sources = {node.output: node.inputs[0] for node in nodes if node.operator.deferred}
        read = [node.inputs[0] for node, need in zip(nodes, requirements, strict=True) if need.begins_producer]
        self.begun = {x: sources[x] for x in read if x in sources}
        self.masked = {x for x in read if x not in sources}
        self.added: set[int] = set()
        self.split: set[int] = set()
        written: set[Tensor] = set()
        lacking: set[Tensor] = set()
        for k in backward_nodes:
            node = nodes[k]
            if node.output in self.begun:
                lacking.add(node.inputs[0])
            if node.output in lacking:
                terms = set(node.inputs)
                is_sliced = len(terms) == len(node.inputs) and not terms & (written | sharing.contiguous)
                if node.operator.concatenates and is_sliced:
                    self.split.add(k)
                    lacking |= terms
                else:
                    self.added.add(k)
            written.update(self.begun.get(x, x) for x in node.inputs)
