"""What an operator is: its shape rule, its parameters, what it keeps for backward, and the kernels it calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from cnnzoo.errors import ConfigError
from cnnzoo.graph.initializers import Initializer
from cnnzoo.graph.ledger import Pass
from cnnzoo.graph.tensor import Extent
from cnnzoo.kernels.batch_norm import add_line
from cnnzoo.kernels.convolution import Scratch


@dataclass(frozen=True)
class Parameter:
    """A trainable array of an operator.

    Attributes
    ----------
    name : str
        PyTorch's: "weight" or "bias".
    shape : tuple of int
        PyTorch's.
    initializer : Initializer
    to_internal, to_public : callable
        Between PyTorch's layout and the kernels'; each returns an array of the other shape, which may be a view.
    """

    name: str
    shape: tuple[int, ...]
    initializer: Initializer
    to_internal: Callable[[np.ndarray], np.ndarray] = lambda array: array
    to_public: Callable[[np.ndarray], np.ndarray] = lambda array: array

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Buffer(NamedTuple):
    """An array of an operator that is saved with the weights but not trained."""

    name: str
    size: int
    initial: float


class Loan(NamedTuple):
    """An array that the node of another operator keeps, and this one's reads, or writes in backward."""

    lender: Operator
    name: str


class Borrowed(NamedTuple):
    """A lent array, with the lender's state."""

    array: np.ndarray
    state: Any


