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
