"""A graph at one batch size, bound to memory: the flat list of steps that run forward and backward."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cnnzoo.graph.algorithms import Passes, Planned
from cnnzoo.graph.layout import Layout, Place
from cnnzoo.graph.ledger import Ledger, Pass, Work
from cnnzoo.graph.liveness import Value
from cnnzoo.graph.operator import NOTHING, Borrowed, Context, Loan, Matrix, Operator
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
        Keep what backward needs, and plan backward; a plan for inference keeps nothing.
    dtype : dtype

    Attributes
    ----------
    arena_bytes : int
        What `bind` needs.
    """

    def __init__(self, graph: Graph, images: int, training: bool, dtype: np.dtype):
        self.graph, self.images, self.training = graph, images, training
        self._nodes = graph.nodes
        self._numbers = {node.operator: k for k, node in enumerate(self._nodes)}
        self._layout = Layout(graph, images, training, dtype)
        self._contexts: list[Context] = []
        self._arena = np.empty(0, np.uint8)

    @property
    def arena_bytes(self) -> int:
        return self._layout.arena_bytes

    def bind(self, arena: np.ndarray, arrays: Mapping[Operator, OperatorArrays]) -> None:
        """Make the views on `arena`, uint8 of at least `arena_bytes`; binding to the same arena again does nothing."""
        if self._arena is arena:
            return
        self._arena = arena
        try:
            self._contexts = [self._context(k, node, arrays[node.operator]) for k, node in enumerate(self._nodes)]
        except BaseException:  # an interrupt leaves no half of a plan
            self.unbind()
            raise

    def algorithms(self) -> dict[str, Passes]:
        """Return the names of the algorithms of each convolution, by the operator's name."""
        states = zip(self._nodes, self._layout.requirements, strict=True)
        return {node.operator.name: need.state.names for node, need in states if isinstance(need.state, Planned)}

    def unbind(self) -> None:
        """Let go of the arena, which can then be freed."""
        self._arena, self._contexts = np.empty(0, np.uint8), []

    def activation(self, tensor: Tensor) -> Matrix:
        """Return the bound pixel matrix of a tensor."""
        return self._matrix(self._layout.activations[tensor], tensor)

    def gradient(self, tensor: Tensor) -> Matrix:
        """Return the bound pixel matrix of a tensor's gradient; empty where there is none."""
        places = self._layout.gradients
        return self._matrix(places[tensor], tensor) if tensor in places else NOTHING

    def forward(self, random_key: Callable[[str], int], ledger: Ledger | None = None) -> None:
        """Run the forward steps; `random_key` gives a node that draws, by its name, its key for this pass."""
        for _ in self._run_forward(random_key, ledger):
            pass

    def find_not_finite(self, random_key: Callable[[str], int], suspects: Collection[str]) -> str | None:
        """Run the forward steps up to the first node that is one of `suspects` or writes a value that is not finite.

        Returns
        -------
        str or None
            Its name; None where there is none.
        """
        for node, context in self._run_forward(random_key):
            if node.name in suspects or not np.isfinite(context.y.values).all():
                return node.name
        return None

    def _run_forward(
        self, random_key: Callable[[str], int], ledger: Ledger | None = None
    ) -> Iterator[tuple[Node, Context]]:
        """Run a forward step, hand it out, run the next."""
        for node, context in zip(self._nodes, self._contexts, strict=True):
            if node.operator.draws:
                context.random_key = random_key(node.name)
            _run(node, context, "forward", ledger)
            yield node, context

    def backward(self, accumulate: bool, ledger: Ledger | None = None) -> None:
        """Run the backward steps; `accumulate` adds to the parameters' gradients."""
        for k in self._layout.accumulate:
            self._contexts[k].accumulate_gradients = accumulate
            _run(self._nodes[k], self._contexts[k], "backward", ledger)

    def _context(self, k: int, node: Node, owned: OperatorArrays) -> Context:
        layout = self._layout
        context = Context(
            images=self.images,
            training=self.training,
            state=layout.requirements[k].state,
            x=[self.activation(x) for x in node.inputs],
            y=self.activation(node.output),
            weights=owned.weights,
            gradients=owned.gradients,
            buffers=owned.buffers,
            kept=self._kept(k),
            borrowed=self._borrowed(node),
            scratch=self._view(layout.scratch[k]),
            backward_scratch=self._view(layout.backward_scratch.get(k)),
        )
        if k in layout.accumulate:
            context.dy = self.gradient(node.output)
            context.dx = [self.gradient(x) for x in node.inputs]
            context.wanted = [x in layout.wanted for x in node.inputs]
            context.accumulate = layout.accumulate[k]
        return context

    def _view(self, value: Value | None, dtype: np.dtype | None = None) -> np.ndarray:
        dtype = dtype or self._layout.dtype
        if value is None:
            return np.empty(0, dtype)
        return self._arena[value.offset : value.offset + value.size].view(dtype)

    def _kept(self, k: int) -> dict[str, np.ndarray]:
        kept = self._layout.requirements[k].kept
        return {name: self._view(value, kept[name][1]) for name, value in self._layout.kept[k].items()}

    def _borrowed(self, node: Node) -> dict[Loan, Borrowed]:
        borrowed = {}
        for loan in node.operator.borrows:
            k = self._numbers[loan.lender]
            views = self._kept(k)
            if loan.name in views:
                borrowed[loan] = Borrowed(views[loan.name], self._layout.requirements[k].state)
        return borrowed

    def _matrix(self, place: Place, tensor: Tensor) -> Matrix:
        extent = tensor.extent
        return Matrix(self._view(place.value)[place.channel :], place.ld, self.images * extent.pixels, extent.channels)


def _run(node: Node, context: Context, direction: Pass, ledger: Ledger | None) -> None:
    """Run one pass of one node, and tell the ledger, if there is one, how long it took."""
    operator = node.operator
    run = operator.forward if direction == "forward" else operator.backward
    if ledger is None:
        run(context)
        return
    start = time.perf_counter()
    run(context)
    seconds = time.perf_counter() - start
    kind = " ".join(filter(None, [operator.kind, operator.algorithm(context, direction)]))
    operations, moved = operator.operations(context, direction), operator.moved(context, direction)
    ledger.record(Work(node.name, kind, direction, operations, moved), seconds)
