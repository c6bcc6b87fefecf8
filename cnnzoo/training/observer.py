"""What a trainer tells while it works: it prints nothing itself."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from cnnzoo.graph.tuning import Tuning
from cnnzoo.training.history import EpochRecord, History
from cnnzoo.training.metrics import Metrics, Tally

if TYPE_CHECKING:
    from cnnzoo.training.trainer import Trainer


class Observer:
    """Base of those who want to know; each method does nothing until it is overridden."""

    def plan_started(self, trainer: "Trainer") -> None:
        """What the run will take is about to be measured."""

    def tuning_advanced(self, done: int, total: int) -> None:
        """So many of the passes whose algorithms are chosen by measurement are measured; 0 at first."""

    def tuning_done(self, tuning: Tuning) -> None:
        """The algorithms are chosen."""

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

    def test_done(self, metrics: Metrics) -> None:
        """The test is over; the weights, its results and the last checkpoint are written."""

    def run_done(self, history: History) -> None:
        """All is written."""


def _pass_on(name: str) -> Callable[..., None]:
    def tell(observers: "Observers", *arguments: Any) -> None:
        for observer in observers.observers:
            getattr(observer, name)(*arguments)

    return tell


class Observers(Observer):
    """Passes on to several what it is told, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    plan_started = _pass_on("plan_started")
    tuning_advanced = _pass_on("tuning_advanced")
    tuning_done = _pass_on("tuning_done")
    run_started = _pass_on("run_started")
    epoch_started = _pass_on("epoch_started")
    step_done = _pass_on("step_done")
    evaluation_started = _pass_on("evaluation_started")
    evaluation_batch_done = _pass_on("evaluation_batch_done")
    epoch_done = _pass_on("epoch_done")
    test_done = _pass_on("test_done")
    run_done = _pass_on("run_done")
