"""Kill -9 at random moments: what resumes ends with the bytes of the run that nobody disturbed."""

import csv
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnnzoo.interop.tensor_file import read_tensors
from cnnzoo.training.checkpoint import read_header
from cnnzoo.training.resume import FREE
from tests.training.stand_ins import write_mnist

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

# LeNet-5 with all that has a state of its own: momentum, an average, augmentation, held-out images. A checkpoint is due
# after 30 ms, every few steps.
SETTINGS = {
    "model": "lenet5",
    "dataset": "mnist",
    "batch-size": 16,
    "momentum": 0.9,
    "schedule": "one-cycle",
    "lr": 0.02,
    "ema-decay": 0.99,
    "checkpoint-minutes": 0.0005,
    "resume": "auto",
}
BATCHES = 57  # an epoch: 900 images, the last batch smaller
TIMES = {"seconds", "validation_seconds", "images_per_second"}


class Runs:
    """Starts runs that differ in nothing but their output folder and their threads."""

    def __init__(self, data, parent):
        self._data, self._parent = data, parent

    def start(self, name, threads=2, epochs=4):
        settings = {
            **SETTINGS,
            "data-dir": self._data,
            "output-dir": self._parent / name,
            "threads": threads,
            "epochs": epochs,
        }
        flags = [str(part) for key, value in settings.items() for part in (f"--{key}", value)]
        command = [sys.executable, "-m", "cnnzoo.train", *flags, "--augmentation", "--json"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, name, threads=2, epochs=4):
        """Run to the end; return the run's folder and the seconds that it took."""
        start = time.monotonic()
        with self.start(name, threads, epochs) as process:
            output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return Path(json.loads(output)["folder"]), time.monotonic() - start

    def kill_after(self, seconds, name, threads=2, epochs=4):
        """Start or resume a run and kill it after so many seconds; tell whether it was still running."""
        with self.start(name, threads, epochs) as process:
            time.sleep(seconds)
            running = process.poll() is None
            process.kill()
        return running

    def kill_at(self, batches, name, threads=2, epochs=4):
        """Kill a run once its checkpoint has so many batches; otherwise as `kill_after`."""
        with self.start(name, threads, epochs) as process:
            while process.poll() is None and self._count_batches(name) < batches:
                time.sleep(0.005)
            running = process.poll() is None
            process.kill()
        return running

    def _count_batches(self, name):
        for path in self._parent.glob(f"{name}/*/checkpoints/last.safetensors"):
            position = read_header(path).values["position"]
            return position["epoch"] * BATCHES + position["batch"]
        return 0


@pytest.fixture
def runs(tmp_path):
    return Runs(write_mnist(tmp_path / "data"), tmp_path)


def _read(folder):
    """Return everything that two runs have to agree in."""
    arrays, metadata = read_tensors(folder / "final.safetensors")
    config = {name: value for name, value in json.loads(metadata.pop("config")).items() if name not in FREE}
    with open(folder / "metrics.csv", newline="") as file:
        rows = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    weights = {name: (array.dtype.name, array.shape, array.tobytes()) for name, array in arrays.items()}
    return weights, metadata, config, rows, (folder / "test.json").read_bytes()


def _assert_undisturbed(folder, expected):
    assert _read(folder) == _read(expected)
    for name in ("last.safetensors", "best.safetensors"):
        states = [read_tensors(path / "checkpoints" / name)[0] for path in (folder, expected)]
        assert states[0].keys() == states[1].keys()
        assert all(states[0][key].tobytes() == states[1][key].tobytes() for key in states[0])
    assert not list(folder.rglob("*.tmp"))


def test_run_killed_twice_ends_with_the_same_bytes(runs):
    expected, _ = runs.finish("undisturbed")
    for batches, threads in ((BATCHES // 2, 1), (2 * BATCHES + 10, 3)):
        assert runs.kill_at(batches, "killed", threads)
    _assert_undisturbed(runs.finish("killed")[0], expected)


@pytest.mark.slow
def test_twenty_runs_each_killed_once_end_with_the_same_bytes(runs):
    """At any moment, from the start of the process on."""
    expected, _ = runs.finish("undisturbed")
    again, seconds = runs.finish("undisturbed again")  # a first run may compile
    _assert_undisturbed(again, expected)
    rng = random.Random()
    for trial in range(20):
        moment = rng.uniform(0, seconds)
        runs.kill_after(moment, f"trial{trial}", threads=rng.choice([1, 2, 3]))
        folder, _ = runs.finish(f"trial{trial}", threads=rng.choice([1, 2, 3]))
        _assert_undisturbed(folder, expected)
        earlier = "earlier" in json.loads((folder / "environment.json").read_text())
        how = "resumed" if earlier else "before it had begun or after it had ended"
        print(f"trial {trial + 1}: kill -9 after {moment:.2f} of {seconds:.2f} s, {how}, same bytes")


@pytest.mark.slow
def test_one_run_killed_twenty_times_ends_with_the_same_bytes(runs):
    """At batches that lie up to sixty apart."""
    expected, _ = runs.finish("undisturbed", epochs=12)
    rng, batches = random.Random(), 0
    for _ in range(20):
        batches += rng.randrange(60)
        assert runs.kill_at(batches, "killed", threads=rng.choice([1, 2, 3]), epochs=12)
    folder, _ = runs.finish("killed", epochs=12)
    _assert_undisturbed(folder, expected)
    print(f"20 kills at up to {batches} of {12 * BATCHES} batches, same bytes")
