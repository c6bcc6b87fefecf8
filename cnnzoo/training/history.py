"""What a run did, epoch by epoch."""

from dataclasses import dataclass, field
from pathlib import Path

from cnnzoo.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch: a row of metrics.csv.

    Attributes
    ----------
    epoch : int
        From 1.
    lr : float
        Learning rate of its first step.
    train_loss, train_accuracy : float
        Means over the epoch, taken while the weights changed: in training mode, on augmented images, with the run's
        label smoothing.
    test_loss, test_accuracy : float
        On the test images after the epoch, in inference mode, without label smoothing.
    seconds, test_seconds : float
        Wall time of training and of testing.
    images_per_second : float
        While training.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    test_seconds: float
    images_per_second: float


@dataclass(kw_only=True)
class History:
    """A run: its settings, its folder, and a record for each epoch that was finished."""

    config: RunConfig
    folder: Path
    epochs: list[EpochRecord] = field(default_factory=list)
