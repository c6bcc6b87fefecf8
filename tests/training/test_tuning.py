"""Runs whose algorithms are chosen by measurement: what they tell, what they keep, how they go on."""

import json

import pytest

from cnnzoo.config import RunConfig
from cnnzoo.errors import ConfigError
from cnnzoo.graph import measurements, tuning
from cnnzoo.graph.algorithms import list_candidates
from cnnzoo.training.checkpoint import read_header
from cnnzoo.training.trainer import Trainer
from tests.training.stand_ins import StopAfter, write_mnist

WINOGRAD = ["winograd"] * 3


@pytest.fixture
def make_trainer(tmp_path, monkeypatch):
    """Return a maker of trainers of LeNet-5, for which Winograd is the fastest by times that are made up.

    With `resume`, a measurement is an error.
    """

    def measure(p):
        return {name: 1.0 if name == "winograd" else 2.0 for name in list_candidates(p.shape)}

    def make(observer=None, resume=None, **settings):
        (tmp_path / "cache").mkdir(exist_ok=True)
        monkeypatch.setattr(measurements, "cache_directory", lambda: tmp_path / "cache")
        monkeypatch.setattr(tuning, "measure", measure if resume is None else None)
        settings = {"dataset": "mnist", "batch_size": 8, "epochs": 1, "validation": 0, "tune": True} | settings
        config = RunConfig(
            model="lenet5", data_dir=tmp_path / "data", limit_train=20, output_dir=tmp_path / "runs", **settings
        )
        return Trainer(config, observer, resume)

    write_mnist(tmp_path / "data", train=20, test=12)
    return make


def algorithms_of(folder):
    """Return what a run's last checkpoint, and its environment.json, say of the second convolution by full batches."""
    header = read_header(folder / "checkpoints" / "last.safetensors")
    environment = json.loads((folder / "environment.json").read_text())
    return header.values["algorithms"]["conv2 @8"], environment["algorithms"]["conv2 @8"]


def test_what_was_chosen_is_in_the_run_folder_and_the_checkpoint(make_trainer):
    trainer = make_trainer()
    folder = trainer.fit().folder
    assert algorithms_of(folder) == (WINOGRAD, WINOGRAD)
    assert trainer.net.algorithms()["conv2 @8"] == WINOGRAD
    assert algorithms_of(make_trainer(tune=False).fit().folder) != (WINOGRAD, WINOGRAD)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_resumed_run_keeps_to_it_without_measuring(make_trainer, tmp_path, steps):
    folder = make_trainer(StopAfter(steps)).fit().folder
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    resumed = make_trainer(resume=folder)
    assert resumed.net.algorithms()["conv2 @8"] == WINOGRAD
    assert algorithms_of(resumed.fit().folder) == (WINOGRAD, WINOGRAD)


def test_stopped_while_it_measures(make_trainer, tmp_path):
    """Nothing is trained; the run that goes on measures what is missing, and keeps to its choice."""
    trainer = make_trainer()
    trainer.observer.tuning_advanced = lambda done, total: trainer.stop() if done == 3 else None
    folder = trainer.fit().folder
    assert read_header(folder / "checkpoints" / "last.safetensors").values["algorithms"] == {}
    trainer = make_trainer()
    resumed, told = Trainer(trainer.config, resume=folder), []
    resumed.observer.tuning_done = told.append
    assert algorithms_of(resumed.fit().folder) == (WINOGRAD, WINOGRAD)
    assert [(found.measured, found.known) for found in told] == [(11, 3)]


def test_a_run_goes_on_as_it_began(make_trainer):
    folder = make_trainer(StopAfter(1)).fit().folder
    with pytest.raises(ConfigError, match="tune: expected True, got False"):
        make_trainer(resume=folder, tune=False)


def test_command_tells_what_it_measured(make_trainer, run, tmp_path):
    arguments = ["--model", "lenet5", "--dataset", "mnist", "--data-dir", tmp_path / "data", "--batch-size", 8]
    arguments += ["--epochs", 1, "--validation", 0, "--tune"]
    make_trainer()  # for its times
    for found in ("14 passes of convolutions measured in ", "0 passes of convolutions measured in "):
        code, output, _ = run(*arguments)
        assert code == 0
        (line,) = [line for line in output.splitlines() if line.startswith("tuning: ")]
        assert line.startswith(f"tuning: {found}")
        assert line.endswith(".json")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_text("nonsense")
    _, output, _ = run(*arguments)
    assert f"passed over: {kept}: expected measurements of algorithms, found something else" in output


def test_an_algorithm_by_name_contradicts_it(run):
    code, _, errors = run("--model", "lenet5", "--dataset", "synthetic", "--tune", "--algorithm", "im2col")
    assert code == 2
    assert errors == "cnnzoo train: tune: expected no algorithm with it, got im2col\n"
