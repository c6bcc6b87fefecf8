"""One step of training: gradients of a few batches, a check that they are finite, clipping, and the update."""

import math
from collections.abc import Iterable

import numpy as np

from cnnzoo.errors import DivergenceError
from cnnzoo.graph.network import Network
from cnnzoo.kernels.arena import sum_squares
from cnnzoo.kernels.blocks import BLOCK_ELEMENTS, block_count
from cnnzoo.kernels.cross_entropy import cross_entropy
from cnnzoo.training.averaging import WeightAverage
from cnnzoo.training.metrics import Tally
from cnnzoo.training.optimizers import Optimizer

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
    """

    def __init__(
        self,
        net: Network,
        optimizer: Optimizer,
        label_smoothing: float = 0.0,
        clip_norm: float | None = None,
        average: WeightAverage | None = None,
    ) -> None:
        self._net, self._optimizer, self._average = net, optimizer, average
        self._label_smoothing, self._clip_norm = label_smoothing, clip_norm
        self._partials = np.empty(block_count(net.gradient_arena.size, BLOCK_ELEMENTS))

    def take(self, batches: Iterable[Batch], images: int, tally: Tally) -> float:
        """Take one step by the mean gradient of all images of some batches, and count them in `tally`.

        Parameters
        ----------
        batches : iterable of (images, labels)
            Images float[n, C, H, W], normalized, and labels int64[n].
        images : int
            How many they are in all batches.
        tally : Tally

        Returns
        -------
        float
            The norm of the gradient, before it was clipped.

        Raises
        ------
        DivergenceError
            The loss or a gradient is not finite; the message names the first layer where it is not. The network and
            the tally are as before the step.
        """
        net, optimizer = self._net, self._optimizer
        statistics = {name: buffer.copy() for name, buffer in net.buffers.items()}
        random_step = net.random_step
        try:
            counts = self._compute_gradient(batches, images)
            norm = self._measure_gradient()
        except DivergenceError:
            for name, buffer in net.buffers.items():
                buffer[:] = statistics[name]
            net.random_step = random_step
            raise
        limit = self._clip_norm or math.inf
        optimizer.step(limit / norm if norm > limit else 1.0)
        if self._average is not None:
            self._average.update(optimizer.steps)
        for count in counts:
            tally.add(*count)
        return norm

    def _compute_gradient(self, batches: Iterable[Batch], total: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Return what to count: loss, logits and labels of each batch."""
        counts = []
        for number, (images, labels) in enumerate(batches):
            logits = self._net.forward(images, training=True)
            loss, dlogits = cross_entropy(logits, labels, self._label_smoothing)
            if not math.isfinite(loss):
                layer = self._net.find_not_finite(images) or "the loss itself"
                raise DivergenceError(f"expected a finite loss, got {loss}, which comes from {layer}")
            if len(labels) != total:
                dlogits *= dlogits.dtype.type(len(labels) / total)
            self._net.backward(dlogits, accumulate=number > 0)
            counts.append((loss, logits, labels))
        return counts

    def _measure_gradient(self) -> float:
        """Return the norm of the gradient of all parameters together."""
        gradient = self._net.gradient_arena
        total = sum_squares(gradient, self._partials)
        if not math.isfinite(total):
            # In the arena's order, in which backward produces them.
            for name, start, stop, _ in self._net.parameter_segments():
                bad = gradient[start:stop][~np.isfinite(gradient[start:stop])]
                if bad.size:
                    raise DivergenceError(f"expected finite gradients, got {bad[0]}, first in that of {name}")
            raise DivergenceError("expected gradients whose squares are finite, got larger ones")
        return math.sqrt(total)
