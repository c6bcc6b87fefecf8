"""The choice of algorithms by measurement: what each candidate takes for each pass of a network's convolutions.

A pass is measured as its layer runs it: with the bias, the batch norm on load and the statistics that it has, on dense
pixel matrices of random values. What an algorithm leaves to the batch norm beside it is measured with it: the
statistics, or all of its backward where the input gradient takes no epilogue; so is the ReLU's mask then. All
candidates of a pass take turns, so that a machine that slows down slows all of them, and their medians are compared.
The choice of the cost table stands unless another algorithm gains more than medians of one kernel differ by.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cnnzoo.errors import ConfigError
from cnnzoo.graph.algorithms import Algorithm, Passes, choose_algorithms, list_candidates
from cnnzoo.graph.liveness import aligned_zeros
from cnnzoo.graph.measurements import Measurements
from cnnzoo.graph.operators.batch_norm import NO_RESIDUAL
from cnnzoo.graph.operators.convolution import WeightedSum
from cnnzoo.graph.pinning import list_weighted_sums
from cnnzoo.graph.tensor import Graph
from cnnzoo.kernels.activation import rectify_gradient
from cnnzoo.kernels.batch_norm import (
    add_line,
    batch_norm_backward,
    batch_norm_backward_sums,
    batch_norm_statistics,
    merge_gradient_sums,
)
from cnnzoo.kernels.blocks import block_count, block_rows
from cnnzoo.kernels.convolution import SCALE_MASKED, SCALE_SHIFT_RELU, ConvolutionShape, Epilogue, Prologue

TURNS = 5  # of each candidate
TURN_SECONDS = 0.004  # shorter passes are called several times a turn
LEAST_GAIN = 0.03  # of the time of the cost table's choice


class MeasuredPass(NamedTuple):
    """One pass of a convolution, with all that its time depends on.

    Attributes
    ----------
    direction : str
        "forward", "input_gradient" or "weight_gradient".
    shape : ConvolutionShape
    dtype : dtype
    bias, batch_norm, statistics, mask : bool
        What comes with it: a bias added to y, a batch norm + ReLU applied to x on load or its backward to dx,
        batch-norm sums of y collected, a ReLU's mask applied to dx.
    """

    direction: str
    shape: ConvolutionShape
    dtype: np.dtype
    bias: bool = False
    batch_norm: bool = False
    statistics: bool = False
    mask: bool = False

    def __str__(self) -> str:
        s = self.shape
        extents = f"{s.images}x{s.height}x{s.width} {s.in_channels}-{s.out_channels} {s.kernel}x{s.kernel}/{s.stride}"
        extras = "".join(f" {name}" for name in ("bias", "batch_norm", "statistics", "mask") if getattr(self, name))
        return f"{self.direction} {extents} padding {s.padding} groups {s.groups} {self.dtype.name}{extras}"


class Tuning(NamedTuple):
    """What tuning chose, and from what.

    Attributes
    ----------
    algorithms : dict of str to list of str
        As `Network.algorithms`.
    measured, known : int
        Passes that were measured now, and those whose times were kept from before.
    seconds : float
        That it took.
    path : str
        The file that keeps the times.
    ignored : str or None
        Why something that the file held was not used.
    """

    algorithms: dict[str, list[str]]
    measured: int
    known: int
    seconds: float
    path: str
    ignored: str | None


def tune(graph: Graph, images: int, dtype: np.dtype, progress: Callable[[int, int], None] | None = None) -> Tuning:
    """Return the algorithms for a batch of `images`; see `Network.tune`."""
    start = time.perf_counter()
    for operator, _ in list_weighted_sums(graph):
        if operator.wanted_algorithm is not None:
            raise ConfigError(f"tune: expected no algorithm with it, got {operator.wanted_algorithm}")
    layers = {
        operator.name: _list_passes(operator, operator.shape(images, x.extent), dtype, x is graph.input)
        for operator, x in list_weighted_sums(graph)
    }
    kept = Measurements()
    distinct = dict.fromkeys(p for passes in layers.values() for p in passes.values())
    candidates = {p: list_candidates(p.shape) for p in distinct}
    seconds = {p: kept.find(str(p), names) for p, names in candidates.items() if len(names) > 1}
    known = {p: found for p, found in seconds.items() if found is not None}
    missing = [p for p in seconds if p not in known]
    measured: dict[MeasuredPass, dict[str, float]] = {}
    for p in missing:
        if progress is not None:
            progress(len(measured), len(missing))
        measured[p] = measure(p)
        kept.add(str(p), measured[p])
    if progress is not None:
        progress(len(missing), len(missing))
    algorithms = {f"{name} @{images}": list(_choose(passes, known | measured)) for name, passes in layers.items()}
    return Tuning(algorithms, len(measured), len(known), time.perf_counter() - start, str(kept.path), kept.ignored)


def _list_passes(
    operator: WeightedSum, shape: ConvolutionShape, dtype: np.dtype, of_images: bool
) -> dict[str, MeasuredPass]:
    """Return the passes that a layer runs in training, by direction; the images, if it reads them, need no gradient."""
    on_load = operator.applies_batch_norm
    passes = {
        "forward": MeasuredPass("forward", shape, dtype, operator.has_bias, on_load, operator.collects_statistics),
        "input_gradient": MeasuredPass(
            "input_gradient", shape, dtype, batch_norm=on_load, mask=operator.masks_gradient
        ),
        "weight_gradient": MeasuredPass("weight_gradient", shape, dtype, batch_norm=on_load),
    }
    if of_images:
        del passes["input_gradient"]
    return passes


def _choose(passes: Mapping[str, MeasuredPass], seconds: Mapping[MeasuredPass, Mapping[str, float]]) -> Passes:
    """Return the algorithms of a layer: for each pass the fastest, or the cost table's where that is hardly slower."""
    by_table = choose_algorithms(passes["forward"].shape)
    chosen = {}
    for direction, p in passes.items():
        if p in seconds:
            fastest = min(seconds[p], key=seconds[p].__getitem__)
            if seconds[p][fastest] < (1 - LEAST_GAIN) * seconds[p][getattr(by_table, direction)]:
                chosen[direction] = fastest
    return by_table._replace(**chosen)


