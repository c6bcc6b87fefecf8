"""The algorithms that the convolutions of a graph are told to use."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cnnzoo.errors import ConfigError, StateError, suggest
from cnnzoo.graph.algorithms import NAMES, Passes, plan_algorithms
from cnnzoo.graph.operators.convolution import WeightedSum
from cnnzoo.graph.tensor import Graph, Tensor


def list_weighted_sums(graph: Graph) -> Iterator[tuple[WeightedSum, Tensor]]:
    """Yield each convolution and fully connected layer, and its input."""
    for node in graph.nodes:
        if isinstance(node.operator, WeightedSum):
            yield node.operator, node.inputs[0]


def list_pins(graph: Graph) -> dict[str, list[str]]:
    """Return what was pinned, as `pin` takes it."""
    return {
        f"{operator.name} @{images}": list(passes)
        for operator, _ in list_weighted_sums(graph)
        for images, passes in operator.pinned_algorithms.items()
    }


def pin(graph: Graph, chosen: Mapping[str, Sequence[str]], dtype: np.dtype) -> None:
    """Let layers use algorithms for numbers of images; see `Network.pin_algorithms`. All are checked before any is set.

    Raises
    ------
    StateError
        There is no such layer, or no such choice for it.
    """
    layers = {operator.name: (operator, x) for operator, x in list_weighted_sums(graph)}
    pins = []
    for key, names in chosen.items():
        layer, _, images = key.rpartition(" @")
        if layer not in layers or not images.isdecimal() or len(names) != len(Passes._fields):
            raise StateError(f"algorithms: expected those of one of the network's convolutions, got {key}: {names}")
        operator, x = layers[layer]
        plan_algorithms(operator.shape(int(images), x.extent), Passes(*names), dtype)
        pins.append((operator, int(images), Passes(*names)))
    for operator, count, passes in pins:
        operator.pinned_algorithms[count] = passes


def prefer(graph: Graph, name: str | None) -> None:
    """Let all layers use one algorithm wherever it accepts the shape, or the cost table's; pins are undone.

    Raises
    ------
    ConfigError
        There is none of that name.
    """
    if name is not None and name not in NAMES:
        raise ConfigError(f"algorithm: expected one of {', '.join(NAMES)}, got {name!r}{suggest(str(name), NAMES)}")
    for operator, _ in list_weighted_sums(graph):
        operator.wanted_algorithm = name
        operator.pinned_algorithms.clear()
