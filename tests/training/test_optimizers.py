"""Optimizers against PyTorch's and against their defining equations, while the rate changes."""

import numpy as np
import pytest

import cnnzoo
from cnnzoo.errors import ConfigError
from cnnzoo.training.optimizers import SGD, AdamW
from tests.training.stand_ins import LinearNetwork

# A rate for each step.
RATES = (0.1, 0.1, 0.02, 0.02, 0.3)


def _make_network(dtype="float64"):
    return LinearNetwork(num_classes=5, image_shape=(3, 7, 11), dtype=dtype)


def _train(net, optimizer, rng):
    """Take a step at each rate with random gradients, and return them."""
    gradients = [rng.standard_normal(net.parameter_arena.size).astype(net.parameter_arena.dtype) for _ in RATES]
    for lr, gradient in zip(RATES, gradients, strict=True):
        optimizer.lr = lr
        net.gradient_arena[:] = gradient
        optimizer.step()
    return gradients


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "nesterov"),
    [(0.0, 0.0, False), (0.0, 0.01, False), (0.9, 0.0, False), (0.9, 0.01, False), (0.9, 0.01, True)],
)
def test_equals_pytorch_while_the_rate_changes(momentum, weight_decay, nesterov):
    torch = pytest.importorskip("torch")
    net = _make_network()
    w = torch.tensor(net.parameter_arena.copy())
    peer = torch.optim.SGD([w], lr=1.0, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    gradients = _train(net, SGD(net, 1.0, momentum, weight_decay, nesterov), np.random.default_rng(0))
    for lr, gradient in zip(RATES, gradients, strict=True):
        peer.param_groups[0]["lr"] = lr
        w.grad = torch.tensor(gradient)
        peer.step()
    np.testing.assert_allclose(net.parameter_arena, w.numpy(), rtol=1e-13, atol=1e-14)


def test_adamw_equals_pytorch_while_the_rate_changes():
    torch = pytest.importorskip("torch")
    net = _make_network()
    w = torch.tensor(net.parameter_arena.copy())
    peer = torch.optim.AdamW([w], lr=1.0, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.02)
    gradients = _train(net, AdamW(net, 1.0, 0.8, 0.95, 1e-6, 0.02), np.random.default_rng(0))
    for lr, gradient in zip(RATES, gradients, strict=True):
        peer.param_groups[0]["lr"] = lr
        w.grad = torch.tensor(gradient)
        peer.step()
    np.testing.assert_allclose(net.parameter_arena, w.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("make", [lambda net, **o: SGD(net, 0.1, 0.9, **o), lambda net, **o: AdamW(net, 0.1, **o)])
def test_decay_of_weights_alone_leaves_out_biases(make):
    free, weights_alone, everywhere = (_make_network() for _ in range(3))
    for net, options in (
        (free, {"weight_decay": 0.0}),
        (weights_alone, {"weight_decay": 0.1, "decay_all": False}),
        (everywhere, {"weight_decay": 0.1, "decay_all": True}),
    ):
        net.parameter_arena[:] += 1
        _train(net, make(net, **options), np.random.default_rng(1))
    states = [net.state_dict() for net in (free, weights_alone, everywhere)]
    np.testing.assert_array_equal(states[1]["fc.bias"], states[0]["fc.bias"])
    np.testing.assert_array_equal(states[1]["fc.weight"], states[2]["fc.weight"])
    assert np.all(states[2]["fc.bias"] != states[0]["fc.bias"])
    assert np.all(states[1]["fc.weight"] != states[0]["fc.weight"])


def test_batch_norm_counts_as_a_bias():
    net = cnnzoo.create_model("resnet18")
    net.parameter_arena[:] += 1
    start = net.state_dict()
    SGD(net, 0.1, weight_decay=0.1, decay_all=False).step()
    for name, array in net.state_dict().items():
        decays = array.ndim > 1
        assert np.array_equal(array, start[name]) != decays, name


def test_scale_is_of_the_gradient():
    nets = [_make_network(), _make_network()]
    for net, factor, scale in zip(nets, (0.5, 1.0), (1.0, 0.5), strict=True):
        net.gradient_arena[:] = factor * np.random.default_rng(5).standard_normal(net.gradient_arena.size)
        SGD(net, 0.1, 0.9, 0.01).step(scale)
    np.testing.assert_array_equal(nets[0].parameter_arena, nets[1].parameter_arena)


@pytest.mark.parametrize("form", ["pytorch", "sources"])
def test_follows_its_equations(form):
    net = _make_network()
    w, v = net.parameter_arena.copy(), np.zeros(net.parameter_arena.size)
    optimizer = SGD(net, 1.0, 0.9, 0.01, momentum_form=form)
    gradients = _train(net, optimizer, np.random.default_rng(1))
    for lr, gradient in zip(RATES, gradients, strict=True):
        g = gradient + 0.01 * w
        v = 0.9 * v + g if form == "pytorch" else 0.9 * v - lr * g
        w = w - lr * v if form == "pytorch" else w + v
    np.testing.assert_allclose(net.parameter_arena, w, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(optimizer.state["velocity"], v, rtol=1e-13, atol=1e-14)


def test_forms_agree_until_the_rate_changes():
    nets = [_make_network(), _make_network()]
    for net, form in zip(nets, ("pytorch", "sources"), strict=True):
        optimizer = SGD(net, 0.1, 0.9, momentum_form=form)
        rng = np.random.default_rng(2)
        for _ in range(3):
            net.gradient_arena[:] = rng.standard_normal(net.gradient_arena.size)
            optimizer.step()
    np.testing.assert_allclose(nets[0].parameter_arena, nets[1].parameter_arena, rtol=1e-12, atol=1e-13)
    for net, form in zip(nets, ("pytorch", "sources"), strict=True):
        _train(net, SGD(net, 0.1, 0.9, momentum_form=form), np.random.default_rng(3))
    assert np.abs(nets[0].parameter_arena - nets[1].parameter_arena).max() > 0.01


def test_float32_stays_float32():
    net = _make_network("float32")
    optimizer = SGD(net, 0.1, 0.9)
    _train(net, optimizer, np.random.default_rng(4))
    assert net.parameter_arena.dtype == optimizer.state["velocity"].dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "^lr: expected a number of 0 or more, got -0.1"),
        ({"lr": float("nan")}, "^lr: .* got nan"),
        ({"lr": 0.1, "momentum": 1.0}, "^momentum: "),
        ({"lr": 0.1, "momentum": float("nan")}, "^momentum: "),
        ({"lr": 0.1, "weight_decay": -1}, "^weight_decay: "),
        ({"lr": 0.1, "nesterov": True}, "^nesterov: "),
        ({"lr": 0.1, "momentum_form": "heavy"}, "^momentum_form: "),
    ],
)
def test_argument_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        SGD(_make_network(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta1": 1.0}, "^beta1: expected a number of 0 or more and below 1, got 1.0"),
        ({"beta2": -0.1}, "^beta2: "),
        ({"epsilon": 0}, "^epsilon: expected a number above 0, got 0"),
        ({"weight_decay": float("inf")}, "^weight_decay: "),
    ],
)
def test_argument_of_adamw_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        AdamW(_make_network(), 0.1, **options)


def test_rate_set_later_is_checked_too():
    optimizer = SGD(_make_network(), 0.1)
    with pytest.raises(ConfigError, match=r"^lr: "):
        optimizer.lr = float("inf")
    assert optimizer.lr == 0.1
