"""Event files for TensorBoard, by the optional package tensorboardX."""

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cnnzoo.errors import ConfigError
from cnnzoo.training.history import EpochRecord, History
from cnnzoo.training.metrics import Metrics
from cnnzoo.training.observer import Observer

if TYPE_CHECKING:
    from cnnzoo.training.trainer import Trainer

_CURVES = {
    "loss/train": "train_loss",
    "loss/validation": "validation_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/validation": "validation_accuracy",
    "learning rate": "lr",
    "largest gradient norm": "largest_gradient_norm",
    "images a second": "images_per_second",
}


class TensorBoard(Observer):
    """Writes what metrics.csv has, and the test, to the folder ``tensorboard`` of the run.

    Raises
    ------
    ConfigError
        tensorboardX is not installed.
    """

    def __init__(self) -> None:
        if find_spec("tensorboardX") is None:
            raise ConfigError("tensorboard: expected tensorboardX, found none; pip install 'cnnzoo[tensorboard]'")
        self._writer: Any = None
        self._epoch = 0

    def run_started(self, trainer: "Trainer", history: History) -> None:
        """Begin a file; of a run that goes on, epochs that are done anew replace those of the files before it."""
        from tensorboardX import SummaryWriter

        self._epoch = len(history.epochs)
        self._writer = SummaryWriter(str(history.folder / "tensorboard"), purge_step=self._epoch + 1)
        self._writer.add_text("settings", f"```\n{json.dumps(history.config.to_dict(), indent=2)}\n```", 0)

    def epoch_done(self, record: EpochRecord) -> None:
        """Add a point to each curve."""
        for name, field in _CURVES.items():
            value = getattr(record, field)
            if value is not None:
                self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()
        self._epoch = record.epoch

    def test_done(self, metrics: Metrics) -> None:
        """Add the test, at the run's last epoch."""
        self._writer.add_scalar("loss/test", metrics.loss, self._epoch)
        self._writer.add_scalar("accuracy/test", metrics.accuracy, self._epoch)
        self._writer.close()
