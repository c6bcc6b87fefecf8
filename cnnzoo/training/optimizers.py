"""Optimizers: how gradients become new weights."""

import math

import numpy as np

from cnnzoo.errors import ConfigError
from cnnzoo.graph.network import Network
from cnnzoo.kernels.sgd import sgd_update


class SGD:
    """Stochastic gradient descent with momentum and weight decay, in place on a network's weights.

    With g the gradient plus `weight_decay` times the weight, PyTorch's form is v = momentum v + g, w -= lr v; the
    sources' is v = momentum v - lr g, w += v. They differ when the rate changes: the sources' velocity keeps the
    rate of its own time.

    Parameters
    ----------
    net : Network
        What `create_model` returns.
    lr : float
        Learning rate; may be set anew between steps.
    momentum : float
        0 <= momentum < 1; 0 is plain gradient descent.
    weight_decay : float
        Not negative; applies to every weight, biases and batch norm's included, as in PyTorch.
    nesterov : bool
        Look one momentum step ahead (Sutskever et al. 2013, "On the importance of initialization and momentum in deep
        learning"); needs momentum.
    momentum_form : str
        "pytorch" or "sources".

    Raises
    ------
    ConfigError
        An argument out of its range; the message names it.
    """

    def __init__(
        self,
        net: Network,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        momentum_form: str = "pytorch",
    ) -> None:
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum: expected a number of 0 or more and below 1, got {momentum}")
        if not 0 <= weight_decay < math.inf:
            raise ConfigError(f"weight_decay: expected a number of 0 or more, got {weight_decay}")
        if nesterov and momentum == 0:
            raise ConfigError("nesterov: expected a momentum above 0 with it, got 0")
        if momentum_form not in ("pytorch", "sources"):
            raise ConfigError(f"momentum_form: expected pytorch or sources, got {momentum_form!r}")
        self.net = net
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        self.momentum_form = momentum_form
        self._velocity = np.zeros_like(net.parameter_arena)

    @property
    def lr(self) -> float:
        """Learning rate of the next step; not negative and finite."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        if not 0 <= value < math.inf:
            raise ConfigError(f"lr: expected a number of 0 or more, got {value}")
        self._lr = float(value)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The arrays that carry over from step to step, float[number of weights]; writing to them changes the state."""
        return {"velocity": self._velocity}

    def step(self) -> None:
        """Update all weights from the gradients of the last backward pass."""
        sgd_update(
            self.net.parameter_arena,
            self.net.gradient_arena,
            self._velocity,
            self.lr,
            self.momentum,
            self.weight_decay,
            self.nesterov,
            self.momentum_form == "sources",
        )
