"""Before the run: memory, time, and a budget that chooses the epochs."""

import json
import re

import numpy as np
import pytest

import cnnzoo
from cnnzoo.config import RunConfig
from cnnzoo.errors import ConfigError, FinishedError
from cnnzoo.graph.network import Network
from cnnzoo.interop import load_weights
from cnnzoo.training import forecast as forecast_module
from cnnzoo.training import trainer as trainer_module
from cnnzoo.training.forecast import KERNELS, Forecast, check_memory, count_memory, format_bytes
from cnnzoo.training.metrics import Tally
from cnnzoo.training.optimizers import SGD, AdamW
from cnnzoo.training.schedules import learning_rate, stretch
from cnnzoo.training.state import Position, RunState
from cnnzoo.training.trainer import Trainer

GB = 10**9


def _make_state(model="lenet5", optimizer=SGD):
    net = cnnzoo.create_model(model)
    return RunState(net=net, optimizer=optimizer(net, 0.1), average=None, position=Position(tally=Tally(10)))


@pytest.fixture
def make_config(data, tmp_path):
    def make(**settings):
        settings = {"data_dir": data, "batch_size": 6, "epochs": 3, "output_dir": tmp_path / "runs"} | settings
        return RunConfig(model="linear", **settings)

    return make


def test_memory_is_that_of_the_arena_and_all_that_has_the_weights_size():
    state = _make_state("resnet18")
    config = RunConfig(model="resnet18", batch_size=64)
    weights, batch = state.net.parameter_arena.nbytes, 64 * 3 * 32 * 32 * 4
    # Gradients, velocity; copies of weights and velocity, and the best weights.
    assert count_memory(state, config, 64) == state.net.arena_bytes(64, True) + 5 * weights + 2 * batch + KERNELS
    assert count_memory(_make_state("resnet18", AdamW), config, 64) == count_memory(state, config, 64) + 2 * weights


def test_what_is_counted_is_about_what_is_allocated():
    """The arena is what the network takes at its first step."""
    state = _make_state()
    images = np.zeros((32, 1, 28, 28), np.float32)
    state.net.forward(images, training=True)
    assert state.net._plans.arena.nbytes == state.net.arena_bytes(32, True)
    assert isinstance(state.net, Network)


@pytest.mark.parametrize("images", [1, 100, 777])
def test_batch_that_is_too_large_is_refused_with_one_that_fits(monkeypatch, images):
    state, config = _make_state(), RunConfig(model="lenet5", batch_size=2000)
    free = count_memory(state, config, images)
    monkeypatch.setattr(forecast_module, "free_memory", lambda: free)
    with pytest.raises(ConfigError) as raised:
        check_memory(state, config, 60_000)
    sizes = rf"the {re.escape(format_bytes(free))} of free memory suffice, got 2000, which take \d+\.\d MB"
    message = rf"batch_size: expected batches for which {sizes}; (\d+) or fewer would fit"
    fits = int(re.fullmatch(message, str(raised.value))[1])
    assert count_memory(state, config, fits) <= free < count_memory(state, config, fits + 1)
    assert fits >= images
    forecast = check_memory(state, config.replace(batch_size=fits), 60_000)
    assert (forecast.memory, forecast.free_memory) == (count_memory(state, config, fits), free)
    # No batch is larger than the data set.
    assert check_memory(state, config, images).memory == free


def test_not_even_one_image(monkeypatch):
    monkeypatch.setattr(forecast_module, "free_memory", lambda: KERNELS)
    with pytest.raises(ConfigError, match="not even one image fits"):
        check_memory(_make_state(), RunConfig(model="lenet5"), 100)


def test_system_that_does_not_tell_its_memory_refuses_nothing(monkeypatch):
    monkeypatch.setattr(forecast_module, "free_memory", lambda: None)
    assert check_memory(_make_state(), RunConfig(model="lenet5"), 100).free_memory is None


def test_refusal_comes_before_a_folder_is_made(run, data, monkeypatch, tmp_path):
    monkeypatch.setattr(trainer_module, "create_model", cnnzoo.create_model)
    monkeypatch.setattr(forecast_module, "free_memory", lambda: 520_000_000)
    code, _, errors = run("--model", "resnet18", "--data-dir", data)
    assert code == 2
    assert re.fullmatch(
        r"cnnzoo train: batch_size: .* got 90, which take .*; \d+ or fewer would fit, or memory=lean\n", errors
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize(
    "settings", [{}, {"optimizer": "adamw", "ema_decay": 0.9}, {"accumulation": 4, "validation": 0}]
)
def test_measured_steps_leave_no_trace(make_config, settings):
    plain = Trainer(make_config(**settings)).fit()
    trainer = Trainer(make_config(**settings))
    forecast = trainer.plan()
    assert forecast.steps > 0
    assert forecast.epoch_seconds > 0
    planned = trainer.fit()
    final = [(history.folder / "final.safetensors").read_bytes() for history in (plain, planned)]
    assert final[0] == final[1]
    assert [record.train_loss for record in plain.epochs] == [record.train_loss for record in planned.epochs]


def test_measured_steps_leave_no_trace_in_a_real_network(tmp_path):
    """Batch norm's statistics, dropout's draws and momentum among it."""
    config = RunConfig(
        model="googlenet", dataset="synthetic", limit_train=44, limit_test=4, dropout=0.5, batch_size=4, epochs=1,
        output_dir=tmp_path,
    )  # fmt: skip
    weights = []
    for plan in (False, True):
        trainer = Trainer(config)
        assert not plan or trainer.plan().steps > 0
        weights.append(load_weights(trainer.fit().folder / "final.safetensors"))
    for name, array in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], array)


