"""What a trainer tells while it works: it prints nothing itself."""

from typing import TYPE_CHECKING, Literal

from cnnzoo.training.history import EpochRecord, History
from cnnzoo.training.metrics import Tally

if TYPE_CHECKING:
    from cnnzoo.training.trainer import Trainer


class Observer:
    """Base of those who want to know; each method does nothing until it is overridden."""

    def plan_started(self, trainer: "Trainer") -> None:
        """What the run will take is about to be measured."""

    def run_started(self, trainer: "Trainer", history: History) -> None:
        """All is ready, the run's folder is made."""

    def epoch_started(self, epoch: int) -> None:
        """Epoch `epoch`, from 1, begins."""

    def step_done(self, tally: Tally) -> None:
        """A training step is done; `tally` counts the epoch so far."""

    def evaluation_started(self, split: Literal["validation", "test"]) -> None:
        """The validation of an epoch begins, its training being over, or the test of the run, all epochs being over."""

    def evaluation_batch_done(self, tally: Tally) -> None:
        """A batch of it is done; `tally` counts the evaluation so far."""

    def epoch_done(self, record: EpochRecord) -> None:
        """The epoch is over and recorded."""

    def run_done(self, history: History) -> None:
        """The test is over and the weights are written."""
