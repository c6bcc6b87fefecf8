"""Which run a new one continues, and with which settings."""

import json
from pathlib import Path
from typing import Any

from cnnzoo.config import RunConfig
from cnnzoo.errors import ConfigError, FinishedError
from cnnzoo.training.checkpoint import FOLDER, LAST, Header, locate_checkpoint, read_header

AUTO = "auto"

FREE = frozenset(
    {
        *("epochs", "data_dir", "threads", "output_dir", "tensorboard"),
        *("checkpoint_epochs", "checkpoint_minutes", "checkpoint_keep"),
    }
)
"""Settings that may change when a run is resumed. The files of `data_dir` have to hold the same data; with other
`epochs`, the rest of the run follows the schedule for that number of epochs."""

_OF_THE_MACHINE = frozenset({"threads", "output_dir"})


def find_header(config: RunConfig, where: str) -> Header | None:
    """Return the header of the checkpoint to go on from.

    Parameters
    ----------
    config : RunConfig
        With the data set's name filled in.
    where : str
        A checkpoint, the folder of a run, or "auto": the newest unfinished run of the model and the data set in
        `config.output_dir`.

    Returns
    -------
    Header or None
        None where "auto" finds no run.

    Raises
    ------
    FinishedError
        The run has done all its epochs. With "auto": so has the newest one with these settings, and none is unfinished.
    CheckpointError, WeightsError
        No checkpoint is there, or one whose header cannot be read.
    """
    if where != AUTO:
        header = read_header(locate_checkpoint(where))
        if _is_finished(header, config):
            raise _finished(header)
        return header
    headers = _list_headers(config)
    for header in headers:
        done = header.values["finished"]
        if not done or (not list_differences(config, header) and not _is_finished(header, config)):
            return header
    for header in headers:
        if not list_differences(config, header):
            raise _finished(header)
    return None


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
        A setting that was said differs from what the run was asked for and may not.
    """
    asked = RunConfig.from_dict(header.values["asked"])
    differences = list_differences(config, header)
    if differences:
        run = header.run_folder or header.path
        words = [f"{name}: expected {getattr(asked, name)!r}, got {getattr(config, name)!r}" for name in differences]
        raise ConfigError(f"{'; '.join(words)}: the run in {run} began otherwise and goes on as it began")
    anew = _list_changes(config, header)
    own = {name: value for name, value in header.config.items() if name not in _OF_THE_MACHINE}
    return RunConfig.from_dict(own | anew), asked.replace(**anew)


def list_differences(config: RunConfig, header: Header) -> list[str]:
    """Return the names of settings that were said, may not differ from what was asked when the run began, and do."""
    own = RunConfig.from_dict(header.values["asked"])
    return [name for name in own.to_dict() if _differs(name, config, own)]


def _differs(name: str, config: RunConfig, own: RunConfig) -> bool:
    unsaid = name not in config.said or (name == "dataset" and config.dataset is None)
    return not unsaid and name not in FREE and getattr(config, name) != getattr(own, name)


def _list_changes(config: RunConfig, header: Header) -> dict[str, Any]:
    """Return the settings that may differ, and were said now otherwise than when the run began."""
    asked = RunConfig.from_dict(header.values["asked"])
    said = {name: getattr(config, name) for name in config.said & FREE}
    return {name: value for name, value in said.items() if value != getattr(asked, name) or name in _OF_THE_MACHINE}


def _is_finished(header: Header, config: RunConfig) -> bool:
    epochs = _list_changes(config, header).get("epochs", header.config["epochs"])
    return header.values["finished"] and header.epoch >= epochs


def _finished(header: Header) -> FinishedError:
    count = f"{header.epoch} epoch{'' if header.epoch == 1 else 's'}"
    folder = header.run_folder or header.path
    return FinishedError(f"{folder}: the run is finished after {count}; with more epochs it goes on", str(folder))


def _list_headers(config: RunConfig) -> list[Header]:
    """Return the headers of all runs of the model and the data set that have a checkpoint, the newest run first."""
    headers = []
    parent = Path(config.output_dir)
    for folder in parent.iterdir() if parent.is_dir() else ():
        last = folder / FOLDER / LAST
        settings = _read_settings(folder / "config.json")
        if last.is_file() and (settings.get("model"), settings.get("dataset")) == (config.model, config.dataset):
            headers.append(read_header(last))
    return sorted(headers, key=lambda header: header.values["started"], reverse=True)


def _read_settings(path: Path) -> dict[str, Any]:
    """Return a run's settings; none where there is no such file, or another program's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
