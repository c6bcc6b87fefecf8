"""The folder that a run leaves behind."""

import csv
import dataclasses
import io
import itertools
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cnnzoo.atomic import naming_file, remove_leftovers, write_atomically
from cnnzoo.config import RunConfig
from cnnzoo.training.checkpoint import FOLDER
from cnnzoo.training.history import EpochRecord
from cnnzoo.training.lock import Lock

_COLUMNS = tuple(field.name for field in dataclasses.fields(EpochRecord))
_JSON_LINES, _ENVIRONMENT = "metrics.jsonl", "environment.json"


class RunFolder:
    """``<output_dir>/<time>-<model>-<dataset>-s<seed>/`` with what the run writes.

    - ``config.json``: `RunConfig.to_dict`, every setting whether said or filled in;
    - ``environment.json``: versions, machine, data, algorithms and command, see `cnnzoo.training.environment`;
    - ``metrics.csv``, ``metrics.jsonl``: one `EpochRecord` a row, written as soon as its epoch is over;
    - ``checkpoints/``: ``last.safetensors``, ``best.safetensors`` and some others, see `cnnzoo.training.checkpoint`;
    - ``test.json``: `Metrics.to_dict` of the test images, with the weights of the best epoch;
    - ``report.html``: all of it as a page, see `cnnzoo.training.report`;
    - ``tensorboard/``: event files, where they are asked for;
    - ``final.safetensors``: those weights.

    It is locked against other processes until `close`, or until this one ends.

    Parameters
    ----------
    config : RunConfig
        With the data set's name filled in.
    environment : mapping
        What environment.json says of now; where a run goes on, what it said before is kept beside it.
    path : Path or None
        The folder of a run that goes on; None: a new one.
    epochs : iterable of EpochRecord
        The rows that metrics.csv begins with, instead of those that it had.
    lock : Lock or None
        Of that folder; None: it is locked now.

    Raises
    ------
    CheckpointError
        Another process has the folder.
    OSError
        The folder cannot be made.
    """

    def __init__(
        self,
        config: RunConfig,
        environment: Mapping[str, Any],
        path: Path | None = None,
        epochs: Iterable[EpochRecord] = (),
        lock: Lock | None = None,
    ) -> None:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.model}-{config.dataset}-s{config.seed}"
        self.path = path or _make_new_folder(Path(config.output_dir), name)
        self.checkpoints.mkdir(exist_ok=True)
        self._lock = lock or Lock(self.path)
        for folder in (self.path, self.checkpoints):
            remove_leftovers(folder)
        self._write_json("config.json", config.to_dict())
        self._earlier = _read_environments(self.path / _ENVIRONMENT)
        self.write_environment(environment)
        records = list(epochs)
        write_atomically(self.metrics_path, _as_csv([_COLUMNS, *map(dataclasses.astuple, records)]).encode())
        write_atomically(self.path / _JSON_LINES, "".join(map(_as_json, records)).encode())

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
        """Add a row to metrics.csv and to metrics.jsonl, numbers in full precision."""
        for path, row in (
            (self.metrics_path, _as_csv([dataclasses.astuple(record)])),
            (self.path / _JSON_LINES, _as_json(record)),
        ):
            with naming_file(path), open(path, "a", newline="", encoding="utf-8") as file:
                file.write(row)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write what the run runs in now, and after it, where it goes on, what it ran in earlier."""
        self._write_json(
            _ENVIRONMENT, {**environment, "earlier": self._earlier} if self._earlier else dict(environment)
        )

    def write_test(self, metrics: dict[str, Any]) -> None:
        """Write the test's results."""
        self._write_json("test.json", metrics)

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self.path / name, (json.dumps(content, indent=2) + "\n").encode())


def _read_environments(path: Path) -> list[dict[str, Any]]:
    """Return what the run ran in earlier, the first first."""
    if not path.is_file():
        return []
    before = json.loads(path.read_text(encoding="utf-8"))
    return [*before.pop("earlier", []), before]


def _as_csv(rows: Iterable[Iterable[Any]]) -> str:
    table = io.StringIO(newline="")
    csv.writer(table).writerows(rows)
    return table.getvalue()


def _as_json(record: EpochRecord) -> str:
    return json.dumps(dataclasses.asdict(record)) + "\n"


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
