"""A graph in numbers: its layers, their parameters and multiply-adds, and the memory that a batch takes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from cnnzoo.errors import ConfigError
from cnnzoo.graph.algorithms import Passes
from cnnzoo.graph.layout import check_memory_choice, lay_out
from cnnzoo.graph.operators.convolution import WeightedSum
from cnnzoo.graph.passes import DEFAULT_PASSES
from cnnzoo.graph.pinning import prefer
from cnnzoo.graph.recompute import MEMORY
from cnnzoo.graph.tensor import Graph, Node


@dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """One layer as the model's page has it, before it is merged with others.

    Attributes
    ----------
    name : str
        PyTorch's, where it has parameters.
    kind : str
    output_shape : tuple of int
        (channels, height, width).
    parameters : int
    multiply_adds : int
        Of one image forward, as `Operator.multiply_adds` counts them.
    algorithms : Passes or None
        What computes a convolution, or a fully connected layer, at the batch size; None for other layers.
    """

    name: str
    kind: str
    output_shape: tuple[int, int, int]
    parameters: int
    multiply_adds: int
    algorithms: Passes | None


@dataclass(frozen=True, kw_only=True)
class MemorySummary:
    """What a network and a batch take, in bytes.

    Attributes
    ----------
    parameters, gradients, momentum : int
        The parameters, their gradients, and what SGD keeps of earlier steps; without the gaps that align them.
    running_statistics : int
        Of batch norm.
    training_arenas : dict of str to int
        Activations, gradients of activations and scratch of a training step, for each choice of `memory`.
    memory : str
        The choice that was made.
    inference_arena : int
        Activations and scratch of a forward pass in inference.
    """

    parameters: int
    gradients: int
    momentum: int
    running_statistics: int
    training_arenas: dict[str, int]
    memory: str
    inference_arena: int

    @property
    def training_steps(self) -> dict[str, int]:
        """All that a training step works on, for each choice of `memory`."""
        weights = self.parameters + self.gradients + self.momentum + self.running_statistics
        return {choice: weights + arena for choice, arena in self.training_arenas.items()}

    @property
    def training_arena(self) -> int:
        """The arena of a training step as chosen."""
        return self.training_arenas[self.memory]

    @property
    def training_step(self) -> int:
        """All that a training step works on, as chosen."""
        return self.training_steps[self.memory]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A graph's layers, and its memory at one batch size and type; the algorithm that is preferred, if one is."""

    image_shape: tuple[int, int, int]
    num_classes: int
    batch_size: int
    dtype: str
    algorithm: str | None
    layers: tuple[LayerSummary, ...]
    memory: MemorySummary

    @property
    def parameters(self) -> int:
        """Parameters of all layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all layers, of one image forward."""
        return sum(layer.multiply_adds for layer in self.layers)


def summarize(
    graph: Graph,
    batch_size: int,
    dtype: str | np.dtype = "float32",
    passes: Iterable[Callable[[Graph], Graph]] = DEFAULT_PASSES,
    memory: str = "fast",
    storage: str | None = None,
    algorithm: str | None = None,
) -> Summary:
    """Count without making any array or compiling any kernel.

    Parameters
    ----------
    graph : Graph
        Before any rewriting. It is used up, as by a `Network`.
    batch_size : int
    dtype : dtype
        float32 or float64.
    passes : iterable of callable
        The rewritings that the network will run with: they decide on its memory.
    memory, storage : str, str or None
        As in `cnnzoo.graph.layout.lay_out`.
    algorithm : str or None
        As in `Network.prefer_algorithm`.

    Raises
    ------
    ConfigError
        A batch size below 1, an unknown memory, storage or algorithm, or a storage that does not go with the dtype.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size: expected 1 or more, got {batch_size}")
    prefer(graph, algorithm)
    layers = tuple(_summarize_layer(node, batch_size) for node in graph.nodes)
    statistics = sum(buffer.size for node in graph.nodes for buffer in node.operator.buffers)
    for rewrite in passes:
        graph = rewrite(graph)
    itemsize = np.dtype(dtype).itemsize
    parameter_bytes = sum(layer.parameters for layer in layers) * itemsize
    real = np.dtype(dtype)
    check_memory_choice(memory, storage, real)
    arenas = {choice: lay_out(graph, batch_size, True, real, choice, storage)[1] for choice in MEMORY}
    extent = graph.input.extent
    return Summary(
        image_shape=(extent.channels, extent.height, extent.width),
        num_classes=graph.output.extent.size,
        batch_size=batch_size,
        dtype=np.dtype(dtype).name,
        algorithm=algorithm,
        layers=layers,
        memory=MemorySummary(
            parameters=parameter_bytes,
            gradients=parameter_bytes,
            momentum=parameter_bytes,
            running_statistics=statistics * itemsize,
            training_arenas=arenas,
            memory=memory,
            inference_arena=lay_out(graph, batch_size, False, real)[1],
        ),
    )


def _summarize_layer(node: Node, images: int) -> LayerSummary:
    extent, operator = node.output.extent, node.operator
    return LayerSummary(
        name=node.name,
        kind=operator.kind,
        output_shape=(extent.channels, extent.height, extent.width),
        parameters=sum(parameter.size for parameter in operator.parameters),
        multiply_adds=operator.multiply_adds(*(x.extent for x in node.inputs)),
        algorithms=operator.choose(images, node.inputs[0].extent) if isinstance(operator, WeightedSum) else None,
    )
