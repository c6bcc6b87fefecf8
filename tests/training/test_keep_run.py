"""Keeping a run's numbers: what is kept, what is left out, and what is no run."""

import json

import pytest

from benchmarks import keep_run
from cnnzoo.training.trainer import Trainer


@pytest.mark.usefixtures("linear")
def test_kept_numbers_are_those_of_the_run(make_config, tmp_path, monkeypatch, capsys):
    command = ["/a/train.py", "--config", "/a/configs/x.py", "--data-dir", "/secret", "--epochs", "2"]
    monkeypatch.setattr("sys.argv", command)
    history = Trainer(make_config(epochs=2)).fit()
    path = tmp_path / "kept.json"
    assert keep_run.main([str(history.folder), "--json", str(path)]) == 0
    kept = json.loads(path.read_text())
    assert kept["command"] == "python -m cnnzoo.train --config configs/x.py --data-dir DIR --epochs 2"
    assert [epoch["train_loss"] for epoch in kept["epochs"]] == [record.train_loss for record in history.epochs]
    assert kept["test"]["accuracy"] == history.test.accuracy
    assert kept["config"]["epochs"] == 2
    assert kept["resumed"] == 0
    assert str(tmp_path) not in path.read_text()
    assert f"2 epochs, test accuracy {history.test.accuracy:.2%}" in capsys.readouterr().out


def test_folder_of_no_run(tmp_path, capsys):
    assert keep_run.main([str(tmp_path), "--json", str(tmp_path / "kept.json")]) == 1
    said = capsys.readouterr().err
    assert said.endswith("expected the folder of a run that is over, found no config.json in it\n")
    (tmp_path / "config.json").write_text("[")
    assert keep_run.main([str(tmp_path), "--json", str(tmp_path / "kept.json")]) == 1
    assert "config.json: expected what a run wrote" in capsys.readouterr().err