@pytest.mark.usefixtures("linear")
def test_short_runs_are_not_measured(make_config):
    forecast = Trainer(make_config(batch_size=50)).plan()
    assert (forecast.steps, forecast.epoch_seconds) == (0, None)


@pytest.mark.usefixtures("linear")
def test_what_the_command_prints(run, data):
    _, output, _ = run("--model", "linear", "--data-dir", data, "--batch-size", 6, "--epochs", 4)
    lines = output.splitlines()
    pattern = r"time: [\d.]+ s an epoch by \d+ steps measured, [\d.]+ s for 4 epochs: until \d\d:\d\d( on .*)?"
    assert re.fullmatch(pattern, lines[4])
    assert lines[5].startswith("run: ")


def _forecast(monkeypatch, epoch_seconds, test_seconds=0.0):
    def measure(*arguments):
        return Forecast(
            memory=0, other_memory={}, free_memory=None, epoch_seconds=epoch_seconds, test_seconds=test_seconds, steps=1
        )

    monkeypatch.setattr(trainer_module, "measure_run", measure)


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize(
    ("budget", "epochs"), [("100s", 9), ("2m", 11), ("0.05h", 16), ("1m40s", 9), ("13s", 1), ("0d0h20.5s", 1)]
)
def test_budget_chooses_the_epochs(make_config, monkeypatch, budget, epochs):
    """95% of it, less 2 seconds of testing, in epochs of 10 seconds."""
    _forecast(monkeypatch, 10.0, 2.0)
    trainer = Trainer(make_config(budget=budget, step_size=2))
    history = trainer.fit()
    assert len(history.epochs) == trainer.config.epochs == epochs
    assert trainer.config.step_size == max(1, round(2 * epochs / 3))
    saved = json.loads((history.folder / "config.json").read_text())
    assert (saved["epochs"], saved["budget"]) == (epochs, budget)


@pytest.mark.usefixtures("linear")
def test_budget_that_is_too_small(make_config, monkeypatch):
    _forecast(monkeypatch, 10.0, 2.0)
    with pytest.raises(ConfigError, match=r"^budget: expected 12.6s or more, for an epoch and the test, got 12s"):
        Trainer(make_config(budget="12s")).fit()


@pytest.mark.parametrize("budget", ["", "6", "h", "6 h", "-1h", "1h1d", "0s", "6hours", "1e3s"])
def test_budget_that_is_no_time(budget):
    with pytest.raises(ConfigError, match=r"^budget: expected "):
        RunConfig(model="vgg16", budget=budget)


@pytest.mark.parametrize(
    ("budget", "seconds"), [("6h", 21600), ("1h30m", 5400), ("2d", 172800), ("1.5m", 90), (None, None)]
)
def test_budget_in_seconds(budget, seconds):
    assert RunConfig(model="vgg16", budget=budget).budget_seconds == seconds


@pytest.mark.usefixtures("linear")
def test_resumed_run_keeps_the_epochs_that_its_budget_chose(make_config, monkeypatch):
    """The same command goes on, though it says other epochs than the budget chose."""
    _forecast(monkeypatch, 10.0)
    config = make_config(budget="100s", schedule="cosine")
    expected = Trainer(config).fit()
    trainer = Trainer(config)
    take = trainer._take_step

    def take_and_stop(step):
        norm = take(step)
        if trainer.state.position.epoch == 2:
            trainer.stop()
        return norm

    trainer._take_step = take_and_stop
    assert trainer.fit().test is None
    _forecast(monkeypatch, 1.0)
    history = Trainer(config, resume="auto").fit()
    assert len(history.epochs) == len(expected.epochs) == 9
    final = [load_weights(run.folder / "final.safetensors") for run in (history, expected)]
    np.testing.assert_array_equal(final[0]["fc.weight"], final[1]["fc.weight"])
    with pytest.raises(FinishedError):
        Trainer(config, resume=history.folder)
    with pytest.raises(ConfigError, match="budget: expected '100s', got '2h'"):
        Trainer(config.replace(budget="2h", epochs=20), resume=history.folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "step", "step_size": 10, "gamma": 0.5},
        {"schedule": "multi-step", "milestones": [10, 20, 36]},
        {"schedule": "cosine", "warmup_epochs": 5},
        {"schedule": "cosine", "ranks": 4, "scale_lr": True},
        {"schedule": "one-cycle"},
        {"schedule": "warm-restarts", "restart_epochs": 10},
        {"schedule": "exponential", "gamma": 0.9},
    ],
)
@pytest.mark.parametrize("epochs", [20, 80])
def test_stretched_schedule_takes_the_same_course(settings, epochs):
    config = RunConfig(model="vgg16", lr=0.1, epochs=40, **settings)
    stretched = stretch(config, epochs)
    assert stretched.epochs == epochs
    # At the middles of epochs of the shorter run; steps of the one are an even multiple of the other's.
    for share in np.arange(0.5, 20) / 20:
        rates = [learning_rate(c, round(share * c.epochs * 1000), 1000) for c in (config, stretched)]
        # One-cycle's peak is a step before the share of its rise.
        assert rates[0] == pytest.approx(rates[1], abs=1e-4 * config.lr)


def test_sizes_in_words():
    assert [format_bytes(size) for size in (0, 12_345_678, 4_560_000_000)] == ["0.0 MB", "12.3 MB", "4.56 GB"]
