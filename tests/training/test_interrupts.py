"""Signals: the first saves and exits with its own code, the second leaves at once, and none is touched from Python."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from cnnzoo.config import RunConfig
from cnnzoo.interrupts import Interrupt, StopSignals
from cnnzoo.kernels.compile import kernel
from cnnzoo.training import trainer as trainer_module
from cnnzoo.training.observer import Observer
from cnnzoo.training.progress import Progress
from cnnzoo.training.trainer import Trainer
from tests.training.stand_ins import make_linear_network, start_linear_command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows lacks SIGUSR1, and sends no signals")

SIGNALS = [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138)]


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize(("name", "exit_code"), SIGNALS)
def test_signal_ends_the_step_and_exits_with_its_code_and_one_line(run, data, monkeypatch, name, exit_code):
    number = getattr(signal, name)
    monkeypatch.setattr(Progress, "step_done", lambda self, tally: signal.raise_signal(number))
    before = signal.getsignal(number)
    arguments = ("--model", "linear", "--data-dir", data, "--epochs", 2, "--batch-size", 25)
    code, output, errors = run(*arguments)
    folder = output.splitlines()[-1].removeprefix("run: ")
    assert code == exit_code
    assert errors == f"cnnzoo train: stopped in epoch 1 of 2; --resume {folder} goes on\n"
    assert signal.getsignal(number) == before
    monkeypatch.undo()
    monkeypatch.setattr(trainer_module, "create_model", make_linear_network)
    code, output, _ = run(*arguments, "--resume", "auto")
    assert code == 0
    assert f"resumed from {folder}/checkpoints/last.safetensors: 0 epochs and 1 batch are done" in output


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize(("name", "exit_code"), SIGNALS)
def test_signal_before_training_exits_with_its_code(run, data, monkeypatch, name, exit_code):
    monkeypatch.setattr(Trainer, "__init__", lambda *arguments: signal.raise_signal(getattr(signal, name)))
    code, output, errors = run("--model", "linear", "--data-dir", data)
    assert (code, output, errors) == (exit_code, "", "cnnzoo train: interrupted\n")


@pytest.mark.usefixtures("linear")
def test_nothing_is_compiled_after_a_signal(run, data, monkeypatch):
    @kernel("void(T[::1])")
    def is_missing(x):
        raise AssertionError

    def plan(trainer):
        signal.raise_signal(signal.SIGTERM)
        is_missing(np.zeros(1))

    monkeypatch.setattr(Trainer, "plan", plan)
    monkeypatch.setattr(Progress, "compile_missing", lambda *arguments: pytest.fail("it began to compile"))
    code, _, errors = run("--model", "linear", "--data-dir", data)
    assert (code, errors) == (143, "cnnzoo train: interrupted\n")


def _start(data, tmp_path, **options):
    return start_linear_command(
        *("--data-dir", data, "--lr", 1e-4, "--output-dir", tmp_path / "runs", "--epochs", 1000000), **options
    )


def test_ctrl_c_leaves_whole_files(data, tmp_path):
    with _start(data, tmp_path) as process:
        folder = next(line for line in process.stdout if line.startswith("run: "))[5:].strip()
        next(line for line in process.stdout if line.startswith("epoch 2/"))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    announced, stopped = errors.strip().splitlines()
    assert announced == "SIGINT: finishing the step, then saving; a second signal leaves at once"
    assert re.fullmatch(r"cnnzoo train: stopped in epoch \d+ of 1000000; --resume .* goes on", stopped)
    rows = (Path(folder) / "metrics.csv").read_text().splitlines()
    assert len(rows) >= 3
    assert {row.count(",") for row in rows} == {rows[0].count(",")}
    names = ["checkpoints", "config.json", "environment.json", "metrics.csv", "metrics.jsonl", "report.html"]
    assert sorted(path.name for path in Path(folder).iterdir()) == names
    assert {path.name for path in (Path(folder) / "checkpoints").iterdir()} >= {"last.safetensors", "best.safetensors"}
    assert not list(Path(folder).rglob("*.tmp"))


def test_ctrl_c_saves_where_nobody_reads_the_errors(data, tmp_path):
    """Ctrl-C ends what reads a pipe too."""
    reading, writing = os.pipe()
    os.close(reading)
    with _start(data, tmp_path, stderr=writing) as process:
        os.close(writing)
        folder = next(line for line in process.stdout if line.startswith("run: "))[5:].strip()
        saved = Path(folder) / "checkpoints/last.safetensors"
        next(line for line in process.stdout if line.startswith("epoch 2/"))
        saved.unlink()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert saved.is_file()


def test_second_signal_leaves_at_once():
    """Within the block nothing ends on its own: the handler's first call only asks."""
    code = (
        "import os, signal, sys, time\n"
        "from cnnzoo.interrupts import StopSignals\n"
        "with StopSignals() as signals:\n"
        "    signals.stop = lambda: None\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert signals.received == signal.SIGTERM\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "\nSIGTERM: finishing the step, then saving; a second signal leaves at once\n"


def test_other_threads_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def enter():
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


def test_interrupt_knows_its_signal():
    with StopSignals() as signals, pytest.raises(Interrupt) as raised:
        signal.raise_signal(signal.SIGUSR1)
    assert raised.value.number == signals.received == signal.SIGUSR1


@pytest.fixture
def python_handles_interrupts():
    """Let Ctrl-C raise `KeyboardInterrupt`, which it does not in a process that began in the background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("linear", "python_handles_interrupts")
def test_python_sees_its_own_handlers_and_a_keyboard_interrupt(data, tmp_path):
    """`fit` installs none, and Ctrl-C leaves a network that can be used and a run that can be resumed."""
    before = signal.getsignal(signal.SIGINT)

    class Press(Observer):
        def step_done(self, tally):
            assert signal.getsignal(signal.SIGINT) == before
            if tally.images >= 50:
                signal.raise_signal(signal.SIGINT)

    config = RunConfig(model="linear", data_dir=data, batch_size=25, epochs=2, output_dir=tmp_path)
    trainer = Trainer(config, Press())
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.history.test is None
    trainer.net.forward(trainer.test_batches.extract_batch(0, 0)[0])
    assert len(Trainer(config, resume=trainer.history.folder).fit().epochs) == 2


def test_reader_that_goes_away_ends_the_run_quietly(data, tmp_path):
    with _start(data, tmp_path) as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (1, "")
