"""The benchmark of first steps: its table and its errors; no network is compiled."""

import pytest

from benchmarks import first_step
from cnnzoo.errors import CnnzooError


def test_table():
    kernels = [{"name": name, "seconds": seconds} for name, seconds in (("a", 3.0), ("b", 2.0), ("c", 1.5), ("d", 1.0))]
    found = {"cold_seconds": 12.34, "warm_median": 1.5, "kernels": kernels}
    heading, row, _ = first_step.describe({"lenet5": found})
    assert heading.split("  ")[0] == "model"
    assert row == "lenet5  a 3.0, b 2.0, c 1.5    12.3    1.50        4          7.5"


def test_second_start_must_find_what_the_first_compiled(monkeypatch):
    monkeypatch.setattr(first_step, "start", lambda *arguments: (1.0, [{"name": "a", "seconds": 1.0}]))
    with pytest.raises(CnnzooError, match="lenet5: expected a second start to find all kernels"):
        first_step.measure("lenet5", 32, 2, 1)


def test_process_that_fails_is_named(tmp_path):
    with pytest.raises(CnnzooError, match="vgg17: the process ended with code 2"):
        first_step.start("vgg17", 32, 2, str(tmp_path))
