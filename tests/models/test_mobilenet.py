"""MobileNetV1: its table, names, options and initial weights."""

import numpy as np
import pytest

import cnnzoo
from cnnzoo.errors import ConfigError, ModelError
from cnnzoo.graph.operators.depthwise import Depthwise
from cnnzoo.models.registry import build_graph
from tests.graph.steps import make_batch, run_step
from tests.models.test_initial_weights import NORMAL, UNIFORM, assert_drawn_from

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
SIDES = (32, 16, 16, 8, 8, 4, 4, 4, 4, 4, 4, 2, 2)  # of the blocks' outputs


def list_shapes(widths=WIDTHS, stem=32):
    """Return the shape of each array of `state_dict`, by the paper's table 1."""
    shapes = {"conv1.weight": (stem, 3, 3, 3)} | {f"bn1.{kind}": (stem,) for kind in BATCH_NORM}
    channels = stem
    for block, width in enumerate(widths):
        name = f"layers.{block}"
        shapes |= {f"{name}.conv1.weight": (channels, 1, 3, 3), f"{name}.conv2.weight": (width, channels, 1, 1)}
        shapes |= {f"{name}.bn1.{kind}": (channels,) for kind in BATCH_NORM}
        shapes |= {f"{name}.bn2.{kind}": (width,) for kind in BATCH_NORM}
        channels = width
    return shapes | {"linear.weight": (10, channels), "linear.bias": (10,)}


def list_extents(graph):
    """Return height and width of the output of each block's depthwise convolution."""
    outputs = [node.output for node in graph.nodes if isinstance(node.operator, Depthwise)]
    return [(y.extent.height, y.extent.width) for y in outputs]


def test_names_and_shapes():
    net = cnnzoo.create_model("mobilenetv1")
    assert {name: array.shape for name, array in net.state_dict().items()} == list_shapes()
    assert net.num_parameters == 3_217_226
    assert net.num_classes == 10


def test_extents():
    assert list_extents(build_graph("mobilenetv1")) == [(side, side) for side in SIDES]


@pytest.mark.parametrize(("stride", "image", "last"), [(1, 32, 2), (2, 224, 7), (2, 33, 2), (2, 1, 1)])
def test_stem_stride(stride, image, last):
    """With stride 2, as in the paper, images of 224x224 end as 7x7."""
    graph = build_graph("mobilenetv1", image_shape=(3, image, image), stem_stride=stride)
    assert list_extents(graph)[-1] == (last, last)


@pytest.mark.parametrize("multiplier", [0.75, 0.5, 0.25, 0.05])
def test_width_multiplier(multiplier):
    net = cnnzoo.create_model("mobilenetv1", width_multiplier=multiplier)
    shapes = list_shapes([int(multiplier * width) for width in WIDTHS], int(multiplier * 32))
    assert {name: array.shape for name, array in net.state_dict().items()} == shapes
    loss, logits = run_step(net, *make_batch(net, 2))
    assert np.isfinite(loss)
    assert logits.shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"width_multiplier": 0.0}, ModelError, "width_multiplier: expected a share above 0 and at most 1, got 0.0"),
        ({"width_multiplier": 1.5}, ModelError, "width_multiplier: expected a share above 0 and at most 1, got 1.5"),
        ({"width_multiplier": 0.01}, ModelError, "conv1: expected channels, kernel and stride of 1 or more"),
        ({"stem_stride": 0}, ConfigError, "stem_stride: expected a whole number of 1 or more, got 0"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error) as caught:
        cnnzoo.create_model("mobilenetv1", **options)
    assert message in str(caught.value)


def test_options_of_a_run():
    config = cnnzoo.RunConfig(model="mobilenetv1", width_multiplier=0.5, stem_stride=2)
    assert config.model_options == {"width_multiplier": 0.5, "stem_stride": 2}
    assert cnnzoo.RunConfig(model="mobilenetv1").model_options == {}


def test_initial_weights():
    """He normal for the stem and depthwise, fan in kernel^2; Xavier uniform for pointwise and linear."""
    for name, array in cnnzoo.create_model("mobilenetv1", seed=2).state_dict().items():
        if name.endswith("conv2.weight") or name == "linear.weight":
            assert_drawn_from(array, UNIFORM, 2 / sum(array.shape[:2]))
        elif array.ndim == 4:
            assert_drawn_from(array, NORMAL, 2 / np.prod(array.shape[1:]))
