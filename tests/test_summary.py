"""The summary command: counts by hand, memory as the network takes it, tables, JSON and bad arguments."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import cnnzoo
from cnnzoo import summary
from cnnzoo.graph.algorithms import choose_algorithms
from cnnzoo.graph.summary import summarize
from cnnzoo.kernels.convolution import ConvolutionShape
from cnnzoo.models.registry import build_graph, get_model

PARAMETERS = {
    "vgg16": 15_245_130,
    "vgg16_bn": 15_249_354,
    "resnet18": 11_173_962,
    "googlenet": 5_841_578,
    "mobilenetv1": 3_217_226,
    "densenet121": 6_956_426,
    "alexnet": 2_347_946,
    "lenet5": 61_706,
}
MILLIONS = {  # of multiply-adds
    "vgg16": 313.7,
    "vgg16_bn": 313.7,
    "resnet18": 555.4,
    "googlenet": 355.4,
    "mobilenetv1": 46.4,
    "densenet121": 888.4,
    "alexnet": 46.1,
    "lenet5": 0.4,
}


@pytest.fixture
def run(capsys):
    """Return a function that runs the command in this process: (exit code, output, errors)."""
    return lambda *arguments: (summary.main([*map(str, arguments)]), *capsys.readouterr())


def by_hand(*convolutions, linear):
    """Add up output pixels * kernel**2 * in * out of each convolution and in * out of each linear layer."""
    return sum(side**2 * kernel**2 * ins * outs for side, kernel, ins, outs in convolutions) + sum(
        ins * outs for ins, outs in linear
    )


@pytest.mark.parametrize("name", cnnzoo.list_models())
def test_counts(name):
    found = summarize(build_graph(name), 128)
    assert found.parameters == PARAMETERS[name]
    assert round(found.multiply_adds / 1e6, 1) == MILLIONS[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "vgg16",
            by_hand(
                *((32, 3, 3, 64), (32, 3, 64, 64), (16, 3, 64, 128), (16, 3, 128, 128), (8, 3, 128, 256)),
                *((8, 3, 256, 256), (8, 3, 256, 256), (4, 3, 256, 512), (4, 3, 512, 512), (4, 3, 512, 512)),
                *((2, 3, 512, 512), (2, 3, 512, 512), (2, 3, 512, 512)),
                linear=((512, 512), (512, 512), (512, 10)),
            ),
        ),
        ("lenet5", by_hand((28, 5, 1, 6), (10, 5, 6, 16), linear=((400, 120), (120, 84), (84, 10)))),
        (
            "alexnet",
            by_hand(
                *((16, 11, 3, 64), (8, 5, 64, 96), (4, 3, 96, 384), (4, 3, 384, 384), (4, 3, 384, 64)),
                linear=((64, 256), (256, 1024), (1024, 10)),
            ),
        ),
    ],
)
def test_multiply_adds_by_hand(name, expected):
    assert summarize(build_graph(name), 1).multiply_adds == expected


@pytest.mark.parametrize("name", cnnzoo.list_models())
def test_rows_agree_with_what_pytorch_s_modules_see(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from tests.pytorch_models import make_pytorch_model

    seen = {}

    def count(key):
        def hook(module, inputs, output):
            shape = [*output.shape[1:], 1, 1][:3]
            parameters = sum(parameter.numel() for parameter in module.parameters())
            weighted = isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
            multiply_adds = output.numel() * module.weight[0].numel() if weighted else 0
            seen[key] = (tuple(shape), parameters, multiply_adds)

        return hook

    module = make_pytorch_model(name).eval()
    for key, part in module.named_modules():
        if next(part.parameters(recurse=False), None) is not None:
            part.register_forward_hook(count(key))
    module(torch.zeros(1, *get_model(name).image_shape))
    rows = {r.name: (r.output_shape, r.parameters, r.multiply_adds) for r in summarize(build_graph(name), 1).layers}
    assert {key: rows[key] for key in rows if rows[key][1]} == seen


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", cnnzoo.list_models())
def test_memory_is_what_the_network_takes(name, dtype):
    memory = summarize(build_graph(name), 16, dtype).memory
    net = cnnzoo.create_model(name, dtype=dtype)
    assert memory.training_arenas == {choice: net.arena_bytes(16, True, choice) for choice in ("fast", "lean")}
    lean = cnnzoo.create_model(name, dtype=dtype, memory="lean")
    assert memory.training_arenas["lean"] == lean.arena_bytes(16, training=True)
    assert memory.inference_arena == net.arena_bytes(16, training=False)
    assert memory.parameters == net.num_parameters * np.dtype(dtype).itemsize
    assert memory.gradients == memory.momentum == memory.parameters
    gaps = net.parameter_arena.nbytes - memory.parameters
    assert 0 <= gaps < 64 * len(net.parameter_names)
    statistics = [array.nbytes for key, array in net.state_dict().items() if "running" in key]
    assert memory.running_statistics == sum(statistics)
    assert memory.training_step == 3 * memory.parameters + memory.running_statistics + memory.training_arena


def test_table(run):
    code, output, errors = run("--model", "resnet18")
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == "resnet18: images of 3x32x32, 10 classes"
    assert lines[2].split() == ["layer", "kind", "output", "parameters", "multiply-adds"]
    assert lines[3].split() == ["conv1", "Convolution", "64x32x32", "1,728", "1,769,472"]
    assert lines[4].split() == ["bn1", "BatchNorm", "64x32x32", "128", "-"]
    assert lines[5].split() == ["relu1", "ReLU", "64x32x32", "-", "-"]
    total = next(i for i, line in enumerate(lines) if "11,173,962" in line)
    assert lines[total].split() == ["67", "layers", "11,173,962", "555,422,720"]
    assert {len(line) for line in lines[2 : total + 1]} == {len(lines[2])}
    assert lines[total + 1].startswith("multiply-adds of one image forward: convolutions and fully connected layers")
    assert "memory of a training step, batches of 128, float32, --memory fast" in lines
    in_all = [float(line.split()[-2].replace(",", "")) for line in lines if line.startswith("  in all")]
    assert [line.split("  ")[1] for line in lines if line.startswith("  in all")] == [
        "in all",
        "in all with --memory lean",
    ]
    assert in_all[1] < in_all[0]
    assert "  parameters                              44.7 MB" in lines


def test_comparison(run):
    code, output, errors = run("--compare", "--batch-size", 1000)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    models = cnnzoo.list_models()
    assert [line.split()[0] for line in lines[: len(models) + 1]] == ["model", *models]
    assert len({len(line) for line in lines[: len(models) + 1]}) == 1
    assert f"{PARAMETERS['vgg16']:,}" in lines[1 + models.index("vgg16")]
    assert "batches of 1,000, float32" in output


def test_comparison_applies_a_setting_where_there_is_one(run):
    def parameters(*arguments):
        code, output, errors = run("--compare", "--json", *arguments)
        assert (code, errors) == (0, "")
        return {one["model"]: one["parameters"] for one in json.loads(output)["models"]}

    changed = parameters("--growth-rate", 12, "--width-multiplier", 0.5, "--dropout", 0.1)
    expected = {
        "densenet121": cnnzoo.create_model("densenet121", growth_rate=12).num_parameters,
        "mobilenetv1": cnnzoo.create_model("mobilenetv1", width_multiplier=0.5).num_parameters,
    }
    assert changed == PARAMETERS | expected
    code, _, errors = run("--compare", "--growth-rate", 0)
    assert code == 2
    assert "growth_rate: expected a whole number of 1 or more" in errors


@pytest.mark.parametrize("arguments", [["--compare"], *(["--model", name] for name in cnnzoo.list_models())])
def test_no_line_is_longer_than_100_columns(run, arguments):
    _, output, _ = run(*arguments, "--batch-size", 4096, "--num-classes", 1000)
    assert max(map(len, output.splitlines())) <= 100


def test_json(run):
    code, output, _ = run("--model", "lenet5", "--num-classes", 47, "--batch-size", 32, "--json")
    assert code == 0
    assert output.count("\n") == 1
    result = json.loads(output)
    assert result["model"] == "lenet5"
    assert (result["image_shape"], result["num_classes"], result["batch_size"]) == ([1, 28, 28], 47, 32)
    assert (result["parameters"], result["dtype"]) == (64_851, "float32")
    assert result["layers"][0] == {
        "name": "conv1",
        "kind": "Convolution",
        "output_shape": [6, 28, 28],
        "parameters": 156,
        "multiply_adds": 117_600,
        "algorithms": list(choose_algorithms(ConvolutionShape(32, 28, 28, 1, 6, 5, 1, 2))),
    }
    assert [layer["algorithms"] is None for layer in result["layers"][1:3]] == [True, True]
    assert result["algorithm"] is None
    assert result["multiply_adds"] == sum(layer["multiply_adds"] for layer in result["layers"])
    assert result["memory"]["parameters"] == 4 * 64_851
    code, output, _ = run("--compare", "--json")
    compared = json.loads(output)["models"]
    assert [one["model"] for one in compared] == cnnzoo.list_models()
    assert [one["parameters"] for one in compared] == [PARAMETERS[name] for name in cnnzoo.list_models()]
    assert all(one["batch_size"] == 128 for one in compared)


def test_settings_of_the_network(run):
    def result(*arguments):
        return json.loads(run(*arguments, "--json")[1])

    kinds = [layer["kind"] for layer in result("--model", "vgg16", "--dropout", 0)["layers"]]
    assert "Dropout" not in kinds
    assert "Dropout" in [layer["kind"] for layer in result("--model", "vgg16")["layers"]]
    wide = result("--model", "vgg16", "--classifier-width", 4096)
    assert wide["parameters"] == cnnzoo.create_model("vgg16", classifier_width=4096).num_parameters
    large = result("--model", "resnet18", "--image-shape", "3x64x64")
    assert large["parameters"] == PARAMETERS["resnet18"]
    assert large["multiply_adds"] == 4 * (555_422_720 - 5_120) + 5_120


def test_algorithm_is_used_and_shown(run):
    arguments = ["--model", "resnet18", "--batch-size", 16, "--algorithm", "im2col"]
    result = json.loads(run(*arguments, "--json")[1])
    net = cnnzoo.create_model("resnet18", algorithm="im2col")
    assert result["algorithm"] == "im2col"
    assert result["memory"]["training_arena"] == net.arena_bytes(16, training=True)
    assert {tuple(layer["algorithms"]) for layer in result["layers"] if layer["algorithms"]} == {("im2col",) * 3}
    lines = run(*arguments)[1].splitlines()
    assert "  im2col  im2col  im2col  21 layers" in lines
    assert "memory of a training step, batches of 16, float32, --algorithm im2col, --memory fast" in lines
    assert "batches of 128, float32, --algorithm im2col: fast" in run("--compare", "--algorithm", "im2col")[1]


@pytest.mark.parametrize("name", cnnzoo.list_models())
def test_algorithms_are_those_that_the_network_plans(name):
    net = cnnzoo.create_model(name)
    net._plans.bind(16, True, net._arrays)
    layers = summarize(build_graph(name), 16).layers
    assert {f"{r.name} @16": list(r.algorithms) for r in layers if r.algorithms} == net.algorithms()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model", "resnet19"], "got 'resnet19' (did you mean resnet18?)"),
        (["--model", "ResNet18"], "got 'ResNet18' (did you mean resnet18?)"),
        ([], "expected --model NAME or --compare, got neither"),
        (["--model", "vgg16", "--compare"], "expected --model NAME or --compare, got both"),
        (["--model", "vgg16", "--batch-size", "0"], "batch_size: expected a whole number of 1 or more, got 0"),
        (["--model", "vgg16", "--batch-size", "x"], "--batch-size: invalid int value: 'x'"),
        (["--model", "vgg16", "--num-classes", "0"], "num_classes: expected a whole number of 1 or more, got 0"),
        (["--model", "vgg16", "--dropout", "1"], "dropout: expected a number of 0 or more and below 1, or None, got 1"),
        (["--model", "vgg16", "--dtype", "float16"], "dtype: expected one of float32, float64, got 'float16'"),
        (
            ["--model", "vgg16", "--algorithm", "im2row"],
            "algorithm: expected one of im2col, winograd, dense, depthwise",
        ),
        (["--model", "vgg16", "--tune"], "--tune: no such argument"),
        (["--model", "vgg16", "--image-shape", "32x32"], "as 3x32x32, got '32x32'"),
        (["--model", "vgg16", "--image-shape", "3x0x32"], "as 3x32x32, got '3x0x32'"),
        (["--model", "vgg16", "--image-shape", "3x8x8"], "vgg16, images of 3x8x8: max_pool4: expected an image"),
        (["--model", "vgg16", "--growth-rate", "12"], "growth_rate: expected an option of vgg16"),
        (["--modle", "vgg16"], "--modle: no such argument (did you mean --model?)"),
    ],
)
def test_bad_arguments(run, arguments, expected):
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert errors.startswith("cnnzoo summary: ")
    assert errors.count("\n") == 1
    assert expected in errors


def test_help_shows_defaults_and_an_example(capsys):
    with pytest.raises(SystemExit) as leaving:
        summary.main(["--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    assert "cnnzoo summary --model resnet18 --batch-size 64" in text
    assert "images a batch, of each rank (default: 128)" in text
    assert "convolutions and fully connected layers alone" in text


def test_no_kernel_is_compiled(tmp_path):
    environment = os.environ | {"CNNZOO_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "cnnzoo.summary", "--compare"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "resnet18" in done.stdout
    assert not (tmp_path / "cache").exists()
