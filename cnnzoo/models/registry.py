"""The models by name."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from cnnzoo.errors import ConfigError, ModelError
from cnnzoo.graph.network import Network
from cnnzoo.graph.tensor import Extent, Graph, Tensor

Builder = Callable[[Tensor, int, float], Tensor]


@dataclass(frozen=True)
class Model:
    """A network's builder and defaults.

    Attributes
    ----------
    build : callable
        (images, num_classes, dropout) to logits.
    image_shape : tuple of int
        (channels, height, width) that it was made for.
    dropout : float
        Its own rate; 0 where it has none.
    """

    build: Builder
    image_shape: tuple[int, int, int]
    dropout: float


_MODELS: dict[str, Model] = {}


def register(
    name: str, *, image_shape: tuple[int, int, int] = (3, 32, 32), dropout: float = 0.0
) -> Callable[[Builder], Builder]:
    """Enter the decorated builder under `name`."""

    def enter(build: Builder) -> Builder:
        _MODELS[name] = Model(build, image_shape, dropout)
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
        near = difflib.get_close_matches(str(name).lower(), _MODELS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ModelError(f"model: expected one of {', '.join(list_models())}, got {name!r}{hint}")
    return _MODELS[name]


def create_model(
    name: str,
    num_classes: int = 10,
    seed: int = 0,
    *,
    image_shape: tuple[int, int, int] | None = None,
    dtype: str = "float32",
    dropout: float | None = None,
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
        0 <= rate < 1; the model's own by default.

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
    model = get_model(name)
    rate = model.dropout if dropout is None else dropout
    if not 0 <= rate < 1:
        raise ConfigError(f"dropout: expected a rate in [0, 1), got {rate}")
    if num_classes < 1:
        raise ConfigError(f"num_classes: expected 1 or more, got {num_classes}")
    channels, height, width = image_shape or model.image_shape
    graph = Graph(Extent(height, width, channels))
    model.build(graph.input, num_classes, rate)
    return Network(graph, name=name, seed=seed, dtype=dtype)
