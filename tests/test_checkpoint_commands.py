"""The commands that take a checkpoint: evaluate, predict and export."""

import json

import numpy as np
import pytest

from cnnzoo import evaluate, export, predict
from cnnzoo.interop import load_weights
from cnnzoo.interop.model_file import load_model
from tests.trained import write_mnist, write_run

COMMANDS = (evaluate, predict, export)
REST = {evaluate: (), predict: ("x.npy",), export: ("--output", "out.safetensors")}


@pytest.fixture
def run(tmp_path):
    """A run's folder with a LeNet-5, beside small MNIST files: (folder, network, description)."""
    data = write_mnist(tmp_path / "data")
    return tmp_path / "run", *write_run(tmp_path / "run", data, batch_size=8)


def _call(command, capsys, *arguments):
    code = command.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_evaluate_agrees_with_the_network(run, tmp_path, capsys):
    folder, net, _ = run
    code, output, errors = _call(evaluate, capsys, "--checkpoint", folder, "--json")
    assert (code, errors) == (0, "")
    result = json.loads(output)
    pixels = np.fromfile(tmp_path / "data/t10k-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)
    labels = np.fromfile(tmp_path / "data/t10k-labels-idx1-ubyte", np.uint8)[8:]
    predicted = net.forward(((pixels / 255 - 0.1307) / 0.3081).astype(np.float32)).argmax(axis=1)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, predicted), 1)
    assert result["confusion"] == confusion.tolist()
    assert result["accuracy"] == np.mean(predicted == labels)
    assert (result["images"], result["split"], result["model"]) == (30, "test", "lenet5")
    assert result["checkpoint"] == str(folder / "final.safetensors")


def test_evaluate_in_words(run, capsys):
    folder, *_ = run
    code, output, errors = _call(evaluate, capsys, "--checkpoint", folder / "final.safetensors", "--limit-test", 20)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == f"lenet5 from {folder / 'final.safetensors'}"
    assert lines[1].endswith("30 training and 20 test images")
    assert lines[2].startswith("test: accuracy ")
    assert lines[2].endswith(", 20 images")
    assert "(95% interval " in lines[2]
    assert lines[4].split() == ["class", "most", "often", "taken", "for", "images", "accuracy"]
    assert [line.split()[0] for line in lines[5:]] == list("0123456789")


def test_evaluate_on_the_images_held_out(run, capsys):
    folder, *_ = run
    code, output, _ = _call(evaluate, capsys, "--checkpoint", folder, "--split", "validation", "--json")
    assert code == 0
    assert (json.loads(output)["images"], json.loads(output)["split"]) == (3, "validation")


def test_evaluate_where_none_are_held_out(run, tmp_path, capsys):
    write_run(tmp_path / "other", tmp_path / "data", validation=0)
    code, _, errors = _call(evaluate, capsys, "--checkpoint", tmp_path / "other", "--split", "validation")
    assert (code, errors) == (
        2,
        "cnnzoo evaluate: split: expected test, for the run held no images out, got validation\n",
    )


def test_evaluate_on_data_of_another_kind(run, tmp_path, capsys):
    folder, *_ = run
    code, _, errors = _call(evaluate, capsys, "--checkpoint", folder, "--dataset", "synthetic", "--limit-test", 10)
    assert code == 1
    assert errors.startswith("cnnzoo evaluate: synthetic: expected 1x28x28 images of 10 classes (0, 1, 2, ...), ")
    assert errors.count("\n") == 1


def test_evaluate_where_the_data_are_gone(run, tmp_path, capsys):
    folder, *_ = run
    code, _, errors = _call(evaluate, capsys, "--checkpoint", folder, "--data-dir", tmp_path / "absent")
    assert code == 1
    assert "absent: expected a folder with mnist, found nothing" in errors


def test_predict_agrees_with_the_network(run, tmp_path, capsys):
    folder, net, _ = run
    pixels = np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    code, output, errors = _call(predict, capsys, "--checkpoint", folder, tmp_path / "a.npy", "--json")
    assert (code, errors) == (0, "")
    result = json.loads(output)
    (image,) = result["images"]
    logits = net.forward(((pixels / 255 - 0.1307) / 0.3081).astype(np.float32)[None, None])[0].astype(float)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    expected = sorted(zip(probabilities, "0123456789", strict=True), reverse=True)[:5]
    assert [found["class"] for found in image["predictions"]] == [name for _, name in expected]
    got = [found["probability"] for found in image["predictions"]]
    np.testing.assert_allclose(got, [share for share, _ in expected], rtol=1e-6)
    assert image["fitted_to"] == {"width": 28, "height": 28, "channels": 1}


