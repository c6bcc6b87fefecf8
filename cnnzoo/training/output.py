"""What a run leaves behind: rank 0 writes it, the others nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnzoo.config import RunConfig
from cnnzoo.data import Dataset
from cnnzoo.interop.model_file import save_model
from cnnzoo.training.checkpoint import LAST
from cnnzoo.training.history import EpochRecord, History
from cnnzoo.training.lock import Lock
from cnnzoo.training.run_folder import RunFolder
from cnnzoo.training.saving import Captured, Saver, describe_model
from cnnzoo.training.state import RunState


class Output:
    """The run's folder to a rank that does not write to it.

    Attributes
    ----------
    path : Path
    is_due : bool
        It is time for a checkpoint within the epoch.
    """

    is_due = False

    def __init__(self, path: Path = Path()) -> None:
        self.path = path

    def save(self, *names: str) -> None:
        """Write the state to checkpoints of these names; see `Saver.save`."""

    def end_epoch(self, record: EpochRecord, environment: Mapping[str, Any]) -> None:
        """Write what an epoch came to."""

    def end_run(self, history: History, trained: Captured, environment: Mapping[str, Any]) -> None:
        """Write the test, the weights that the network has, and the last checkpoint with the state as trained."""

    def close(self) -> None:
        """Let other processes have the folder."""


class FolderOutput(Output):
    """The run's folder to the process that writes to it.

    Parameters
    ----------
    config : RunConfig
    dataset : Dataset
    state : RunState
    environment : mapping from str to object
        What the run runs in.
    constants : mapping from str to object
        What every checkpoint says beside the state.
    resumed : Path or None
        The folder of a run that goes on.
    lock : Lock or None
        Of that folder.

    Raises
    ------
    OSError
        The folder cannot be made or written.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        state: RunState,
        environment: Mapping[str, Any],
        constants: Mapping[str, Any],
        resumed: Path | None,
        lock: Lock | None,
    ) -> None:
        self._config, self._dataset, self._state = config, dataset, state
        self._folder = RunFolder(config, environment, resumed, state.epochs, lock)
        super().__init__(self._folder.path)
        minutes = config.checkpoint_minutes
        self._saver = Saver(self._folder.checkpoints, state, describe_model(config, dataset, {}), constants, minutes)

    @property
    def is_due(self) -> bool:  # type: ignore[override]
        """It is time for a checkpoint within the epoch."""
        return self._saver.is_due

    def save(self, *names: str) -> None:
        """Write the state to checkpoints of these names; see `Saver.save`."""
        self._saver.save(*names)

    def end_epoch(self, record: EpochRecord, environment: Mapping[str, Any]) -> None:
        """Write the epoch's rows and what the run runs in."""
        self._folder.append(record)
        self._folder.write_environment(environment)

    def end_run(self, history: History, trained: Captured, environment: Mapping[str, Any]) -> None:
        """Write the test, the weights that the network has, and the last checkpoint with the state as trained."""
        best, test = history.best, history.test
        assert test is not None
        self._folder.write_test(test.to_dict(self._dataset.classes))
        notes: dict[str, Any] = {"epoch": best.epoch}
        notes |= {"validation_loss": best.validation_loss, "validation_accuracy": best.validation_accuracy}
        notes |= {"test_loss": test.loss, "test_accuracy": test.accuracy}
        save_model(self._folder.weights_path, self._state.net, describe_model(self._config, self._dataset, notes))
        self._folder.write_environment(environment)
        self._saver.write(trained, LAST, finished=True)

    def close(self) -> None:
        """Let other processes have the folder."""
        self._folder.close()
