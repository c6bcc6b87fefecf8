"""One pass of one convolution by every program that computes it, and how far each is from the exact result.

Arrays are [N, H, W, C] and [kernel, kernel, in / groups, out] in float32, standard normal. cnnzoo reads and writes
arrays made before, as in a network. PyTorch allocates its result at each call, as it does in training.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from cnnzoo.errors import CnnzooError
from cnnzoo.kernels.convolution import ConvolutionShape
from tests import reference

BOUND = 1e-4
"""The largest error allowed, relative to the largest value: Winograd's in float32 at 512 channels."""

CHECKED_IMAGES = 4


class Entrant(NamedTuple):
    """One program's computation of a pass.

    Attributes
    ----------
    run : callable
        What is timed.
    result : callable
        Runs it and returns the result.
    """

    run: Callable[[], Any]
    result: Callable[[], np.ndarray]


class Operands:
    """The arrays of one convolution.

    Attributes
    ----------
    x, w, dy : ndarray of float32
    """

    def __init__(self, shape: ConvolutionShape):
        self.shape = s = shape
        rng = np.random.default_rng(0)
        self.x = harness.aligned((s.images, s.height, s.width, s.in_channels))
        self.w = harness.aligned((s.kernel, s.kernel, s.in_channels // s.groups, s.out_channels))
        self.dy = harness.aligned((s.images, s.out_height, s.out_width, s.out_channels))
        for array in (self.x, self.w, self.dy):
            rng.standard_normal(out=array, dtype=np.float32)

    def result_of(self, direction: str) -> np.ndarray:
        """Return an array that holds the result of a pass, NaN throughout."""
        like = {"forward": self.dy, "input_gradient": self.x, "weight_gradient": self.w}[direction]
        result = harness.aligned(like.shape)
        result[...] = np.nan
        return result


def enter_algorithm(algorithm: Callable[..., Any], operands: Operands, direction: str) -> Entrant:
    """Return the entrant of one of cnnzoo's algorithms."""
    s = operands.shape
    planned = algorithm(s, np.dtype(np.float32))
    scratch = harness.aligned((planned.scratch[direction].size(),))
    result = operands.result_of(direction)
    x, w, dy, out = (array.reshape(-1) for array in (operands.x, operands.w, operands.dy, result))
    arguments = {
        "forward": (x, s.in_channels, w, out, s.out_channels),
        "input_gradient": (dy, s.out_channels, w, out, s.in_channels),
        "weight_gradient": (x, s.in_channels, dy, s.out_channels, out),
    }[direction]
    compute = getattr(planned, direction)

    def run() -> None:
        compute(*arguments, scratch)

    def returning() -> np.ndarray:
        scratch[...] = result[...] = np.nan
        run()
        return result

    return Entrant(run, returning)


def enter_numpy(operands: Operands, direction: str) -> Entrant:
    """Return the entrant of plain products of matrices, over the im2col matrix of the whole batch; takes no groups."""
    s, x, w, dy = operands.shape, operands.x, operands.w, operands.dy
    edge = (s.padding, s.padding)
    by_pixel, by_tap = dy.reshape(-1, s.out_channels), w.reshape(-1, s.out_channels)
    places = [
        (slice(i, i + s.stride * s.out_height, s.stride), slice(j, j + s.stride * s.out_width, s.stride))
        for i in range(s.kernel)
        for j in range(s.kernel)
    ]

    def columns() -> np.ndarray:
        padded = np.pad(x, ((0, 0), edge, edge, (0, 0)))
        taps = [padded[:, rows, columns] for rows, columns in places]
        return np.concatenate(taps, axis=3).reshape(len(by_pixel), -1)

    def input_gradient() -> np.ndarray:
        padded = np.zeros((s.images, s.height + 2 * s.padding, s.width + 2 * s.padding, s.in_channels), np.float32)
        taps = (by_pixel @ by_tap.T).reshape(*dy.shape[:3], len(places), s.in_channels)
        for tap, (rows, columns) in enumerate(places):
            padded[:, rows, columns] += taps[:, :, :, tap]
        return padded[:, s.padding : s.padding + s.height, s.padding : s.padding + s.width]

    passes = {
        "forward": lambda: (columns() @ by_tap).reshape(dy.shape),
        "input_gradient": input_gradient,
        "weight_gradient": lambda: (columns().T @ by_pixel).reshape(w.shape),
    }
    return Entrant(passes[direction], passes[direction])


def enter_torch(layout: str, operands: Operands, direction: str) -> Entrant:
    """Return PyTorch's entrant in a layout, "nchw" or "channels_last": one call of its operator, one result asked."""
    import torch

    s = operands.shape
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x, dy = (torch.from_numpy(array).permute(0, 3, 1, 2) for array in (operands.x, operands.dy))
    w = torch.from_numpy(operands.w).permute(3, 2, 0, 1)
    x, w, dy = (tensor.contiguous(memory_format=memory_format) for tensor in (x, w, dy))
    extents = [s.stride] * 2, [s.padding] * 2, [1, 1], False, [0, 0], s.groups

    def forward() -> Any:
        return torch.ops.aten.convolution(x, w, None, *extents)

    def gradient(index: int) -> Any:
        mask = [index == 0, index == 1, False]
        return torch.ops.aten.convolution_backward(dy, x, w, None, *extents, mask)[index]

    run = {
        "forward": forward,
        "input_gradient": lambda: gradient(0),
        "weight_gradient": lambda: gradient(1),
    }[direction]
    order = (2, 3, 1, 0) if direction == "weight_gradient" else (0, 2, 3, 1)
    return Entrant(run, lambda: run().permute(order).numpy())


def exact_result(operands: Operands, direction: str, images: np.ndarray) -> np.ndarray:
    """Return the result of a pass in float64: of some images, but for the gradient of the weights, which sums all."""
    s, x, dy = operands.shape, operands.x, operands.dy
    w = operands.w[:, :, 0] if s.groups > 1 else operands.w
    name = "depthwise_conv2d" if s.groups > 1 else "conv2d"
    compute = getattr(reference, name if direction == "forward" else f"{name}_{direction}")
    place = {"stride": s.stride, "padding": s.padding}
    if direction == "forward":
        return compute(x[images], w, **place)
    if direction == "input_gradient":
        return compute(dy[images], w, x[images].shape, **place)
    return compute(x, dy, (s.kernel, s.kernel), **place)


def verify(operands: Operands, direction: str, entrants: Mapping[str, Entrant]) -> dict[str, float]:
    """Return the error of each entrant, relative to the largest value.

    Every value of a result is checked to be finite, and against float64 those of a few images, the first and the last
    among them; of the gradient of the weights all.

    Raises
    ------
    CnnzooError
        One is above `BOUND`.
    """
    s = operands.shape
    images = np.unique(np.linspace(0, s.images - 1, CHECKED_IMAGES).astype(int))
    exact = exact_result(operands, direction, images)
    errors = {}
    for name, entrant in entrants.items():
        result = entrant.result()
        part = result.reshape(exact.shape) if direction == "weight_gradient" else result[images]
        error = np.max(np.abs(part - exact)) / np.max(np.abs(exact)) if np.all(np.isfinite(result)) else np.nan
        if not error <= BOUND:
            raise CnnzooError(
                f"{s}, {direction}, {name}: expected errors up to {BOUND:g} of the largest value, got {error:.3g}"
            )
        errors[name] = float(error)
    return errors
