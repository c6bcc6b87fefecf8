"""What a run did, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cnnzoo.config import RunConfig
from cnnzoo.memory import peak_memory_above
from cnnzoo.training.metrics import Metrics


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
        label smoothing. With mixup, the label of the larger share is the one to be recognized.
    validation_loss, validation_accuracy : float or None
        On the images held out, after the epoch, in inference mode, without label smoothing. None where none are.
    largest_gradient_norm : float
        Of a step's gradient, over all parameters together, before clipping.
    clipped_steps : int
        Steps whose gradient was clipped.
    seconds, validation_seconds : float
        Wall time of training and of validation.
    images_per_second : float
        While training.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    largest_gradient_norm: float
    clipped_steps: int
    seconds: float
    validation_seconds: float
    images_per_second: float


@dataclass(kw_only=True)
class History:
    """A run: its settings, its folder, a record for each epoch that was finished, and the test once it is done.

    `resident_before` is the memory in bytes that the process held before the run, None where the system does not tell.
    """

    config: RunConfig
    folder: Path
    epochs: list[EpochRecord] = field(default_factory=list)
    test: Metrics | None = None
    resident_before: int | None = None

    @property
    def peak_memory(self) -> int | None:
        """The most bytes that the process has held so far, above what stood before the run."""
        return peak_memory_above(self.resident_before)

    @property
    def best(self) -> EpochRecord:
        """The epoch whose weights the run ends with, at least one being finished; see `find_best`."""
        return find_best(self.epochs)


def find_best(epochs: Sequence[EpochRecord]) -> EpochRecord:
    """Return the best of some epochs.

    The one with the highest validation accuracy; of equal ones that with the lowest validation loss, and then the
    earliest. The last one where no images are held out.
    """
    if epochs[-1].validation_accuracy is None:
        return epochs[-1]
    return max(epochs, key=lambda record: (record.validation_accuracy, -(record.validation_loss or 0)))
