"""Schedules: pure functions of how many steps have passed, equal to PyTorch's where it has them."""

import math

from cnnzoo.config import RunConfig
from cnnzoo.training.optimizers import Optimizer

_SCALED_WARMUP_EPOCHS, _LARGEST_WARMUP = 5, 0.25
"""Epochs of a rate that is scaled to the ranks (Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.2), and
the share of a short run that they take at most."""


def apply_schedule(optimizer: Optimizer, config: RunConfig, step: int, steps_per_epoch: int) -> None:
    """Give an optimizer the rate and the momentum of a step; see `learning_rate` and `momentum`."""
    optimizer.lr = learning_rate(config, step, steps_per_epoch)
    optimizer.momentum = momentum(config, step, steps_per_epoch)


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
    scale = _scale(config)
    after, total_steps = _after_warmup(config, step, steps_per_epoch)
    if after < 0:
        start = config.warmup_start if scale == 1 else 1 / scale
        return config.lr * scale * warmup_factor(step, step - after, start)
    step, epoch = after, after / steps_per_epoch
    if config.schedule == "one-cycle":
        start, end = 1 / config.div_factor, 1 / (config.div_factor * config.final_div_factor)
        factor = one_cycle(step, total_steps, config.pct_start, start, 1.0, end)
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
    return config.lr * scale * factor


def momentum(config: RunConfig, step: int, steps_per_epoch: int) -> float:
    """Return SGD's momentum, or AdamW's beta1, for a step; the arguments are `learning_rate`'s.

    One-cycle takes it down to `base_momentum` while the rate rises, and up again while it falls.
    """
    top, base = config.top_momentum, config.base_momentum
    step, total_steps = _after_warmup(config, step, steps_per_epoch)
    if config.schedule != "one-cycle" or base is None or step < 0:
        return top
    return one_cycle(step, total_steps, config.pct_start, top, base, top)


def _after_warmup(config: RunConfig, step: int, steps_per_epoch: int) -> tuple[int, int]:
    """Return a step counted from the end of warm-up, negative before it, and how many steps come after it."""
    warmup_steps = round(_warmup_epochs(config) * steps_per_epoch)
    return step - warmup_steps, max(1, config.epochs * steps_per_epoch - warmup_steps)


def _warmup_epochs(config: RunConfig) -> float:
    """Return the epochs of warm-up: those that are set, else what a scaled rate needs."""
    needed = min(_SCALED_WARMUP_EPOCHS, _LARGEST_WARMUP * config.epochs) if _scale(config) > 1 else 0.0
    return config.warmup_epochs or needed


def _scale(config: RunConfig) -> int:
    """Return what the rate is multiplied by for the run's ranks."""
    return (config.ranks or 1) if config.scale_lr else 1


def stretch(config: RunConfig, epochs: int) -> RunConfig:
    """Return a run of another number of epochs whose rate takes the same course, as far as whole epochs allow it."""
    ratio = epochs / config.epochs
    milestones = sorted({max(1, round(milestone * ratio)) for milestone in config.milestones})
    return config.replace(
        epochs=epochs,
        warmup_epochs=_warmup_epochs(config) * ratio,
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


def one_cycle(step: int, steps: int, pct_start: float, start: float, peak: float, end: float) -> float:
    """Return the value of one cycle: along half a cosine from `start` to `peak`, and along another one to `end`.

    Smith and Topin, "Super-Convergence", 2018, in the form of PyTorch's OneCycleLR: the way to the peak takes the share
    `pct_start` of the steps, and the last step has the value `end`.
    """
    turn, last = pct_start * steps - 1, steps - 1
    if step <= turn:
        return peak + (start - peak) * cosine_factor(step / turn) if turn > 0 else peak
    return end + (peak - end) * cosine_factor(min(1.0, (step - turn) / (last - turn)))
