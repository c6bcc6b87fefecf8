"""Resuming and stopping never cost what a run has made."""

import json
import sys

import pytest

from cnnzoo.errors import CheckpointError, ConfigError, FinishedError
from cnnzoo.interop.tensor_file import read_tensors, write_tensors
from cnnzoo.training import saving
from cnnzoo.training.trainer import Trainer
from tests.training.stand_ins import StopAfter, write_cifar10

pytestmark = pytest.mark.usefixtures("linear")


def test_last_checkpoint_of_an_epoch_is_written_after_the_others(make_config, monkeypatch):
    written = []

    def write(path, *content):
        written.append(path.name)
        write_checkpoint(path, *content)

    write_checkpoint = saving.write_checkpoint
    monkeypatch.setattr(saving, "write_checkpoint", write)
    Trainer(make_config(checkpoint_keep=1, epochs=1, checkpoint_minutes=None)).fit()
    names = ["last.safetensors", "best.safetensors", "epoch-0001.safetensors", "last.safetensors", "last.safetensors"]
    assert written == names


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file's size")
def test_disk_that_is_full_costs_no_checkpoint_and_the_file_is_named(run, data):
    """A limit on the size of files stands for the disk's: both are told by an error without a name."""
    import resource

    arguments = ("--model", "linear", "--data-dir", data, "--lr", 1e-4, "--resume", "auto")
    assert run(*arguments, "--epochs", 1)[0] == 0
    (folder,) = (data.parent / "runs").iterdir()
    before = (folder / "checkpoints/last.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        code, _, errors = run(*arguments, "--epochs", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, errors) == (1, f"cnnzoo train: {folder}/checkpoints/last.safetensors: File too large\n")
    assert (folder / "checkpoints/last.safetensors").read_bytes() == before
    assert not list(folder.rglob("*.tmp"))
    code, output, _ = run(*arguments, "--epochs", 2)
    assert (code, "resumed from" in output) == (0, True)


def test_relative_path_within_the_folder_of_checkpoints(make_config, monkeypatch):
    stopped = Trainer(make_config(), StopAfter(3)).fit()
    monkeypatch.chdir(stopped.folder / "checkpoints")
    assert Trainer(make_config(), resume="last.safetensors").fit().folder == stopped.folder


def test_older_checkpoint_of_a_run_is_refused(make_config):
    """It would overwrite what came after."""
    folder = Trainer(make_config(checkpoint_keep=1)).fit().folder / "checkpoints"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match=r"epoch-0002.safetensors: expected the newest .* last.safetensors ahead"):
        Trainer(make_config(), resume=folder / "epoch-0002.safetensors")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_older_checkpoint_goes_on_where_the_last_one_is_damaged(make_config):
    history = Trainer(make_config(checkpoint_keep=1)).fit()
    last = history.folder / "checkpoints/last.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    again = Trainer(make_config(), resume=last.with_name("epoch-0002.safetensors")).fit()
    assert (again.folder, again.test.loss) == (history.folder, history.test.loss)


def test_trainer_that_could_not_be_made_has_no_run(make_config, tmp_path):
    stopped = Trainer(make_config(), StopAfter(3)).fit()
    other = write_cifar10(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="expected the images and labels") as raised:
        Trainer(make_config(data_dir=other), resume=stopped.folder)
    assert Trainer(make_config(), resume=stopped.folder).fit().test is not None
    assert raised.value.__traceback__ is not None  # which still has the first trainer


def _without(key):
    return lambda values: json.dumps({name: value for name, value in values.items() if name != key})


BREAK_HEADER = {
    "no JSON": lambda values: "{",
    "a list": lambda values: "[1]",
    "no format": _without("format"),
    "no position": _without("position"),
    "no settings": _without("asked"),
    "position is a text": lambda values: json.dumps(values | {"position": "x"}),
    "epoch is a text": lambda values: json.dumps(values | {"position": values["position"] | {"epoch": "x"}}),
    "settings are unknown": lambda values: json.dumps(values | {"asked": {"model": "linear", "of a later version": 1}}),
}
BREAK_STATE = {
    "no steps": _without("optimizer_steps"),
    "no tally": lambda values: json.dumps(values | {"position": {"epoch": 0, "batch": 1}}),
    "other records": lambda values: json.dumps(values | {"epochs": [{"x": 1}]}),
}


def _rewrite(path, change):
    arrays, metadata = read_tensors(path)
    write_tensors(path, arrays, metadata | {"checkpoint": change(json.loads(metadata["checkpoint"]))})


@pytest.mark.parametrize("kind", [*BREAK_HEADER, *BREAK_STATE])
def test_malformed_checkpoint_is_one_line_that_names_it(make_config, kind):
    stopped = Trainer(make_config(), StopAfter(3)).fit()
    path = stopped.folder / "checkpoints/last.safetensors"
    _rewrite(path, (BREAK_HEADER | BREAK_STATE)[kind])
    with pytest.raises(CheckpointError) as raised:
        Trainer(make_config(), resume=stopped.folder)
    assert str(raised.value).startswith(f"{path}: expected a checkpoint ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [*BREAK_HEADER, "cut"])
def test_auto_passes_over_what_cannot_be_read(run, data, make_config, kind):
    done = Trainer(make_config(dataset="cifar10")).fit()
    stopped = Trainer(make_config(), StopAfter(3)).fit()
    path = stopped.folder / "checkpoints/last.safetensors"
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        _rewrite(path, BREAK_HEADER[kind])
    with pytest.raises(FinishedError, match=str(done.folder)):
        Trainer(make_config(), resume="auto")
    code, output, errors = run("--model", "linear", "--data-dir", data, "--seed", 5, "--epochs", 1, "--resume", "auto")
    assert (code, errors) == (0, "")
    assert f"\npassed over: {path}: expected " in output
    assert "to resume: a new one" in output


@pytest.mark.parametrize(("steps", "least"), [(3, 1), (4, 2)])
def test_fewer_epochs_than_have_begun_are_refused(make_config, steps, least):
    """An epoch has three batches; the one that a run is in has begun with its first."""
    stopped = Trainer(make_config(), StopAfter(steps)).fit()
    if least > 1:
        with pytest.raises(ConfigError, match=rf"^epochs: expected {least} or more, for so many have begun, got 1"):
            Trainer(make_config(epochs=least - 1), resume=stopped.folder)
    assert len(Trainer(make_config(epochs=least), resume=stopped.folder).fit().epochs) == least
