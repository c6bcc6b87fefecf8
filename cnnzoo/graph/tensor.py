"""The symbolic graph: tensors, the nodes that make them, and the list of nodes that is a network.

Nothing here holds numbers. A graph is built once by `cnnzoo.graph.layers`, rewritten by `cnnzoo.graph.passes`, and run
by a `cnnzoo.graph.plan.Plan`, one for each batch size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cnnzoo.errors import ModelError

if TYPE_CHECKING:
    from cnnzoo.graph.operator import Operator


@dataclass(frozen=True)
class Extent:
    """Height, width and channels of one image of a tensor; features have height and width 1."""

    height: int
    width: int
    channels: int

    @property
    def pixels(self) -> int:
        """Pixels of one image."""
        return self.height * self.width

    @property
    def size(self) -> int:
        """Elements of one image."""
        return self.pixels * self.channels

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


@dataclass(eq=False)
class Tensor:
    """What one node makes: a pixel matrix of images * height * width rows of `channels` values."""

    graph: Graph = field(repr=False)
    extent: Extent

    @property
    def channels(self) -> int:
        """Channels of its extent."""
        return self.extent.channels


@dataclass(eq=False)
class Node:
    """One application of an operator: `output` = operator(`inputs`)."""

    operator: Operator
    inputs: tuple[Tensor, ...]
    output: Tensor

    @property
    def name(self) -> str:
        """The operator's name."""
        return self.operator.name


class Graph:
    """Nodes in an order in which they can run, from `input` to `output`.

    Parameters
    ----------
    extent : Extent
        Of the input images.

    Attributes
    ----------
    input, output : Tensor
    nodes : list of Node
    """

    def __init__(self, extent: Extent):
        self.input = self.output = Tensor(self, extent)
        self.nodes: list[Node] = []

    def apply(self, operator: Operator, *inputs: Tensor) -> Tensor:
        """Append a node and return its output, which becomes the graph's."""
        if any(tensor.graph is not self for tensor in inputs):
            raise ModelError(f"{operator.name}: expected tensors of one graph, got some of another")
        self.output = Tensor(self, operator.output_extent(*(tensor.extent for tensor in inputs)))
        self.nodes.append(Node(operator, inputs, self.output))
        return self.output

    def rewritten(self, nodes: Iterable[Node]) -> Graph:
        """Return a graph of the same tensors with other nodes."""
        graph = Graph(self.input.extent)
        graph.input, graph.output, graph.nodes = self.input, self.output, list(nodes)
        return graph

    def consumers(self) -> dict[Tensor, list[Node]]:
        """Return the nodes that read each tensor."""
        readers: dict[Tensor, list[Node]] = {self.input: []}
        for node in self.nodes:
            readers[node.output] = []
            for tensor in node.inputs:
                readers[tensor].append(node)
        return readers
