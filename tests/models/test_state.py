"""Weights in and out: `state_dict` and `load_state_dict`."""

import numpy as np
import pytest

import cnnzoo
from cnnzoo.errors import WeightsError
from tests.graph.steps import assert_equal, make_batch, randomize, run_step


@pytest.fixture(scope="module")
def state():
    net = cnnzoo.create_model("resnet18", seed=1)
    randomize(net)
    return net.state_dict()


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "resnet18"])
def test_round_trip(name):
    net, other = cnnzoo.create_model(name, seed=1), cnnzoo.create_model(name, seed=2)
    randomize(net)
    state = net.state_dict()
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in state.values())
    other.load_state_dict(state)
    assert_equal(other.state_dict(), state)
    images, _ = make_batch(net, 2)
    np.testing.assert_array_equal(other.forward(images), net.forward(images))


def test_layouts_are_pytorchs():
    net = cnnzoo.create_model("vgg16", image_shape=(1, 64, 96), num_classes=3)
    state = net.state_dict()
    assert state["features.0.weight"].shape == (64, 1, 3, 3)
    assert state["features.26.weight"].shape == (512, 512, 3, 3)
    assert state["classifier.0.weight"].shape == (512, 512 * 2 * 3)
    assert state["classifier.6.weight"].shape == (3, 512)
    assert {key: array.shape for key, array in net.gradients().items()} == {
        key: array.shape for key, array in state.items()
    }


def test_what_was_loaded_stays_the_callers(state):
    net = cnnzoo.create_model("resnet18")
    arrays = {key: array.copy() for key, array in state.items()}
    net.load_state_dict(arrays)
    for array in arrays.values():
        array[...] = 7
    assert_equal(net.state_dict(), state)


def test_other_types_and_orders_are_taken(state):
    net = cnnzoo.create_model("resnet18")
    mapping = {key: np.asfortranarray(state[key].astype(np.float64)) for key in sorted(state, reverse=True)}
    mapping |= {"bn1.num_batches_tracked": np.int64(5), "layer1.0.bn1.num_batches_tracked": np.array(7)}
    net.load_state_dict(mapping)
    assert_equal(net.state_dict(), state)


def test_all_that_does_not_fit_is_listed_and_nothing_changed(state):
    net = cnnzoo.create_model("resnet18", seed=9)
    run_step(net, *make_batch(net, 2))
    before = net.state_dict()
    wrong = dict(state)
    del wrong["conv1.weight"], wrong["layer4.1.bn2.running_var"]
    wrong["fc.weight"] = np.zeros((100, 512), np.float32)
    wrong["bn1.running_mean"] = np.zeros((64, 1), np.float32)
    wrong["layer2.0.downsample.1.bias"] = np.array(["text"] * 128)
    wrong["module.fc.weight"] = wrong["extra"] = np.zeros(3)
    with pytest.raises(WeightsError) as caught:
        net.load_state_dict(wrong)
    head, _, problems = str(caught.value).partition(": ")
    assert head == "weights do not fit resnet18"
    assert sorted(problems.split("; ")) == [
        "bn1.running_mean has shape (64, 1) instead of (64,)",
        "conv1.weight is missing",
        "extra is unexpected",
        "fc.weight has shape (100, 512) instead of (10, 512)",
        "layer2.0.downsample.1.bias has type <U4",
        "layer4.1.bn2.running_var is missing",
        "module.fc.weight is unexpected",
    ]
    assert_equal(net.state_dict(), before)


def test_nothing_at_all_is_refused():
    net = cnnzoo.create_model("vgg16")
    with pytest.raises(WeightsError, match=r"features\.0\.weight is missing; .*classifier\.6\.bias is missing$"):
        net.load_state_dict({})


def test_another_models_weights_are_refused(state):
    with pytest.raises(WeightsError, match=r"^weights do not fit vgg16: .*conv1\.weight is unexpected"):
        cnnzoo.create_model("vgg16").load_state_dict(state)
