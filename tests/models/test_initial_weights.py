"""Initial weights: the distribution that each model's sources ask for, and the same numbers on any machine."""

import hashlib
import math

import numpy as np
import pytest

import cnnzoo
from cnnzoo.graph import initializers
from tests.graph.steps import assert_equal

UNIFORM, NORMAL = "uniform", "normal"
CONVOLUTIONS = {"vgg16": UNIFORM, "vgg16_bn": UNIFORM, "resnet18": NORMAL}
KURTOSIS = {UNIFORM: 1.8, NORMAL: 3.0}  # of the distribution: fourth moment / variance^2


def assert_drawn_from(w, kind, variance):
    """Assert that mean and variance lie within 5 standard errors of what independent draws give, and so the kurtosis.

    The sample variance of n draws of kurtosis k has the standard error variance sqrt((k - 1) / n).
    """
    n, w = w.size, w.astype(np.float64).ravel()
    assert abs(w.mean()) <= 5 * math.sqrt(variance / n)
    assert abs(np.mean(w**2) / variance - 1) <= 5 * math.sqrt((KURTOSIS[kind] - 1) / n)
    # The kurtosis itself: 5 standard errors of the normal one, sqrt(24 / n), the larger of the two.
    assert abs(np.mean(w**4) / np.mean(w**2) ** 2 - KURTOSIS[kind]) <= 5 * math.sqrt(24 / n)
    if kind == UNIFORM:
        bound = math.sqrt(3 * variance)
        assert np.abs(w).max() <= bound * (1 + 1e-6)
        assert np.abs(w).max() >= bound * (1 - 20 / n)


@pytest.mark.parametrize("name", list(CONVOLUTIONS))
def test_distributions(name):
    """He's variance, 2 / fan in, for convolutions; Xavier's uniform, 2 / (fan in + fan out), for linear layers."""
    kinds = set()
    for key, array in cnnzoo.create_model(name, seed=3).state_dict().items():
        kinds.add(array.ndim)
        if array.ndim == 4:
            assert_drawn_from(array, CONVOLUTIONS[name], 2 / math.prod(array.shape[1:]))
        elif array.ndim == 2:
            assert_drawn_from(array, UNIFORM, 2 / sum(array.shape))
        else:
            is_one = key.endswith("running_var") or (array.ndim == 1 and key.endswith("weight"))
            np.testing.assert_array_equal(array, float(is_one), err_msg=key)
    assert kinds == {1, 2, 4}


@pytest.mark.parametrize(
    ("initializer", "kind", "variance"),
    [
        (initializers.he_uniform, UNIFORM, 2 / (40 * 9)),
        (initializers.he_normal, NORMAL, 2 / (40 * 9)),
        (initializers.xavier_uniform, UNIFORM, 2 / ((40 + 60) * 9)),
        (initializers.xavier_normal, NORMAL, 2 / ((40 + 60) * 9)),
    ],
)
def test_initializers(initializer, kind, variance):
    w = initializer(initializers.stream(0, "w"), (60, 40, 3, 3))
    assert w.shape == (60, 40, 3, 3)
    assert_drawn_from(w, kind, variance)


# SHA-256 of the bytes, float32 little-endian, in PyTorch's layout.
PINNED = [
    ("vgg16", 0, "features.0.weight", "9a64a4239d9eb35988e709eda2e21f371f08788b446ded9e6146a427ca6738d9"),
    ("vgg16", 0, "classifier.6.weight", "5ca210d0de6db7f0721ff5dd525a1fe322da1ee3da932540e8f8214d81cf66ae"),
    ("vgg16_bn", 7, "features.24.weight", "3516b22b83151b545be5147202a32bb2403903b8770537ccc9c8fd3147c255a9"),
    ("resnet18", 0, "conv1.weight", "5760e6332ccace9b31216ab03e695b87d735362d1157b918bc29d73c73ed4af9"),
    ("resnet18", 0, "layer4.1.conv2.weight", "4fa79eda287ac2cc0fe91b40893fa2736975359ce5f4a38494c7cbe69ee595a0"),
    ("resnet18", 1, "fc.weight", "dd9f4ee284ceb074374cd166f129861a791f2341e08472019d3217d8292f39fe"),
]


@pytest.mark.parametrize(("name", "seed", "key", "sha256"), PINNED)
def test_same_numbers_on_any_machine(name, seed, key, sha256):
    array = cnnzoo.create_model(name, seed=seed).state_dict()[key]
    assert hashlib.sha256(array.astype("<f4").tobytes()).hexdigest() == sha256


def test_seeds_differ_and_repeat():
    states = [cnnzoo.create_model("resnet18", seed=seed).state_dict() for seed in (0, 1, 0, np.int64(2**62))]
    assert_equal(states[2], states[0])
    for key, array in states[0].items():
        if array.ndim > 1:
            assert abs(np.corrcoef(array.ravel(), states[1][key].ravel())[0, 1]) < 0.1
            assert not np.array_equal(array, states[3][key])


def test_layers_of_one_shape_differ():
    state = cnnzoo.create_model("resnet18").state_dict()
    assert not np.array_equal(state["layer1.0.conv1.weight"], state["layer1.0.conv2.weight"])


def test_a_layer_depends_on_its_name_alone():
    """Not on the layers before it, nor on the number of classes."""
    plain, normalized = (cnnzoo.create_model(name, seed=5).state_dict() for name in ("vgg16", "vgg16_bn"))
    for key in ("features.0.weight", "classifier.0.weight", "classifier.6.weight"):
        np.testing.assert_array_equal(plain[key], normalized[key])
    few = cnnzoo.create_model("vgg16", num_classes=3, seed=5).state_dict()
    np.testing.assert_array_equal(few["features.24.weight"], plain["features.24.weight"])


@pytest.mark.parametrize("name", list(CONVOLUTIONS))
def test_single_precision_is_double_precision_rounded(name):
    single, double = (cnnzoo.create_model(name, seed=4, dtype=dtype).state_dict() for dtype in ("float32", "float64"))
    assert_equal(single, {key: array.astype(np.float32) for key, array in double.items()})


def test_numbers_do_not_depend_on_how_many_are_drawn_at_a_time(monkeypatch):
    shape = (2 * initializers._BLOCK + 1,)
    numbers = initializers.Stream(7).standard_normal(shape)
    monkeypatch.setattr(initializers, "_BLOCK", 1000)
    np.testing.assert_array_equal(initializers.Stream(7).standard_normal(shape), numbers)
