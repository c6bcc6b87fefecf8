"""The folder that a run leaves behind."""

import csv
import dataclasses
import io
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from cnnzoo.atomic import remove_leftovers, write_atomically
from cnnzoo.config import RunConfig
from cnnzoo.data import Dataset
from cnnzoo.errors import CheckpointError
from cnnzoo.threads import get_num_threads
from cnnzoo.training.checkpoint import FOLDER
from cnnzoo.training.history import EpochRecord

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


class RunFolder:
    """``<output_dir>/<time>-<model>-<dataset>-s<seed>/`` with what the run writes.

    - ``config.json``: `RunConfig.to_dict`, every setting whether said or filled in;
    - ``environment.json``: versions, machine, data and command;
    - ``metrics.csv``: one `EpochRecord` a row, written as soon as its epoch is over;
    - ``checkpoints/``: ``last.safetensors``, ``best.safetensors`` and some others, see `cnnzoo.training.checkpoint`;
    - ``test.json``: `Metrics.to_dict` of the test images, with the weights of the best epoch;
    - ``final.safetensors``: those weights.

    It is locked against other processes until `close`, or until this one ends.

    Parameters
    ----------
    config : RunConfig
        With the data set's name filled in.
    dataset : Dataset
    path : Path or None
        The folder of a run that goes on; None: a new one.
    epochs : iterable of EpochRecord
        The rows that metrics.csv begins with, instead of those that it had.

    Raises
    ------
    CheckpointError
        Another process has the folder.
    OSError
        The folder cannot be made.
    """

    def __init__(
        self, config: RunConfig, dataset: Dataset, path: Path | None = None, epochs: Iterable[EpochRecord] = ()
    ) -> None:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.model}-{config.dataset}-s{config.seed}"
        self.path = path or _make_new_folder(Path(config.output_dir), name)
        self.checkpoints.mkdir(exist_ok=True)
        self._lock = _lock(self.checkpoints / ".lock", self.path)
        for folder in (self.path, self.checkpoints):
            remove_leftovers(folder)
        self._write_json("config.json", config.to_dict())
        self._write_environment(dataset)
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(field.name for field in dataclasses.fields(EpochRecord))
        writer.writerows(map(dataclasses.astuple, epochs))
        write_atomically(self.metrics_path, table.getvalue().encode())

    def close(self) -> None:
        """Let other processes have the folder."""
        self._lock.close()

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / FOLDER

    @property
    def metrics_path(self) -> Path:
        """Where the epochs' records are."""
        return self.path / "metrics.csv"

    @property
    def weights_path(self) -> Path:
        """Where the weights are once the run is done."""
        return self.path / "final.safetensors"

    def append(self, record: EpochRecord) -> None:
        """Add a row to metrics.csv, numbers in full precision."""
        with open(self.metrics_path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(dataclasses.astuple(record))

    def write_test(self, metrics: dict[str, Any]) -> None:
        """Write the test's results."""
        self._write_json("test.json", metrics)

    def _write_environment(self, dataset: Dataset) -> None:
        """Write what the run runs in now, and after it, where it goes on, what it ran in earlier."""
        path, now = self.path / "environment.json", describe_environment(dataset)
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            now["earlier"] = [*before.pop("earlier", []), before]
        self._write_json(path.name, now)

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self.path / name, (json.dumps(content, indent=2) + "\n").encode())


def _lock(path: Path, folder: Path) -> IO[bytes]:
    """Return an open file that no other process has locked; the system unlocks it when it is closed, by a kill too."""
    file = open(path, "ab")  # noqa: SIM115
    if fcntl is not None:  # Windows has no such locks
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise CheckpointError(
                f"{folder}: expected a run that nobody has, found it in use by another process"
            ) from None
    return file


def _make_new_folder(parent: Path, name: str) -> Path:
    """Make a folder that was not there before: two runs may start within a second."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def describe_environment(dataset: Dataset) -> dict[str, Any]:
    """Return the versions, the machine, the data and the command, as plain values for JSON."""
    packages = ("cnnzoo", "numpy", "numba", "llvmlite", "safetensors")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": get_num_threads(),
        "data": {
            "name": dataset.name,
            "source": dataset.source,
            "train_images": len(dataset.train),
            "test_images": len(dataset.test),
        },
        "command": sys.argv,
    }


def _cpu_name() -> str:
    """Return the processor's name as Linux knows it, elsewhere what Python says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
