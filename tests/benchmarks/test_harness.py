"""What benchmarks share: names, files of results."""

import json
from argparse import ArgumentTypeError

import pytest

from benchmarks import harness
from cnnzoo.errors import CnnzooError, ConfigError


def test_choose_keeps_the_known_order():
    assert harness.choose("--x", ["c", "a"], ["a", "b", "c"]) == ["a", "c"]
    assert harness.choose("--x", ["all"], ["a", "b"]) == ["a", "b"]


def test_choose_names_what_is_unknown():
    with pytest.raises(ConfigError, match=r"--x: expected all, or names among forward, back, got 'forwad' .*forward\?"):
        harness.choose("--x", ["back", "forwad"], ["forward", "back"])


@pytest.mark.parametrize("text", ["-1", "1.5", "", "x"])
def test_whole_numbers(text):
    with pytest.raises(ConfigError, match="--seeds: expected whole numbers"):
        harness.whole("--seeds", text)


def test_a_results_file_needs_a_folder(tmp_path):
    assert harness.new_file(str(tmp_path / "new.json")) == str(tmp_path / "new.json")
    for bad in (tmp_path, tmp_path / "missing" / "new.json"):
        with pytest.raises(ArgumentTypeError, match="expected a file in a folder that is there"):
            harness.new_file(str(bad))


def test_results_keep_what_was_measured_before(tmp_path):
    path = tmp_path / "results.json"
    assert harness.read_results(path) == {}
    harness.update_results(path, {"b": {"seconds": [1.0, 2.0]}})
    harness.update_results(path, {"a": {"seconds": []}})
    harness.update_results(path, {"b": {"seconds": [3.0, 4.0], "note": "a, [b]"}})
    assert harness.read_results(path) == {"a": {"seconds": []}, "b": {"seconds": [3.0, 4.0], "note": "a, [b]"}}


def test_a_list_of_plain_values_takes_one_line(tmp_path):
    content = {"seconds": [1.5, 2.5], "names": ["a, [b]", "c"], "rows": [{"x": [1, 2]}, {"x": []}]}
    harness.write_json(tmp_path / "results.json", {"cpu": "x"}, content)
    text = (tmp_path / "results.json").read_text()
    assert json.loads(text) == {"machine": {"cpu": "x"}, "results": content}
    assert '"seconds": [1.5, 2.5]' in text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"results": 1}', "nonsense"])
def test_a_file_of_something_else_is_left_alone(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(CnnzooError, match="expected results that this benchmark wrote"):
        harness.update_results(path, {"a": {}})
    assert path.read_text() == text


def test_turns(monkeypatch):
    """In turns; where a turn has several calls, one more goes before them."""
    monkeypatch.setattr(harness, "PAUSE_SECONDS", 0)
    called = []
    functions = {name: lambda name=name: called.append(name) for name in "ab"}
    assert {name: len(times) for name, times in harness.in_turns(functions, 2).items()} == {"a": 2, "b": 2}
    assert "".join(called) == "abab"
    called.clear()
    harness.in_turns(functions, 2, {"a": 1, "b": 3})
    assert "".join(called) == "abbbb" * 2


@pytest.mark.parametrize(("spent", "calls", "count"), [([5.0], 1, 1), ([1.0, 0.25], 2, 8), ([0.1, 9.0], 2, 1)])
def test_calls_that_fill_a_turn(monkeypatch, spent, calls, count):
    """One call tells where it is as long as a turn; else a second one, which finds its data in cache, is timed."""
    clock = iter([0.0, spent[0], 0.0, *spent[1:]])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(clock))
    called = []
    assert harness.calls_for(lambda: called.append(1), 2.0) == count
    assert len(called) == calls
