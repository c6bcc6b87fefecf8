"""The benchmark of convolutions: its shapes, its check of results, its file and tables, its errors."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import contests, harness, kernels
from benchmarks.contests import list_entrants, list_programs, list_tasks, name_of
from benchmarks.convolutions import BOUND, Entrant, Operands, enter_numpy, verify
from cnnzoo.errors import CnnzooError
from cnnzoo.graph.algorithms import NAMES, Passes
from cnnzoo.kernels.convolution import ConvolutionShape
from cnnzoo.models import list_models

PASSES = Passes._fields
SHAPES = [
    ConvolutionShape(3, 6, 5, 4, 8, 3, 1, 1),
    ConvolutionShape(2, 9, 8, 5, 6, 5, 2, 1),
    ConvolutionShape(5, 6, 6, 8, 8, 3, 2, 1, groups=8),
]


@pytest.mark.parametrize("direction", PASSES)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_all_programs_are_right(shape, direction):
    peers = ["numpy", *["torch"] * harness.has_torch()]
    operands = Operands(shape)
    entrants = list_entrants(operands, direction, NAMES, peers)
    assert len(entrants) >= (1 if shape.groups > 1 else 2)
    errors = verify(operands, direction, entrants)
    assert errors.keys() == entrants.keys()
    assert max(errors.values()) <= BOUND


@pytest.mark.parametrize("direction", PASSES)
@pytest.mark.parametrize("fault", ["last value", "not finite", "too rough"])
def test_a_wrong_program_is_refused(direction, fault):
    operands = Operands(SHAPES[0])
    right = enter_numpy(operands, direction)

    def result():
        values = right.result().astype(np.float32)
        if fault == "too rough":
            return values * np.float32(1 + 2 * BOUND)
        values[-1, -1, -1, -1] = np.nan if fault == "not finite" else values[-1, -1, -1, -1] + 1
        return values

    verify(operands, direction, {"right": right})
    with pytest.raises(CnnzooError, match=f"{direction}, wrong: expected errors up to 0.0001 of the largest"):
        verify(operands, direction, {"right": right, "wrong": Entrant(result, result)})


def test_values_that_a_program_does_not_write_are_found():
    operands = Operands(replace(SHAPES[0], images=9))
    result = operands.result_of("forward")
    exact = enter_numpy(operands, "forward").result()
    result[:] = exact
    result[1] = np.nan  # an image that is not among those compared
    with pytest.raises(CnnzooError, match="got nan"):
        verify(operands, "forward", {"lazy": Entrant(lambda: None, lambda: result)})


def test_every_convolution_of_the_models_is_a_task():
    tasks = list_tasks(list_models(), 2, PASSES, NAMES)
    convolutions = {"alexnet": 5, "densenet121": 120, "googlenet": 55, "lenet5": 2, "mobilenetv1": 27}
    convolutions |= {"resnet18": 20, "vgg16": 13, "vgg16_bn": 13}
    for model, count in convolutions.items():
        found = {p: sum(t.counts[model] for t in tasks if t.direction == p) for p in PASSES}
        assert found == {"forward": count, "input_gradient": count - 1, "weight_gradient": count}
    assert len({(task.shape, task.direction) for task in tasks}) == len(tasks)


def test_tasks_by_part_of_a_name():
    names = {name_of(task.shape) for task in list_tasks(["resnet18"], 1, PASSES, NAMES, ["64-128", "3-64"])}
    assert names == {"32x32 64-128 3x3/2", "32x32 64-128 1x1/2", "32x32 3-64 3x3/1"}


def test_results_and_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(harness, "use_threads", lambda count: None)  # not for the tests that follow
    path = tmp_path / "kernels.json"
    arguments = ["--models", "alexnet", "--shapes", "4x4 384-64", "--batch-size", "1", "--rounds", "2"]
    assert kernels.main([*arguments, "--peer", "numpy", "--threads", "1", "--json", str(path)]) == 0
    results = json.loads(path.read_text())["results"]
    (measured_with,) = results["runs"].values()
    assert measured_with["machine"]["threads"] == 1
    assert measured_with["rounds"] == 2
    assert all(measured_with["limits"][name] > 0 for name in ("operations_per_second", "bytes_per_second"))
    assert measured_with["error_bound"] == BOUND
    assert measured_with["compile_seconds"].keys() <= set(NAMES)
    assert set(results["tasks"]) == {f"1 images 4x4 384-64 3x3/1 {direction}" for direction in PASSES}
    for task in results["tasks"].values():
        assert task["counts"] == {"alexnet": 1}
        assert task["operations"] == 2 * 16 * 9 * 384 * 64
        assert task["multiply_adds"] == {"winograd": 36 * 384 * 64, "im2col": 16 * 9 * 384 * 64}
        assert task["bytes"] == 4 * (16 * 384 + 9 * 384 * 64 + 16 * 64)
        assert task["programs"].keys() == {"winograd", "im2col", "numpy"}
        assert all(len(p["seconds"]) == 2 and p["median"] > 0 for p in task["programs"].values())
    printed = capsys.readouterr().out
    assert "4x4 384-64 3x3/1" in printed
    assert "alexnet  all" in printed


def test_the_whole_is_measured_in_parts(tmp_path, capsys, monkeypatch):
    """A part adds to the file; --resume measures what the file has not, or not of all programs."""
    measured = []

    def measure(task, algorithms, peers, rounds):
        measured.append((task.shape.kernel, task.direction))
        programs = {name: {"median": 0.5} for name in list_programs(task.shape, algorithms, peers)}
        result = {
            "name": name_of(task.shape),
            "pass": task.direction,
            "counts": dict(task.counts),
            "programs": programs,
            "multiply_adds": dict.fromkeys(programs, 1),
            "bytes": 1,
        }
        shape = {name: getattr(task.shape, name) for name in task.shape.__dataclass_fields__}
        return result | {"operations": task.operations, "chosen": "im2col", "shape": shape}

    monkeypatch.setattr(harness, "use_threads", lambda count: None)
    monkeypatch.setattr(contests, "measure", measure)
    monkeypatch.setattr(contests, "measure_compiling", lambda tasks, algorithms: {})
    path = tmp_path / "kernels.json"
    arguments = ["--models", "vgg16,lenet5", "--passes", "forward", "--batch-size", "1", "--json", str(path)]

    def run(*more):
        measured.clear()
        assert kernels.main([*arguments, *more]) == 0
        return len(measured), len(json.loads(path.read_text())["results"]["tasks"]), capsys.readouterr().out

    assert run("--shapes", "5x5", "--peer", "none")[:2] == (2, 2)
    assert run("--resume", "--peer", "none")[:2] == (9, 11)
    count, _, printed = run("--resume", "--peer", "none")
    assert count == 0
    assert "28x28 1-6 5x5/1" in printed
    assert "32x32 64-64 3x3/1" in printed
    assert run("--resume", "--peer", "numpy", "--shapes", "5x5")[:2] == (2, 11)
    assert run("--peer", "none")[:2] == (11, 11)
    results = json.loads(path.read_text())["results"]
    assert len(results["runs"]) == 4  # one of the five measured nothing
    assert {task["run"] for task in results["tasks"].values()} == {"4"}
    assert results["tasks"]["1 images 32x32 64-64 3x3/1 forward"]["counts"]["resnet18"] == 4  # of all models


def test_a_file_of_another_benchmark(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(harness, "use_threads", lambda count: None)
    path = tmp_path / "kernels.json"
    path.write_text('{"results": {"tasks": []}}')
    assert kernels.main(["--models", "lenet5", "--json", str(path)]) == 1
    assert "kernels.json: expected results that this benchmark wrote" in capsys.readouterr().err


def row(name, torch, counts, **medians):
    """Return a row of made-up medians, in seconds."""
    programs = {**medians, "torch nchw": torch * 2, "torch channels_last": torch}
    shape = {"in_channels": 64, "out_channels": 64, "kernel": 3, "stride": 1, "groups": 1}
    result = {
        "name": name,
        "pass": "forward",
        "counts": counts,
        "operations": 10**9,
        "multiply_adds": {"winograd": 125 * 10**6, "im2col": 5 * 10**8},
        "bytes": 10**7,
        "chosen": "im2col",
        "shape": shape,
    }
    result["programs"] = {program: {"median": seconds} for program, seconds in programs.items()}
    return kernels.Row(result, {"operations_per_second": 1e12, "bytes_per_second": 1e11}, ["winograd", "im2col"])


def test_sums_of_a_model_count_each_convolution_as_often_as_it_has_it():
    rows = [
        row("a", 0.004, {"vgg16": 2, "alexnet": 1}, winograd=0.001, im2col=0.002),
        row("b", 0.010, {"vgg16": 1}, winograd=0.006, im2col=0.005),
    ]
    lines = [line.split() for line in kernels.describe_models(rows, ["vgg16"], ["forward"])]
    # Products: 0.25 ms by Winograd, twice, and 1 ms by im2col; memory: 0.1 ms each.
    expected = ["3", "1.500", "0.300", "7.000", "9.000", "9.000", "18.000", "2.57"]
    assert lines[1:] == [["vgg16", "forward", *expected], ["vgg16", "all", *expected]]
    assert [line.split() for line in kernels.describe_compared(rows, ["forward"])][1:3] == [
        ["a", "4.00"],
        ["b", "2.00"],
    ]
    table = kernels.describe_rows(rows)
    assert "winograd (chosen: im2col)" in table[1]
    assert table[1].split()[-3:] == ["1000", "100%", "4.00"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "vgg17"], "--models: expected all, or names among"),
        (["--passes", "forwad"], "--passes: expected all, or names among"),
        (["--algorithms", "fft"], "--algorithms: expected all, or names among"),
        (["--shapes", "nothing"], "--shapes: expected part of a convolution's name"),
        (["--peer", "tf"], "--peer: expected all, or names among"),
        (["--rounds", "0"], "--rounds: expected a whole number of 1 or more"),
        (["--json", "/missing/x.json"], "--json: expected a file in a folder that is there"),
    ],
)
def test_wrong_arguments(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(harness, "use_threads", lambda count: None)
    assert kernels.main(arguments) == 2
    assert message in capsys.readouterr().err
