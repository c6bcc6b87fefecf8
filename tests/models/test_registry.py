"""`create_model`: what it builds from its arguments, and what it says of those that do not fit."""

import numpy as np
import pytest

import cnnzoo
from cnnzoo.errors import ConfigError, ModelError
from tests.graph.steps import make_batch, run_step

MODELS = ["vgg16", "vgg16_bn", "resnet18"]


def test_models_are_listed_in_order():
    assert cnnzoo.list_models() == sorted(cnnzoo.list_models())
    assert set(MODELS) <= set(cnnzoo.list_models())


@pytest.mark.parametrize("name", MODELS)
def test_defaults(name):
    net = cnnzoo.create_model(name)
    assert (net.name, net.image_shape, net.num_classes, net.seed) == (name, (3, 32, 32), 10, 0)
    assert net.dtype == net.parameter_arena.dtype == net.gradient_arena.dtype == np.float32


@pytest.mark.parametrize("dtype", ["float32", "float64", np.float32, np.float64, np.dtype("float64")])
def test_dtype(dtype):
    net = cnnzoo.create_model("resnet18", dtype=dtype)
    _, logits = run_step(net, *make_batch(net, 1))
    arrays = [logits, net.parameter_arena, *net.state_dict().values(), *net.gradients().values()]
    assert {array.dtype for array in arrays} == {np.dtype(dtype)}


@pytest.mark.parametrize(
    ("name", "image_shape", "num_classes", "key", "shape"),
    [
        ("resnet18", (3, 64, 64), 200, "fc.weight", (200, 512)),
        ("resnet18", (1, 28, 28), 47, "conv1.weight", (64, 1, 3, 3)),
        ("resnet18", (3, 1, 1), 2, "fc.weight", (2, 512)),  # padding makes an image of one pixel large enough
        ("vgg16", (3, 64, 64), 10, "classifier.0.weight", (512, 512 * 2 * 2)),  # five pools leave 2x2 pixels
        ("vgg16", (3, 32, 95), 10, "classifier.0.weight", (512, 512 * 1 * 2)),
        ("vgg16_bn", (2, 63, 33), 1, "classifier.6.weight", (1, 512)),
    ],
)
def test_other_images_and_classes(name, image_shape, num_classes, key, shape):
    net = cnnzoo.create_model(name, num_classes, image_shape=image_shape)
    assert net.image_shape == image_shape
    assert net.state_dict()[key].shape == shape
    loss, logits = run_step(net, *make_batch(net, 2))
    assert logits.shape == (2, num_classes)
    assert np.isfinite(loss)
    assert net.forward(make_batch(net, 1)[0]).shape == (1, num_classes)


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_dropout_rate(name):
    """0.5 of its own, after each hidden ReLU; 0 leaves it out."""

    def rates(**options):
        nodes = cnnzoo.create_model(name, **options).graph.nodes
        return [node.operator.rate for node in nodes if node.operator.kind == "Dropout"]

    assert (rates(), rates(dropout=0.2), rates(dropout=0.0)) == ([0.5, 0.5], [0.2, 0.2], [])


@pytest.mark.parametrize(("given", "nearest"), [("resnet81", "resnet18"), ("VGG-16", "vgg16"), ("vgg16bn", "vgg16_bn")])
def test_unknown_model_names_the_nearest(given, nearest):
    with pytest.raises(ModelError) as caught:
        cnnzoo.create_model(given)
    known = ", ".join(cnnzoo.list_models())
    assert str(caught.value) == f"model: expected one of {known}, got '{given}' (did you mean {nearest}?)"


@pytest.mark.parametrize("given", ["", "qqqq", "unet-xyz", None])
def test_unknown_model_with_none_near(given):
    with pytest.raises(ModelError, match=r"^model: expected one of .*resnet18.*, got [^(]*$"):
        cnnzoo.create_model(given)


@pytest.mark.parametrize("image_shape", [(3, 31, 32), (3, 32, 16), (3, 1, 1)])
def test_images_too_small(image_shape):
    message = f"^vgg16, images of {'x'.join(map(str, image_shape))}: max_pool.: expected an image no smaller than its"
    with pytest.raises(ModelError, match=message):
        cnnzoo.create_model("vgg16", image_shape=image_shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes: expected a whole number of 1 or more, got 0"),
        ({"num_classes": 10.0}, "num_classes: expected a whole number of 1 or more, got 10.0"),
        ({"seed": -1}, "seed: expected a whole number of 0 or more, got -1"),
        ({"seed": "0"}, "seed: expected a whole number of 0 or more, got '0'"),
        ({"dtype": "float16"}, "dtype: expected float32 or float64, got float16"),
        ({"dtype": "single precision"}, "dtype: expected float32 or float64, got single precision"),
        ({"dtype": np.int32}, "dtype: expected float32 or float64, got int32"),
        ({"dtype": None}, "dtype: expected float32 or float64, got None"),
        ({"dropout": 1.0}, "dropout: expected a rate in [0, 1), got 1.0"),
        ({"dropout": -0.1}, "dropout: expected a rate in [0, 1), got -0.1"),
        ({"dropout": float("nan")}, "dropout: expected a rate in [0, 1), got nan"),
        ({"image_shape": (32, 32)}, "image_shape: expected (channels, height, width), got (32, 32)"),
        ({"image_shape": (0, 32, 32)}, "image_shape: expected a whole number of 1 or more, got 0"),
        ({"image_shape": (3, 32, -32)}, "image_shape: expected a whole number of 1 or more, got -32"),
        ({"image_shape": (3, 32.0, 32)}, "image_shape: expected a whole number of 1 or more, got 32.0"),
    ],
)
def test_argument_out_of_range(options, message):
    with pytest.raises(ConfigError) as caught:
        cnnzoo.create_model("vgg16", **options)
    assert str(caught.value) == message


def test_dropout_of_a_model_that_has_none():
    assert cnnzoo.create_model("resnet18", dropout=0.0).num_parameters == 11_173_962
    with pytest.raises(ConfigError, match=r"^dropout: expected 0, for resnet18 has none, got 0\.3$"):
        cnnzoo.create_model("resnet18", dropout=0.3)


def test_option_that_a_model_has_not():
    with pytest.raises(ConfigError, match=r"^growth_rate: expected an option of vgg16 \(classifier_width\), got one"):
        cnnzoo.create_model("vgg16", growth_rate=12)


def test_option():
    net = cnnzoo.create_model("vgg16", classifier_width=64)
    assert net.state_dict()["classifier.3.weight"].shape == (64, 64)
