"""What a trainer tells while it works: it prints nothing itself."""

from typing import TYPE_CHECKING

from cnnzoo.training.history import EpochRecord, History
from cnnzoo.training.metrics import Tally

if TYPE_CHECKING:
    from cnnzoo.training.trainer import Trainer


class Observer:
    """Base of those who want to know; each method does nothing until it is overridden."""

    def run_started(self, trainer: "Trainer", history: History) -> None:
        """All is ready, the run's folder is made."""

    def epoch_started(self, epoch: int) -> None:
        """Epoch `epoch`, from 1, begins."""

    def step_done(self, tally: Tally) -> None:
        """A training step is done; `tally` counts the epoch so far."""

    def test_started(self) -> None:
        """The epoch's training is over, its test begins."""

    def test_batch_done(self, tally: Tally) -> None:
        """A test batch is done; `tally` counts the test so far."""

    def epoch_done(self, record: EpochRecord) -> None:
        """The epoch is over and recorded."""

    def run_done(self, history: History) -> None:
        """All epochs are over and the weights are written."""
