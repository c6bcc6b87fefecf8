"""The train command with the real networks, each run in a process of its own."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from cnnzoo.config import RunConfig
from cnnzoo.interop.weights import load_weights
from cnnzoo.training.observer import Observer
from cnnzoo.training.trainer import Trainer


def _train(tmp_path, *arguments):
    command = [sys.executable, "-m", "cnnzoo.train", *arguments, "--json", "--output-dir", tmp_path]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def _train_synthetic(tmp_path, *arguments):
    """Train on a few synthetic pictures and return the command's result."""
    run = _train(tmp_path, "--dataset", "synthetic", "--limit-test", 20, *arguments)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("model", ["vgg16", "resnet18"])
def test_same_bits_at_any_number_of_threads(tmp_path, model):
    # 40 images in batches of 16: the last one is smaller.
    results = [
        _train_synthetic(
            tmp_path, *("--model", model, "--limit-train", 40, "--batch-size", 16, "--epochs", 1, "--threads", threads)
        )
        for threads in (1, 2, 4)
    ]
    assert [result["threads"] for result in results] == [1, 2, 4]
    first, *others = (load_weights(f"{result['folder']}/final.safetensors") for result in results)
    for weights in others:
        assert weights.keys() == first.keys()
        for name, array in first.items():
            np.testing.assert_array_equal(weights[name], array, strict=True)
    assert len({(result["train_loss"], result["test_loss"]) for result in results}) == 1


def test_learns_a_few_pictures_by_heart(tmp_path):
    arguments = (
        "--model",
        "resnet18",
        "--limit-train",
        32,
        "--batch-size",
        16,
        "--epochs",
        8,
        "--schedule",
        "constant",
    )
    result = _train_synthetic(tmp_path, *arguments)
    assert result["train_accuracy"] > 0.8
    assert result["train_loss"] < 0.7  # log(10) = 2.3 by chance


def test_lenet5_is_built_for_the_images_of_the_data_set(tmp_path):
    """For 3x32x32 its first convolution and its first fully connected layer have more weights than for 1x28x28."""
    result = _train_synthetic(tmp_path, "--model", "lenet5", "--limit-train", 2000, "--epochs", 3)
    assert result["parameters"] == 61_706 + 2 * 6 * 5 * 5 + 16 * (6 * 6 - 5 * 5) * 120
    assert result["train_accuracy"] > 0.25  # 0.1 by chance


def test_starts_from_weights(tmp_path):
    arguments = ("--model", "vgg16_bn", "--limit-train", 16, "--batch-size", 16, "--epochs", 1)
    first = _train_synthetic(tmp_path, *arguments)
    path = f"{first['folder']}/final.safetensors"
    second = _train_synthetic(tmp_path, *arguments, "--init-from", path, "--lr", 0)
    start, end = load_weights(path), load_weights(f"{second['folder']}/final.safetensors")
    trained = [name for name in start if "running" not in name]
    assert len(trained) < len(start)
    for name in trained:
        np.testing.assert_array_equal(end[name], start[name])


def test_unknown_model_exits_with_2_and_names_the_nearest(tmp_path):
    run = _train(tmp_path, "--model", "resnet81", "--dataset", "synthetic", "--limit-train", 4, "--limit-test", 4)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("cnnzoo train: ")
    assert "'resnet81'" in run.stderr
    assert "resnet18" in run.stderr
    assert not list(tmp_path.iterdir())


def test_images_that_do_not_fit_the_model_exit_with_2(tmp_path):
    data = tmp_path / "mnist"
    data.mkdir()
    for split, images in (("train", 6), ("t10k", 3)):
        header = np.array([2051, images, 28, 28], ">u4").tobytes()
        (data / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(images * 784)))
        header = np.array([2049, images], ">u4").tobytes()
        (data / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + bytes(images)))
    run = _train(tmp_path, "--model", "vgg16", "--dataset", "mnist", "--data-dir", data)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("cnnzoo train: ")
    assert ": expected an image" in run.stderr


@pytest.mark.parametrize("model", ["vgg16", "resnet18"])
def test_stopped_within_an_epoch_goes_on_to_the_same_bits_with_other_threads(tmp_path, model):
    """VGG-16 draws dropout, ResNet-18 has batch norm; 40 images, less 4 held out, in batches of 16."""
    settings = {"dataset": "synthetic", "limit_train": 40, "limit_test": 20, "batch_size": 16, "epochs": 2}
    if model == "vgg16":
        settings["dropout"] = 0.5
    config = RunConfig(model=model, output_dir=tmp_path, momentum=0.9, weight_decay=1e-3, **settings)
    expected = Trainer(config.replace(threads=2)).fit()

    class Stop(Observer):
        def run_started(self, trainer, history):
            self.trainer = trainer

        def step_done(self, tally):
            if self.trainer.state.position.epoch == 1 and tally.images == 32:
                self.trainer.stop()

    assert Trainer(config.replace(threads=1), Stop()).fit().test is None
    history = Trainer(config.replace(threads=2), resume="auto").fit()
    assert history.folder != expected.folder
    weights, others = (load_weights(run.folder / "final.safetensors") for run in (history, expected))
    for name, array in weights.items():
        np.testing.assert_array_equal(array, others[name], strict=True)
    assert [record.train_loss for record in history.epochs] == [record.train_loss for record in expected.epochs]
