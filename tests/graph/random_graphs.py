"""Small graphs for tests: random ones, and those whose sharing of memory is easy to get wrong."""

from contextlib import contextmanager
from unittest import mock

from hypothesis import strategies as st

from cnnzoo.graph import layers, layout
from cnnzoo.graph.liveness import ALIGNMENT
from cnnzoo.graph.network import Network
from cnnzoo.graph.passes import DEFAULT_PASSES
from cnnzoo.graph.tensor import Extent, Graph

KINDS = (
    "conv3x3", "conv1x1", "strided", "batch_norm", "conv_bn_relu", "bn_relu_conv", "bn_conv", "residual", "relu",
    "dropout", "add", "concatenate", "max_pool", "overlapping_max_pool", "average_pool",
)  # fmt: skip

# A step reads the last tensor, or one made before it.
sources = st.sampled_from([0, 0, 0, 1, 2, 3])
steps = st.lists(st.tuples(st.sampled_from(KINDS), sources, st.integers(0, 9)), min_size=4, max_size=14)
extents = st.builds(Extent, height=st.integers(3, 9), width=st.integers(3, 9), channels=st.integers(1, 5))


@st.composite
def builders(draw):
    """Draw a function that makes a graph, the same one each time: a network uses its graph up."""
    extent, width, layout_of_steps = draw(extents), draw(st.sampled_from([1, 3, 8, 17])), draw(steps)
    pooled = draw(st.booleans())

    def build():
        graph = Graph(extent)
        tensors = [graph.input]
        for number, (kind, source, other) in enumerate(layout_of_steps):
            x = tensors[-1 - source % len(tensors)]
            tensors.append(_apply(kind, x, tensors, other, width, f"layer{number}"))
        x = layers.global_average_pool(tensors[-1]) if pooled else tensors[-1]
        layers.linear(x, 3, name="head")
        return graph

    return build


def _apply(kind, x, tensors, other, width, name):
    """Apply one step to x; `other` picks the second tensor of an addition or a concatenation, which may be x itself."""
    same = [t for t in tensors if _fits(t, x, kind)]
    partner = same[other % len(same)]
    windows = {
        "max_pool": lambda: layers.max_pool(x, 2),
        "overlapping_max_pool": lambda: layers.max_pool(x, 3, stride=2, padding=1),
        "average_pool": lambda: layers.average_pool(x, 2, stride=1),
    }
    if kind in windows:
        return windows[kind]() if min(x.extent.height, x.extent.width) >= 2 else layers.relu(x)
    return {
        "add": lambda: layers.add(x, partner),
        "concatenate": lambda: layers.concatenate(x, partner),
        "residual": lambda: _residual(x, partner, name),
        "conv3x3": lambda: layers.conv(x, width, 3, name=name),
        "conv1x1": lambda: layers.conv(x, width, 1, bias=False, name=name),
        "strided": lambda: layers.conv(x, width, 1 + 2 * (other % 2), stride=2, name=name),
        "batch_norm": lambda: layers.batch_norm(x, name=name),
        "conv_bn_relu": lambda: layers.conv_bn_relu(x, width, 3, conv_name=f"{name}.conv", bn_name=f"{name}.bn"),
        "bn_relu_conv": lambda: layers.conv(layers.relu(layers.batch_norm(x, name=f"{name}.bn")), width, 1, name=name),
        "bn_conv": lambda: layers.conv(layers.batch_norm(x, name=f"{name}.bn"), width, 1, name=name),
        "relu": lambda: layers.relu(x),
        "dropout": lambda: layers.dropout(x, 0.3),
    }[kind]()


def _residual(x, shortcut, name):
    y = layers.conv(x, shortcut.channels, 3, bias=False, name=f"{name}.conv")
    return layers.relu(layers.add(layers.batch_norm(y, name=f"{name}.bn"), shortcut))


def _fits(t, x, kind):
    if kind == "add":
        return t.extent == x.extent
    return (t.extent.height, t.extent.width) == (x.extent.height, x.extent.width)


def make_network(build, passes=DEFAULT_PASSES, dtype="float64"):
    return Network(build(), name="small", seed=5, dtype=dtype, passes=passes)


def make_unshared_network(build, passes=DEFAULT_PASSES):
    """Return a network whose operators never work in place and whose concatenations copy; see `unshared`."""
    graph = build()
    for node in graph.nodes:
        node.operator.forward_in_place = node.operator.backward_in_place = node.operator.concatenates = False
    return Network(graph, name="small", seed=5, dtype="float64", passes=passes)


