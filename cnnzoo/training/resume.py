"""Which run a new one continues, and with which settings."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnzoo.config import RunConfig
from cnnzoo.errors import CheckpointError, ConfigError, FinishedError, WeightsError
from cnnzoo.training.checkpoint import (
    FOLDER,
    LAST,
    Header,
    find_run_folder,
    locate_checkpoint,
    naming,
    read_checkpoint,
    read_header,
)
from cnnzoo.training.lock import Lock
from cnnzoo.training.state import RunState

AUTO = "auto"

FREE = frozenset(
    {
        *("epochs", "data_dir", "threads", "memory", "output_dir", "tensorboard", "distributed", "bucket_mb"),
        *("checkpoint_epochs", "checkpoint_minutes", "checkpoint_keep"),
    }
)
"""Settings that may change when a run is resumed; `memory` only where there is no `storage`.

The files of `data_dir` have to hold the same data; with other `epochs`, the rest of the run follows the schedule for
that number of epochs."""

_OF_THE_MACHINE = frozenset({"threads", "output_dir", "distributed"})


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A run that goes on, and that nobody else has.

    Attributes
    ----------
    header : Header
    arrays : dict of str to ndarray
        Of the checkpoint.
    lock : Lock or None
        Of the run's folder; None where the checkpoint lies elsewhere and the run makes a folder of its own.
    """

    header: Header
    arrays: dict[str, np.ndarray]
    lock: Lock | None

    def restore(self, state: RunState, fingerprint: str, source: str) -> None:
        """Put a state back to that of the checkpoint.

        Raises
        ------
        CheckpointError
            The run began with data of another fingerprint, or the checkpoint lacks something.
        WeightsError
            Its weights do not fit the network.
        """
        path, values = self.header.path, self.header.values
        with naming(path):
            if values["data_sha256"] != fingerprint:
                raise CheckpointError(
                    f"{path}: expected the images and labels that the run began with, got others: {source}"
                )
            state.restore(self.arrays, values)


def claim_run(config: RunConfig, where: str) -> tuple[Claim | None, list[str]]:
    """Lock the run to go on with, and read its checkpoint.

    Parameters
    ----------
    config : RunConfig
        With the data set's name filled in.
    where : str
        A checkpoint, the folder of a run, or "auto": the newest unfinished run of the model and the data set in
        `config.output_dir`.

    Returns
    -------
    claim : Claim or None
        None where "auto" finds no run.
    passed_over : list of str
        For each run that "auto" passed over because its checkpoint cannot be read, what is wrong with it.

    Raises
    ------
    FinishedError
        The run has done all its epochs. With "auto": so has the newest one with these settings, and none is unfinished.
    CheckpointError, WeightsError
        No checkpoint is there, one that cannot be read, or not the newest of its run; or another process has the run.
    """
    if where != AUTO:
        path = locate_checkpoint(where)
        return _read_locked(path, _lock(path), config), []
    headers, passed_over = _list_headers(config)
    for header in _list_unfinished(headers, config):
        lock = _lock(header.path)
        try:
            return _read_locked(header.path, lock, config), passed_over
        except (CheckpointError, WeightsError) as error:
            passed_over.append(str(error))
    for header in headers:
        if header.values["finished"] and not list_differences(config, header):
            raise _finished(header)
    return None, passed_over


def _lock(path: Path) -> Lock | None:
    folder = find_run_folder(path)
    return None if folder is None else Lock(folder)


def _read_locked(path: Path, lock: Lock | None, config: RunConfig) -> Claim:
    """Read a checkpoint whose run is locked; it is unlocked where that fails."""
    try:
        arrays, header = read_checkpoint(path)
        if _is_finished(header, config) and not list_differences(config, header):
            raise _finished(header)
        _check_newest(header)
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    return Claim(header=header, arrays=arrays, lock=lock)


def _check_newest(header: Header) -> None:
    """Refuse a checkpoint that the last one of its run is ahead of, unless that is damaged."""
    last = header.path.with_name(LAST)
    if header.run_folder is None or last == header.path or not last.is_file():
        return
    try:
        _, newest = read_checkpoint(last)
    except (CheckpointError, WeightsError):
        return
    if newest.position > header.position:
        raise CheckpointError(
            f"{header.path}: expected the newest checkpoint of its run, found {LAST} ahead of it, which would be lost; "
            "resume that, take this one's weights by init_from, or copy it elsewhere and resume the copy"
        )


