"""Several replicas of a network that are trained together, each on images of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from cnnzoo.graph.initializers import random_key
from cnnzoo.graph.operator import Operator
from cnnzoo.graph.operators.batch_norm import BatchNorm
from cnnzoo.graph.tensor import Graph


def synchronize_batch_norm(graph: Graph, add_up: Callable[[np.ndarray], None] | None) -> None:
    """Let batch norms in training use the statistics of all replicas' images together.

    Parameters
    ----------
    graph : Graph
        Of this replica's network.
    add_up : callable or None
        Replaces an array, float64[n], by the sum of all replicas' arrays. None: each has its own statistics.
    """
    for operator in _list_batch_norms(graph):
        operator.add_up = add_up


@contextmanager
def alone(graph: Graph, buffers: Mapping[str, np.ndarray]) -> Iterator[None]:
    """For a while, do without the other replicas; what becomes of the buffers is taken back."""
    links = [(operator, operator.add_up) for operator in _list_batch_norms(graph)]
    kept = {name: buffer.copy() for name, buffer in buffers.items()}
    synchronize_batch_norm(graph, None)
    try:
        yield
    finally:
        for operator, add_up in links:
            operator.add_up = add_up
        for name, buffer in kept.items():
            buffers[name][:] = buffer


def random_keys(seed: int, step: int, replica: int) -> Callable[[str], int]:
    """Return what gives a node, by its name, its key for what it draws in a pass; each replica draws its own."""
    suffix = f"@{replica}" if replica else ""
    return lambda node: random_key(seed, step, node + suffix)


def count_final(
    operators: Sequence[Operator], starts: Mapping[str, int], size: int, tell: Callable[[int], None] | None
) -> Callable[[], None] | None:
    """Return what, called after each operator's backward, tells how much of the arena of gradients is final.

    Parameters
    ----------
    operators : sequence of Operator
        In the order in which they run backward.
    starts : mapping from str to int
        Where each parameter begins in the arena.
    size : int
        Elements of the arena.
    tell : callable or None
        Called with the number of leading elements that no later operator writes. None: nobody asks.
    """
    if tell is None:
        return None
    final = [size]
    for operator in reversed(operators[1:]):
        final.append(min([final[-1], *(starts[f"{operator.name}.{p.name}"] for p in operator.parameters)]))
    return lambda: tell(final.pop())


def _list_batch_norms(graph: Graph) -> list[BatchNorm]:
    return [node.operator for node in graph.nodes if isinstance(node.operator, BatchNorm)]
