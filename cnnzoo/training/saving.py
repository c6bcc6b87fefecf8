"""When and how a run's state is written to checkpoints."""

import dataclasses
import json
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cnnzoo.config import RunConfig
from cnnzoo.data import Dataset
from cnnzoo.errors import DivergenceError
from cnnzoo.interop.model_file import ModelDescription
from cnnzoo.training.checkpoint import write_checkpoint
from cnnzoo.training.state import RunState

Captured = tuple[dict[str, np.ndarray], dict[str, Any]]


def describe_model(config: RunConfig, dataset: Dataset, notes: Mapping[str, Any]) -> ModelDescription:
    """Return what is needed to use a run's weights without the rest of its folder; `notes` become JSON."""
    return ModelDescription(
        config=config,
        image_shape=dataset.image_shape,
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        notes={"cnnzoo": version("cnnzoo"), "data": dataset.source}
        | {name: json.dumps(value) for name, value in notes.items()},
    )


class Saver:
    """Writes the checkpoints of one run.

    Parameters
    ----------
    folder : Path
        Of the checkpoints.
    state : RunState
    description : ModelDescription
    constants : mapping from str to object
        What every checkpoint says beside the state, for JSON.
    minutes : float or None
        After which `is_due` tells so; None: never.
    """

    def __init__(
        self,
        folder: Path,
        state: RunState,
        description: ModelDescription,
        constants: Mapping[str, Any],
        minutes: float | None,
    ) -> None:
        self._folder, self._state, self._description = folder, state, description
        self._constants, self._minutes = dict(constants), minutes
        self._saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """It is time for a checkpoint within the epoch."""
        return self._minutes is not None and time.monotonic() - self._saved_at >= 60 * self._minutes

    def save(self, *names: str) -> None:
        """Write the state to checkpoints of these names.

        Raises
        ------
        DivergenceError
            A weight, or what the optimizer keeps, is not finite; nothing is written.
        OSError
            A checkpoint cannot be written; the one of that name stays as it was.
        """
        if names:
            self.write(self._state.capture(), *names)

    def write(self, captured: Captured, *names: str, finished: bool = False) -> None:
        """Write what `RunState.capture` returned earlier; otherwise as `save`."""
        arrays, values = captured
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                place = f"epoch {values['position']['epoch'] + 1}"
                raise DivergenceError(f"{place}: expected finite weights to save, found others, first in {name}")
        values = {**self._constants, "finished": finished, **values}
        notes = self._description.notes | {"epoch": json.dumps(values["position"]["epoch"])}
        metadata = dataclasses.replace(self._description, notes=notes).to_metadata()
        for name in names:
            write_checkpoint(self._folder / name, arrays, values, metadata)
        self._saved_at = time.monotonic()
