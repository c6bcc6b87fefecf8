"""One step of training: gradients of a few batches, a check that they are finite, clipping, and the update."""

import math
from collections.abc import Iterable

import numpy as np

from cnnzoo.config import RunConfig
from cnnzoo.errors import DivergenceError
from cnnzoo.graph.network import Network
from cnnzoo.kernels.arena import sum_squares
from cnnzoo.kernels.blocks import BLOCK_ELEMENTS, block_count
from cnnzoo.kernels.cross_entropy import cross_entropy
from cnnzoo.training.averaging import WeightAverage
from cnnzoo.training.engine import Engine
from cnnzoo.training.metrics import Tally
from cnnzoo.training.optimizers import Optimizer
from cnnzoo.training.state import RunState

Batch = tuple[np.ndarray, np.ndarray]


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
        self.gradient_sum = self._engine.sum_gradients(net.gradient_arena, bucket_bytes, self._sum_squares)

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
            The loss or a gradient is not finite; the message names the first layer where it is not. The network and
            the tally are as before the step. The rank raises it whose loss or gradient it is; no other one can end the
            step then.
        """
        net, optimizer = self._net, self._optimizer
        statistics = {name: buffer.copy() for name, buffer in net.buffers.items()}
        random_step = net.random_step
        try:
            own = self._compute_gradient(batches, images, count)
            self.gradient_sum.finish()
            norm = math.sqrt(self._sum_squares(0, net.gradient_arena.size))
        except DivergenceError:
            for name, buffer in net.buffers.items():
                buffer[:] = statistics[name]
            net.random_step = random_step
            raise
        limit = self._clip_norm or math.inf
        optimizer.step(limit / norm if norm > limit else 1.0)
        if self._engine.size > 1:
            self._unite(own, images)
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
            if not math.isfinite(loss):
                layer = self._net.find_not_finite(images) or "the loss itself"
                raise DivergenceError(f"expected a finite loss, got {loss}, which comes from {layer}")
            if len(labels) != total:
                dlogits *= dlogits.dtype.type(len(labels) / total)
            on_gradient = self.gradient_sum.on_gradient if number == count - 1 else None
            self._net.backward(dlogits, accumulate=number > 0, on_gradient=on_gradient)
            tally.add(loss, logits, labels)
        return tally

    def _sum_squares(self, first: int, last: int) -> float:
        """Return the sum of the squares of a part of the gradient; refuse one that is not finite."""
        gradient = self._net.gradient_arena
        total = sum_squares(gradient[first:last], self._partials)
        if not math.isfinite(total):
            # In the arena's order, in which backward produces them.
            for name, start, stop, _ in self._net.parameter_segments():
                part = gradient[max(start, first) : min(stop, last)]
                bad = part[~np.isfinite(part)]
                if bad.size:
                    raise DivergenceError(f"expected finite gradients, got {bad[0]}, first in that of {name}")
            raise DivergenceError("expected gradients whose squares are finite, got larger ones")
        return total


def make_stepper(config: RunConfig, state: RunState, engine: Engine) -> Stepper:
    """Return what takes the steps of a run."""
    options = (config.label_smoothing, config.clip_norm, state.average, engine, round(1e6 * config.bucket_mb))
    return Stepper(state.net, state.optimizer, *options)
