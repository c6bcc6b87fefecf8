"""A running average of the weights, which often generalizes better than the last ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from cnnzoo.graph.network import Network
from cnnzoo.kernels.arena import average_update


class WeightAverage:
    """The exponential moving average of a network's weights and running statistics.

    Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992, in the exponential form. After
    step n, counted from 1, average = d average + (1 - d) weights, with d the smaller of `decay` and (1 + n) / (10 + n)
    (the form of TensorFlow's ExponentialMovingAverage), so that the initial weights are soon forgotten.

    Parameters
    ----------
    net : Network
    decay : float
        0 <= decay < 1.

    Attributes
    ----------
    arena : ndarray
        The averaged weights, laid out as `Network.parameter_arena`.
    buffers : dict of str to ndarray
        The averaged running statistics.
    """

    def __init__(self, net: Network, decay: float) -> None:
        self._net, self._decay = net, decay
        self.arena = net.parameter_arena.copy()
        self.buffers = {name: buffer.copy() for name, buffer in net.buffers.items()}

    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, from 1."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        average_update(self.arena, self._net.parameter_arena, share)
        for name, buffer in self._net.buffers.items():
            self.buffers[name] += buffer.dtype.type(share) * (buffer - self.buffers[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network have the averaged weights and statistics for a while."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        buffers = self._net.buffers
        pairs = [(self.arena, self._net.parameter_arena), *((self.buffers[name], buffers[name]) for name in buffers)]
        for own, other in pairs:
            kept = own.copy()
            np.copyto(own, other)
            np.copyto(other, kept)
