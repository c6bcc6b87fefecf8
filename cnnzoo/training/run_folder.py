"""The folder that a run leaves behind."""

import csv
import dataclasses
import itertools
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cnnzoo.atomic import write_atomically
from cnnzoo.config import RunConfig
from cnnzoo.data import Dataset
from cnnzoo.threads import get_num_threads
from cnnzoo.training.history import EpochRecord


class RunFolder:
    """``<output_dir>/<time>-<model>-<dataset>-s<seed>/`` with what the run writes.

    - ``config.json``: `RunConfig.to_dict`, every setting whether said or filled in;
    - ``environment.json``: versions, machine, data and command;
    - ``metrics.csv``: one `EpochRecord` a row, written as soon as its epoch is over;
    - ``test.json``: `Metrics.to_dict` of the test images, with the weights of the best epoch;
    - ``final.safetensors``: those weights.

    Parameters
    ----------
    config : RunConfig
        With the data set's name filled in.
    dataset : Dataset

    Raises
    ------
    OSError
        The folder cannot be made.
    """

    def __init__(self, config: RunConfig, dataset: Dataset) -> None:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.model}-{config.dataset}-s{config.seed}"
        self.path = _make_new_folder(Path(config.output_dir), name)
        self._write_json("config.json", config.to_dict())
        self._write_json("environment.json", describe_environment(dataset))
        with open(self.metrics_path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(field.name for field in dataclasses.fields(EpochRecord))

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

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self.path / name, (json.dumps(content, indent=2) + "\n").encode())


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
