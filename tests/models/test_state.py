"""Weights in and out: `state_dict` and `load_state_dict`."""

import pickle

import numpy as np
import pytest

import cnnzoo
from cnnzoo.errors import WeightsMismatchError
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
    with pytest.raises(WeightsMismatchError) as caught:
        net.load_state_dict(wrong)
    assert str(caught.value) == (
        "weights do not fit resnet18: missing conv1.weight, layer4.1.bn2.running_var; "
        "unexpected module.fc.weight, extra; "
        "misshapen fc.weight (100, 512) instead of (10, 512), bn1.running_mean (64, 1) instead of (64,); "
        "not of real numbers layer2.0.downsample.1.bias <U4"
    )
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.missing == ["conv1.weight", "layer4.1.bn2.running_var"]
    assert error.unexpected == ["module.fc.weight", "extra"]
    assert error.misshapen == {"fc.weight": ((100, 512), (10, 512)), "bn1.running_mean": ((64, 1), (64,))}
    assert error.mistyped == {"layer2.0.downsample.1.bias": "<U4"}
    assert_equal(net.state_dict(), before)


def test_nothing_at_all_is_refused():
    net = cnnzoo.create_model("vgg16")
    features = "features.{0,2,5,7,10,12,14,17,19,21,24,26,28}.{weight,bias}"
    with pytest.raises(WeightsMismatchError) as caught:
        net.load_state_dict({})
    assert (
        str(caught.value) == f"weights do not fit vgg16: missing 32: {features}, classifier.{{0,3,6}}.{{weight,bias}}"
    )
    assert caught.value.missing == list(net.state_dict())


@pytest.mark.parametrize("name", cnnzoo.list_models())
def test_another_models_weights_are_refused_in_one_line(state, name):
    if name == "resnet18":
        state = cnnzoo.create_model("densenet121").state_dict()
    net = cnnzoo.create_model(name)
    with pytest.raises(WeightsMismatchError) as caught:
        net.load_state_dict(state)
    message, names = str(caught.value), net.state_dict().keys()
    assert len(message) < 1500
    assert "\n" not in message
    assert set(caught.value.missing) == names - state.keys()
    assert set(caught.value.unexpected) == state.keys() - names


def test_misshapen_weights_of_a_variant_are_folded():
    state = cnnzoo.create_model("lenet5", image_shape=(3, 40, 40)).state_dict()
    with pytest.raises(
        WeightsMismatchError, match=r"misshapen conv1\.weight \(6, 3, 5, 5\) instead of \(6, 1, 5, 5\), fc1"
    ):
        cnnzoo.create_model("lenet5").load_state_dict(state)
    state = cnnzoo.create_model("mobilenetv1", width_multiplier=0.5).state_dict()
    message = r"misshapen 136 \(as conv1\.weight \(16, 3, 3, 3\) instead of \(32, 3, 3, 3\)\): {conv1,linear}\.weight, "
    with pytest.raises(WeightsMismatchError, match=message) as caught:
        cnnzoo.create_model("mobilenetv1").load_state_dict(state)
    assert len(caught.value.misshapen) == 136
