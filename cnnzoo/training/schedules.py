"""Learning rate schedules: pure functions of how many steps have passed, equal to PyTorch's where it has them."""

import math

from cnnzoo.config import RunConfig


def learning_rate(config: RunConfig, step: int, steps_per_epoch: int) -> float:
    """Return the rate for a step of a run.

    Warm-up comes before the schedule, whose epochs count from its end and which has the rest of the run's epochs.

    Parameters
    ----------
    config : RunConfig
    step : int
        Steps that have passed before this one, from the start of the run.
    steps_per_epoch : int
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return config.lr * warmup_factor(step, warmup_steps, config.warmup_start)
    step -= warmup_steps
    total_steps = max(1, config.epochs * steps_per_epoch - warmup_steps)
    epoch = step / steps_per_epoch
    if config.schedule == "one-cycle":
        factor = one_cycle_factor(step, total_steps, config.pct_start, config.div_factor, config.final_div_factor)
    elif config.schedule == "cosine":
        factor = cosine_factor(step / total_steps, config.min_factor)
    elif config.schedule == "warm-restarts":
        share = warm_restarts_share(epoch, config.restart_epochs, config.restart_factor)
        factor = cosine_factor(share, config.min_factor)
    elif config.schedule == "step":
        factor = power(config.gamma, step // (config.step_size * steps_per_epoch))
    elif config.schedule == "multi-step":
        factor = power(config.gamma, sum(step >= milestone * steps_per_epoch for milestone in config.milestones))
    elif config.schedule == "exponential":
        factor = power(config.gamma, epoch)
    else:
        factor = 1.0
    return config.lr * factor


def stretch(config: RunConfig, epochs: int) -> RunConfig:
    """Return a run of another number of epochs whose rate takes the same course, as far as whole epochs allow it."""
    ratio = epochs / config.epochs
    milestones = sorted({max(1, round(milestone * ratio)) for milestone in config.milestones})
    return config.replace(
        epochs=epochs,
        warmup_epochs=config.warmup_epochs * ratio,
        step_size=max(1, round(config.step_size * ratio)),
        milestones=tuple(milestones),
        restart_epochs=max(1, round(config.restart_epochs * ratio)),
        gamma=config.gamma ** (1 / ratio) if config.schedule == "exponential" else config.gamma,
    )


def power(gamma: float, exponent: float) -> float:
    """Return gamma to a power of 0 or more, infinity where it is too large."""
    try:
        return gamma**exponent
    except OverflowError:
        return math.inf


def warmup_factor(step: int, steps: int, start: float) -> float:
    """Return the factor of a linear rise from `start` at step 0 to 1 at step `steps` (PyTorch's LinearLR)."""
    return start + (1 - start) * step / steps


def cosine_factor(share: float, end: float = 0.0) -> float:
    """Return half a cosine from 1 at a share of 0 to `end` at 1 (Loshchilov and Hutter 2017, "SGDR", equation 5)."""
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * share))


def warm_restarts_share(epoch: float, first: int, factor: int) -> float:
    """Return the share of the present cycle that is over (SGDR, section 3).

    Cycles last `first` epochs, `first * factor`, `first * factor**2` and so on.
    """
    if factor == 1:
        return epoch % first / first
    length = first
    while epoch >= length:
        epoch -= length
        length *= factor
    return epoch / length


def one_cycle_factor(step: int, steps: int, pct_start: float, div_factor: float, final_div_factor: float) -> float:
    """Return the factor of one cycle: a cosine from 1 / div_factor up to 1, and one down to that over final_div_factor.

    Smith and Topin, "Super-Convergence", 2018, in the form of PyTorch's OneCycleLR: the rise takes the share
    `pct_start` of the steps, and the last step has the lowest rate. The momentum stays as it is.
    """
    start, end = 1 / div_factor, 1 / (div_factor * final_div_factor)
    peak, last = pct_start * steps - 1, steps - 1
    if step <= peak:
        return 1 + (start - 1) * cosine_factor(step / peak) if peak > 0 else 1.0
    return cosine_factor(min(1.0, (step - peak) / (last - peak)), end)
