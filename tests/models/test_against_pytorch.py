"""Whole networks against PyTorch's, from the same weights: loss, logits, every gradient, statistics and SGD steps.

A tensor's error is relative, ||ours - PyTorch's|| / ||PyTorch's||, Euclidean norms. In float64 it stays within 1e-9:
both programs add up the same numbers in another order. In float32 a single ReLU near zero that falls on the other
side changes the gradients below it, so that 1e-2 is allowed there.
"""

import numpy as np
import pytest

import cnnzoo
from tests.graph.steps import assert_close, assert_equal, make_batch, relative_error, run_step

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from tests.pytorch_models import make_pytorch_model  # noqa: E402

MODELS = ["vgg16", "vgg16_bn", "resnet18"]


def make_pair(name, dtype, **options):
    """Return our network with the weights of a PyTorch module, and the module; dropout is off.

    Biases, batch norm's parameters and running statistics have random values besides PyTorch's own initial weights.
    """
    torch.manual_seed(0)
    module = make_pytorch_model(name, dropout=0.0, **options).to(getattr(torch, dtype))
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim == 1:
                tensor.add_(torch.randn_like(tensor), alpha=0.1)
            elif tensor.ndim == 4:  # PyTorch's initial variance, 1 / (3 fan in), fades out over 16 layers: make it He's
                tensor.mul_(6**0.5)
    net = cnnzoo.create_model(name, seed=1, dtype=dtype, dropout=0.0, **options)
    net.load_state_dict(to_numpy(module.state_dict()))
    return net, module


def to_numpy(tensors):
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def without_counters(arrays):
    return {name: array for name, array in arrays.items() if not name.endswith("num_batches_tracked")}


def run_pytorch_step(module, images, labels, label_smoothing=0.0):
    """Return loss, logits and gradients of a training step without the update."""
    module.train()
    module.zero_grad()
    logits = module(torch.from_numpy(images))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=label_smoothing)
    loss.backward()
    return loss.item(), logits.detach().numpy(), {name: p.grad.numpy() for name, p in module.named_parameters()}


def run_pytorch_inference(module, images):
    """Return the logits of a forward pass in inference."""
    with torch.no_grad():
        return module.eval()(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize("name", MODELS)
def test_weights_go_both_ways_unchanged(name):
    net, module = cnnzoo.create_model(name, seed=3), make_pytorch_model(name)
    assert net.num_parameters == sum(parameter.numel() for parameter in module.parameters())
    ours = {key: torch.from_numpy(array) for key, array in net.state_dict().items()}
    missing, unexpected = module.load_state_dict(ours, strict=False)
    assert without_counters(dict.fromkeys(missing)) == {}
    assert unexpected == []
    theirs = to_numpy(module.state_dict())
    assert_equal(without_counters(theirs), net.state_dict())
    other = cnnzoo.create_model(name, seed=4)
    other.load_state_dict(theirs)
    assert_equal(other.state_dict(), net.state_dict())


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", MODELS)
def test_training_pass_in_float64(name, label_smoothing):
    net, module = make_pair(name, "float64")
    images, labels = make_batch(net, 6)
    loss, logits = run_step(net, images, labels, label_smoothing)
    expected_loss, expected_logits, gradients = run_pytorch_step(module, images, labels, label_smoothing)
    assert loss == pytest.approx(expected_loss, rel=1e-9, abs=0)
    assert relative_error(logits, expected_logits) <= 1e-9
    assert_close(net.gradients(), gradients, 1e-9)
    assert_close(net.state_dict(), without_counters(to_numpy(module.state_dict())), 1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_training_pass_in_float32(name):
    net, module = make_pair(name, "float32")
    images, labels = make_batch(net, 8)
    loss, logits = run_step(net, images, labels)
    expected_loss, expected_logits, gradients = run_pytorch_step(module, images, labels)
    assert abs(loss - expected_loss) <= 5e-4
    assert np.abs(logits - expected_logits).max() <= 5e-4
    assert_close(net.gradients(), gradients, 1e-2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg16", {"image_shape": (1, 64, 96), "num_classes": 7}),  # a classifier that reads 2x3 pixels of 512 channels
        ("vgg16_bn", {"image_shape": (3, 47, 35), "num_classes": 3}),  # pools that leave out a row or a column
        ("resnet18", {"image_shape": (4, 33, 22), "num_classes": 100}),  # strides on odd sizes
    ],
)
def test_other_shapes(name, options):
    net, module = make_pair(name, "float64", **options)
    images, labels = make_batch(net, 3)
    loss, logits = run_step(net, images, labels)
    expected_loss, expected_logits, gradients = run_pytorch_step(module, images, labels)
    assert loss == pytest.approx(expected_loss, rel=1e-9, abs=0)
    assert relative_error(logits, expected_logits) <= 1e-9
    assert_close(net.gradients(), gradients, 1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_three_steps_of_sgd_in_float64(name):
    """Weights and running statistics stay together, and so do the logits that inference makes of them."""
    net, module = make_pair(name, "float64")
    optimizer = cnnzoo.SGD(net, lr=0.01, momentum=0.9, weight_decay=5e-4)
    peer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for step in range(3):
        images, labels = make_batch(net, 4, seed=step)
        loss, _ = run_step(net, images, labels)
        optimizer.step()
        expected_loss, _, _ = run_pytorch_step(module, images, labels)
        peer.step()
        assert loss == pytest.approx(expected_loss, rel=1e-9, abs=0)
    assert_close(net.state_dict(), without_counters(to_numpy(module.state_dict())), 1e-9)
    assert relative_error(net.forward(images), run_pytorch_inference(module, images)) <= 1e-9


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_inference(name, dtype):
    net, module = make_pair(name, dtype)
    images, _ = make_batch(net, 5)
    expected, logits = run_pytorch_inference(module, images), net.forward(images)
    assert relative_error(logits, expected) <= {"float32": 1e-4, "float64": 1e-12}[dtype]
    assert np.abs(logits - expected).max() <= 5e-4
