"""Learning rate schedules: pure functions of how many epochs have passed, fractions included."""

import math

from cnnzoo.config import RunConfig


def step_factor(epoch: float, step_size: int, gamma: float) -> float:
    """Return gamma once for every `step_size` epochs that are over."""
    try:
        return gamma ** math.floor(epoch / step_size)
    except OverflowError:
        return math.inf


def cosine_factor(epoch: float, epochs: int) -> float:
    """Return half a cosine from 1 at the start to 0 at the end (Loshchilov and Hutter 2017, "SGDR", equation 5)."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def learning_rate(config: RunConfig, epoch: float) -> float:
    """Return the rate for a step of a run.

    Parameters
    ----------
    config : RunConfig
    epoch : float
        Epochs that have passed before the step: 2.5 is the middle of the third epoch.
    """
    factors = {
        "constant": lambda: 1.0,
        "step": lambda: step_factor(epoch, config.step_size, config.gamma),
        "cosine": lambda: cosine_factor(epoch, config.epochs),
    }
    return config.lr * factors[config.schedule]()
