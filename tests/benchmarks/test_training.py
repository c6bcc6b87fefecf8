"""The benchmark of training steps: its table and its errors, with a process that does not start."""

import pytest

from benchmarks import harness, training
from benchmarks.steps import Worker
from cnnzoo.errors import CnnzooError


def timed(seconds, megabytes=100):
    return {"median_seconds": seconds, "bytes": megabytes * 10**6}


def test_the_mode_with_the_smallest_ratio_counts(monkeypatch):
    monkeypatch.setattr(training, "Worker", lambda *arguments: type("Done", (), {"close": lambda self: {}})())
    seconds = {"nchw": (1.0, 3.0), "compile": (1.5, 3.0)}
    monkeypatch.setattr(
        training, "compare", lambda model, names, *_: dict(zip(names, map(timed, seconds[names[1]]), strict=True))
    )
    found = training.measure("vgg16", ["nchw", "compile"], 128, 2, 1)
    assert found["ratios"] == {"nchw": 3.0, "compile": 2.0}
    assert found["best"] == "compile"
    lines = training.describe({"vgg16": found}, ["nchw", "compile"])
    assert lines[1].split() == ["vgg16", "1.500", "100", "3.000", "(3.00)", "3.000", "(2.00)", "100", "2.00"]


def test_a_table_of_cnnzoo_alone():
    lines = training.describe({"vgg16": {"alone": {"cnnzoo": timed(1.25)}}}, [])
    assert lines[:2] == ["model  cnnzoo s  cnnzoo MB", "vgg16     1.250        100"]


def test_a_process_that_ends_early_is_reported():
    with pytest.raises(CnnzooError, match="vgg17, cnnzoo: the process ended early, with code 2"):
        Worker("cnnzoo", "vgg17", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "vgg17"], "--models: expected all, or names among"),
        (["--modes", "eager"], "--modes: expected all, or names among nchw"),
        (["--peer", "tf"], "--peer: invalid choice"),
        (["--batch-size", "none"], "--batch-size: expected a whole number of 1 or more"),
    ],
)
def test_wrong_arguments(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(harness, "use_threads", lambda count: None)
    assert training.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(harness, "has_torch", lambda: False)
    assert training.choose_modes(None, ["all"]) == []
    with pytest.raises(CnnzooError, match="--peer torch: expected PyTorch to be installed"):
        training.choose_modes("torch", ["all"])
    monkeypatch.setattr(harness, "has_torch", lambda: True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CnnzooError, match=r"--modes compile: expected a C\+\+ compiler .* no no-such-compiler"):
        training.choose_modes("torch", ["all"])
    assert training.choose_modes("torch", ["channels_last", "nchw"]) == ["nchw", "channels_last"]
