"""The train command on several ranks: what is written, and how a run ends when a rank does."""

import csv
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path

import pytest

from cnnzoo.training.checkpoint import read_checkpoint
from tests.distributed.ranks import needs_mpi, run_ranks, start_ranks
from tests.training.stand_ins import write_mnist

pytestmark = needs_mpi

TRAIN = ("-m", "cnnzoo.train", "--distributed", "mpi")
SETTINGS = {"model": "lenet5", "dataset": "mnist", "dtype": "float64", "momentum": 0.9, "lr": 0.01}
LONG = {"epochs": 100_000, "batch-size": 8, "checkpoint-minutes": 0.001}
EXACT = ("epoch", "train_accuracy", "validation_accuracy", "clipped_steps")
CLOSE = ("lr", "train_loss", "validation_loss", "largest_gradient_norm")
SECONDS = 20  # within which all ranks have to be gone, on a machine that others use as well


@pytest.fixture
def flags(tmp_path):
    """Return a maker of the command's flags; None is the value of one that has none."""
    data = write_mnist(tmp_path / "data", train=330, test=50)

    def make(**settings):
        settings = SETTINGS | {"data-dir": data, "output-dir": tmp_path / "runs"} | settings
        pairs = [(f"--{name}", value) for name, value in settings.items()]
        return [str(part) for pair in pairs for part in pair if part is not None]

    return make


def _read_rows(folder):
    with open(Path(folder) / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def _wait_for_checkpoint(process, parent, batches=2):
    """Wait until a run has a checkpoint from within an epoch; return its folder."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        for path in parent.glob("*/checkpoints/last.safetensors"):
            if sum(read_checkpoint(path)[1].position) >= batches:
                return path.parents[1]
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint of {batches} batches: {process.communicate()}")


def _assert_same_course(rows, expected):
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert {name: row[name] for name in EXACT} == {name: other[name] for name in EXACT}
        for name in CLOSE:
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-9)


def test_three_ranks_take_the_course_of_one_process_and_rank_0_alone_writes(flags, tmp_path):
    arguments = [*flags(epochs=2, validation=40), "--augmentation", "--json"]
    code, output, errors = run_ranks(3, *TRAIN, *arguments, "--batch-size", "8")
    assert code == 0, errors
    result = json.loads(output)
    assert (result["ranks"], result["test_images"], result["validation_images"]) == (3, 50, 33)
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert errors.count("epoch 2/2") == 1
    environment = json.loads((Path(result["folder"]) / "environment.json").read_text())
    assert [(rank["rank"], rank["host"]) for rank in environment["ranks"]] == [(n, platform.node()) for n in range(3)]
    code, output, errors = run_ranks(1, *TRAIN, *arguments, "--batch-size", "24")
    assert code == 0, errors
    alone = json.loads(output)
    _assert_same_course(_read_rows(result["folder"]), _read_rows(alone["folder"]))
    assert result["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-9)
    assert result["test_accuracy"] == alone["test_accuracy"]


def test_killed_rank_ends_all_with_one_error_and_other_ranks_go_on(flags, tmp_path):
    """What three ranks began, of which one is killed, two go on with, as one process would have done it."""
    with start_ranks(3, *TRAIN, *flags(**LONG)) as process:
        folder = _wait_for_checkpoint(process, tmp_path / "runs")
        ranks = json.loads((folder / "environment.json").read_text())["ranks"]
        os.kill(ranks[1]["process"], signal.SIGKILL)
        start = time.monotonic()
        _, errors = process.communicate(timeout=100)
    assert time.monotonic() - start < SECONDS
    assert process.returncode != 0
    place = f"rank 1 on {platform.node()}"
    assert [line for line in errors.splitlines() if "cnnzoo" in line] == [
        f"cnnzoo: {place} (process {ranks[1]['process']}) was killed, or its host is gone; "
        "--resume goes on from the last checkpoint"
    ]
    header = read_checkpoint(folder / "checkpoints" / "last.safetensors")[1]
    epochs = header.epoch + 1
    code, _, errors = run_ranks(2, *TRAIN, *flags(epochs=epochs), "--resume", folder)
    assert code == 0, errors
    code, output, errors = run_ranks(2, *TRAIN, *flags(epochs=epochs), "--resume", folder)
    assert (code, errors) == (0, ""), errors
    assert str(folder) in output  # it says that the run is finished
    arguments = flags(epochs=epochs, **{"batch-size": 24, "output-dir": tmp_path / "alone"})
    code, output, errors = run_ranks(1, *TRAIN, *arguments, "--json")
    assert code == 0, errors
    _assert_same_course(_read_rows(folder), _read_rows(json.loads(output)["folder"]))


def test_launcher_of_another_mpi_is_refused(flags, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    code, _, errors = run_ranks(1, *TRAIN, *flags(epochs=1))
    assert code == 1
    assert "expected the 2 ranks that OMPI_COMM_WORLD_SIZE tells of, got 1" in errors


def test_sigterm_to_one_rank_saves_and_stops_all(flags, tmp_path):
    with start_ranks(2, *TRAIN, *flags(**LONG)) as process:
        folder = _wait_for_checkpoint(process, tmp_path / "runs")
        ranks = json.loads((folder / "environment.json").read_text())["ranks"]
        os.kill(ranks[1]["process"], signal.SIGTERM)
        start = time.monotonic()
        output, errors = process.communicate(timeout=100)
    assert time.monotonic() - start < SECONDS
    assert process.returncode == 143, errors
    assert "BAD TERMINATION" not in output
    assert [line for line in errors.splitlines() if "cnnzoo" in line and "stopped in epoch" in line]
    assert errors.count("--resume") == 1
    before = read_checkpoint(folder / "checkpoints" / "last.safetensors")[1].position
    code, _, errors = run_ranks(1, "-m", "cnnzoo.train", *flags(epochs=before[0] + 1), "--resume", folder)
    assert code == 0, errors
    assert len(_read_rows(folder)) == before[0] + 1


_POISONED = """
import sys
from cnnzoo import train
from cnnzoo.data import Batches
extract, calls = Batches.extract_batch, []

def extract_poisoned(self, epoch, index):
    images, labels = extract(self, epoch, index)
    calls.append(self.shuffle)
    if self._share == 1 and self.shuffle and sum(calls) > 30:  # past those that are measured before the run
        images[:] = float("nan")
    return images, labels

Batches.extract_batch = extract_poisoned
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "settings", [{}, {"model": "mobilenetv1", "sync-batchnorm": None}], ids=["lenet5", "synchronized batch norm"]
)
def test_nan_on_one_rank_ends_all_with_one_error(flags, tmp_path, settings):
    """With synchronized batch norm, the losses of all ranks become NaN in the same step."""
    code, output, errors = run_ranks(3, "-c", _POISONED, "--distributed", "mpi", *flags(**LONG | settings))
    assert code == 1
    told = [line for line in errors.splitlines() if "cnnzoo" in line]
    assert len(told) == 1, errors
    assert told[0].startswith("cnnzoo train: epoch ")
    assert f": rank 1 on {platform.node()}: expected a finite loss, got nan, which comes from conv1" in told[0]
    assert "BAD TERMINATION" not in output
    (path,) = (tmp_path / "runs").glob("*/checkpoints/last.safetensors")
    read_checkpoint(path)


