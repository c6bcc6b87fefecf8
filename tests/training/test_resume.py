"""Runs that are stopped and go on: the same bits, the same metrics, and what is refused."""

import csv
import json
import os

import numpy as np
import pytest
import safetensors.numpy

from cnnzoo.config import RunConfig
from cnnzoo.errors import CheckpointError, ConfigError, FinishedError, WeightsError
from cnnzoo.interop import load_weights
from cnnzoo.training.checkpoint import read_header
from cnnzoo.training.observer import Observer
from cnnzoo.training.resume import FREE
from cnnzoo.training.trainer import Trainer
from tests.training.stand_ins import StopAfter, write_cifar10

pytestmark = pytest.mark.usefixtures("linear")

# 90 images in batches of 20: five a epoch, the last one smaller.
SETTINGS = {"model": "linear", "epochs": 4, "batch_size": 20, "lr": 0.003, "schedule": "cosine", "seed": 3}
VARIANTS = {
    "plain": {},
    "nesterov": {"nesterov": True, "weight_decay": 0.01, "decay_all": False, "warmup_epochs": 1.5},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "average": {"ema_decay": 0.9, "optimizer": "adamw"},
    "clipping and accumulation": {"accumulation": 2, "clip_norm": 1.0, "schedule": "one-cycle"},
    "no validation": {"validation": 0, "ema_decay": 0.9},
    "float64": {"dtype": "float64", "checkpoint_epochs": 3},
}
TIMES = {"seconds", "validation_seconds", "images_per_second"}


@pytest.fixture
def make_config(tmp_path, data):
    def make(**settings):
        return RunConfig(**SETTINGS | {"data_dir": data, "output_dir": tmp_path / "runs"} | settings)

    return make


