"""The train command: flags, precedence, output, bad input and exit codes."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tqdm import tqdm

from cnnzoo import __main__, train
from cnnzoo.command import run_command
from cnnzoo.config import RunConfig
from cnnzoo.errors import CnnzooError
from cnnzoo.training import progress as progress_module
from cnnzoo.training import trainer as trainer_module
from cnnzoo.training.progress import Progress, format_seconds


def _settings(monkeypatch, *arguments):
    """Return the `RunConfig` that the command makes of its arguments."""
    configs = []

    class Stop(Exception):
        pass

    def stop(config, observer, resume, engine):
        configs.append(config)
        raise Stop

    monkeypatch.setattr(trainer_module, "Trainer", stop)
    with pytest.raises(Stop):
        train.main([*map(str, arguments)])
    return configs[0]


def _refused(result, code, *parts):
    """Check that a command ended with one line of error that has these parts."""
    exit_code, output, errors = result
    assert exit_code == code
    assert output == ""
    assert errors.count("\n") == 1
    assert errors.startswith("cnnzoo train: ")
    for part in parts:
        assert part in errors


def test_flags(monkeypatch):
    config = _settings(
        monkeypatch,
        *("--model", "vgg16", "--weight-decay", "5e-4", "--limit-train", 7, "--no-flip", "--nesterov"),
        *("--schedule", "cosine", "--dropout", "none", "--data-dir", "d"),
    )
    assert config == RunConfig(
        model="vgg16", weight_decay=5e-4, limit_train=7, flip=False, nesterov=True, schedule="cosine", data_dir="d"
    )


def test_recipe_then_config_file_then_flags(monkeypatch, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from cnnzoo import RunConfig\nconfig = RunConfig(model='alexnet', lr=0.5, gamma=0.7)\n")
    config = _settings(monkeypatch, "--config", path, "--lr", "0.25")
    assert (config.model, config.epochs, config.gamma, config.lr) == ("alexnet", 100, 0.7, 0.25)
    config = _settings(monkeypatch, "--config", path, "--model", "lenet5")
    assert (config.model, config.epochs, config.gamma, config.lr) == ("lenet5", 10, 0.7, 0.5)


def test_none_on_the_command_line_overrides_a_config_file(monkeypatch, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from cnnzoo import RunConfig\nconfig = RunConfig(model='alexnet', limit_train=5)\n")
    assert _settings(monkeypatch, "--config", path, "--limit-train", "none").limit_train is None


def test_help_shows_defaults_and_an_example(capsys):
    with pytest.raises(SystemExit) as leaving:
        train.main(["--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    assert "cnnzoo train --model resnet18 --data-dir data" in text
    for name in RunConfig(model="vgg16").to_dict():
        assert f"--{name.replace('_', '-')}" in text
    assert "(default: 128)" in text
    assert "--model alexnet: --epochs 100 --step-size 30 --gamma 0.1" in text


@pytest.mark.usefixtures("linear")
def test_output_of_a_run(run, data, tmp_path):
    code, output, errors = run("--model", "linear", "--data-dir", data, "--epochs", 2, "--batch-size", 32)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0].startswith("linear: 30,730 parameters, float32, batches of 32, 2 epochs, ")
    assert lines[1] == f"data: CIFAR-10 (binary files) from {data}: 100 training and 20 test images"
    assert lines[2] == "validation: 10 of the training images, held out to choose the best epoch"
    taken = r"memory: [\d.]+ MB beside images and weights \([\d.]+ MB with --memory lean\), [\d.,]+ GB are free"
    assert re.fullmatch(taken, lines.pop(3))
    if lines[6].startswith("memory: "):  # Linux tells a peak
        assert re.fullmatch(r"memory: at most [\d.]+ MB above what stood after the imports", lines.pop(6))
    assert lines[3].startswith(f"run: {tmp_path / 'runs'}")
    assert lines[4].startswith("epoch 1/2: loss ")
    assert "| validation: loss " in lines[4]
    assert lines[5].startswith("epoch 2/2: loss ")
    chosen = r"linear on cifar10 after 2 epochs \(epoch [12], the best on validation\): "
    result = r"test accuracy \d+\.00% \(95% interval [\d.]+% to [\d.]+%\), top-5 \d+\.00%, loss [\d.]+, 20 images"
    assert re.fullmatch(chosen + result, lines[6])
    assert lines[7] == lines[1]
    assert lines[8].endswith("final.safetensors")
    assert len(lines) == 9


@pytest.mark.parametrize("as_json", [False, True])
def test_profile(run, data, as_json):
    size = ["--limit-train", 8, "--limit-test", 4, "--epochs", 1, "--batch-size", 4, "--validation", 0]
    flags = ["--profile", "--json"] if as_json else ["--profile"]
    code, output, _ = run("--model", "alexnet", "--data-dir", data, *size, *flags)
    assert code == 0
    if as_json:
        profile = json.loads(output)["profile"]
        assert {"features.0", "classifier.1"} <= {row["layer"] for row in profile["rows"]}
        assert profile["operations_per_second"] > 0
        return
    lines = output[output.index("layer  ") :].splitlines()
    assert lines[0].split() == ["layer", "kind", "pass", "ms", "GFLOP/s", "GB/s", "of", "limit", "bound", "by"]
    # The longer one first, which either is where the first pass compiles.
    assert sorted(line.split()[:3] for line in lines[12:14]) == [["all", "of", "backward"], ["all", "of", "forward"]]
    assert lines[11].split()[1] == "more"
    assert lines[-1].startswith("limits, measured: ")


@pytest.mark.usefixtures("linear")
def test_output_without_validation(run, data):
    code, output, _ = run("--model", "linear", "--data-dir", data, "--epochs", 2, "--validation", 0)
    assert code == 0
    assert "validation:" not in output
    assert "best on validation" not in output
    assert "linear on cifar10 after 2 epochs: test accuracy " in output


@pytest.mark.usefixtures("linear")
def test_synthetic_run_says_so_everywhere(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CNNZOO_DATA_DIR", str(tmp_path / "absent"))
    code, output, _ = run("--model", "linear", "--limit-train", 20, "--limit-test", 10, "--epochs", 1, "--lr", 1e-4)
    assert code == 0
    assert output.count("not CIFAR-10") == 2
    assert output.count("For CIFAR-10, download") == 2
    assert "linear-synthetic-s0" in output
    assert "linear on synthetic after 1 epoch: " in output


@pytest.mark.usefixtures("linear")
def test_json_is_all_of_standard_output(run, data):
    code, output, errors = run("--model", "linear", "--data-dir", data, "--epochs", 2, "--seed", 3, "--json")
    assert code == 0
    result = json.loads(output)
    assert output.count("\n") == 1
    assert (result["model"], result["dataset"], result["epochs"], result["seed"]) == ("linear", "cifar10", 2, 3)
    assert "epoch 2/2: " in errors
    assert (result["train_images"], result["validation_images"], result["test_images"]) == (90, 10, 20)
    with open(f"{result['folder']}/metrics.csv", newline="") as file:
        best = list(csv.DictReader(file))[result["best_epoch"] - 1]
    assert float(best["validation_accuracy"]) == result["validation_accuracy"]
    test = json.loads(Path(result["folder"], "test.json").read_text())
    assert (test["accuracy"], test["loss"]) == (result["test_accuracy"], result["test_loss"])


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


class EagerBar(tqdm):
    """A bar that is drawn at each step."""

    def __init__(self, **options):
        super().__init__(mininterval=0, ncols=100, **options | {"dynamic_ncols": False})


@pytest.mark.usefixtures("linear")
def test_bar_on_a_terminal(data, tmp_path, monkeypatch):
    monkeypatch.setattr(progress_module, "tqdm", EagerBar)
    lines, terminal = io.StringIO(), Terminal()
    config = RunConfig(model="linear", data_dir=data, epochs=2, batch_size=30, lr=1e-3, output_dir=tmp_path)
    trainer_module.Trainer(config, Progress(lines, terminal)).fit()
    frames = [frame for frame in terminal.getvalue().split("\r") if frame.strip()]
    assert [frame.split("|")[0] for frame in frames if frame.startswith("epoch 2/2")] == [
        f"epoch 2/2 {percent:3}%" for percent in (0, 33, 67, 100)
    ]
    assert any(frame.startswith("validation 2/2 100%|") for frame in frames)
    pattern = r"test 100%\|[█#]+\| +[\d.]+k? images/s, loss \d+\.\d{4}, accuracy \d+\.\d%, 0\.0 s left"
    assert re.fullmatch(pattern, frames[-1].strip())
    assert terminal.getvalue().endswith("\r")  # the last bar is taken away
    assert lines.getvalue().count("\nepoch ") == 2


def test_lines_break_between_words_on_a_terminal_alone(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    text = "run: runs/a-name-that-is-longer\n\nloss 1.5, accuracy 20.0% | lr 0.1"
    assert progress_module.wrap(text, io.StringIO()) == text
    wrapped = progress_module.wrap(text, Terminal())
    assert wrapped == "run:\n  runs/a-name-that-is-longer\n\nloss 1.5, accuracy\n  20.0% | lr 0.1"


def test_bar_shows_in_a_notebook_whose_errors_are_no_terminal(monkeypatch):
    with progress_module.open_bar("test", 10, io.StringIO()) as bar:
        assert bar.disable
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with progress_module.open_bar("test", 10, io.StringIO()) as bar:
        assert not bar.disable


@pytest.mark.usefixtures("linear")
def test_divergence_exits_with_1(run, data):
    code, _, errors = run("--model", "linear", "--data-dir", data, "--lr", 1e38, "--epochs", 1, "--batch-size", 10)
    assert code == 1
    assert errors.startswith(
        "cnnzoo train: epoch 1, step 2: expected a finite loss, got nan, which comes from fc, "
        "at a learning rate of 1e+38; a lower one may help; "
    )
    assert errors.count("\n") == 1


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["expected --model NAME, --config FILE or --resume PATH, got none"]),
        (["--model", "vgg16", "--batch-size", "0"], ["batch_size: expected a whole number of 1 or more, got 0"]),
        (["--model", "vgg16", "--lr", "-0.1"], ["lr: expected a number of 0 or more, got -0.1"]),
        (["--model", "vgg16", "--lr", "nan"], ["lr: expected a number of 0 or more, got nan"]),
        (["--model", "vgg16", "--epochs", "1.5"], ["--epochs", "'1.5'"]),
        (["--model", "vgg16", "--epochs"], ["--epochs: expected one argument"]),
        (["--model", "vgg16", "--batch-sise", "8"], ["--batch-sise: no such argument (did you mean --batch-size?)"]),
        (["--model", "vgg16", "--schedule", "cosin"], ["schedule: expected one of", "'cosin'"]),
        (["--model", "vgg16", "--dataset", "cifar"], ["dataset: expected one of", "'cifar'", "did you mean cifar10?"]),
        (["--model", "vgg16", "--threads", "0"], ["threads: expected a whole number of 1 or more", "got 0"]),
        (["--config", "absent.py"], ["absent.py: expected a config file, got no such file"]),
        (["--model", "vgg16", "--limit-train", "0"], ["limit_train: ", "got 0"]),
    ],
)
def test_bad_argument_exits_with_2(run, arguments, parts):
    _refused(run(*arguments), 2, *parts)


def _truncate(folder):
    path = folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-100])
    return "data_batch_3.bin: expected ", "found 61360 bytes"


def _wrong_size(folder):
    path = folder / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[: 3073 * 7])
    return "data_batch_2.bin: expected 61460 bytes", "found 21511 bytes"


def _wrong_label(folder):
    path = folder / "test_batch.bin"
    path.write_bytes(b"\x0b" + path.read_bytes()[1:])
    return "test_batch.bin: expected labels from 0 to 9", "label 11"


def _lost(folder):
    (folder / "data_batch_5.bin").unlink()
    return ("data_batch_5.bin",)


def _wrong_magic(folder):
    for path in folder.iterdir():
        path.unlink()
    for split, images in (("train", 20), ("t10k", 10)):
        header = np.array([2052 if split == "t10k" else 2053, images, 3, 32, 32], ">u4").tobytes()
        (folder / f"{split}-images-idx4-ubyte").write_bytes(header + bytes(images * 3072))
        header = np.array([2049, images], ">u4").tobytes()
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + bytes(images))
    return ("train-images", "2053")


def _empty(folder):
    for path in folder.iterdir():
        path.unlink()
    return f"{folder}: expected CIFAR-10", "for CIFAR-10, download"


def _absent(folder):
    _empty(folder)
    folder.rmdir()
    return f"{folder}: expected a data folder, found nothing"


@pytest.mark.parametrize("damage", [_truncate, _wrong_size, _wrong_label, _lost, _wrong_magic, _empty, _absent])
@pytest.mark.parametrize("limit", [(), ("--limit-train", 5, "--limit-test", 5)])
def test_bad_data_exits_with_1(run, data, damage, limit):
    parts = damage(data)
    _refused(run("--model", "vgg16", "--data-dir", data, *limit), 1, *np.atleast_1d(parts))


def test_data_set_asked_for_by_name_is_not_replaced(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CNNZOO_DATA_DIR", str(tmp_path / "absent"))
    _refused(
        run("--model", "vgg16", "--dataset", "cifar10"), 1, "expected a folder with cifar10", "to get it, download"
    )


@pytest.mark.usefixtures("linear")
def test_output_folder_that_cannot_be_made(run, data, tmp_path):
    (tmp_path / "runs").write_text("a file")
    code, _, errors = run("--model", "linear", "--data-dir", data)
    assert (code, errors) == (1, f"cnnzoo train: {tmp_path / 'runs'}: File exists\n")


def test_process_exits_with_the_code_and_no_traceback():
    command = [sys.executable, "-m", "cnnzoo.train", "--model", "vgg16", "--batch-size", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "cnnzoo train: batch_size: expected a whole number of 1 or more, got 0\n"


def test_verbs(capsys):
    verbs = ", ".join(__main__.VERBS)
    assert __main__.main(["train", "--model", "vgg16", "--lr", "-1"]) == 2
    assert capsys.readouterr().err.startswith("cnnzoo train: lr: ")
    assert __main__.main(["trian"]) == 2
    assert capsys.readouterr().err == f"cnnzoo: expected a verb ({verbs}), got 'trian' (did you mean train?)\n"
    assert __main__.main([]) == 2
    assert capsys.readouterr().err == f"cnnzoo: expected a verb ({verbs}), got none\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CnnzooError("two\nlines"), 1, "x: two lines\n"),
        (OSError(28, "No space left on device", "runs/a"), 1, "x: runs/a: No space left on device\n"),
        (MemoryError(), 1, "x: out of memory: a smaller batch takes less\n"),
        (KeyboardInterrupt(), 130, "x: interrupted\n"),
    ],
)
def test_errors_become_a_line_and_a_code(error, code, line, capsys):
    def fail():
        raise error

    assert run_command("x", fail) == code
    assert capsys.readouterr().err == line


def test_mistakes_of_the_program_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command("x", lambda: print(1 / 0))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (200, "3:20"),
        (3800, "1:03:20"),
        (36000, "10:00:00"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text
