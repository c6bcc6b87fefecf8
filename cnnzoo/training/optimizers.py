"""Optimizers: how gradients become new weights."""

import math
from abc import ABC, abstractmethod

import numpy as np

from cnnzoo.config import RunConfig
from cnnzoo.errors import ConfigError
from cnnzoo.graph.liveness import aligned_zeros
from cnnzoo.graph.network import Network
from cnnzoo.kernels.adamw import adamw_update
from cnnzoo.kernels.sgd import sgd_update


class Optimizer(ABC):
    """Base of the optimizers, which update a network's weights in place.

    Attributes
    ----------
    net : Network
    momentum : float
        What the running mean of the gradients keeps a step: SGD's momentum, AdamW's beta1; may be set anew.
    weight_decay : float
    steps : int
        Steps taken so far.
    """

    def __init__(self, net: Network, lr: float, momentum: float, weight_decay: float, decay_all: bool) -> None:
        if not 0 <= weight_decay < math.inf:
            raise ConfigError(f"weight_decay: expected a number of 0 or more, got {weight_decay}")
        self.net = net
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.steps = 0
        self._bounds, self._decayed = _find_decayed(net, decay_all)

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
    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """The arrays that carry over from step to step, each as long and laid out as `Network.parameter_arena`.

        Writing to them, and to `steps`, changes the state.
        """

    def step(self, scale: float = 1.0) -> None:
        """Update all weights from the gradients of the last backward pass times `scale`."""
        self.steps += 1
        self._update(np.where(self._decayed, self.weight_decay, 0.0), scale)

    @abstractmethod
    def _update(self, weight_decays: np.ndarray, scale: float) -> None:
        """Make the pass over the arena; `weight_decays` has one for each segment."""


class SGD(Optimizer):
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
        Not negative.
    nesterov : bool
        Look one momentum step ahead (Sutskever et al. 2013, "On the importance of initialization and momentum in deep
        learning"); needs momentum.
    momentum_form : str
        "pytorch" or "sources".
    decay_all : bool
        Weight decay applies to every weight, biases and batch norm's included, as in PyTorch; otherwise to the weights
        of convolutions and linear layers alone.

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
        decay_all: bool = True,
    ) -> None:
        super().__init__(net, lr, momentum, weight_decay, decay_all)
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum: expected a number of 0 or more and below 1, got {momentum}")
        if nesterov and momentum == 0:
            raise ConfigError("nesterov: expected a momentum above 0 with it, got 0")
        if momentum_form not in ("pytorch", "sources"):
            raise ConfigError(f"momentum_form: expected pytorch or sources, got {momentum_form!r}")
        self.nesterov = nesterov
        self.momentum_form = momentum_form
        self._velocity = aligned_zeros(net.parameter_arena.size, net.parameter_arena.dtype)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The velocity, of the parameters' arena."""
        return {"velocity": self._velocity}

    def _update(self, weight_decays: np.ndarray, scale: float) -> None:
        sgd_update(
            self.net.parameter_arena,
            self.net.gradient_arena,
            self._velocity,
            self._bounds,
            weight_decays,
            scale,
            self.lr,
            self.momentum,
            self.nesterov,
            self.momentum_form == "sources",
        )


class AdamW(Optimizer):
    """Adam with decoupled weight decay, in place on a network's weights, as PyTorch's.

    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Parameters
    ----------
    net : Network
        What `create_model` returns.
    lr : float
        Learning rate; may be set anew between steps.
    beta1, beta2 : float
        How much the running means of gradients and of their squares keep a step; 0 or more and below 1.
    epsilon : float
        Added to the root of the mean square; above 0.
    weight_decay : float
        Not negative; a step takes lr * weight_decay of each weight.
    decay_all : bool
        As for `SGD`.

    Raises
    ------
    ConfigError
        An argument out of its range; the message names it.
    """

    def __init__(
        self,
        net: Network,
        lr: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        decay_all: bool = True,
    ) -> None:
        super().__init__(net, lr, beta1, weight_decay, decay_all)
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise ConfigError(f"{name}: expected a number of 0 or more and below 1, got {value}")
        if not 0 < epsilon < math.inf:
            raise ConfigError(f"epsilon: expected a number above 0, got {epsilon}")
        self.beta2, self.epsilon = beta2, epsilon
        self._mean = aligned_zeros(net.parameter_arena.size, net.parameter_arena.dtype)
        self._square = aligned_zeros(net.parameter_arena.size, net.parameter_arena.dtype)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The means of gradients and of their squares, of the parameters' arena."""
        return {"mean": self._mean, "square": self._square}

    def _update(self, weight_decays: np.ndarray, scale: float) -> None:
        adamw_update(
            self.net.parameter_arena,
            self.net.gradient_arena,
            self._mean,
            self._square,
            self._bounds,
            weight_decays,
            scale,
            self.lr,
            self.momentum,
            self.beta2,
            self.epsilon,
            self.steps,
        )


def make_optimizer(config: RunConfig, net: Network) -> Optimizer:
    """Return the optimizer that a run's settings describe."""
    if config.optimizer == "adamw":
        betas = (config.beta1, config.beta2)
        return AdamW(net, config.lr, *betas, config.epsilon, config.weight_decay, config.decay_all)
    form = (config.nesterov, config.momentum_form)
    return SGD(net, config.lr, config.momentum, config.weight_decay, *form, config.decay_all)


def _find_decayed(net: Network, decay_all: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of segments of the arena, int64[n + 1], and which of them decay, bool[n]."""
    size = net.parameter_arena.size
    if decay_all:
        return np.array([0, size]), np.array([True])
    bounds, decayed = [0], [False]
    for _, start, _, dimensions in net.parameter_segments():
        if (dimensions > 1) != decayed[-1]:  # biases and batch norm's parameters are vectors
            bounds.append(start)
            decayed.append(dimensions > 1)
    return np.array([*bounds, size]), np.array(decayed)
