"""One step of training: gradients of a few batches, a check that they are finite, clipping, and the update."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cnnzoo.config import RunConfig
from cnnzoo.errors import DivergenceError
from cnnzoo.graph.network import Network
from cnnzoo.graph.recompute import LARGEST_FLOAT16
from cnnzoo.kernels.arena import sum_squares
from cnnzoo.kernels.blocks import BLOCK_ELEMENTS, block_count
from cnnzoo.kernels.cross_entropy import cross_entropy
from cnnzoo.training.averaging import WeightAverage
from cnnzoo.training.engine import Engine
from cnnzoo.training.metrics import Tally
from cnnzoo.training.optimizers import Optimizer
from cnnzoo.training.state import RunState

Batch = tuple[np.ndarray, np.ndarray]


class _Fault(NamedTuple):
    """Where a rank's part in a step is not finite.

    Attributes
    ----------
    order : int
        Of several ranks' faults, the least came first: `_LAYER` of the forward pass, `_LOSS`, or an element of the
        gradient's arena, which backward fills in order.
    words : str
    """

    order: int
    words: str


_LAYER, _LOSS = -2, -1


class Stepper:
    """Takes the steps of a run.

    Parameters
    ----------
    net : Network
    optimizer : Optimizer
    label_smoothing : float
    clip_norm : float or None
        Gradients whose norm, over all parameters together, is above it are scaled to it (Pascanu, Mikolov and Bengio,
        "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1).
    average : WeightAverage or None
        Follows the weights.
    engine : Engine or None
        Of the ranks that take the steps together. None: this process alone.
    bucket_bytes : int
        Of gradients that are added up in one message, at most.

    Attributes
    ----------
    gradient_sum : GradientSum
    """

    def __init__(
        self,
        net: Network,
        optimizer: Optimizer,
        label_smoothing: float = 0.0,
        clip_norm: float | None = None,
        average: WeightAverage | None = None,
        engine: Engine | None = None,
        bucket_bytes: int = 25_000_000,
    ) -> None:
        self._net, self._optimizer, self._average = net, optimizer, average
        self._label_smoothing, self._clip_norm = label_smoothing, clip_norm
        self._partials = np.empty(block_count(net.gradient_arena.size, BLOCK_ELEMENTS))
        self._engine = engine or Engine()
        self.gradient_sum = self._engine.sum_gradients(net.gradient_arena, bucket_bytes, self._inspect)
        self._lost: tuple[float, np.ndarray, int] | None = None  # loss, images and draws of a batch
        self._fault: _Fault | None = None  # of this rank's own gradient
        self._stored: list[tuple[np.ndarray, int]] = []  # images and draws of batches with activations in float16

    def take(self, batches: Iterable[Batch], images: int, tally: Tally, count: int = 1) -> float:
        """Take one step by the mean gradient of all images of some batches, and count them in `tally`.

        Each rank brings its own share of the batches; `images` and `tally` are those of all ranks together.

        Parameters
        ----------
        batches : iterable of (images, labels)
            Images float[n, C, H, W], normalized, and labels int64[n].
        images : int
            How many they are in all batches.
        tally : Tally
        count : int
            Batches; while the last one goes backward, the gradients of all ranks are added up.

        Returns
        -------
        float
            The norm of the gradient, before it was clipped.

        Raises
        ------
        DivergenceError
            The loss or a gradient is not finite; the message names the first layer where it is not, and of several
            ranks the one where it was so first. All of them raise it. The network and the tally are as before the step.
        """
        net, optimizer = self._net, self._optimizer
        statistics = {name: buffer.copy() for name, buffer in net.buffers.items()}
        random_step = net.random_step
        self._lost = self._fault = None
        self._stored.clear()
        own = self._compute_gradient(batches, images, count)
        self.gradient_sum.finish()
        if self._engine.size > 1:
            self._unite(own, images)
        squares = sum_squares(net.gradient_arena, self._partials)
        if not math.isfinite(squares + own.total_loss):
            words = self._describe_fault()
            for name, buffer in net.buffers.items():
                buffer[:] = statistics[name]
            net.random_step = random_step
            raise DivergenceError(words)
        norm, limit = math.sqrt(squares), self._clip_norm or math.inf
        optimizer.step(limit / norm if norm > limit else 1.0)
        if self._average is not None:
            self._average.update(optimizer.steps)
        tally.sums += own.sums
        return norm

    def _unite(self, tally: Tally, images: int) -> None:
        """Add up what the ranks counted in a step, and average their running statistics by their images."""
        buffers = self._net.buffers.values()
        share = tally.images / images
        message = np.concatenate([tally.sums, *(share * buffer.astype(np.float64) for buffer in buffers)])
        self._engine.add_up(message)
        start = tally.sums.size
        tally.sums[:] = message[:start]
        for buffer in buffers:
            buffer[:] = message[start : start + buffer.size]
            start += buffer.size

    def _compute_gradient(self, batches: Iterable[Batch], total: int, count: int) -> Tally:
        """Return what is counted of this rank's images."""
        tally = Tally(self._net.num_classes)
        for number, (images, labels) in enumerate(batches):
            logits = self._net.forward(images, training=True)
            loss, dlogits = cross_entropy(logits, labels, self._label_smoothing)
            if self._net.storage == "float16":
                self._stored.append((images, self._net.random_step))
            if not math.isfinite(loss) and self._lost is None:  # the step is finished: other ranks wait for this one
                self._lost = loss, images, self._net.random_step
            if len(labels) != total:
                dlogits *= dlogits.dtype.type(len(labels) / total)
            on_gradient = self.gradient_sum.on_gradient if number == count - 1 else None
            self._net.backward(dlogits, accumulate=number > 0, on_gradient=on_gradient)
            tally.add(loss, logits, labels)
        return tally

    def _inspect(self, first: int, last: int) -> None:
        """Remember where this rank's gradient is not finite first; called for its parts in their order."""
        if self._fault is None:
            squares = sum_squares(self._net.gradient_arena[first:last], self._partials)
            self._fault = None if math.isfinite(squares) else self._find_fault(first, last)

    def _find_fault(self, first: int, last: int) -> _Fault:
        """Return where a part of the gradient is not finite, whose sum of squares is not."""
        for name, start, stop, _ in self._net.parameter_segments():  # in the arena's order
            part = self._net.gradient_arena[max(start, first) : min(stop, last)]
            bad = part[~np.isfinite(part)]
            if bad.size:
                return _Fault(start, f"expected finite gradients, got {bad[0]}, first in that of {name}")
        return _Fault(first, "expected gradients whose squares are finite, got larger ones")

    def _describe_fault(self) -> str:
        """Return what was not finite first in a step, on all ranks the same."""
        if self._lost is not None:
            loss, images, self._net.random_step = self._lost
            layer = self._net.find_not_finite(images)
            words = f"expected a finite loss, got {loss}, which comes from {layer or 'the loss itself'}"
            self._fault = _Fault(_LOSS if layer is None else _LAYER, words)
        else:
            if self._engine.size == 1:
                self._inspect(0, self._net.gradient_arena.size)
            if self._fault is not None:
                self._fault = self._fault._replace(words=self._fault.words + self._describe_overflow())
        found = self._engine.collect((self._fault, self._engine.place))
        faults = [(fault, place) for fault, place in found if fault is not None]
        if not faults:  # those of each rank alone are finite
            return self._find_fault(0, self._net.gradient_arena.size).words
        fault, place = min(faults, key=lambda pair: pair[0].order)
        return f"{place}: {fault.words}" if self._engine.size > 1 else fault.words

    def _describe_overflow(self) -> str:
        """Return what to add where float16 could not hold the activations of this rank's images."""
        for images, random_step in self._stored:
            self._net.random_step = random_step
            layer = self._net.find_not_finite(images, stored=True)
            if layer is not None:
                limit = f"{LARGEST_FLOAT16:,}"
                return f"; storage float16 holds values from -{limit} to {limit}, and the output of {layer} larger ones"
        return ""


def make_stepper(config: RunConfig, state: RunState, engine: Engine) -> Stepper:
    """Return what takes the steps of a run."""
    options = (config.label_smoothing, config.clip_norm, state.average, engine, round(1e6 * config.bucket_mb))
    return Stepper(state.net, state.optimizer, *options)
