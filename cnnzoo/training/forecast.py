"""What a run will take: memory before anything is allocated for it, and time by a few steps that are taken back."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from cnnzoo.config import RunConfig, list_settings
from cnnzoo.data import Batches
from cnnzoo.errors import ConfigError
from cnnzoo.graph.network import Network
from cnnzoo.memory import free_memory
from cnnzoo.training.engine import Engine
from cnnzoo.training.splits import RunBatches
from cnnzoo.training.state import RunState

_MOST_STEPS, _LONGEST = 20, 1.0  # what is measured: so many steps, or those of so many seconds
_LEAST_STEPS = 2
WORTH_MEASURING = 10
"""Steps of a run that is so short that measuring would take as long."""

KERNELS = 64_000_000
"""Bytes of compiled kernels, about: beside what is counted, ResNet-18 and VGG-16 took 60 MB."""

_MARGIN = 0.95  # of a budget; the rest is for checkpoints and for a machine that slows down


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will take.

    Attributes
    ----------
    memory : int
        Bytes, beside the images and the weights, which are there.
    other_memory : dict of str to int
        The same for the other values of the setting `memory`.
    free_memory : int or None
        Bytes; None where the system does not tell.
    epoch_seconds : float or None
        Of training and validation; None where nothing was measured.
    test_seconds : float
    steps : int
        Training steps that were measured.
    """

    memory: int
    other_memory: dict[str, int]
    free_memory: int | None
    epoch_seconds: float | None = None
    test_seconds: float = 0.0
    steps: int = 0

    def fit_epochs(self, seconds: float) -> int:
        """Return how many epochs, and the test, fit into a wall time, with some of it to spare.

        Raises
        ------
        ConfigError
            Not one does.
        """
        assert self.epoch_seconds is not None
        epochs = int((_MARGIN * seconds - self.test_seconds) / self.epoch_seconds)
        if epochs < 1:
            least = (self.epoch_seconds + self.test_seconds) / _MARGIN
            raise ConfigError(f"budget: expected {least:.3g}s or more, for an epoch and the test, got {seconds:g}s")
        return epochs


def format_bytes(count: int) -> str:
    """Return a size such as 12.3 MB or 4.56 GB, in powers of ten."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def count_memory(state: RunState, config: RunConfig, batch_size: int, memory: str | None = None) -> int:
    """Return the bytes that a run allocates beside the images and the weights, with batches of `batch_size`.

    Activations, their gradients and scratch; the gradients of the weights; what the optimizer and the average keep;
    two batches of images; copies of all state while a checkpoint is written; and compiled kernels. `memory` is another
    value of the setting than the run's.
    """
    net = state.net
    weights = net.parameter_arena.nbytes
    kept = weights * len(state.optimizer.state)
    copies = kept + weights * (2 if config.ema_decay is None else 3)  # one is the best weights, which are remembered
    channels, height, width = net.image_shape
    batches = 2 * batch_size * channels * height * width * net.parameter_arena.itemsize
    arena = max(net.arena_bytes(batch_size, training, memory) for training in (True, False))
    return arena + weights + kept + copies + batches + KERNELS


def check_memory(state: RunState, config: RunConfig, num_images: int, engine: Engine | None = None) -> Forecast:
    """Return what a run will allocate in this process, and what is free for it.

    Parameters
    ----------
    state : RunState
    config : RunConfig
    num_images : int
        Of the largest split: no batch is larger.
    engine : Engine or None
        Of the ranks that share the batches, and of those on this host its memory. None: this process alone.

    Raises
    ------
    ConfigError
        It is more than is free; the message names the largest batch that fits.
    """
    engine = engine or Engine()
    batch_size = -(-min(config.images_per_batch, num_images) // engine.size)
    memory, free = count_memory(state, config, batch_size), free_memory()
    others = {
        choice: count_memory(state, config, batch_size, choice)
        for choice in list_settings()["memory"].choices
        if choice != config.memory
    }
    if free is not None:
        free //= engine.neighbors
    if free is not None and memory > free:
        # The largest size below that fits; `fits` stays 0 where not even one image does.
        fits, too_large = 0, batch_size
        while too_large - fits > 1:
            middle = (fits + too_large) // 2
            if count_memory(state, config, middle) <= free:
                fits = middle
            else:
                too_large = middle
        advice = f"{fits} or fewer would fit" if fits else "not even one image fits"
        fitting = [choice for choice, count in others.items() if count <= free]
        advice += f", or memory={fitting[0]}" if fitting else ""
        raise ConfigError(
            f"batch_size: expected batches for which the {format_bytes(free)} of free memory suffice, "
            f"got {batch_size}, which take {format_bytes(memory)}; {advice}"
        )
    return Forecast(memory=memory, other_memory=others, free_memory=free)


def measure_run(
    forecast: Forecast,
    state: RunState,
    config: RunConfig,
    batches: RunBatches,
    take_step: Callable[[int], object],
    engine: Engine,
) -> Forecast:
    """Return the forecast with times in it, on every rank those of rank 0; the arguments are as of `measure_step`."""
    full_steps = batches.train.num_images // (config.images_per_batch * config.accumulation)
    seconds, steps = measure_step(state, take_step, max(1, full_steps), engine)
    seconds *= batches.train.num_batches / config.accumulation
    if batches.validation is not None:
        seconds += measure_evaluation(state.net, batches.validation)
    test_seconds = measure_evaluation(state.net, batches.test)
    return engine.from_root(lambda: replace(forecast, epoch_seconds=seconds, test_seconds=test_seconds, steps=steps))


def measure_step(
    state: RunState, take_step: Callable[[int], object], num_steps: int, engine: Engine
) -> tuple[float, int]:
    """Return the seconds of a training step, and how many were measured; the state is as before afterwards.

    Parameters
    ----------
    state : RunState
    take_step : callable
        Takes the step of this number of an epoch.
    num_steps : int
        Full steps in an epoch, at least 1.
    engine : Engine
        Of the ranks that take them together.
    """
    captured = state.capture()
    try:
        take_step(0)  # compiles, plans, touches memory for the first time
        start, steps = time.perf_counter(), 0
        while steps < _LEAST_STEPS or (steps < _MOST_STEPS and not engine.any(time.perf_counter() - start >= _LONGEST)):
            take_step(steps % num_steps)
            steps += 1
        return (time.perf_counter() - start) / steps, steps
    finally:
        state.restore(*captured)


def measure_evaluation(net: Network, batches: Batches) -> float:
    """Return the seconds that evaluating a split takes, from its first batch."""
    if not batches.batch_indices(0, 0).size:  # other ranks have them
        return 0.0
    net.forward(batches.extract_batch(0, 0)[0])
    start = time.perf_counter()
    net.forward(batches.extract_batch(0, 0)[0])
    return (time.perf_counter() - start) * batches.num_images / min(batches.batch_size, batches.num_images)
