"""A graph at one batch size: every array placed in one arena, and the flat list of steps that run on it.

Step k < n runs node k forward, step n is the loss outside, step n + 1 + k runs node n - 1 - k backward. A plan for
inference has the forward steps alone, and so keeps nothing for backward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cnnzoo.graph.liveness import Value, place
from cnnzoo.graph.operator import NOTHING, Context, Matrix, Operator, Requirements
from cnnzoo.graph.tensor import Graph, Node, Tensor


@dataclass(frozen=True)
class OperatorArrays:
    """The arrays that one operator owns beyond any plan: flat views, by short name."""

    weights: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]


class Plan:
    """The arrays and steps of `graph` for a batch of `images`.

    Parameters
    ----------
    graph : Graph
    images : int
    training : bool
        Keep what backward needs, and plan backward.
    dtype : dtype

    Attributes
    ----------
    arena_bytes : int
        What `bind` needs.
    """

    def __init__(self, graph: Graph, images: int, training: bool, dtype: np.dtype):
        self.graph, self.images, self.training = graph, images, training
        self.dtype = np.dtype(dtype)
        self._nodes = graph.nodes
        self._needs = [
            node.operator.requirements(images, training, self.dtype, *(x.extent for x in node.inputs))
            for node in self._nodes
        ]
        self._producer = {node.output: k for k, node in enumerate(self._nodes)}
        self._values: list[Value] = []
        self._last_step = 2 * len(self._nodes) if training else len(self._nodes)
        self._activations = self._live_activations()
        self._kept = [self._live_kept(k) for k in range(len(self._nodes))]
        self._scratch = [self._new(need.forward_scratch, k, k) for k, need in enumerate(self._needs)]
        self._gradients: dict[Tensor, Value] = {}
        self._wanted = self._tensors_with_gradients()
        self._accumulate: dict[int, list[bool]] = {}  # for each node that runs backward, in that order
        self._backward_scratch: list[Value | None] = [None] * len(self._nodes)
        if training:
            self._live_gradients()
        self.arena_bytes = place(self._values)
        self.contexts: list[Context] = []
        self._arena: np.ndarray | None = None

    def bind(self, arena: np.ndarray, arrays: Mapping[Operator, OperatorArrays]) -> None:
        """Make the views on `arena`, uint8 of at least `arena_bytes`; binding to the same arena again does nothing."""
        if self._arena is arena:
            return
        self._arena = arena
        self.contexts = []
        for k, node in enumerate(self._nodes):
            owned = arrays[node.operator]
            context = Context(
                images=self.images,
                training=self.training,
                state=self._needs[k].state,
                x=[self.activation(x) for x in node.inputs],
                y=self.activation(node.output),
                weights=owned.weights,
                gradients=owned.gradients,
                buffers=owned.buffers,
                kept=self._views(k),
                borrowed=self._borrowed(node),
                scratch=self._view(self._scratch[k]),
                backward_scratch=self._view(self._backward_scratch[k]),
            )
            if k in self._accumulate:
                context.dy = self.gradient(node.output)
                context.dx = [self.gradient(x) if x in self._gradients else NOTHING for x in node.inputs]
                context.wanted = [x in self._wanted for x in node.inputs]
                context.accumulate = self._accumulate[k]
            self.contexts.append(context)

    def activation(self, tensor: Tensor) -> Matrix:
        """Return the bound pixel matrix of a tensor."""
        return self._matrix(self._activations[tensor], tensor)

    def gradient(self, tensor: Tensor) -> Matrix:
        """Return the bound pixel matrix of a tensor's gradient."""
        return self._matrix(self._gradients[tensor], tensor)

    def forward(self, random_key: Callable[[int], int]) -> None:
        """Run the forward steps; `random_key` gives node k its key for this pass."""
        for k, (node, context) in enumerate(zip(self._nodes, self.contexts, strict=True)):
            context.random_key = random_key(k)
            node.operator.forward(context)

    def backward(self, accumulate: bool) -> None:
        """Run the backward steps; `accumulate` adds to the parameters' gradients."""
        for k in self._accumulate:
            self.contexts[k].accumulate_gradients = accumulate
            self._nodes[k].operator.backward(self.contexts[k])

    # Lifetimes -------------------------------------------------------------------------------------------------------

    def _new(self, elements: int, first: int, last: int, dtype: np.dtype | None = None) -> Value:
        value = Value(elements * (dtype or self.dtype).itemsize, first, last)
        self._values.append(value)
        return value

    def _backward_step(self, k: int) -> int:
        return 2 * len(self._nodes) - k

    def _live_activations(self) -> dict[Tensor, Value]:
        """Return a value for each tensor; operators that may work in place share one where nobody reads it later."""
        last_use = {self.graph.input: 0} | {node.output: k for k, node in enumerate(self._nodes)}
        for k, node in enumerate(self._nodes):
            for i, x in enumerate(node.inputs):
                saved = self.training and i in node.operator.saves_inputs
                last_use[x] = max(last_use[x], self._backward_step(k) if saved else k)
            if self.training and node.operator.saves_output:
                last_use[node.output] = max(last_use[node.output], self._backward_step(k))
        last_use[self.graph.output] = max(last_use[self.graph.output], len(self._nodes))

        live = {self.graph.input: self._new(self.images * self.graph.input.extent.size, 0, last_use[self.graph.input])}
        for k, node in enumerate(self._nodes):
            x, y = node.inputs[0], node.output
            if node.operator.forward_in_place and last_use[x] == k and live[x].last == k:
                live[y] = live[x]
                live[y].read_at(last_use[y])
            else:
                live[y] = self._new(self.images * y.extent.size, k, last_use[y])
        return live

    def _live_kept(self, k: int) -> dict[str, Value]:
        readers = [n for n, node in enumerate(self._nodes) if self._borrows_from(node, k)]
        last = max([self._backward_step(k) if self.training else k, *readers])
        return {name: self._new(count, k, last, dtype) for name, (count, dtype) in self._needs[k].kept.items()}

    def _borrows_from(self, node: Node, k: int) -> bool:
        return bool(node.operator.borrows) and self._producer[node.inputs[0]] == k

    def _live_gradients(self) -> None:
        nodes = self._nodes
        output = self.graph.output
        self._gradients[output] = self._new(self.images * output.extent.size, len(nodes), len(nodes))
        for k in reversed(range(len(nodes))):
            node, step = nodes[k], self._backward_step(k)
            if node.output not in self._wanted:
                continue
            dy = self._gradients[node.output]
            dy.read_at(step)
            self._backward_scratch[k] = self._new(self._needs[k].backward_scratch, step, step)
            self._accumulate[k] = [x in self._gradients for x in node.inputs]
            for i, x in enumerate(node.inputs):
                if x not in self._wanted and node.operator.skips_unwanted:
                    continue
                if x in self._gradients:
                    self._gradients[x].read_at(step)
                elif i == 0 and node.operator.backward_in_place and x.extent == node.output.extent:
                    self._gradients[x] = dy
                else:
                    self._gradients[x] = self._new(self.images * x.extent.size, step, step)

    def _tensors_with_gradients(self) -> set[Tensor]:
        """Return the tensors on which a parameter has an influence: not the images, nor what is made of them alone."""
        wanted: set[Tensor] = set()
        for node in self._nodes:
            if node.operator.parameters or any(x in wanted for x in node.inputs):
                wanted.add(node.output)
        return wanted

    # Views -----------------------------------------------------------------------------------------------------------

    def _view(self, value: Value | None, dtype: np.dtype | None = None) -> np.ndarray:
        assert self._arena is not None
        if value is None:
            return np.empty(0, dtype or self.dtype)
        return self._arena[value.offset : value.offset + value.size].view(dtype or self.dtype)

    def _views(self, k: int) -> dict[str, np.ndarray]:
        kept = self._needs[k].kept
        return {name: self._view(value, kept[name][1]) for name, value in self._kept[k].items()}

    def _borrowed(self, node: Node) -> dict[str, tuple[np.ndarray, Requirements]]:
        if not node.operator.borrows:
            return {}
        lender = self._producer[node.inputs[0]]
        views = self._views(lender)
        return {name: (views[name], self._needs[lender].state) for name in node.operator.borrows if name in views}

    def _matrix(self, value: Value, tensor: Tensor) -> Matrix:
        extent = tensor.extent
        return Matrix(self._view(value), extent.channels, self.images * extent.pixels, extent.channels)
