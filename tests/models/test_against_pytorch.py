"""Whole networks against PyTorch's, from the same weights: loss, logits, every gradient, statistics and SGD steps.

A tensor's error is relative, ||ours - PyTorch's|| / ||PyTorch's||, Euclidean norms. In float64 it stays within 1e-9:
both programs add up the same numbers in another order. In float32 single ReLUs near zero fall on the other side and
change all gradients below them, by some 1e-3 to 1e-2; so the weights are moved off that first. Max pools whose two
largest values are equal in float32 do the same, so images are taken that have none. The gradients then agree to 1e-4.
GoogLeNet alone has so many windows, a third of a million an image, that some such window is to be expected: its pools,
the only ones with padding, are not looked at, and a tensor may differ by 1e-2.
"""

import numpy as np
import pytest

import cnnzoo
from cnnzoo.models.registry import build_graph
from tests.graph.kinks import clear_relus, smallest_pool_gap
from tests.graph.steps import assert_close, assert_equal, make_batch, relative_error, run_step

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from tests.pytorch_models import make_pytorch_model  # noqa: E402

MODELS = cnnzoo.list_models()
GRADIENT_TOLERANCE = dict.fromkeys(MODELS, 1e-4) | {"googlenet": 1e-2}  # in float32
# MobileNetV1's last batch norms see 4 pixels an image: few images make them ill-conditioned, and float32 coarser.
IMAGES = dict.fromkeys(MODELS, 4) | {"mobilenetv1": 32}

CLEAR_GAP = 1e-5  # standard deviations between the largest values of a pool's window: float32 decides between them


def make_pair(name, dtype, **options):
    """Return our network with the weights of a PyTorch module, and the module; dropout is off.

    Biases, batch norm's parameters and running statistics have random values besides PyTorch's own initial weights.
    """
    torch.manual_seed(0)
    module = make_pytorch_model(name, **options).to(getattr(torch, dtype))
    for part in list_dropouts(module):
        part.p = 0.0
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


def list_dropouts(module):
    return [part for part in module.modules() if isinstance(part, torch.nn.Dropout)]


def to_numpy(tensors):
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def without_counters(arrays):
    return {name: array for name, array in arrays.items() if not name.endswith("num_batches_tracked")}


def take_clear_batch(name, net):
    """Return a batch without equal values in max pools, and move the weights of `net` off the kinks of its ReLUs."""
    weights = net.state_dict()
    for seed in range(3, 20):
        images, labels = make_batch(net, IMAGES[name], seed=seed)
        cleared = clear_relus(build_graph(name, dropout=0.0), weights, images)
        if smallest_pool_gap(build_graph(name, dropout=0.0), cleared, images) > CLEAR_GAP:
            net.load_state_dict(cleared)
            return images, labels
    raise AssertionError(f"{name}: expected a batch whose pools have clear winners, found none")


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


