"""Checkpoint files: everything that a run needs to go on, in safetensors with a header in JSON.

The metadata describe the weights as those of final.safetensors do (model, classes, normalization, settings); the entry
``checkpoint`` beside them is a JSON object with the rest of the state that is no array.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnzoo.config import RunConfig
from cnnzoo.errors import CheckpointError, WeightsError
from cnnzoo.interop.tensor_file import read_metadata, read_tensors, write_tensors
from cnnzoo.interop.weights import STATE_ENTRY

_FORMAT = 1
FOLDER, LAST, BEST = "checkpoints", "last.safetensors", "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a checkpoint says beside its arrays.

    Attributes
    ----------
    path : Path
    config : dict of str to object
        The run's settings, as `RunConfig.to_dict`.
    values : dict of str to object
        As `RunState.capture`, with what the trainer added.
    """

    path: Path
    config: dict[str, Any]
    values: dict[str, Any]

    @property
    def epoch(self) -> int:
        """Epochs that are over."""
        return self.values["position"]["epoch"]

    @property
    def run_folder(self) -> Path | None:
        """The folder of the run that the file lies in; None where it lies elsewhere."""
        return find_run_folder(self.path)

    @property
    def position(self) -> tuple[int, int]:
        """Epochs that are over, and batches of the next one."""
        return self.epoch, self.values["position"]["batch"]


def write_checkpoint(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
    description: Mapping[str, str],
) -> None:
    """Write a checkpoint, atomically.

    Parameters
    ----------
    path : path
    arrays : mapping from str to array
    values : mapping from str to object
        What JSON can hold.
    description : mapping from str to str
        Of the weights, with an entry ``config``, for the metadata.

    Raises
    ------
    OSError
        The file cannot be written; one of that name stays as it was.
    """
    entry = json.dumps({"format": _FORMAT, **values})
    write_tensors(path, arrays, {**description, STATE_ENTRY: entry})


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], Header]:
    """Read the arrays and the header of a checkpoint, and compare its checksum.

    Raises
    ------
    WeightsError
        The file is missing or damaged.
    CheckpointError
        It is none, or of another version of the format.
    """
    arrays, metadata = read_tensors(path)
    return arrays, _make_header(Path(path), metadata)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of a checkpoint alone, which is quick; errors as `read_checkpoint`."""
    return _make_header(Path(path), read_metadata(path))


def locate_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Return the checkpoint that a path means: itself, or the last one of a run's folder.

    Raises
    ------
    CheckpointError
        There is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for place in (path / FOLDER / LAST, path / LAST):
        if place.is_file():
            return place
    found = "a folder without checkpoints" if path.is_dir() else "nothing"
    raise CheckpointError(f"{path}: expected a checkpoint or the folder of a run, found {found}")


def find_run_folder(path: Path) -> Path | None:
    """Return the folder of the run that a checkpoint lies in; None where it lies elsewhere."""
    folder = path.absolute().parent
    inside = folder.name == FOLDER and (folder.parent / "config.json").is_file()
    return folder.parent if inside else None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what a malformed checkpoint makes go wrong into a `CheckpointError` that names it."""
    try:
        yield
    except (CheckpointError, WeightsError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint as this version writes, found another ({type(error).__name__}: {error})"
        ) from error


def _make_header(path: Path, metadata: Mapping[str, str]) -> Header:
    if STATE_ENTRY not in metadata or "config" not in metadata:
        raise CheckpointError(f"{path}: expected a checkpoint, found weights alone, which init_from takes")
    with naming(path):
        values, config = json.loads(metadata[STATE_ENTRY]), json.loads(metadata["config"])
        if values.get("format") != _FORMAT:
            raise CheckpointError(f"{path}: expected a checkpoint of format {_FORMAT}, found {values.get('format')!r}")
        RunConfig.from_dict(config), RunConfig.from_dict(values["asked"])
        header = Header(path=path, config=config, values=values)
        for number in (*header.position, values["started"], values["finished"]):
            if not isinstance(number, int | float):
                raise TypeError(f"{number!r} is no number")
    return header