def _rows(folder):
    """Return the rows of a run's metrics.csv without wall times."""
    with open(folder / "metrics.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def _json_rows(folder):
    """Return the rows of a run's metrics.jsonl without wall times."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def _assert_same_run(folder, expected):
    for name in ("final.safetensors", "test.json"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes()
    assert _rows(folder) == _rows(expected)
    assert _json_rows(folder) == _json_rows(expected)
    for name in ("last.safetensors", "best.safetensors"):
        state, other = (load_state(path / "checkpoints" / name) for path in (folder, expected))
        assert state.keys() == other.keys()
        for key, array in state.items():
            np.testing.assert_array_equal(array, other[key], strict=True)


def load_state(path):
    """Return all arrays of a checkpoint."""
    return safetensors.numpy.load_file(path)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [1, 4, 5, 8, 19])
def test_stopped_run_goes_on_to_the_same_bits(make_config, variant, step):
    config = make_config(**VARIANTS[variant])
    expected = Trainer(config).fit()
    assert expected.test is not None
    steps = min(step, 3 * 4 - 1) if config.accumulation == 2 else step
    stopped = Trainer(config, StopAfter(steps)).fit()
    assert stopped.test is None
    assert len(stopped.epochs) < 4
    history = Trainer(config, resume="auto").fit()
    assert history.folder == stopped.folder
    _assert_same_run(history.folder, expected.folder)


@pytest.mark.parametrize("variant", ["plain", "average", "no validation"])
@pytest.mark.parametrize("batches", [1, 3, 4, 5])
def test_run_stopped_while_it_evaluates_goes_on_to_the_same_bits(make_config, variant, batches):
    """Ten images are held out and twenty tested, a batch each: the fifth evaluation is the test."""
    config = make_config(**VARIANTS[variant])
    expected = Trainer(config).fit()
    if config.validation == 0:
        batches = 1
    stopped = Trainer(config, StopAfter(evaluation_batches=batches)).fit()
    assert stopped.test is None
    _assert_same_run(Trainer(config, resume=stopped.folder).fit().folder, expected.folder)


def test_run_stopped_again_and_again(make_config):
    config = make_config(ema_decay=0.9, clip_norm=5.0)
    expected = Trainer(config).fit()
    Trainer(config, StopAfter(2)).fit()
    for _ in range(30):
        trainer = Trainer(config, StopAfter(1), resume="auto")
        assert trainer.resumed_from is not None
        if trainer.fit().test is not None:
            break
    _assert_same_run(trainer.history.folder, expected.folder)
    environment = json.loads((trainer.history.folder / "environment.json").read_text())
    assert len(environment["earlier"]) > 10


def test_crash_goes_on_from_the_last_checkpoint(make_config):
    """Rows of epochs after it are dropped."""
    config = make_config(checkpoint_epochs=2)
    expected = Trainer(config).fit()

    class Crash(Exception):
        pass

    def crash():
        raise Crash

    trainer = Trainer(config, StopAfter(17, act=crash))
    with pytest.raises(Crash):
        trainer.fit()
    folder = trainer.history.folder
    assert len(_rows(folder)) == 3
    trainer = Trainer(config, resume=folder)
    assert trainer.state.position.epoch == 2
    _assert_same_run(trainer.fit().folder, expected.folder)


def test_minutes_make_checkpoints_within_epochs(make_config):
    seen = []

    class Watch(Observer):
        def run_started(self, trainer, history):
            self._last = history.folder / "checkpoints" / "last.safetensors"

        def step_done(self, tally):
            seen.append(read_header(self._last).values["position"]["batch"])

    Trainer(make_config(epochs=1, checkpoint_minutes=0), Watch()).fit()
    assert seen == [0, 1, 2, 3, 4]
    seen.clear()
    Trainer(make_config(epochs=1, checkpoint_minutes=None), Watch()).fit()
    assert seen == [0] * 5


def test_checkpoints_that_are_kept(make_config):
    folder = Trainer(make_config(checkpoint_keep=3, epochs=7)).fit().folder / "checkpoints"
    names = [".lock", "best.safetensors", "epoch-0003.safetensors", "epoch-0006.safetensors", "last.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [read_header(folder / name).epoch for name in names[2:]] == [3, 6, 7]


def test_best_is_of_the_best_epoch(make_config):
    history = Trainer(make_config(epochs=6, lr=0.02)).fit()
    best = history.folder / "checkpoints" / "best.safetensors"
    assert read_header(best).epoch == history.best.epoch
    final = load_weights(history.folder / "final.safetensors")
    for name, array in load_weights(best).items():
        np.testing.assert_array_equal(final[name], array)


def test_older_checkpoint_goes_on_to_the_same_bits_in_a_folder_of_its_own(make_config, tmp_path):
    config = make_config(checkpoint_keep=2)
    expected = Trainer(make_config(checkpoint_keep=2, output_dir=tmp_path / "others")).fit()
    first = Trainer(config).fit()
    path = (first.folder / "checkpoints" / "epoch-0002.safetensors").rename(tmp_path / "kept.safetensors")
    trainer = Trainer(config, resume=path)
    history = trainer.fit()
    assert history.folder != first.folder
    assert _rows(history.folder) == _rows(expected.folder)
    final, other = (load_weights(folder / "final.safetensors") for folder in (history.folder, expected.folder))
    for name, array in final.items():
        np.testing.assert_array_equal(array, other[name])


def test_what_is_not_said_comes_from_the_run(make_config, data):
    first = Trainer(make_config(weight_decay=0.01), StopAfter(7)).fit()
    trainer = Trainer(RunConfig(model="linear", data_dir=data), resume=first.folder)
    assert trainer.config == make_config(weight_decay=0.01, dataset="cifar10", output_dir="runs")
    assert trainer.fit().folder == first.folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.5}, r"^lr: expected 0.003, got 0.5: the run in .* began otherwise"),
        ({"seed": 4, "batch_size": 10}, r"batch_size: expected 20, got 10; seed: expected 3, got 4"),
        ({"model": "other"}, r"^model: expected 'linear', got 'other'"),
        ({"dropout": 0.5}, r"^dropout: expected None, got 0.5"),
    ],
)
def test_setting_that_differs_is_refused_by_name(make_config, settings, message):
    first = Trainer(make_config(), StopAfter(7)).fit()
    with pytest.raises(ConfigError, match=message):
        Trainer(make_config(**settings), resume=first.folder)


def test_free_settings_may_differ(make_config, data, tmp_path):
    others = {
        "epochs": 5,
        "data_dir": data.rename(tmp_path / "moved"),
        "threads": 1,
        "output_dir": tmp_path / "other",
        "checkpoint_epochs": 2,
        "checkpoint_minutes": None,
        "checkpoint_keep": None,
        "tensorboard": True,
        "memory": "lean",
        "distributed": "none",
        "bucket_mb": 5.0,
    }
    assert others.keys() == FREE
    (tmp_path / "moved").rename(data)
    first = Trainer(make_config(), StopAfter(7)).fit()
    data.rename(tmp_path / "moved")
    trainer = Trainer(make_config(**others), resume=first.folder)
    assert trainer.config == make_config(**others, dataset="cifar10")
    assert len(trainer.fit().epochs) == 5


def test_memory_may_not_differ_where_activations_are_rounded(make_config):
    first = Trainer(make_config(storage="bfloat16"), StopAfter(7)).fit()
    with pytest.raises(ConfigError, match=r"^memory: expected 'fast', got 'lean'"):
        Trainer(make_config(memory="lean"), resume=first.folder)


def test_more_epochs_follow_the_schedule_for_their_number(make_config):
    long = Trainer(make_config(epochs=8)).fit()
    short = Trainer(make_config()).fit()
    history = Trainer(make_config(epochs=8), resume=short.folder).fit()
    assert history.folder == short.folder
    rates = [record.lr for record in history.epochs]
    assert rates == [record.lr for record in (*short.epochs, *long.epochs[4:])]


def test_finished_run_is_said_to_be_finished(make_config):
    history = Trainer(make_config()).fit()
    message = rf"^{history.folder}: the run is finished after 4 epochs"
    for where in (history.folder, history.folder / "checkpoints" / "last.safetensors", "auto"):
        with pytest.raises(FinishedError, match=message):
            Trainer(make_config(), resume=where)
    with pytest.raises(FinishedError, match=message):
        Trainer(make_config(epochs=3), resume="auto")


def test_auto_starts_afresh_where_there_is_none(make_config, tmp_path):
    trainer = Trainer(make_config(), resume="auto")
    assert trainer.resumed_from is None
    assert trainer.fit().test is not None
    # A finished run with other settings is another one's.
    assert Trainer(make_config(lr=0.5), resume="auto").resumed_from is None
    (tmp_path / "runs" / "stray").mkdir()
    (tmp_path / "runs" / "stray" / "config.json").write_text("[1")
    assert Trainer(make_config(lr=0.5), resume="auto").resumed_from is None


def test_finished_run_with_other_settings_is_refused_by_their_names(make_config):
    history = Trainer(make_config(epochs=1)).fit()
    with pytest.raises(ConfigError, match=r"^lr: expected 0\.003, got 0\.5: the run in "):
        Trainer(make_config(epochs=1, lr=0.5), resume=history.folder)


def test_auto_takes_the_newest_unfinished_run_of_the_model_and_the_data_set(make_config):
    folders = [Trainer(make_config(model=name), StopAfter(3)).fit().folder for name in ("linear", "linear", "other")]
    Trainer(make_config()).fit()
    assert Trainer(make_config(), resume="auto").resumed_from.run_folder == folders[1]
    assert Trainer(make_config(model="other"), resume="auto").resumed_from.run_folder == folders[2]
    assert Trainer(make_config(model="third"), resume="auto").resumed_from is None
    with pytest.raises(ConfigError, match=r"^lr: expected 0.003, got 0.5"):
        Trainer(make_config(lr=0.5), resume="auto")


def test_other_data_are_refused(make_config, tmp_path):
    first = Trainer(make_config(), StopAfter(3)).fit()
    other = write_cifar10(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="expected the images and labels that the run began with, got others"):
        Trainer(make_config(data_dir=other), resume=first.folder)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damaged_checkpoint_is_one_line_that_names_it(make_config, damage):
    first = Trainer(make_config(), StopAfter(3)).fit()
    path = first.folder / "checkpoints" / "last.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes({"truncated": content[:-3], "flipped": content, "empty": b"", "text": b"hello, world"}[damage])
    with pytest.raises(WeightsError) as raised:
        Trainer(make_config(), resume=first.folder)
    assert str(raised.value).startswith(f"{path}: expected ")
    assert "\n" not in str(raised.value)


def test_path_that_is_no_checkpoint(make_config, tmp_path):
    with pytest.raises(CheckpointError, match="absent: expected a checkpoint or the folder of a run, found nothing"):
        Trainer(make_config(), resume=tmp_path / "absent")
    with pytest.raises(CheckpointError, match="found a folder without checkpoints"):
        Trainer(make_config(), resume=tmp_path)
    final = Trainer(make_config()).fit().folder / "final.safetensors"
    with pytest.raises(CheckpointError, match=r"final\.safetensors: expected a checkpoint, found weights alone"):
        Trainer(make_config(), resume=final)


def test_init_from_takes_a_checkpoints_weights_alone(make_config):
    first = Trainer(make_config(ema_decay=0.9), StopAfter(8)).fit()
    path = first.folder / "checkpoints" / "last.safetensors"
    trainer = Trainer(make_config(init_from=path))
    assert (trainer.state.position.epoch, trainer.optimizer.steps) == (0, 0)
    averaged = load_state(path)["fc.weight"]
    np.testing.assert_array_equal(trainer.net.state_dict()["fc.weight"], averaged)
    assert not np.array_equal(averaged, load_state(path)["checkpoint/trained/fc.weight"])


def test_init_from_is_not_read_again(make_config, tmp_path):
    first = Trainer(make_config()).fit()
    weights = (first.folder / "final.safetensors").rename(tmp_path / "w")
    config = make_config(init_from=weights, seed=9)
    stopped = Trainer(config, StopAfter(3)).fit()
    weights.unlink()
    assert Trainer(config, resume=stopped.folder).fit().test is not None


def test_second_run_in_a_folder_is_refused(make_config):
    stopped = Trainer(make_config(), StopAfter(3)).fit()
    refused = []

    def try_again():
        for where in (stopped.folder, "auto"):
            with pytest.raises(CheckpointError, match="found it in use by another process"):
                Trainer(make_config(), resume=where)
        refused.append(True)

    history = Trainer(make_config(), StopAfter(2, act=try_again), resume=stopped.folder).fit()
    assert refused
    assert history.test is not None


def test_algorithms_of_a_checkpoint_are_kept_to(make_config):
    """Those that it names are still named when the run is resumed and stopped before it used them."""
    algorithms = {"fc @20": ["im2col", "im2col", "winograd"]}
    trainer = Trainer(make_config(), StopAfter(3))
    trainer.net.pin_algorithms(algorithms)
    folder = trainer.fit().folder
    resumed = Trainer(make_config(), resume=folder)
    assert resumed.net.algorithms() == algorithms
    resumed.stop()
    last = resumed.fit().folder / "checkpoints" / "last.safetensors"
    assert read_header(last).values["algorithms"] == algorithms


def test_leftovers_of_a_killed_process_are_removed(make_config):
    stopped = Trainer(make_config(), StopAfter(3)).fit()
    leftovers = [stopped.folder / f"checkpoints/.last.safetensors.{os.getpid()}.tmp", stopped.folder / ".a.csv.1.tmp"]
    for path in leftovers:
        path.write_bytes(b"half")
    Trainer(make_config(), resume=stopped.folder).fit()
    assert not any(path.exists() for path in leftovers)


def test_stop_before_fit_saves_and_returns(make_config):
    trainer = Trainer(make_config())
    trainer.stop()
    history = trainer.fit()
    assert history.epochs == []
    assert read_header(history.folder / "checkpoints" / "last.safetensors").values["position"]["batch"] == 0