def test_predict_says_what_it_changes(run, tmp_path, capsys):
    folder, *_ = run
    paths = [tmp_path / name for name in ("same.npy", "large.npy", "color.npy")]
    for path, shape in zip(paths, [(28, 28), (60, 90), (28, 28, 3)], strict=True):
        np.save(path, np.full(shape, 7, np.uint8))
    code, output, errors = _call(predict, capsys, "--checkpoint", folder, *paths)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[::6] == [
        f"{paths[0]}:",
        f"{paths[1]}: resized from 90x60 to 28x28 pixels",
        f"{paths[2]}: turned gray",
    ]
    assert all(line.startswith("  ") and line.endswith("%") for i, line in enumerate(lines) if i % 6)


def test_predict_from_png(run, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    folder, *_ = run
    image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.zeros((28, 28), np.uint8))
    code, output, _ = _call(predict, capsys, "--checkpoint", folder, tmp_path / "a.png", tmp_path / "a.npy", "--json")
    assert code == 0
    first, second = json.loads(output)["images"]
    assert first["predictions"] == second["predictions"]


def test_predict_of_something_else_exits_with_1(run, tmp_path, capsys):
    folder, *_ = run
    code, output, errors = _call(predict, capsys, "--checkpoint", folder, tmp_path / "absent.png")
    assert (code, output) == (1, "")
    assert errors == f"cnnzoo predict: {tmp_path / 'absent.png'}: expected a file, found nothing\n"


def test_export_to_safetensors(run, tmp_path, capsys):
    folder, net, description = run
    output = tmp_path / "new" / "lenet.safetensors"
    code, text, errors = _call(export, capsys, "--checkpoint", folder, "--output", output)
    assert (code, errors) == (0, "")
    assert text == f"lenet5 from {folder / 'final.safetensors'}: 10 arrays, 61,706 parameters -> {output}\n"
    exported, described = load_model(output)
    assert described == description
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(exported.state_dict()[name], array, strict=True)


def test_export_replaces_nothing_unless_told_to(run, tmp_path, capsys):
    folder, net, _ = run
    output = tmp_path / "lenet.safetensors"
    output.write_text("mine")
    arguments = ("--checkpoint", folder, "--output", output)
    code, _, errors = _call(export, capsys, *arguments)
    assert code == 1
    assert errors == f"cnnzoo export: {output}: expected nothing there, found a file; --force replaces it\n"
    assert output.read_text() == "mine"
    assert _call(export, capsys, *arguments, "--force")[0] == 0
    np.testing.assert_array_equal(load_weights(output)["fc3.bias"], net.state_dict()["fc3.bias"])


@pytest.mark.parametrize("name", ["last.safetensors", "new.safetensors", "new/../last.safetensors"])
def test_export_stays_out_of_a_runs_checkpoints(run, capsys, name):
    folder, *_ = run
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    arguments = ("--checkpoint", folder, "--output", folder / "checkpoints" / name, "--force")
    code, _, errors = _call(export, capsys, *arguments)
    assert code == 2
    assert errors.startswith("cnnzoo export: --output: expected a place outside of a run's checkpoints, got ")
    assert not list((folder / "checkpoints").iterdir())


def test_export_goes_into_pytorch(run, tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    from safetensors.torch import load_file

    folder, net, _ = run
    assert _call(export, capsys, "--checkpoint", folder, "--output", tmp_path / "a.safetensors")[0] == 0
    layer = torch.nn.Linear(84, 10)
    weights = load_file(tmp_path / "a.safetensors")
    layer.load_state_dict({name: weights[f"fc3.{name}"] for name in ("weight", "bias")})
    np.testing.assert_array_equal(layer.weight.detach().numpy(), net.state_dict()["fc3.weight"])


def test_export_to_hexadecimal(run, tmp_path, capsys):
    folder, net, _ = run
    arguments = ("--checkpoint", folder, "--output", tmp_path / "hex", "--format", "hex", "--json")
    code, text, _ = _call(export, capsys, *arguments)
    assert code == 0
    assert json.loads(text)["format"] == "hex"
    weights = load_weights(tmp_path / "hex")
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(weights[name], array, strict=True)
    code, _, errors = _call(export, capsys, *arguments)
    assert code == 1
    assert "expected a new or an empty folder" in errors


@pytest.mark.parametrize("command", COMMANDS)
def test_no_checkpoint(command, tmp_path, capsys):
    code, output, errors = _call(command, capsys, "--checkpoint", tmp_path / "absent", *REST[command])
    assert (code, output) == (1, "")
    assert errors.startswith(f"cnnzoo {command.__name__.rpartition('.')[2]}: {tmp_path / 'absent'}: expected a run's")
    assert errors.count("\n") == 1
    code, _, errors = _call(command, capsys, *REST[command])
    assert code == 2
    assert "--checkpoint" in errors


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as leaving:
        command.main(["--help"])
    assert leaving.value.code == 0
    name = command.__name__.rpartition(".")[2]
    text = capsys.readouterr().out
    assert f"  cnnzoo {name} --checkpoint runs/" in text
    if command is not predict:  # it has nothing with a default
        assert "(default: " in text