class Matrix(NamedTuple):
    """A pixel matrix bound to memory: row r, channel c at ``data[r * ld + c]``."""

    data: np.ndarray
    ld: int
    rows: int
    channels: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values, without the gaps between rows."""
        return self.rows * self.channels * self.data.itemsize

    @property
    def values(self) -> np.ndarray:
        """The matrix as a view [rows, channels]."""
        itemsize = self.data.itemsize
        return np.lib.stride_tricks.as_strided(self.data, (self.rows, self.channels), (self.ld * itemsize, itemsize))


NOTHING = Matrix(np.empty(0), 0, 0, 0)


@dataclass
class Requirements:
    """What a node needs at one batch size.

    Attributes
    ----------
    state : object
        Computed once by the operator and handed back to it in the context.
    kept : dict of str to (int, dtype or None)
        Arrays that forward writes and backward (or a later forward step) reads; None stands for the real type.
    lent : dict of str to (int, dtype or None)
        Arrays that forward writes and a later forward step reads, and backward does not.
    forward_scratch, backward_scratch : tuple of Scratch
        Of the real type, for one step each: as much as the largest of them.
    begins_producer_backward : bool
        Backward does the first half of the backward of what made its input. Where that is a deferred batch norm, it
        writes, or adds, to the gradient of the input of that; else it masks its input's gradient by a ReLU.
    """

    state: Any = None
    kept: dict[str, tuple[int, np.dtype | None]] = field(default_factory=dict)
    lent: dict[str, tuple[int, np.dtype | None]] = field(default_factory=dict)
    forward_scratch: tuple[Scratch, ...] = ()
    backward_scratch: tuple[Scratch, ...] = ()
    begins_producer_backward: bool = False


@dataclass
class Context:
    """All that a node's kernels work on, in one plan.

    Attributes
    ----------
    images : int
    training : bool
    state : object
        As in `Requirements`.
    x, dx : list of Matrix
        One for each input.
    y, dy : Matrix
    wanted : list of bool
        For each input: somebody reads its gradient. Where nobody does, `dx` is there to be written all the same,
        unless the operator says `skips_unwanted`.
    accumulate : list of bool
        For each input: add to `dx`, since another node has written it, instead of overwriting it.
    line, dx_line : Matrix
        Rows slope and offset: what is missing in `dy` is slope y + offset, and the plan adds it; what is missing in the
        first input's `dx` is slope x + offset, and the node writes it, or adds to it if `accumulate_line`. They have no
        rows where nothing is missing.
    kept : dict of str to ndarray
        With what is lent, in a forward pass.
    borrowed : dict of Loan to Borrowed
        What `Operator.borrows` names, as far as the lenders have such arrays at this batch size.
    scratch, backward_scratch : ndarray
    weights, gradients, buffers : dict of str to ndarray
        Flat, in the kernels' layout.
    masked : bool
        `dy` has passed the ReLU that was merged into the node: its reader has masked it.
    accumulate_gradients : bool
        Set for each backward pass: add to `gradients`.
    random_key : int
        Set for each forward pass: differs between passes and nodes.
    """

    images: int
    training: bool
    state: Any
    x: list[Matrix]
    y: Matrix
    weights: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]
    kept: dict[str, np.ndarray]
    borrowed: dict[Loan, Borrowed]
    scratch: np.ndarray
    backward_scratch: np.ndarray
    dy: Matrix = NOTHING
    dx: list[Matrix] = field(default_factory=list)
    wanted: list[bool] = field(default_factory=list)
    accumulate: list[bool] = field(default_factory=list)
    line: Matrix = NOTHING
    dx_line: Matrix = NOTHING
    accumulate_line: bool = False
    masked: bool = False
    accumulate_gradients: bool = False
    random_key: int = 0

    def lent(self, name: str) -> np.ndarray:
        """Return the array of that name that another node lends."""
        return next(lent.array for loan, lent in self.borrowed.items() if loan.name == name)


class Operator:
    """Base of all operators; an instance belongs to one node.

    Attributes
    ----------
    name : str
        Prefix of its parameters, and what it is called in messages.
    saves_inputs : tuple of int
        Inputs that backward reads.
    saves_output : bool
        Backward reads the output.
    forward_in_place, backward_in_place : bool
        The output may take the place of the first input, the first input's gradient that of the output's.
    skips_unwanted : bool
        Backward looks at `Context.wanted`, and does without the place for a gradient that is not.
    draws : bool
        Forward in training uses `Context.random_key`.
    concatenates : bool
        The output is made of the inputs side by side, which may be slices of it, and their gradients of its gradient.
    needs_contiguous : bool
        The inputs may not be slices of wider pixel matrices.
    deferred : bool
        Forward leaves the output to the load of the next operator, which finds the input in its place.
    parameters : tuple of Parameter
    buffers : tuple of Buffer
    borrows : tuple of Loan
        Arrays that other nodes keep or lend, for this one.
    """

    saves_inputs: tuple[int, ...] = ()
    saves_output: bool = False
    forward_in_place: bool = False
    backward_in_place: bool = False
    skips_unwanted: bool = False
    draws: bool = False
    concatenates: bool = False
    needs_contiguous: bool = False
    deferred: bool = False
    parameters: tuple[Parameter, ...] = ()
    buffers: tuple[Buffer, ...] = ()
    borrows: tuple[Loan, ...] = ()

    def __init__(self, name: str):
        self.name = name

    @property
    def kind(self) -> str:
        """What the operator is called in tables, with what was merged into it."""
        return type(self).__name__

    def output_extent(self, *inputs: Extent) -> Extent:
        """Return the extent of the output; by default that of the first input."""
        return inputs[0]

    def requirements(self, images: int, training: bool, dtype: np.dtype, *inputs: Extent) -> Requirements:
        """Return what a node needs for a batch of `images`."""
        return Requirements()

    def multiply_adds(self, *inputs: Extent) -> int:
        """Return the multiply-adds of one image forward, by the direct method; 0 but for weighted sums."""
        return 0

    def pooled(self, *inputs: Extent) -> int:
        """Return the values of all windows of one image; 0 but for pools over windows."""
        return 0

    def algorithm(self, c: Context, direction: Pass) -> str:
        """Return the name of the algorithm that a pass uses, where there is a choice."""
        return ""

    def operations(self, c: Context, direction: Pass) -> int:
        """Return the additions and multiplications of weighted sums in a pass, by the direct method."""
        return 0

    def moved(self, c: Context, direction: Pass) -> int:
        """Return the bytes of what a pass reads and writes, each array once and twice where it is added to."""
        arrays = [*c.weights.values(), *c.kept.values()]
        if direction != "backward":
            matrices = [*c.x, c.y]
        else:
            matrices = [c.dy, *c.dx, *(c.x[i] for i in self.saves_inputs), *[c.y] * self.saves_output]
            matrices += [dx for dx, added_to in zip(c.dx, c.accumulate, strict=True) if added_to]
            matrices += [c.dy, c.dy, c.y] if c.line.rows else []
            arrays += [*c.gradients.values()] * (1 + c.accumulate_gradients)
        return sum(matrix.nbytes for matrix in matrices) + sum(array.nbytes for array in arrays)

    def values(self, c: Context) -> np.ndarray:
        """Return y, [rows, channels], as its readers take it."""
        return c.y.values

    def forward(self, c: Context) -> None:
        """Compute c.y from c.x."""
        raise AssertionError(f"{self.kind} has no forward pass")

    def recompute(self, c: Context) -> None:
        """Compute c.y from c.x once more, for backward: the same bits, and all else that forward changed stays."""
        self.forward(c)

    def run_backward(self, c: Context) -> None:
        """Complete c.dy where something is missing, then run `backward`."""
        if c.line.rows:
            slope, offset = c.line.values
            y, dy = c.y, c.dy
            add_line(y.data, y.ld, slope, offset, dy.data, dy.ld, dy.rows, dy.channels)
        self.backward(c)

    def backward(self, c: Context) -> None:
        """Compute c.dx and c.gradients from c.dy and what was saved; c.dx[i] is added to if c.accumulate[i]."""
        raise AssertionError(f"{self.kind} has no backward pass")


def real_type(dtype: str | np.dtype) -> np.dtype:
    """Return the type of a network's weights and activations."""
    name = dtype.__name__ if isinstance(dtype, type) else str(dtype)
    if name not in ("float32", "float64"):
        raise ConfigError(f"dtype: expected float32 or float64, got {name}")
    return np.dtype(name)
