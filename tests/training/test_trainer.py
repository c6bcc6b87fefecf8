"""The training loop, its folder and what it tells, with softmax regression in a network's place."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors

from cnnzoo.config import RunConfig
from cnnzoo.data import Augmentation
from cnnzoo.errors import CnnzooError, ConfigError, DataError, StateError, WeightsError
from cnnzoo.interop import load_weights, save_hex_weights, save_weights
from cnnzoo.training import trainer as trainer_module
from cnnzoo.training.history import EpochRecord
from cnnzoo.training.observer import Observer
from cnnzoo.training.schedules import learning_rate, momentum
from cnnzoo.training.trainer import Trainer
from tests.training.stand_ins import make_linear_network


@pytest.fixture(autouse=True)
def _linear_network(monkeypatch):
    monkeypatch.setattr(trainer_module, "create_model", make_linear_network)


class Recorder(Observer):
    """Keeps the names of what it is told, and the trainer."""

    def __init__(self):
        self.events, self.trainer, self.rates, self.momenta = [], None, [], []

    def run_started(self, trainer, history):
        self.trainer, self.folder = trainer, history.folder
        self.events.append("run")

    def epoch_started(self, epoch):
        self.events.append(f"epoch {epoch}")

    def step_done(self, tally):
        self.rates.append(self.trainer.optimizer.lr)
        self.momenta.append(self.trainer.optimizer.momentum)
        self.events.append(tally.images)

    def evaluation_started(self, split):
        self.events.append(split)

    def evaluation_batch_done(self, tally):
        self.events.append(tally.images)

    def epoch_done(self, record):
        self.events.append(f"record {record.epoch}")

    def run_done(self, history):
        self.events.append("done")


def test_last_batch_is_as_small_as_the_ranks_that_the_run_counts_on_allow(make_config):
    """Of 100 images in batches of 24, 4 are left: too few for three ranks, however many go on with the run."""
    settings = {"batch_size": 8, "ranks": 3, "validation": 0}
    assert Trainer(make_config(**settings)).train_batches.num_images == 96
    assert Trainer(make_config(**settings | {"batch_size": 12, "ranks": 2})).train_batches.num_images == 100


def test_learns(make_config):
    history = Trainer(make_config(epochs=10, augmentation=False)).fit()
    first, last = history.epochs[0], history.epochs[-1]
    assert last.train_loss < 0.5 * first.train_loss
    assert last.validation_accuracy > 0.8  # 0.1 by chance
    assert history.test.accuracy > 0.8


def test_run_folder(make_config):
    config = make_config(lr=0.01, normalization="imagenet")
    trainer = Trainer(config)
    history = trainer.fit()
    assert sorted(path.name for path in history.folder.iterdir()) == [
        "checkpoints",
        "config.json",
        "environment.json",
        "final.safetensors",
        "metrics.csv",
        "metrics.jsonl",
        "report.html",
        "test.json",
    ]
    assert history.folder.name.endswith("-linear-cifar10-s0")
    saved = RunConfig.from_dict(json.loads((history.folder / "config.json").read_text()))
    assert saved == trainer.config == config.replace(dataset="cifar10")
    with open(history.folder / "metrics.csv", newline="") as file:
        rows = [EpochRecord(**{name: float(value) for name, value in row.items()}) for row in csv.DictReader(file)]
    assert rows == history.epochs
    environment = json.loads((history.folder / "environment.json").read_text())
    assert environment["data"] == {
        "name": "cifar10",
        "source": trainer.dataset.source,
        "train_images": 100,
        "test_images": 20,
        "sha256": trainer.dataset.fingerprint(),
    }
    assert environment["versions"]["numpy"] == np.__version__


def test_final_weights_describe_themselves(make_config):
    trainer = Trainer(make_config(normalization="imagenet"))
    history = trainer.fit()
    path = history.folder / "final.safetensors"
    weights = load_weights(path)
    for name, array in trainer.net.state_dict().items():
        np.testing.assert_array_equal(weights[name], array, strict=True)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert metadata["model"] == "linear"
    assert json.loads(metadata["mean"]) == [0.485, 0.456, 0.406]
    assert len(json.loads(metadata["classes"])) == 10
    assert float(metadata["test_accuracy"]) == history.test.accuracy
    assert float(metadata["validation_accuracy"]) == history.best.validation_accuracy
    assert int(metadata["epoch"]) == history.best.epoch
    assert RunConfig.from_dict(json.loads(metadata["config"])) == trainer.config


def test_init_from_takes_the_weights(make_config):
    first = Trainer(make_config())
    folder = first.fit().folder
    second = Trainer(make_config(seed=7, init_from=folder / "final.safetensors"))
    np.testing.assert_array_equal(second.net.parameter_arena, first.net.parameter_arena)


def test_init_from_takes_the_folder_of_a_run(make_config):
    first = Trainer(make_config())
    folder = first.fit().folder
    second = Trainer(make_config(seed=7, init_from=folder))
    np.testing.assert_array_equal(second.net.parameter_arena, first.net.parameter_arena)


def test_init_from_takes_a_folder_of_hexadecimal_weights(make_config, tmp_path):
    first = Trainer(make_config())
    save_hex_weights(tmp_path / "weights", first.net.state_dict())
    second = Trainer(make_config(seed=7, init_from=tmp_path / "weights"))
    np.testing.assert_array_equal(second.net.parameter_arena, first.net.parameter_arena)


def test_init_from_a_file_that_is_none(make_config, tmp_path):
    (tmp_path / "broken").write_bytes(b"12345678broken")
    with pytest.raises(WeightsError, match="broken: expected a safetensors file"):
        Trainer(make_config(init_from=tmp_path / "broken"))
    with pytest.raises(WeightsError, match=r"absent: expected a safetensors file or .*, found nothing"):
        Trainer(make_config(init_from=tmp_path / "absent"))


def test_observer_is_told_everything_in_order(make_config):
    recorder = Recorder()
    Trainer(make_config(epochs=2, batch_size=40), recorder).fit()
    epoch = [40, 80, 90, "validation", 10]
    events = ["run", "epoch 1", *epoch, "record 1", "epoch 2", *epoch, "record 2", "test", 20, "done"]
    assert recorder.events == events


def test_rate_follows_the_schedule_step_by_step(make_config):
    recorder = Recorder()
    config = make_config(epochs=2, batch_size=40, schedule="cosine")
    history = Trainer(config, recorder).fit()
    expected = [learning_rate(config, step, 3) for step in range(6)]
    assert recorder.rates == expected
    assert [record.lr for record in history.epochs] == [expected[0], expected[3]]


def test_momentum_follows_the_schedule_step_by_step(make_config):
    recorder = Recorder()
    config = make_config(epochs=2, batch_size=40, schedule="one-cycle", base_momentum=0.8)
    Trainer(config, recorder).fit()
    assert recorder.momenta == [momentum(config, step, 3) for step in range(6)]
    assert min(recorder.momenta) < 0.85


def test_prints_nothing(make_config, capfd):
    Trainer(make_config(epochs=1)).fit()
    assert capfd.readouterr() == ("", "")


def test_same_seed_same_bits(make_config):
    runs = [Trainer(make_config(seed=seed)) for seed in (3, 3, 4)]
    arenas = []
    for run in runs:
        run.fit()
        arenas.append(run.net.parameter_arena.tobytes())
    assert arenas[0] == arenas[1] != arenas[2]


def test_two_runs_within_a_second_have_folders_of_their_own(make_config):
    folders = {Trainer(make_config(epochs=1)).fit().folder for _ in range(3)}
    assert len(folders) == 3


def test_second_fit_is_refused(make_config):
    trainer = Trainer(make_config(epochs=1))
    trainer.fit()
    with pytest.raises(StateError, match=r"^fit: expected a trainer that has not run"):
        trainer.fit()


def test_synthetic_set_has_its_own_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNZOO_DATA_DIR", str(tmp_path / "absent"))
    config = RunConfig(model="linear", limit_train=8, limit_test=4, lr=0.5)
    assert config.epochs == 200
    trainer = Trainer(config)
    assert trainer.config == RunConfig(model="linear", dataset="synthetic", limit_train=8, limit_test=4, lr=0.5)
    assert trainer.config.epochs < 200


def test_augmentation_can_be_off(make_config):
    assert Trainer(make_config(augmentation=False)).train_batches.augmentation is None
    settings = {"crop_padding": 2, "flip": False, "cutout": 8, "color_jitter": 0.25, "mixup": 0.5}
    assert Trainer(make_config(**settings)).train_batches.augmentation == Augmentation(**settings)


def test_trains_on_mixed_images(make_config):
    history = Trainer(make_config(epochs=10, mixup=0.3, cutout=4, color_jitter=0.1)).fit()
    assert history.epochs[-1].validation_loss < history.epochs[0].validation_loss


@pytest.mark.parametrize("bad_step", [1, 3, 5])
def test_non_finite_loss_stops_before_the_update(make_config, monkeypatch, bad_step):
    trainer = Trainer(make_config(batch_size=40, epochs=2))
    forward, calls, before = trainer.net.forward, [], []

    def forward_that_breaks(images, training=False):
        logits = forward(images, training=training)
        calls.extend([training] * training)
        if training and len(calls) == bad_step:
            before.append(trainer.net.parameter_arena.copy())
            logits = np.full_like(logits, np.nan)
        return logits

    monkeypatch.setattr(trainer.net, "forward", forward_that_breaks)
    epoch, step = divmod(bad_step - 1, 3)
    with pytest.raises(CnnzooError, match=rf"^epoch {epoch + 1}, step {step + 1}: expected a finite loss, got nan"):
        trainer.fit()
    np.testing.assert_array_equal(trainer.net.parameter_arena, before[0])


@pytest.mark.parametrize(
    ("validation", "message"), [(10, "epoch 1: expected a finite loss on the validation"), (0, "the test: expected")]
)
def test_non_finite_loss_of_an_evaluation_stops_too(make_config, monkeypatch, validation, message):
    nothing = SimpleNamespace(loss=float("inf"), accuracy=0.0)
    monkeypatch.setattr(trainer_module, "evaluate", lambda *arguments: nothing)
    with pytest.raises(CnnzooError, match=f"^{message}.* images, got inf"):
        Trainer(make_config(validation=validation)).fit()


def test_held_out_images_are_not_trained_on(make_config):
    trainer = Trainer(make_config(validation=5))
    assert (len(trainer.train_batches.indices), len(trainer.validation_batches.indices)) == (95, 5)
    both = np.concatenate([trainer.train_batches.indices, trainer.validation_batches.indices])
    np.testing.assert_array_equal(np.sort(both), np.arange(100))
    assert trainer.validation_batches.augmentation is None


def test_without_validation_all_images_are_trained_on_and_the_last_epoch_counts(make_config):
    trainer = Trainer(make_config(validation=0))
    history = trainer.fit()
    assert trainer.validation_batches is None
    assert len(trainer.train_batches.indices) == 100
    assert {(record.validation_loss, record.validation_accuracy) for record in history.epochs} == {(None, None)}
    assert history.best.epoch == 3
    with open(history.folder / "metrics.csv", newline="") as file:
        assert {row["validation_accuracy"] for row in csv.DictReader(file)} == {""}


def test_ends_with_the_weights_of_the_best_epoch(make_config, monkeypatch):
    """Of four epochs the second and the third have the highest accuracy, and the third the lower loss."""
    validations = iter([(2.0, 0.3), (1.9, 0.5), (1.8, 0.5), (1.7, 0.4)])
    evaluate, weights, tested = trainer_module.evaluate, [], []

    def evaluate_as_told(net, batches, on_batch, engine):
        if len(weights) < 4:
            loss, accuracy = next(validations)
            weights.append(net.parameter_arena.copy())
            return SimpleNamespace(loss=loss, accuracy=accuracy)
        tested.append(net.parameter_arena.copy())
        return evaluate(net, batches, on_batch, engine)

    monkeypatch.setattr(trainer_module, "evaluate", evaluate_as_told)
    trainer = Trainer(make_config(epochs=4))
    history = trainer.fit()
    assert history.best.epoch == 3
    assert len(tested) == 1
    np.testing.assert_array_equal(tested[0], weights[2])
    np.testing.assert_array_equal(trainer.net.parameter_arena, weights[2])
    saved = load_weights(history.folder / "final.safetensors")
    np.testing.assert_array_equal(saved["fc.bias"], weights[2][-10:])
    assert not np.array_equal(weights[2], weights[3])


def test_test_is_written_down(make_config):
    trainer = Trainer(make_config())
    history = trainer.fit()
    written = json.loads((history.folder / "test.json").read_text())
    assert written == history.test.to_dict(trainer.dataset.classes)
    assert written["images"] == 20


def test_interrupt_leaves_whole_files_and_a_usable_network(make_config):
    class Interrupt(Recorder):
        def step_done(self, tally):
            super().step_done(tally)
            if self.events.count("record 1"):
                raise KeyboardInterrupt

    recorder = Interrupt()
    trainer = Trainer(make_config(), recorder)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    names = ["checkpoints", "config.json", "environment.json", "metrics.csv", "metrics.jsonl", "report.html"]
    assert sorted(path.name for path in recorder.folder.iterdir()) == names
    assert len((recorder.folder / "metrics.csv").read_text().splitlines()) == 2
    assert np.isfinite(trainer.net.forward(np.zeros((1, 3, 32, 32), np.float32))).all()


def test_data_that_is_not_there(make_config, tmp_path):
    with pytest.raises(DataError, match="expected a data folder, found nothing"):
        Trainer(make_config(data_dir=tmp_path / "absent"))


def test_normalization_that_does_not_fit(make_config):
    with pytest.raises(ConfigError, match="normalization 'mnist' is for 1 channels, the images have 3"):
        Trainer(make_config(normalization="mnist"))


def test_weights_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    save_weights(path, {"w": np.arange(3.0)})
    monkeypatch.setattr("os.replace", lambda *arguments: (_ for _ in ()).throw(OSError(28, "No space left", str(path))))
    with pytest.raises(OSError, match="No space left"):
        save_weights(path, {"w": np.zeros(3)})
    np.testing.assert_array_equal(load_weights(path)["w"], np.arange(3.0))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
