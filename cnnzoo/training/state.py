"""All that changes during a run, and its way into a checkpoint and back."""

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnzoo.graph.network import Network
from cnnzoo.interop.weights import STATE_PREFIX
from cnnzoo.training.averaging import WeightAverage
from cnnzoo.training.history import EpochRecord, find_best
from cnnzoo.training.metrics import Tally
from cnnzoo.training.optimizers import Optimizer

_TRAINED, _BEST = f"{STATE_PREFIX}trained/", f"{STATE_PREFIX}best/"


@dataclass(kw_only=True)
class Position:
    """How far a run is, and what was counted in the epoch that is not over.

    Attributes
    ----------
    epoch : int
        Epochs that are over.
    batch : int
        Batches of the present epoch that are done.
    tally : Tally
    seconds : float
        Wall time of training in the present epoch.
    clipped_steps : int
        Steps of the present epoch whose gradient was clipped.
    largest_norm : float
        Of the gradients of the present epoch, before clipping.
    """

    tally: Tally
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    clipped_steps: int = 0
    largest_norm: float = 0.0

    def count_step(self, norm: float, clip_norm: float | None, seconds: float) -> None:
        """Count a step whose gradient had a norm, that limit, and that took so long."""
        self.largest_norm = max(self.largest_norm, norm)
        self.clipped_steps += clip_norm is not None and norm > clip_norm
        self.seconds += seconds

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)} | {
            "tally": self.tally.to_dict()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Position":
        """Return the position that `to_dict` described."""
        return cls(**{**values, "tally": Tally.from_dict(values["tally"])})


@dataclass(kw_only=True)
class RunState:
    """All that changes during a run.

    Attributes
    ----------
    net : Network
    optimizer : Optimizer
    average : WeightAverage or None
    position : Position
    epochs : list of EpochRecord
    best_weights : dict of str to ndarray, or None
        As `Network.state_dict`, of the best epoch so far. None where none is chosen, or it is the one just done.
    """

    net: Network
    optimizer: Optimizer
    average: WeightAverage | None
    position: Position
    epochs: list[EpochRecord] = field(default_factory=list)
    best_weights: dict[str, np.ndarray] | None = None

    def chosen(self) -> AbstractContextManager[None]:
        """Let the network have the weights that are evaluated for a while: the averaged ones where there are such."""
        return nullcontext() if self.average is None else self.average.applied()

    def chosen_weights(self) -> dict[str, np.ndarray]:
        """Return a copy of the weights that are evaluated."""
        if self.average is None:
            return self.net.state_dict()
        return self.net.unpack(self.average.arena) | {name: a.copy() for name, a in self.average.buffers.items()}

    @property
    def is_best(self) -> bool:
        """Whether the last epoch that was recorded is the best so far, or none is chosen."""
        return bool(self.epochs) and find_best(self.epochs) is self.epochs[-1]

    def capture(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return copies of all arrays, by name, and all else as plain values that JSON can hold.

        The weights that are evaluated have PyTorch's names, all others names that begin with `STATE_PREFIX`.
        """
        arrays = self.chosen_weights()
        if self.average is not None:
            arrays |= _prefixed(_TRAINED, self.net.state_dict())
        for name, arena in self.optimizer.state.items():
            arrays |= _prefixed(f"{STATE_PREFIX}{name}/", self.net.unpack(arena))
        if self.best_weights is not None:
            arrays |= _prefixed(_BEST, self.best_weights)
        values = {
            "position": self.position.to_dict(),
            "optimizer_steps": self.optimizer.steps,
            "random_step": self.net.random_step,
            "algorithms": self.net.algorithms(),
            "epochs": [dataclasses.asdict(record) for record in self.epochs],
        }
        return arrays, values

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Take over what `capture` returned.

        Raises
        ------
        WeightsError
            Weights do not fit the network.
        KeyError
            Something is missing.
        """
        weights = {name: array for name, array in arrays.items() if not name.startswith(STATE_PREFIX)}
        if self.average is None:
            self.net.load_state_dict(weights)
        else:
            self.net.load_state_dict(_unprefixed(_TRAINED, arrays))
            self.net.pack(weights, self.average.arena)
            for name, buffer in self.average.buffers.items():
                buffer[:] = weights[name]
        for name, arena in self.optimizer.state.items():
            self.net.pack(_unprefixed(f"{STATE_PREFIX}{name}/", arrays), arena)
        self.best_weights = _unprefixed(_BEST, arrays) or None
        self.position = Position.from_dict(values["position"])
        self.optimizer.steps = values["optimizer_steps"]
        self.net.random_step = values["random_step"]
        self.net.pin_algorithms(values["algorithms"])
        self.epochs[:] = [EpochRecord(**record) for record in values["epochs"]]


def _prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {prefix + name: array for name, array in arrays.items()}


def _unprefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
