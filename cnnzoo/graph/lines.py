"""Which gradients a reader has taken through a part of what made its input: through a ReLU, or half of a batch norm.

Of a batch norm they lack what follows from its sums: this module says which do, and where it is added.

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
    """The lines of a plan's gradients, and which of these are masked.

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
        Outputs of a convolution and its ReLU, whose readers store their gradients as they are before the ReLU.
    added, split : set of int
        The nodes before whose backward the line of their output is added to its gradient; concatenations whose line
        goes to their terms instead.
    """

    def __init__(self, sharing: Sharing, backward_nodes: list[int], requirements: Sequence[Requirements]):
        nodes = sharing.graph.nodes
        sources = {node.output: node.inputs[0] for node in nodes if node.operator.deferred}
        read = [nodes[k].inputs[0] for k in backward_nodes if requirements[k].begins_producer_backward]
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
