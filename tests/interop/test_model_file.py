"""Files that describe their network: round trips, places in a run's folder, and headers that do not fit."""

import dataclasses
import json

import numpy as np
import pytest

from cnnzoo.errors import WeightsError
from cnnzoo.interop.model_file import ModelDescription, find_model_file, load_model, save_model
from cnnzoo.interop.weights import save_weights
from tests.trained import describe_lenet, write_run


def test_round_trip(tmp_path):
    net, description = write_run(tmp_path, tmp_path, dtype="float64")
    loaded, described = load_model(tmp_path / "final.safetensors")
    assert described == description
    assert loaded.dtype == np.float64
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name], array, strict=True)


def test_options_of_the_model_are_kept(tmp_path):
    description = describe_lenet(tmp_path)
    config = description.config.replace(model="vgg16_bn", classifier_width=16)
    description = dataclasses.replace(description, config=config, image_shape=(3, 32, 32), mean=(0,) * 3, std=(1,) * 3)
    save_model(tmp_path / "a.safetensors", description.create_network(), description)
    net, _ = load_model(tmp_path / "a.safetensors")
    assert net.state_dict()["classifier.0.weight"].shape == (16, 512)


def test_settings_of_a_later_version_are_left_out(tmp_path):
    metadata = describe_lenet(tmp_path).to_metadata()
    metadata["config"] = json.dumps(json.loads(metadata["config"]) | {"warp": 9})
    assert ModelDescription.from_metadata(metadata) == describe_lenet(tmp_path)


def test_places_in_a_folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(WeightsError, match=r"expected a run's folder with one of final\.safetensors, .* found none"):
        find_model_file(tmp_path)
    for place in ("checkpoints/last.safetensors", "checkpoints/best.safetensors", "final.safetensors"):
        (tmp_path / place).touch()
        assert find_model_file(tmp_path) == tmp_path / place
    assert find_model_file(tmp_path / "checkpoints/last.safetensors") == tmp_path / "checkpoints/last.safetensors"
    with pytest.raises(WeightsError, match=r"absent: expected a run's folder or a safetensors file, found nothing"):
        find_model_file(tmp_path / "absent")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, "expected a header with image_shape, classes, mean, std, config, .* found no mean"),
        ({"classes": "[1,"}, "expected a header as cnnzoo writes"),
        ({"image_shape": "[1, 28]"}, "expected a header as cnnzoo writes"),
        ({"config": "3"}, "expected a header as cnnzoo writes"),
        ({"config": json.dumps({"model": "lenet5", "lr": -1})}, "lr: expected a number"),
        ({"config": json.dumps({"model": "lenet6"})}, "model: expected one of .*'lenet6'"),
        ({"config": json.dumps({"model": "alexnet"})}, "alexnet, images of 1x28x28: |weights do not fit alexnet"),
        ({"classes": '["a", "b"]'}, "weights do not fit lenet5: misshapen fc3.weight "),
    ],
)
def test_header_that_does_not_fit_is_one_line_that_names_the_file(tmp_path, changes, message):
    description = describe_lenet(tmp_path)
    metadata = {name: text for name, text in (description.to_metadata() | changes).items() if text is not None}
    save_weights(tmp_path / "a.safetensors", description.create_network().state_dict(), metadata)
    with pytest.raises(WeightsError, match=message) as raised:
        load_model(tmp_path / "a.safetensors")
    assert str(raised.value).startswith(str(tmp_path / "a.safetensors"))
    assert "\n" not in str(raised.value)


def test_file_without_a_header(tmp_path):
    save_weights(tmp_path / "a.safetensors", {"w": np.zeros(3)})
    with pytest.raises(WeightsError, match="found no image_shape"):
        load_model(tmp_path / "a.safetensors")