def measure(p: MeasuredPass) -> dict[str, float]:
    """Return the median seconds of each algorithm that accepts the pass's shape, run in turns after a first call."""
    rng = np.random.default_rng(0)
    s = p.shape
    sizes = {
        "x": s.images * s.height * s.width * s.in_channels,
        "w": s.kernel**2 * s.in_channels // s.groups * s.out_channels,
        "y": s.out_pixels * s.out_channels,
    }
    operands = {name: aligned_zeros(size, p.dtype) for name, size in sizes.items()}
    for array in operands.values():
        rng.standard_normal(out=array, dtype=p.dtype)
    planned = {name: algorithm(s, p.dtype) for name, algorithm in list_candidates(s).items()}
    scratch = aligned_zeros(max(algorithm.scratch[p.direction].size() for algorithm in planned.values()), p.dtype)
    runs = {name: _BIND[p.direction](p, algorithm, operands, scratch) for name, algorithm in planned.items()}
    for run in runs.values():  # compiles, touches memory for the first time
        run()
    calls = {name: max(1, math.ceil(TURN_SECONDS / _time(run, 1))) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            times[name].append(_time(run, calls[name]))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _time(run: Callable[[], None], calls: int) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def _bind_forward(
    p: MeasuredPass, algorithm: Algorithm, operands: Mapping[str, np.ndarray], scratch: np.ndarray
) -> Callable[[], None]:
    """Return what computes y by an algorithm, and the statistics of y if they are wanted."""
    x, w, y = operands["x"], operands["w"], aligned_zeros(operands["y"].size, p.dtype)
    ins, outs, pixels = p.shape.in_channels, p.shape.out_channels, p.shape.out_pixels
    rows = algorithm.statistics_rows or block_rows(outs)
    partials = np.empty(2 * outs * block_count(pixels, rows), p.dtype)
    extras: dict[str, Any] = {"prologue": _make_prologue(p), "bias": np.ones(outs, p.dtype) if p.bias else None}
    if p.statistics and algorithm.statistics_rows is not None:
        extras["statistics"] = partials

    def run() -> None:
        algorithm.forward(x, ins, w, y, outs, scratch, **extras)
        if p.statistics and algorithm.statistics_rows is None:
            batch_norm_statistics(y, outs, pixels, outs, rows, partials)

    return run


def _bind_input_gradient(
    p: MeasuredPass, algorithm: Algorithm, operands: Mapping[str, np.ndarray], scratch: np.ndarray
) -> Callable[[], None]:
    """Return what computes dx by an algorithm, and from it the gradient before a batch norm or ReLU if there is one.

    The latter by an epilogue, with a batch norm's line added later (`cnnzoo.graph.lines`); or a batch norm's in two
    passes over dx and x, a ReLU's in one.
    """
    x, w, dy, dx = operands["x"], operands["w"], operands["y"], aligned_zeros(operands["x"].size, p.dtype)
    ins, outs, pixels = p.shape.in_channels, p.shape.out_channels, x.size // p.shape.in_channels
    coefficients, line, sums = np.ones(3 * ins, p.dtype), np.ones(2 * ins, p.dtype), np.empty(2 * ins)
    (scale, shift, mean), (slope, offset) = np.split(coefficients, 3), np.split(line, 2)
    blocks = block_count(pixels, algorithm.gradient_rows or block_rows(ins))
    partials = np.empty(2 * ins * blocks, p.dtype)
    epilogue = Epilogue(SCALE_MASKED, coefficients, x, ins, partials)

    def run() -> None:
        algorithm.input_gradient(dy, outs, w, dx, ins, scratch)

    def run_with_epilogue() -> None:
        algorithm.input_gradient(dy, outs, w, dx, ins, scratch, epilogue)
        merge_gradient_sums(partials, blocks, sums)
        if p.batch_norm:
            add_line(x, ins, slope, offset, dx, ins, pixels, ins)

    def run_before_relu() -> None:
        algorithm.input_gradient(dy, outs, w, dx, ins, scratch)
        rectify_gradient(dx, ins, x, ins, pixels, ins, partials, slope, False)

    def run_before_batch_norm() -> None:
        algorithm.input_gradient(dy, outs, w, dx, ins, scratch)
        batch_norm_backward_sums(dx, ins, x, ins, x, ins, scale, shift, mean, pixels, ins, True, False, partials)
        merge_gradient_sums(partials, blocks, sums)
        batch_norm_backward(
            dx, ins, x, ins, x, ins, scale, shift, slope, offset, dx, ins, dx, ins, pixels, ins,
            True, False, False, NO_RESIDUAL,
        )  # fmt: skip

    if not (p.batch_norm or p.mask):
        return run
    if algorithm.gradient_rows is not None:
        return run_with_epilogue
    return run_before_batch_norm if p.batch_norm else run_before_relu


def _bind_weight_gradient(
    p: MeasuredPass, algorithm: Algorithm, operands: Mapping[str, np.ndarray], scratch: np.ndarray
) -> Callable[[], None]:
    """Return what computes dw by an algorithm."""
    x, dy, dw = operands["x"], operands["y"], aligned_zeros(operands["w"].size, p.dtype)
    ins, outs, prologue = p.shape.in_channels, p.shape.out_channels, _make_prologue(p)
    return lambda: algorithm.weight_gradient(x, ins, dy, outs, dw, scratch, prologue=prologue)


def _make_prologue(p: MeasuredPass) -> Prologue | None:
    return Prologue(SCALE_SHIFT_RELU, np.ones(2 * p.shape.in_channels, p.dtype)) if p.batch_norm else None


_BIND = {
    "forward": _bind_forward,
    "input_gradient": _bind_input_gradient,
    "weight_gradient": _bind_weight_gradient,
}
