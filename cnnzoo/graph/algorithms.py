"""Which algorithm computes each pass of a convolution."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cnnzoo.errors import ModelError, StateError
from cnnzoo.kernels.convolution import ConvolutionShape
from cnnzoo.kernels.dense import Dense
from cnnzoo.kernels.depthwise import DepthwiseConvolution
from cnnzoo.kernels.im2col import Im2col
from cnnzoo.kernels.winograd import Winograd

Algorithm = DepthwiseConvolution | Winograd | Im2col | Dense

ALGORITHMS: tuple[type[Algorithm], ...] = (DepthwiseConvolution, Winograd, Im2col, Dense)
"""All algorithms; of those that cost the same the first is taken."""

NAMES = tuple(algorithm.name for algorithm in ALGORITHMS)


class Passes(NamedTuple):
    """The names of the algorithms of the three passes."""

    forward: str
    input_gradient: str
    weight_gradient: str


class Planned(NamedTuple):
    """The algorithms of the three passes, planned for one shape."""

    forward: Algorithm
    input_gradient: Algorithm
    weight_gradient: Algorithm

    @property
    def names(self) -> Passes:
        """Return the algorithms' names."""
        return Passes(*(algorithm.name for algorithm in self))


def list_candidates(shape: ConvolutionShape) -> dict[str, type[Algorithm]]:
    """Return the algorithms that accept `shape`, by name.

    Raises
    ------
    ModelError
        None does; the message gives each one's reason.
    """
    reasons = {algorithm: algorithm.refusal(shape) for algorithm in ALGORITHMS}
    accepting = {algorithm.name: algorithm for algorithm, reason in reasons.items() if reason is None}
    if not accepting:
        listed = "; ".join(f"{algorithm.name}: {reason}" for algorithm, reason in reasons.items())
        raise ModelError(f"no algorithm for {shape}: {listed}")
    return accepting


def choose_algorithms(shape: ConvolutionShape, wanted: str | None = None) -> Passes:
    """Return the algorithms for `shape`: the `wanted` one where it accepts, else for each pass the cheapest.

    Costs are those of `cnnzoo.kernels.costs`: the same on every machine, for any number of threads.
    """
    candidates = list_candidates(shape)
    if wanted in candidates or len(candidates) == 1:
        name = wanted if wanted in candidates else next(iter(candidates))
        return Passes(name, name, name)
    costs = {name: algorithm.costs(shape) for name, algorithm in candidates.items()}

    def cheapest(name: str) -> str:
        return min(costs, key=lambda algorithm: costs[algorithm][name])

    return Passes(*map(cheapest, Passes._fields))


def plan_algorithms(shape: ConvolutionShape, names: Passes, dtype: np.dtype) -> Planned:
    """Return the planned algorithms of those names.

    Raises
    ------
    StateError
        One of them does not accept `shape`.
    """
    candidates: Mapping[str, type[Algorithm]] = list_candidates(shape)
    for name in names:
        if name not in candidates:
            raise StateError(f"algorithm of {shape}: expected one of {', '.join(candidates)}, got {name}")
    planned = {name: candidates[name](shape, dtype) for name in set(names)}
    return Planned(*(planned[name] for name in names))
