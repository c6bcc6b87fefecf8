"""The accuracy campaign: spreads of made-up curves, a campaign of two steps in parts, errors."""

import json

import pytest

from benchmarks import accuracy, harness


def test_a_moving_average():
    assert accuracy.smooth([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 4.0, 6.0]
    assert accuracy.smooth([1.0, 3.0], 20) == [2.0]


def test_spreads():
    runs = {("a", 0): [1.0, 2.0], ("b", 0): [1.0, 4.0], ("a", 1): [2.0, 3.0], ("b", 1): [2.0, 3.5]}
    spreads = accuracy.measure_spreads(runs, window=1)
    assert spreads["algorithms"] == pytest.approx((0.625, 2.0))  # of 0, 2, 0, 0.5
    assert spreads["seeds"] == pytest.approx((0.875, 1.0))  # of 1, 1, 1, 0.5
    assert accuracy.measure_spreads({("a", 0): [1.0]}) == {"algorithms": None, "seeds": None}


def test_a_campaign_in_parts(tmp_path, capsys, monkeypatch):
    trained = []

    def train(config, dataset, algorithm, seed, steps):
        trained.append((algorithm, seed))
        return [float(seed)] * steps

    monkeypatch.setattr(harness, "use_threads", lambda count: None)
    monkeypatch.setattr(accuracy, "train", train)
    path = tmp_path / "accuracy.json"
    arguments = ["--models", "vgg16_bn", "--steps", "2", "--json", str(path)]
    for seeds in ("0", "0,1"):
        assert accuracy.main([*arguments, "--seeds", seeds]) == 0
    assert trained == [(algorithm, seed) for seed in (0, 1) for algorithm in ("winograd", "im2col")]  # each once
    results = json.loads(path.read_text())["results"]
    assert sorted(results) == [f"vgg16_bn {a} {seed}" for a in ("im2col", "winograd") for seed in (0, 1)]
    assert results["vgg16_bn im2col 1"]["losses"] == [1.0, 1.0]
    assert results["vgg16_bn im2col 1"]["setting"]["batch_size"] == 128
    assert "command" not in results["vgg16_bn im2col 1"]["machine"]  # it would name the folder of the data
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert lines == [["vgg16_bn", field, "0.0000", "1.0000", "0.00"] for field in ("mean", "largest")]
    assert accuracy.main([*arguments, "--batch-size", "8"]) == 1
    assert "expected runs of vgg16_bn with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "vgg17"], "--models: expected all, or names among"),
        (["--algorithms", "fft"], "--algorithms: expected all, or names among"),
        (["--seeds", "0,x"], "--seeds: expected whole numbers of 0 or more, got 'x'"),
        (["--steps", "0"], "--steps: expected a whole number of 1 or more"),
    ],
)
def test_wrong_arguments(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(harness, "use_threads", lambda count: None)
    assert accuracy.main(arguments) == 2
    assert message in capsys.readouterr().err
