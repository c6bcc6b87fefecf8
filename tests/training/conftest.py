"""What tests of the trainer and its command share."""

import pytest

from cnnzoo import train
from cnnzoo.config import RunConfig
from cnnzoo.training import trainer as trainer_module
from cnnzoo.training.progress import Progress
from tests.training.stand_ins import compile_none, make_linear_network, write_cifar10


@pytest.fixture
def run(tmp_path, capsys):
    """Return a function that runs the command in this process, its runs in `tmp_path`: (exit code, output, errors)."""

    def run(*arguments):
        code = train.main([*map(str, arguments), "--output-dir", str(tmp_path / "runs")])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def data(tmp_path):
    return write_cifar10(tmp_path / "data")


@pytest.fixture
def linear(monkeypatch):
    """Train softmax regression, whatever the model's name."""
    monkeypatch.setattr(trainer_module, "create_model", make_linear_network)
    monkeypatch.setattr(Progress, "compile_missing", compile_none)


@pytest.fixture
def make_config(tmp_path, data):
    """Return a maker of short runs on small files of CIFAR-10's layout."""

    def make(**settings):
        settings = {
            "data_dir": data,
            "epochs": 3,
            "batch_size": 32,
            "lr": 0.001,
            "output_dir": tmp_path / "runs",
        } | settings
        return RunConfig(model="linear", **settings)

    return make