def assert_steps_agree(net, module, images, labels, label_smoothing=0.0):
    """Run forward and backward of both in float64, and compare loss, logits, gradients and the state left behind."""
    loss, logits = run_step(net, images, labels, label_smoothing)
    expected_loss, expected_logits, gradients = run_pytorch_step(module, images, labels, label_smoothing)
    assert loss == pytest.approx(expected_loss, rel=1e-9, abs=0)
    assert relative_error(logits, expected_logits) <= 1e-9
    assert_close(net.gradients(), gradients, 1e-9)
    assert_close(net.state_dict(), without_counters(to_numpy(module.state_dict())), 1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_weights_go_both_ways_unchanged(name):
    net, module = cnnzoo.create_model(name, seed=3), make_pytorch_model(name)
    assert net.num_parameters == sum(parameter.numel() for parameter in module.parameters())
    ours = {key: torch.from_numpy(array) for key, array in net.state_dict().items()}
    missing, unexpected = module.load_state_dict(ours, strict=False)
    assert without_counters(dict.fromkeys(missing)) == {}
    assert unexpected == []
    theirs = to_numpy(module.state_dict())
    counters = [key for key in theirs if key.endswith("num_batches_tracked")]
    assert len(counters) == sum(key.endswith("running_mean") for key in theirs)
    assert_equal(without_counters(theirs), net.state_dict())
    other = cnnzoo.create_model(name, seed=4)
    other.load_state_dict(theirs)
    assert_equal(other.state_dict(), net.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_three_steps_in_float64(name):
    """Everything that a step makes, then the weights and running statistics, then inference with them."""
    net, module = make_pair(name, "float64")
    optimizer = cnnzoo.SGD(net, lr=0.01, momentum=0.9, weight_decay=5e-4)
    peer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for step, label_smoothing in enumerate([0.0, 0.1, 0.0]):
        images, labels = make_batch(net, 4, seed=step)
        assert_steps_agree(net, module, images, labels, label_smoothing)
        optimizer.step()
        peer.step()
    assert_close(net.state_dict(), without_counters(to_numpy(module.state_dict())), 1e-9)
    assert relative_error(net.forward(images), run_pytorch_inference(module, images)) <= 1e-9


@pytest.mark.parametrize("name", MODELS)
def test_step_in_float32(name):
    net, module = make_pair(name, "float32")
    images, labels = take_clear_batch(name, net)
    module.load_state_dict({key: torch.from_numpy(array) for key, array in net.state_dict().items()}, strict=False)
    inference = net.forward(images)
    assert np.abs(inference - run_pytorch_inference(module, images)).max() <= 5e-4
    loss, logits = run_step(net, images, labels)
    expected_loss, expected_logits, gradients = run_pytorch_step(module, images, labels)
    assert abs(loss - expected_loss) <= 5e-4
    assert np.abs(logits - expected_logits).max() <= 5e-4
    assert_close(net.gradients(), gradients, GRADIENT_TOLERANCE[name])
    assert_close(net.state_dict(), without_counters(to_numpy(module.state_dict())), 1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg16", {"image_shape": (1, 64, 96), "num_classes": 7}),  # a classifier that reads 2x3 pixels of 512 channels
        ("vgg16", {"classifier_width": 4096}),
        ("vgg16_bn", {"image_shape": (3, 47, 35), "num_classes": 3}),  # pools that leave out a row or a column
        ("resnet18", {"image_shape": (4, 33, 22), "num_classes": 100}),  # strides on odd sizes
        ("googlenet", {"image_shape": (1, 21, 38), "num_classes": 5}),
        ("mobilenetv1", {"image_shape": (1, 45, 30), "width_multiplier": 0.7}),
        ("mobilenetv1", {"image_shape": (3, 64, 64), "width_multiplier": 0.25, "stem_stride": 2}),
        ("densenet121", {"image_shape": (2, 19, 26), "growth_rate": 12, "compression": 0.7}),
        ("densenet121", {"image_shape": (3, 16, 16), "compression": 1.0}),
        ("alexnet", {"image_shape": (3, 70, 101), "num_classes": 3}),
        ("lenet5", {"num_classes": 47}),
        ("lenet5", {"image_shape": (3, 33, 26)}),
    ],
)
def test_variants(name, options):
    net, module = make_pair(name, "float64", **options)
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    assert {key: array.shape for key, array in net.state_dict().items()} == without_counters(shapes)
    assert_steps_agree(net, module, *make_batch(net, 3))


@pytest.mark.parametrize("name", ["vgg16", "googlenet", "alexnet"])
def test_dropout_with_the_same_masks(name):
    """The masks that our network draws, put in the places and with the rates of PyTorch's dropout."""
    net, module = cnnzoo.create_model(name, dtype="float64"), make_pytorch_model(name).double()
    images, labels = make_batch(net, 4)
    net.forward(images, training=True)
    masks = read_dropout_masks(net)
    net.random_step = 0  # the next pass draws the same again
    net.load_state_dict(to_numpy(module.state_dict()))
    for part, mask in zip(list_dropouts(module), masks, strict=True):
        scaled = torch.from_numpy(mask / (1 - part.p))
        part.p = 0.0
        part.register_forward_hook(lambda part, inputs, output, scaled=scaled: output * scaled)
    assert_steps_agree(net, module, images, labels)


def read_dropout_masks(net):
    """Return the mask [N, features] of each dropout, 1 where kept, after a forward pass in training."""
    steps = zip(net.graph.nodes, net._pending._contexts, strict=True)
    return [c.kept["mask"].reshape(c.images, -1).astype(np.float64) for node, c in steps if node.operator.draws]