def _list_unfinished(headers: list[Header], config: RunConfig) -> Iterator[Header]:
    """Yield the runs that may go on, the newest first: unfinished ones, and finished ones of which more is asked."""
    for header in headers:
        done = header.values["finished"]
        if not done or (not list_differences(config, header) and not _is_finished(header, config)):
            yield header


def continue_config(config: RunConfig, header: Header) -> tuple[RunConfig, RunConfig]:
    """Return the settings of a run that goes on.

    Parameters
    ----------
    config : RunConfig
        What was said now.
    header : Header

    Returns
    -------
    config : RunConfig
        The run's own settings, and those that were said anew and may differ.
    asked : RunConfig
        What was asked for: a budget may have made other epochs, and another course of the rate, of it.

    Raises
    ------
    ConfigError
        A setting that was said differs from what the run was asked for and may not, or more epochs have begun.
    """
    asked = RunConfig.from_dict(header.values["asked"])
    differences = list_differences(config, header)
    if differences:
        run = header.run_folder or header.path
        words = [f"{name}: expected {getattr(asked, name)!r}, got {getattr(config, name)!r}" for name in differences]
        raise ConfigError(f"{'; '.join(words)}: the run in {run} began otherwise and goes on as it began")
    anew = _list_changes(config, header)
    begun = header.epoch + (header.position[1] > 0)
    if anew.get("epochs", begun) < begun:
        raise ConfigError(f"epochs: expected {begun} or more, for so many have begun, got {anew['epochs']}")
    own = {name: value for name, value in header.config.items() if name not in _OF_THE_MACHINE}
    return RunConfig.from_dict(own | anew), asked.replace(**anew)


def list_differences(config: RunConfig, header: Header) -> list[str]:
    """Return the names of settings that were said, may not differ from what was asked when the run began, and do."""
    own = RunConfig.from_dict(header.values["asked"])
    return [name for name in own.to_dict() if _differs(name, config, own)]


def _differs(name: str, config: RunConfig, own: RunConfig) -> bool:
    unsaid = name not in config.said or (name == "dataset" and config.dataset is None)
    return not unsaid and name not in _free(own) and getattr(config, name) != getattr(own, name)


def _free(own: RunConfig) -> frozenset[str]:
    """Return the settings that may change; what is recomputed from rounded activations is part of the run's bits."""
    return FREE if own.storage is None else FREE - {"memory"}


def _list_changes(config: RunConfig, header: Header) -> dict[str, Any]:
    """Return the settings that may differ, and were said now otherwise than when the run began."""
    asked = RunConfig.from_dict(header.values["asked"])
    said = {name: getattr(config, name) for name in config.said & _free(asked)}
    return {name: value for name, value in said.items() if value != getattr(asked, name) or name in _OF_THE_MACHINE}


def _is_finished(header: Header, config: RunConfig) -> bool:
    epochs = _list_changes(config, header).get("epochs", header.config["epochs"])
    return header.values["finished"] and header.epoch >= epochs


def _finished(header: Header) -> FinishedError:
    count = f"{header.epoch} epoch{'' if header.epoch == 1 else 's'}"
    folder = header.run_folder or header.path
    return FinishedError(f"{folder}: the run is finished after {count}; with more epochs it goes on", str(folder))


def _list_headers(config: RunConfig) -> tuple[list[Header], list[str]]:
    """Return the headers of all runs of the model and the data set that have a checkpoint, the newest run first.

    And for each whose header cannot be read, what is wrong with it.
    """
    headers, wrong = [], []
    parent = Path(config.output_dir)
    for folder in parent.iterdir() if parent.is_dir() else ():
        last = folder / FOLDER / LAST
        settings = _read_settings(folder / "config.json")
        if last.is_file() and (settings.get("model"), settings.get("dataset")) == (config.model, config.dataset):
            try:
                headers.append(read_header(last))
            except (CheckpointError, WeightsError) as error:
                wrong.append(str(error))
    return sorted(headers, key=lambda header: header.values["started"], reverse=True), sorted(wrong)


def _read_settings(path: Path) -> dict[str, Any]:
    """Return a run's settings; none where there is no such file, or another program's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
