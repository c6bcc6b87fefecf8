"""A graph at one batch size, bound to memory: the flat list of steps that run forward and backward."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cnnzoo.graph.algorithms import Passes, Planned
from cnnzoo.graph.layout import lay_out
from cnnzoo.graph.ledger import Ledger, Pass, Work
from cnnzoo.graph.liveness import Value
from cnnzoo.graph.operator import NOTHING, Borrowed, Context, Loan, Matrix, Operator
from cnnzoo.graph.recompute import HALF, INFINITE_FLOAT16
from cnnzoo.graph.tensor import Graph, Node, Tensor
from cnnzoo.graph.timeline import Step
from cnnzoo.kernels.half import narrow, widen


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
    memory, storage : str, str or None
        As in `cnnzoo.graph.layout.lay_out`.

    Attributes
    ----------
    arena_bytes : int
        What `bind` needs.
    """

    def __init__(
        self,
        graph: Graph,
        images: int,
        training: bool,
        dtype: np.dtype,
        memory: str = "fast",
        storage: str | None = None,
    ):
        self.graph, self.images, self.training, self.storage = graph, images, training, storage
        self._nodes = graph.nodes
        self._layout, self.arena_bytes = lay_out(graph, images, training, dtype, memory, storage)
        steps = self._layout.timeline.steps
        loss = steps.index(Step("loss", 0))
        self._forward_steps, self._backward_steps = steps[:loss], steps[loss + 1 :]
        self._contexts: list[Context] = []
        self._backward_contexts: dict[int, Context] = {}
        self._arena = np.empty(0, np.uint8)

    def bind(self, arena: np.ndarray, arrays: Mapping[Operator, OperatorArrays]) -> None:
        """Make the views on `arena`, uint8 of at least `arena_bytes`; binding to the same arena again does nothing."""
        if self._arena is arena:
            return
        self._arena = arena
        try:
            self._contexts = [self._context(k, node, arrays[node.operator]) for k, node in enumerate(self._nodes)]
            for _, k in (step for step in self._backward_steps if step.action in ("recompute", "backward")):
                if k not in self._backward_contexts:
                    self._backward_contexts[k] = self._backward_context(k)
        except BaseException:  # an interrupt leaves no half of a plan
            self.unbind()
            raise

    def algorithms(self) -> dict[str, Passes]:
        """Return the names of the algorithms of each convolution, by the operator's name."""
        states = zip(self._nodes, self._layout.requirements, strict=True)
        return {node.operator.name: need.state.names for node, need in states if isinstance(need.state, Planned)}

    def unbind(self) -> None:
        """Let go of the arena, which can then be freed."""
        self._arena, self._contexts, self._backward_contexts = np.empty(0, np.uint8), [], {}

    def activation(self, tensor: Tensor, restored: bool = False) -> Matrix:
        """Return the bound pixel matrix of a tensor: where forward leaves it, or where backward finds it."""
        _, channel, ld = self._layout.sharing.places[tensor]
        return self._matrix(self._layout.activation(tensor, restored), channel, ld, tensor)

    def gradient(self, tensor: Tensor) -> Matrix:
        """Return the bound pixel matrix of a tensor's gradient; empty where there is none."""
        places = self._layout.gradients
        return self._matrix(*places[tensor], tensor) if tensor in places else NOTHING

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
            if node.name in suspects or not np.isfinite(node.operator.values(context)).all():
                return node.name
        return None

    def find_overflow(self, random_key: Callable[[str], int]) -> str | None:
        """Run the forward steps; return the first node whose output is finite until it is stored as float16.

        Returns
        -------
        str or None
            Its name; None where there is none, or where another output is not finite as it is.
        """
        layout, found = self._layout, None
        for node, context in self._run_forward(random_key):
            largest = np.abs(context.y.values).max()
            if not np.isfinite(largest):
                return None
            region = layout.sharing.region(node.output)
            is_stored = self.storage == "float16" and region in layout.narrowed_values
            if found is None and is_stored and node.output not in region.overwritten and largest >= INFINITE_FLOAT16:
                found = node.name
        return found

    def _run_forward(
        self, random_key: Callable[[str], int], ledger: Ledger | None = None
    ) -> Iterator[tuple[Node, Context]]:
        """Run the steps up to the loss, and hand out each node that ran forward."""
        for step in self._forward_steps:
            if step.action == "narrow":
                self._convert(step, ledger)
                continue
            node, context = self._nodes[step.number], self._contexts[step.number]
            if node.operator.draws:
                context.random_key = random_key(node.name)
            _run(node, context, "forward", ledger)
            yield node, context

    @property
    def backward_operators(self) -> list[Operator]:
        """The operators that run backward, in that order."""
        return [self._nodes[step.number].operator for step in self._backward_steps if step.action == "backward"]

    def backward(
        self, accumulate: bool, ledger: Ledger | None = None, after_operator: Callable[[], None] | None = None
    ) -> None:
        """Run the backward steps, with a call after each operator's; `accumulate` adds to the parameters' gradients."""
        for step in self._backward_steps:
            if step.action == "widen":
                self._convert(step, ledger)
                continue
            node, context = self._nodes[step.number], self._backward_contexts[step.number]
            if step.action == "recompute":
                context.random_key = self._contexts[step.number].random_key  # draws the same again
                _run(node, context, "recompute", ledger)
            else:
                context.accumulate_gradients = accumulate
                _run(node, context, "backward", ledger)
                if after_operator is not None:
                    after_operator()

    def _convert(self, step: Step, ledger: Ledger | None) -> None:
        """Narrow or widen a region of activations."""
        layout = self._layout
        region = layout.sharing.regions[step.number]
        half = self._view(layout.narrowed_values[region], HALF)
        whole = layout.forward_values if step.action == "narrow" else layout.backward_values
        bits = self._view(whole[region], np.dtype(np.uint32))
        direction: Pass
        start = time.perf_counter()
        if step.action == "narrow":
            direction = "forward"
            narrow(bits, half, self.storage == "bfloat16")
        else:
            direction = "backward"
            widen(half, bits, self.storage == "bfloat16")
        if ledger is not None:
            seconds = time.perf_counter() - start
            name, kind = self._nodes[region.writers[-1]].name, f"{step.action} {self.storage}"
            ledger.record(Work(name, kind, direction, operations=0, moved=bits.nbytes + half.nbytes), seconds)

    def _context(self, k: int, node: Node, owned: OperatorArrays) -> Context:
        """Return what the forward pass of a node works on."""
        layout = self._layout
        need = layout.requirements[k]
        return Context(
            images=self.images,
            training=self.training,
            state=need.state,
            x=[self.activation(x) for x in node.inputs],
            y=self.activation(node.output),
            weights=owned.weights,
            gradients=owned.gradients,
            buffers=owned.buffers,
            kept=self._kept(k, [*need.kept, *need.lent]),
            borrowed=self._borrowed(node, forward=True),
            scratch=self._view(layout.scratch[k]),
            backward_scratch=self._view(None),
        )

    def _backward_context(self, k: int) -> Context:
        """Return what a node that runs backward, or forward once more, works on."""
        layout, node = self._layout, self._nodes[k]
        context = dataclasses.replace(
            self._contexts[k],
            x=[self.activation(x, restored=True) for x in node.inputs],
            y=self.activation(node.output, restored=True),
            kept=self._kept(k, layout.requirements[k].kept),
            borrowed=self._borrowed(node, forward=False),
            scratch=self._view(layout.recompute_scratch.get(k)),
            backward_scratch=self._view(layout.backward_scratch.get(k)),
        )
        if k in layout.accumulate:
            context.dy = self.gradient(node.output)
            context.dx = [self.gradient(x) for x in node.inputs]
            context.wanted = [x in layout.wanted for x in node.inputs]
            context.accumulate = layout.accumulate[k]
            context.accumulate_line = k in layout.accumulate_line
            context.masked = node.output in layout.lines.masked
            if k in layout.lines.added:
                context.line = self._line(node.output)
            if node.output in layout.lines.begun:
                context.dx_line = self._line(node.inputs[0])
        return context

    def _line(self, tensor: Tensor) -> Matrix:
        """Return what a tensor's gradient lacks, as in `Context`."""
        value, channel, ld = self._layout.line_places[tensor]
        return Matrix(self._view(value)[channel:], ld, 2, tensor.channels)

    def _view(self, value: Value | None, dtype: np.dtype | None = None) -> np.ndarray:
        dtype = dtype or self._layout.dtype
        if value is None:
            return np.empty(0, dtype)
        return self._arena[value.offset : value.offset + value.size].view(dtype)

    def _kept(self, k: int, names: Iterable[str]) -> dict[str, np.ndarray]:
        need = self._layout.requirements[k]
        types = {name: dtype for name, (_, dtype) in {**need.kept, **need.lent}.items()}
        return {name: self._view(self._layout.kept[k][name], types[name]) for name in names}

    def _borrowed(self, node: Node, forward: bool) -> dict[Loan, Borrowed]:
        borrowed = {}
        for loan in self._layout.loans(node, forward):
            k = self._layout.numbers[loan.lender]
            borrowed[loan] = Borrowed(self._kept(k, [loan.name])[loan.name], self._layout.requirements[k].state)
        return borrowed

    def _matrix(self, value: Value, channel: int, ld: int, tensor: Tensor) -> Matrix:
        extent = tensor.extent
        return Matrix(self._view(value)[channel:], ld, self.images * extent.pixels, extent.channels)


def _run(node: Node, context: Context, direction: Pass, ledger: Ledger | None) -> None:
    """Run one pass of one node, and tell the ledger, if there is one, how long it took."""
    operator = node.operator
    run = {"forward": operator.forward, "recompute": operator.recompute, "backward": operator.run_backward}[direction]
    if ledger is None:
        run(context)
        return
    start = time.perf_counter()
    run(context)
    seconds = time.perf_counter() - start
    kind = " ".join(filter(None, [operator.kind, operator.algorithm(context, direction)]))
    operations, moved = operator.operations(context, direction), operator.moved(context, direction)
    ledger.record(Work(node.name, kind, direction, operations, moved), seconds)