def test_wrong_setting_is_told_once(flags):
    code, _, errors = run_ranks(3, *TRAIN, *flags(**{"batch-size": 1}))
    assert code == 2
    assert errors.count("expected 2 or more images a batch for each of 3 ranks, got 3 in all") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "lenet5", "--lr", "-1"], (2, "cnnzoo train: lr: expected a number of 0 or more, got -1.0\n")),
        (
            ["--resume", "nowhere"],
            (1, "cnnzoo train: nowhere: expected a checkpoint or the folder of a run, found nothing\n"),
        ),
    ],
    ids=["settings", "the checkpoint that names the model"],
)
def test_what_is_wrong_before_there_is_a_trainer_is_told_once(arguments, told):
    code, _, errors = run_ranks(3, *TRAIN, *arguments)
    assert (code, errors) == told


def test_model_of_a_checkpoint_is_read_by_rank_0(flags, tmp_path):
    """The others would not find it: they run in another folder."""
    code, output, errors = run_ranks(2, *TRAIN, *flags(epochs=1), "--json")
    assert code == 0, errors
    folder = Path(json.loads(output)["folder"])
    program = (
        "import os, sys; from cnnzoo import train; from cnnzoo.training.engine import make_engine\n"
        f"os.chdir({str(folder.parent)!r} if make_engine('mpi').is_root else '/')\n"
        "sys.exit(train.main(sys.argv[1:]))"
    )
    arguments = ["--resume", folder.name, "--epochs", "2", "--data-dir", str(tmp_path / "data"), "--json"]
    code, output, errors = run_ranks(2, "-c", program, "--distributed", "mpi", *arguments)
    assert code == 0, errors
    assert (json.loads(output)["model"], json.loads(output)["epochs"]) == ("lenet5", 2)


def test_without_mpi4py_it_is_said_what_to_install(flags):
    program = "import sys; sys.modules['mpi4py'] = None; from cnnzoo import train; sys.exit(train.main(sys.argv[1:]))"
    code, _, errors = run_ranks(1, "-c", program, "--distributed", "mpi", *flags())
    assert code == 2
    assert "pip install 'cnnzoo[mpi]'" in errors
    assert sys.executable not in errors


def test_doctor_shows_how_ranks_share_the_cores():
    code, output, errors = run_ranks(2, "-m", "cnnzoo.doctor", "--distributed", "mpi", "--json")
    assert code == 0, errors
    found = json.loads(output)
    assert [rank["rank"] for rank in found["ranks"]] == [0, 1]
    assert sum(rank["threads"] for rank in found["ranks"]) <= max(2, found["cores"])
    assert found["threads"] == found["ranks"][0]["threads"]
