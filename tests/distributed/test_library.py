"""Trainers on several ranks in a program of one's own, which may handle their errors."""

import platform
import signal
import time

import pytest

from tests.distributed.ranks import needs_mpi, run_ranks
from tests.training.stand_ins import write_mnist

pytestmark = needs_mpi

SECONDS = 60  # within which all ranks have to be gone, starting included, on a machine that others use as well

_PROGRAM = """
import os, sys
from cnnzoo import RunConfig, Trainer
from cnnzoo.errors import CnnzooError
from cnnzoo.training import trainer
from cnnzoo.training.observer import Observer
from tests.training.stand_ins import make_linear_network
trainer.create_model = make_linear_network

def make(observer=None, **settings):
    data, output = sys.argv[1:]
    settings = {"batch_size": 8, "epochs": 2, "data_dir": data, "output_dir": output} | settings
    return Trainer(RunConfig(model="linear", dataset="mnist", distributed="mpi", **settings), observer)

def say(line):
    os.write(1, line.encode() + b"\\n")  # whole: all ranks write to one pipe

"""

_ALONE = """
import signal
class Fail(Observer):
    def run_started(self, trainer, history):
        self.rank = trainer.engine.rank

    def step_done(self, tally):
        if self.rank == {rank}:
            {act}

try:
    make(Fail()).fit()
except BaseException as error:
    say("handled " + type(error).__name__)
"""

_ON_ALL = """
for wrong in ({"batch_size": 1}, {"init_from": "nowhere"}):
    try:
        make(**wrong)
    except CnnzooError as error:
        say(f"refused: {error}")
first = make()
assert first.engine is make().engine
history = first.fit()
if first.engine.is_root:
    say(f"{len(history.epochs)} epochs")
"""


_DIVERGING = """
from cnnzoo.training.engine import make_engine
from tests.training.stand_ins import LinearNetwork

class Diverging(LinearNetwork):
    def backward(self, dlogits, accumulate=False, on_gradient=None):
        super().backward(dlogits, accumulate)
        if make_engine("mpi").rank == 1:
            self.gradient_arena[-1] = float("nan")
        on_gradient(self.gradient_arena.size)

trainer.create_model = lambda model, classes, image_shape, **options: Diverging(classes, image_shape)
try:
    make().fit()
except CnnzooError as error:
    say(f"handled: {error}")
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a program on three ranks: (exit code, output, errors)."""
    data = write_mnist(tmp_path / "data", train=330, test=50)
    return lambda program: run_ranks(3, "-c", _PROGRAM + program, data, tmp_path / "runs")


@pytest.mark.parametrize("error", ["ValueError('of its own')", "CnnzooError('of its own')", "SystemExit('of its own')"])
def test_rank_that_leaves_alone_ends_all(run, error):
    start = time.monotonic()
    code, output, errors = run(_ALONE.format(rank=1, act=f"raise {error}"))
    assert time.monotonic() - start < SECONDS
    assert code in (1, signal.SIGKILL)  # the rank's, or that of those that the launcher kills, where it sees them first
    assert "handled" not in output
    name = error.partition("(")[0]
    assert [line for line in errors.splitlines() if line.startswith("cnnzoo: ")] == [
        f"cnnzoo: rank 1 on {platform.node()}: {name}: of its own"
    ]
    assert "Abort" not in errors


def test_rank_0_that_is_killed_ends_all(run):
    start = time.monotonic()
    code, output, errors = run(_ALONE.format(rank=0, act="os.kill(os.getpid(), signal.SIGKILL)"))
    assert time.monotonic() - start < SECONDS
    assert code != 0
    assert "handled" not in output
    (told,) = [line for line in errors.splitlines() if line.startswith("cnnzoo: ")]
    assert told.startswith(f"cnnzoo: rank 0 on {platform.node()} (process ")
    assert told.endswith(" was killed, or its host is gone; --resume goes on from the last checkpoint")


def test_what_all_ranks_meet_may_be_handled(run):
    code, output, errors = run(_ON_ALL)
    assert code == 0, errors
    assert output.count("refused: batch_size: expected 2 or more images") == 3
    assert output.count("refused: nowhere: ") == 3
    assert output.count("2 epochs") == 1


def test_gradient_that_is_not_finite_on_one_rank_is_an_error_on_all(run):
    code, output, errors = run(_DIVERGING)
    assert code == 0, errors
    words = f"rank 1 on {platform.node()}: expected finite gradients, got nan, first in that of fc.bias, at a learning"
    assert output.count(f"handled: epoch 1, step 1: {words}") == 3
