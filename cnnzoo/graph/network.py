"""A network that can be run, trained, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from cnnzoo.errors import ConfigError, ModelError, StateError, WeightsMismatchError
from cnnzoo.graph.initializers import stream
from cnnzoo.graph.layout import check_memory_choice
from cnnzoo.graph.ledger import Ledger
from cnnzoo.graph.liveness import ALIGNMENT, aligned_zeros
from cnnzoo.graph.operator import Operator, Parameter, real_type
from cnnzoo.graph.passes import DEFAULT_PASSES, apply_batch_norm_on_load
from cnnzoo.graph.pinning import list_pins, pin, prefer
from cnnzoo.graph.plan import OperatorArrays, Plan
from cnnzoo.graph.plans import Plans
from cnnzoo.graph.replicas import alone, count_final, random_keys
from cnnzoo.graph.tensor import Graph
from cnnzoo.graph.tuning import Tuning, tune
from cnnzoo.kernels.elementwise import nchw_to_nhwc

_IGNORED = "num_batches_tracked"  # PyTorch's batch norms save it; nothing here depends on it


class _Slot:
    """A parameter's place in the arenas."""

    def __init__(self, parameter: Parameter, start: int):
        self.parameter = parameter
        self.start, self.stop = start, start + parameter.size


class Network:
    """A graph with its weights.

    Parameters
    ----------
    graph : Graph
        From images to logits.
    name : str
        The model's.
    seed : int
        Of the initial weights, and of dropout.
    dtype : dtype
        float32 or float64, of weights and activations.
    passes : iterable of callable
        Rewritings of the graph, in order.
    memory, storage : str, str or None
        As in `cnnzoo.graph.layout.lay_out`.

    Attributes
    ----------
    image_shape : tuple of int
        (channels, height, width).
    num_classes : int
    num_parameters : int
    parameter_names : list of str
        In the order of the network.
    parameter_arena, gradient_arena : ndarray of dtype, 1-d
        All parameters and their gradients in the kernels' layouts, in the order in which backward produces them.
        Between parameters may lie unused elements, which are zero in both.
    ledger : Ledger or None
        Takes the time of each layer's passes in training; None at first.
    random_step : int
        Counts the forward passes in training; each draws its own dropout masks. May be set, to repeat a pass.
    replica : int
        The number of this one, from 0, of several that are trained together; each draws its own dropout masks.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        name: str,
        seed: int = 0,
        dtype: str | np.dtype = "float32",
        passes: Iterable[Callable[[Graph], Graph]] = DEFAULT_PASSES,
        memory: str = "fast",
        storage: str | None = None,
    ):
        self.name, self.seed, self.dtype = name, seed, real_type(dtype)
        self.memory, self.storage, self._passes = memory, storage, tuple(passes)
        check_memory_choice(memory, storage, self.dtype)
        operators = [node.operator for node in graph.nodes]
        for rewrite in self._passes:
            graph = rewrite(graph)
        self.graph = graph
        extent = graph.input.extent
        self.image_shape = (extent.channels, extent.height, extent.width)
        self.num_classes = graph.output.extent.size
        self.random_step = self.replica = 0
        self.ledger: Ledger | None = None
        self._slots: dict[str, _Slot] = {}
        self._buffers: dict[str, np.ndarray] = {}
        self._arrays: dict[Operator, OperatorArrays] = {}
        self._allocate(operators)
        self._initialize()
        self._plans = Plans(graph, self.dtype, memory, storage)
        self._pending: Plan | None = None  # the plan whose forward pass waits for its backward pass

    @property
    def num_parameters(self) -> int:
        return sum(slot.parameter.size for slot in self._slots.values())

    @property
    def parameter_names(self) -> list[str]:
        return list(self._slots)

    def parameter_segments(self) -> list[tuple[str, int, int, int]]:
        """Return name, start, stop and number of dimensions of each parameter, by its place in the arenas."""
        segments = [(name, s.start, s.stop, len(s.parameter.shape)) for name, s in self._slots.items()]
        return sorted(segments, key=lambda segment: segment[1])

    # Algorithms ------------------------------------------------------------------------------------------------------

    def algorithms(self) -> dict[str, list[str]]:
        """Return what computes each convolution, its input's gradient and its weights'.

        Keys are "LAYER @IMAGES": those that were tuned or pinned, and those of the batches run so far, whose choice
        follows from the shapes alone unless something was pinned.
        """
        return list_pins(self.graph) | {
            f"{layer} @{plan.images}": list(passes)
            for plan in self._plans
            for layer, passes in plan.algorithms().items()
        }

    def tune(self, images: int, progress: Callable[[int, int], None] | None = None) -> Tuning:
        """Choose the algorithms for batches of so many images by measurement instead of the cost table, and pin them.

        Each distinct convolution is measured, pass by pass, with every algorithm that accepts it, by the threads that
        compute now. Times are kept in the cache folder for this machine, number of threads and these kernels.

        Parameters
        ----------
        images : int
            At least 1. Batches of other sizes have what the cost table says.
        progress : callable, optional
            Called with the passes measured so far and those to measure. What it raises ends the measurement; the times
            so far are kept, and nothing is pinned.

        Raises
        ------
        ConfigError
            `images` is no number of images, or the network has an algorithm that it prefers.
        """
        if not isinstance(images, int | np.integer) or images < 1:
            raise ConfigError(f"images: expected a whole number of 1 or more, got {images!r}")
        tuning = tune(self.graph, int(images), self.dtype, progress)
        self.pin_algorithms(tuning.algorithms)
        return tuning

    def pin_algorithms(self, chosen: Mapping[str, Sequence[str]]) -> None:
        """Use what `algorithms` returned, for those layers and numbers of images; before any of them is run.

        Raises
        ------
        StateError
            There is no such layer, or no such choice for it.
        """
        pin(self.graph, chosen, self.dtype)
        self._forget_plans()

    def prefer_algorithm(self, name: str | None) -> None:
        """Use one algorithm wherever it accepts the shape; None: the one that the cost table says. Pins are undone.

        Raises
        ------
        ConfigError
            There is none of that name.
        """
        prefer(self.graph, name)
        if apply_batch_norm_on_load in self._passes:
            apply_batch_norm_on_load(self.graph)
        self._forget_plans()

    def _forget_plans(self) -> None:
        self._plans.clear()
        self._pending = None

    # Running ---------------------------------------------------------------------------------------------------------

    def forward(self, images: np.ndarray, training: bool = False) -> np.ndarray:
        """Return the logits of a batch.

        Parameters
        ----------
        images : ndarray of float [N, C, H, W]
            Normalized. Converted to the network's type where they are of another one.
        training : bool
            Use the batch's statistics and dropout, and keep what `backward` needs.

        Returns
        -------
        ndarray of dtype [N, num_classes]
            The caller's to keep.

        Raises
        ------
        ModelError
            The images are not of the network's shape, or there are none.
        """
        images = self._checked(images)
        plan = self._load(images, training)
        plan.forward(random_keys(self.seed, self.random_step, self.replica), self.ledger if training else None)
        self._pending = plan if training else None
        self.random_step += training
        return plan.activation(self.graph.output).data.reshape(len(images), self.num_classes).copy()

    def backward(
        self, dlogits: np.ndarray, accumulate: bool = False, on_gradient: Callable[[int], None] | None = None
    ) -> None:
        """Compute the gradients of all parameters from the loss's gradient with respect to the logits.

        Parameters
        ----------
        dlogits : ndarray of float [N, num_classes]
            For the batch of the last `forward`, which must have been in training.
        accumulate : bool
            Add to the gradients instead of overwriting them.
        on_gradient : callable or None
            Called after each step with the number of leading elements of `gradient_arena` that are final.

        Raises
        ------
        StateError
            The last pass was not forward in training: a backward pass uses up what was kept for it, and any other pass
            overwrites it.
        ModelError
            `dlogits` is not of the logits' shape, or not of a floating type.
        """
        plan = self._pending
        if plan is None:
            raise StateError("backward: expected a forward pass with training=True just before it, got none")
        expected = (plan.images, self.num_classes)
        dlogits = np.asarray(dlogits)
        if dlogits.shape != expected:
            raise ModelError(f"dlogits: expected shape {expected}, got {dlogits.shape}")
        if dlogits.dtype.kind != "f":
            raise ModelError(f"dlogits: expected a floating type, got {dlogits.dtype}")
        self._pending = None
        plan.gradient(self.graph.output).data[:] = dlogits.reshape(-1)
        starts = {name: slot.start for name, slot in self._slots.items()}
        after_operator = count_final(plan.backward_operators, starts, self.gradient_arena.size, on_gradient)
        plan.backward(accumulate, self.ledger, after_operator)

    def find_not_finite(self, images: np.ndarray, stored: bool = False) -> str | None:
        """Return the first layer whose weights or output in training are not finite, in forward order; None: all are.

        The output of a layer that took the ReLU behind it is that ReLU's.

        Runs a forward pass as `forward` does in training, with the draws of the last one. The running statistics and
        `random_step` stay as they are.

        Parameters
        ----------
        images : ndarray of float [N, C, H, W]
            Normalized.
        stored : bool
            Return instead the first output, of none but finite ones, that is beyond what `storage` float16 holds.

        Raises
        ------
        ModelError
            The images are not of the network's shape, or there are none.
        """
        bad = {
            name.rpartition(".")[0]
            for name, slot in self._slots.items()
            if not np.isfinite(self.parameter_arena[slot.start : slot.stop]).all()
        }
        with alone(self.graph, self._buffers):
            plan = self._load(self._checked(images), training=True)
            keys = random_keys(self.seed, self.random_step - 1, self.replica)
            return plan.find_overflow(keys) if stored else plan.find_not_finite(keys, bad)

    def arena_bytes(self, images: int, training: bool, memory: str | None = None) -> int:
        """Return the bytes of activations, gradients of activations and scratch that a batch of `images` takes.

        `memory` stands for another choice than the network's; `ConfigError` where there is none of that name.
        """
        check_memory_choice(memory or self.memory, self.storage, self.dtype)
        return self._plans.arena_bytes(images, training, memory or self.memory)

    def _checked(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != self.image_shape or len(images) == 0:
            expected = ", ".join(map(str, self.image_shape))
            raise ModelError(f"{self.name}: expected images of shape [N, {expected}] with N > 0, got {images.shape}")
        if images.dtype.kind != "f":
            raise ModelError(f"{self.name}: expected normalized images of a floating type, got {images.dtype}")
        images = np.ascontiguousarray(images, self.dtype)
        return images if images.flags.writeable else images.copy()

    def _load(self, images: np.ndarray, training: bool) -> Plan:
        """Return a bound plan with the images in its input."""
        self._pending = None  # what an earlier pass kept is overwritten from here on
        plan = self._plans.bind(len(images), training, self._arrays)
        x = plan.activation(self.graph.input)
        channels, height, width = self.image_shape
        nchw_to_nhwc(images.reshape(-1), x.data, x.ld, len(images), channels, height * width)
        return plan

    # Weights ---------------------------------------------------------------------------------------------------------

    @property
    def buffers(self) -> dict[str, np.ndarray]:
        """The running statistics under PyTorch's names, float[channels] each; writing to them changes the network's."""
        return dict(self._buffers)

    def gradients(self) -> dict[str, np.ndarray]:
        """Return a copy of every parameter's gradient under PyTorch's name, in PyTorch's layout."""
        return self.unpack(self.gradient_arena)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return a copy of every parameter and running statistic under PyTorch's name, in PyTorch's layout."""
        return self.unpack(self.parameter_arena) | {name: array.copy() for name, array in self._buffers.items()}

    def unpack(self, arena: np.ndarray) -> dict[str, np.ndarray]:
        """Return a copy of the values of an arena laid out as `parameter_arena`, by PyTorch's names and layouts."""
        return {name: self._public(arena, slot) for name, slot in self._slots.items()}

    def pack(self, mapping: Mapping[str, np.ndarray], arena: np.ndarray) -> None:
        """Write values, one array for each parameter as `unpack` returns them, to an arena."""
        for name, slot in self._slots.items():
            self._write(arena, slot, mapping[name])

    def load_state_dict(self, mapping: Mapping[str, np.ndarray]) -> None:
        """Take the values of `mapping`, named and laid out as in `state_dict`; `num_batches_tracked` is ignored.

        Raises
        ------
        WeightsMismatchError
            Names are missing or unexpected, or arrays are not of the shape or not of real numbers: all are listed, and
            nothing is changed.
        """
        arrays = {name: np.asarray(a) for name, a in mapping.items() if name.rpartition(".")[2] != _IGNORED}
        shapes = {name: slot.parameter.shape for name, slot in self._slots.items()}
        shapes |= {name: array.shape for name, array in self._buffers.items()}
        missing = [name for name in shapes if name not in arrays]
        unexpected = [name for name in arrays if name not in shapes]
        known = {name: (arrays[name], shape) for name, shape in shapes.items() if name in arrays}
        misshapen = {name: (array.shape, shape) for name, (array, shape) in known.items() if array.shape != shape}
        mistyped = {name: str(array.dtype) for name, (array, _) in known.items() if array.dtype.kind not in "fiu"}
        if missing or unexpected or misshapen or mistyped:
            raise WeightsMismatchError(self.name, missing, unexpected, misshapen, mistyped)
        self.pack(arrays, self.parameter_arena)
        for name, buffer in self._buffers.items():
            buffer[:] = arrays[name]

    def _public(self, arena: np.ndarray, slot: _Slot) -> np.ndarray:
        parameter = slot.parameter
        return np.array(parameter.to_public(arena[slot.start : slot.stop]).reshape(parameter.shape), order="C")

    def _write(self, arena: np.ndarray, slot: _Slot, array: np.ndarray) -> None:
        arena[slot.start : slot.stop] = slot.parameter.to_internal(array).reshape(-1)

    def _allocate(self, operators: list[Operator]) -> None:
        """Lay out parameters and gradients, each from a cache line on, last operator first; make the buffers."""
        line = ALIGNMENT // self.dtype.itemsize
        size = 0
        slots = {}
        for operator in reversed(operators):
            for parameter in operator.parameters:
                name = f"{operator.name}.{parameter.name}"
                if name in slots:
                    raise ModelError(f"{self.name}: expected each parameter's name once, got two of {name}")
                slots[name] = _Slot(parameter, size)
                size += -(-parameter.size // line) * line
        self.parameter_arena = aligned_zeros(size, self.dtype)
        self.gradient_arena = aligned_zeros(size, self.dtype)
        for operator in operators:
            own = {p.name: slots[f"{operator.name}.{p.name}"] for p in operator.parameters}
            buffers = {b.name: np.full(b.size, b.initial, self.dtype) for b in operator.buffers}
            self._slots |= {f"{operator.name}.{name}": slot for name, slot in own.items()}
            self._buffers |= {f"{operator.name}.{name}": buffer for name, buffer in buffers.items()}
            self._arrays[operator] = OperatorArrays(
                weights={name: self.parameter_arena[slot.start : slot.stop] for name, slot in own.items()},
                gradients={name: self.gradient_arena[slot.start : slot.stop] for name, slot in own.items()},
                buffers=buffers,
            )

    def _initialize(self) -> None:
        for name, slot in self._slots.items():
            array = slot.parameter.initializer(stream(self.seed, name), slot.parameter.shape)
            self._write(self.parameter_arena, slot, array)
