"""The models by name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnzoo.errors import ConfigError, ModelError, suggest
from cnnzoo.graph.network import Network
from cnnzoo.graph.tensor import Extent, Graph, Tensor

Builder = Callable[..., Tensor]


@dataclass(frozen=True)
class Model:
    """A network's builder and defaults.

    Attributes
    ----------
    build : callable
        (images, num_classes, dropout, **options) to logits.
    image_shape : tuple of int
        (channels, height, width) that it was made for.
    dropout : float
        Its own rate; 0 where it has none.
    options : dict of str to object
        The builder's keyword arguments and their defaults: variants of the network that its sources speak of.
    """

    build: Builder
    image_shape: tuple[int, int, int]
    dropout: float
    options: dict[str, Any]


LARGEST = 2**31
"""Bound of every count, so that no product of two overflows."""

_MODELS: dict[str, Model] = {}


def register(
    name: str, *, image_shape: tuple[int, int, int] = (3, 32, 32), dropout: float = 0.0
) -> Callable[[Builder], Builder]:
    """Enter the decorated builder under `name`."""

    def enter(build: Builder) -> Builder:
        parameters = inspect.signature(build).parameters.values()
        options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        _MODELS[name] = Model(build, image_shape, dropout, options)
        return build

    return enter


def list_models() -> list[str]:
    """Return the names that `create_model` takes, in alphabetical order."""
    return sorted(_MODELS)


def get_model(name: str) -> Model:
    """Return the model of that name.

    Raises
    ------
    ModelError
        There is none; the message names the nearest.
    """
    if name not in _MODELS:
        raise ModelError(
            f"model: expected one of {', '.join(list_models())}, got {name!r}{suggest(str(name), _MODELS)}"
        )
    return _MODELS[name]


def build_graph(
    name: str,
    num_classes: int = 10,
    *,
    image_shape: tuple[int, int, int] | None = None,
    dropout: float | None = None,
    **options: Any,
) -> Graph:
    """Return a model's graph as its page describes it, before any rewriting; arguments and errors as `create_model`."""
    model = get_model(name)
    rate = model.dropout if dropout is None else dropout
    if not 0 <= rate < 1:
        raise ConfigError(f"dropout: expected a rate in [0, 1), got {rate}")
    if rate and not model.dropout:
        raise ConfigError(f"dropout: expected 0, for {name} has none, got {rate}")
    _check_whole("num_classes", num_classes, 1)
    for option, value in options.items():
        if option not in model.options:
            known = ", ".join(model.options) or "none"
            raise ConfigError(f"{option}: expected an option of {name} ({known}), got one it does not have")
        if isinstance(model.options[option], int):
            _check_whole(option, value, 1)
    shape = model.image_shape if image_shape is None else tuple(image_shape)
    if len(shape) != 3:
        raise ConfigError(f"image_shape: expected (channels, height, width), got {shape}")
    for extent in shape:
        _check_whole("image_shape", extent, 1)
    channels, height, width = shape
    graph = Graph(Extent(height, width, channels))
    try:
        model.build(graph.input, num_classes, rate, **options)
    except ModelError as error:
        raise ModelError(f"{name}, images of {channels}x{height}x{width}: {error}") from None
    return graph


def create_model(
    name: str,
    num_classes: int = 10,
    seed: int = 0,
    *,
    image_shape: tuple[int, int, int] | None = None,
    dtype: str = "float32",
    dropout: float | None = None,
    algorithm: str | None = None,
    memory: str = "fast",
    storage: str | None = None,
    **options: Any,
) -> Network:
    """Build a network with initial weights.

    Parameters
    ----------
    name : str
        One of `list_models`.
    num_classes : int
    seed : int
        Of the weights and of dropout.
    image_shape : tuple of int, optional
        (channels, height, width); the model's own by default.
    dtype : str
        "float32" or "float64".
    dropout : float, optional
        0 <= rate < 1, and 0 for a model that has none; the model's own by default.
    algorithm : str, optional
        "im2col", "winograd", "dense" or "depthwise", for every convolution that it can compute; the fastest by default.
    memory : str
        "fast", or "lean": recompute more of the activations in backward instead of keeping them. The bits are the same.
    storage : str, optional
        "bfloat16" or "float16": round the activations that wait for backward to that type; not at all by default.
    **options
        Variants of the network, such as ``growth_rate=12`` of DenseNet; those of its builder.

    Returns
    -------
    Network

    Raises
    ------
    ModelError
        No such model, or images too small for it.
    ConfigError
        Another argument is out of range.
    """
    graph = build_graph(name, num_classes, image_shape=image_shape, dropout=dropout, **options)
    _check_whole("seed", seed, 0, below=2**63)
    net = Network(graph, name=name, seed=seed, dtype=dtype, memory=memory, storage=storage)
    net.prefer_algorithm(algorithm)
    return net


def _check_whole(name: str, value: Any, minimum: int, below: int = LARGEST) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not minimum <= value < below:
        raise ConfigError(f"{name}: expected a whole number of {minimum} or more, got {value!r}")
