"""Resuming and stopping never cost what a run has made."""

import pytest

from cnnzoo.training import saving
from cnnzoo.training.trainer import Trainer
from tests.training.stand_ins import StopAfter

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


def test_relative_path_within_the_folder_of_checkpoints(make_config, monkeypatch):
    stopped = Trainer(make_config(), StopAfter(3)).fit()
    monkeypatch.chdir(stopped.folder / "checkpoints")
    assert Trainer(make_config(), resume="last.safetensors").fit().folder == stopped.folder