def _place_apart(values):
    total = 0
    for value in values:
        value.offset = total
        total += -(-value.size // ALIGNMENT) * ALIGNMENT
    return total


@contextmanager
def unshared():
    """Plan with a place of its own for every value."""
    with mock.patch.object(layout, "place", _place_apart):
        yield


# Each is a graph from images of 4 channels and 6x6 pixels to 3 logits.


def _images():
    return Graph(Extent(6, 6, 4)).input


def _stem():
    return layers.conv(_images(), 8, 3, name="stem")


def _head(x):
    return layers.linear(x, 3, name="head").graph


def rectified_images():
    """The first node may work in place on the images, and no parameter lies above it."""
    return _head(layers.conv(layers.relu(_images()), 5, 3, name="conv"))


def images_read_again():
    """The images are rectified and read once more after that."""
    x = _images()
    y = layers.add(layers.relu(x), x)
    return _head(layers.conv(y, 5, 3, name="conv"))


def added_to_itself():
    x = _stem()
    return _head(layers.relu(layers.add(x, x)))


def batch_norm_added_to_its_input():
    x = _stem()
    return _head(layers.relu(layers.add(layers.batch_norm(x, name="bn"), x)))


def input_added_to_its_batch_norm():
    x = _stem()
    return _head(layers.add(x, layers.batch_norm(x, name="bn")))


def read_by_three():
    """A tensor with three readers, the first of which could work in place."""
    x = _stem()
    a, b, c = layers.relu(x), layers.conv(x, 8, 3, name="b"), layers.conv(x, 8, 1, name="c")
    return _head(layers.add(layers.add(a, b), layers.add(c, x)))


def rectified_after_it_was_saved():
    """A convolution saves its input, which a ReLU reads after it."""
    x = _stem()
    y = layers.conv(x, 8, 3, name="conv")
    return _head(layers.add(layers.relu(x), y))


def chain_in_place():
    """ReLU, dropout, ReLU and dropout of one tensor, which a shortcut reads too."""
    x = layers.relu(_stem())
    y = layers.dropout(layers.relu(layers.dropout(x, 0.4)), 0.4)
    return _head(layers.add(y, x))


def dead_branch():
    """A parameter that the logits do not depend on: its gradient is zero."""
    x = _stem()
    layers.relu(layers.conv(x, 4, 3, name="dead"))
    return _head(layers.relu(x))


def batch_norm_read_twice():
    x = layers.batch_norm(_stem(), name="bn")
    return _head(layers.add(layers.relu(x), x))


def both_terms_are_batch_norms():
    x = _stem()
    a = layers.batch_norm(layers.conv(x, 6, 3, bias=False, name="a"), name="bn_a")
    b = layers.batch_norm(layers.conv(x, 6, 1, bias=False, name="b"), name="bn_b")
    return _head(layers.relu(layers.add(a, b)))


def concatenated_with_itself():
    x = layers.relu(_stem())
    y = layers.conv(x, 3, 3, name="branch")
    return _head(layers.conv(layers.concatenate(x, x, y), 5, 3, name="conv"))


def term_of_two_concatenations():
    x = layers.relu(_stem())
    y = layers.conv(x, 5, 1, name="y")
    first, second = layers.concatenate(x, y), layers.concatenate(y, x)
    a, b = layers.conv(first, 4, 3, name="a"), layers.conv(second, 4, 3, name="b")
    return _head(layers.add(a, b))


def dense_block():
    """Concatenations of concatenations, each read by a batch norm too."""
    x = _stem()
    for layer in range(3):
        y = layers.relu(layers.batch_norm(x, name=f"norm{layer}.1"))
        y = layers.conv(y, 6, 1, bias=False, name=f"conv{layer}.1")
        y = layers.relu(layers.batch_norm(y, name=f"norm{layer}.2"))
        x = layers.concatenate(x, layers.conv(y, 3, 3, bias=False, name=f"conv{layer}.2"))
    return _head(layers.global_average_pool(layers.relu(layers.batch_norm(x, name="norm"))))


def rectified_concatenation():
    """A ReLU that could work in place on a concatenation, one of whose terms is read after it."""
    a = _stem()
    b = layers.conv(a, 5, 1, name="b")
    c = layers.relu(layers.concatenate(a, b))
    c = layers.conv(c, 8, 3, name="c")
    return _head(layers.add(c, a))


def linear_and_concatenation():
    """A linear layer needs all values of an image in one piece, of a tensor that is a term of a concatenation too."""
    x = layers.relu(_stem())
    features = layers.linear(x, 7, name="linear")
    both = layers.concatenate(x, layers.conv(x, 3, 1, name="branch"))
    pooled = layers.global_average_pool(layers.conv(both, 7, 3, name="conv"))
    return _head(layers.add(features, pooled))


def concatenation_and_linear():
    """The same with the linear layer last, so that its gradient comes first."""
    x = layers.relu(_stem())
    both = layers.concatenate(x, layers.conv(x, 3, 1, name="branch"))
    pooled = layers.global_average_pool(layers.conv(both, 7, 3, name="conv"))
    return _head(layers.add(pooled, layers.linear(layers.relu(x), 7, name="linear")))


def batch_norm_on_load():
    """Batch norm + ReLU before a strided 1x1 convolution, while its input is read once more."""
    x = _stem()
    y = layers.relu(layers.batch_norm(x, name="bn"))
    y = layers.conv(y, 8, 1, stride=2, name="conv")
    return _head(layers.add(y, layers.max_pool(layers.relu(x), 2)))


def batch_norm_before_winograd():
    """Wide enough that the 3x3 convolution takes it on load; what it normalizes is read once more."""
    x = layers.conv(_stem(), 16, 1, bias=False, name="wide")
    y = layers.conv(layers.relu(layers.batch_norm(x, name="bn")), 16, 3, name="conv")
    return _head(layers.add(y, x))


def batch_norm_before_1x1():
    """Without a ReLU there is nothing that the load of a convolution could apply."""
    return _head(layers.conv(layers.batch_norm(_stem(), name="bn"), 5, 1, name="conv"))


def residual_before_1x1():
    """A residual cannot be applied on load either."""
    x = _stem()
    return _head(layers.conv(_residual(x, x, "block"), 5, 1, name="conv"))


def residual_before_pool():
    """A ReLU's mask that only its output shows, which nothing else keeps."""
    x = _stem()
    x = layers.average_pool(_residual(x, x, "block"), 2)
    x = layers.average_pool(_residual(x, x, "second"), 2, stride=1)
    return _head(layers.conv(x, 5, 1, name="conv"))


def shortcut_read_again():
    """A shortcut's gradient is begun by a node behind the addition."""
    x = _stem()
    y = _residual(x, x, "block")
    return _head(layers.add(y, layers.conv(x, 8, 3, name="conv")))


def images_added_twice():
    """The images' gradient is written twice, though nobody reads it."""
    x = _images()
    y = layers.add(x, layers.conv(x, 4, 3, name="a"))
    z = layers.add(layers.conv(y, 4, 3, name="b"), x)
    return _head(layers.add(z, layers.conv(y, 4, 1, name="c")))


def rectified_convolutions():
    """ReLUs of convolutions that are added, concatenated, read twice and measured; of a linear layer in between."""
    x = layers.relu(layers.conv(_images(), 8, 3, name="first"))
    y = layers.relu(layers.conv(x, 8, 3, name="second"))
    z = layers.concatenate(layers.add(x, y), layers.relu(layers.conv(y, 4, 1, name="third")))
    z = layers.batch_norm(layers.relu(layers.conv(z, 8, 3, name="fourth")), name="bn")
    return _head(layers.relu(layers.linear(layers.add(z, x), 7, name="linear")))


def convolutions_before_convolutions():
    """ReLUs whose readers mask the gradient on store: by Winograd's algorithm, 1x1 and 3x3; and readers that do not."""
    x = layers.relu(layers.conv(_images(), 16, 3, name="first"))
    x = layers.relu(layers.conv(x, 16, 3, name="wide"))
    x = layers.relu(layers.conv(x, 8, 1, name="pointwise"))
    x = layers.relu(layers.conv(x, 8, 3, name="narrow"))
    x = layers.relu(layers.conv(x, 8, 3, stride=2, name="strided"))
    return _head(layers.relu(layers.depthwise_conv(x, 3, bias=True, name="depthwise")))


def batch_norm_before_pools():
    """Max pools that apply a batch norm on load: of an input that another one reads, and of a concatenation."""
    x = _stem()
    y = layers.max_pool(layers.relu(layers.batch_norm(x, name="bn1")), 3, stride=2, padding=1)
    both = layers.concatenate(x, layers.conv(x, 4, 3, name="conv"))
    z = layers.max_pool(layers.relu(layers.batch_norm(both, name="bn2")), 2)
    return _head(layers.concatenate(y, z))


DELICATE = [
    rectified_images, images_read_again, images_added_twice, added_to_itself, batch_norm_added_to_its_input,
    input_added_to_its_batch_norm, read_by_three, rectified_after_it_was_saved, chain_in_place, dead_branch,
    batch_norm_read_twice, both_terms_are_batch_norms, concatenated_with_itself, term_of_two_concatenations,
    dense_block, rectified_concatenation, linear_and_concatenation, concatenation_and_linear, batch_norm_on_load,
    batch_norm_before_winograd, batch_norm_before_1x1, residual_before_1x1, residual_before_pool, shortcut_read_again,
    rectified_convolutions, convolutions_before_convolutions, batch_norm_before_pools,
]  # fmt: skip
