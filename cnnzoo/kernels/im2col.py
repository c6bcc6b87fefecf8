"""Convolution as a matrix product over im2col blocks: the general path, and the yardstick of the others.

Forward: each output pixel is a row of the im2col matrix, its taps side by side, times the weights [taps * in, out]
(Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document Processing", 2006). The
rows are gathered a cache-sized block at a time; the matrix as a whole never exists.

The input gradient is the same product with other operands: input pixel h receives dy[i] through the tap r for which
i * stride + r - padding = h. Pixels with the same (h mod stride, w mod stride) share their taps, so each of these
stride**2 phases is a plain correlation of dy with the transposed weights of its taps: nothing is scattered and no
product is wasted.

The weight gradient multiplies transposed im2col blocks with blocks of dy. Small gradients are summed in slots, each a
fixed range of pixels, and the slots added in order; large ones are split by their own rows instead.

The error is that of a dot product, |error| <= terms * eps * sum |x||w|, with terms = kernel**2 * in for forward,
kernel**2 * out for the input gradient and the number of output pixels for the weight gradient.
"""

from dataclasses import dataclass

import numba
import numpy as np

from cnnzoo.kernels import correlation
from cnnzoo.kernels.blocks import block_count
from cnnzoo.kernels.convolution import ConvolutionShape, Prologue, plain
from cnnzoo.kernels.correlation import DEPTH_BLOCK, ROW_BLOCK, add_slots, correlate, correlate_weights
from cnnzoo.kernels.gemm import pack_taps, packed_size
from cnnzoo.kernels.vectors import TILE_VECTORS, VECTOR_BYTES

MINIMUM_TASKS = 32  # work is cut into so many tasks where the shape allows, for machines of many cores
SLOT_BYTES = 1024 * 1024  # weight gradients up to this size are summed in slots
WEIGHT_ROWS, WEIGHT_COLUMNS = 576, 512  # the largest block of a weight gradient that one task owns

ScratchSizes = dict[str, int]


@dataclass(frozen=True)
class _Phase:
    """One correlation with its geometry: `taps` are the offsets of its weights, `depth` its sum's terms."""

    geometry: np.ndarray
    taps: np.ndarray
    positions: int
    depth: int

    @staticmethod
    def of(images, source, channels, grid, step, target, target_step, corner, columns, offsets, taps) -> "_Phase":
        fields = [images, *source, channels, *grid, step, *target, target_step, *corner, columns, len(taps)]
        geometry = np.array(fields + [value for offset in offsets for value in offset], np.int64)
        return _Phase(geometry, np.array(taps, np.int64), images * grid[0] * grid[1], len(taps) * channels)


def _forward_phase(s: ConvolutionShape) -> _Phase:
    offsets = [(r - s.padding, q - s.padding) for r in range(s.kernel) for q in range(s.kernel)]
    taps = [t * s.in_channels * s.out_channels for t in range(len(offsets))]
    source, grid = (s.height, s.width), (s.out_height, s.out_width)
    return _Phase.of(s.images, source, s.in_channels, grid, s.stride, grid, 1, (0, 0), s.out_channels, offsets, taps)


def _gradient_phases(s: ConvolutionShape) -> list[_Phase]:
    phases = []
    for top in range(min(s.stride, s.height)):
        for left in range(min(s.stride, s.width)):
            rows = [r for r in range(s.kernel) if (top + s.padding - r) % s.stride == 0]
            columns = [q for q in range(s.kernel) if (left + s.padding - q) % s.stride == 0]
            offsets = [
                ((top + s.padding - r) // s.stride, (left + s.padding - q) // s.stride) for r in rows for q in columns
            ]
            taps = [(r * s.kernel + q) * s.in_channels * s.out_channels for r in rows for q in columns]
            grid = (-(-(s.height - top) // s.stride), -(-(s.width - left) // s.stride))
            source, target = (s.out_height, s.out_width), (s.height, s.width)
            phases.append(
                _Phase.of(
                    s.images,
                    source,
                    s.out_channels,
                    grid,
                    1,
                    target,
                    s.stride,
                    (top, left),
                    s.in_channels,
                    offsets,
                    taps,
                )
            )
    return phases


class Im2col:
    """The three passes of one convolution, planned once; see `cnnzoo.kernels.convolution` for the contract.

    Parameters
    ----------
    shape : ConvolutionShape
        Its extents.
    dtype : dtype
        float32 or float64.

    Attributes
    ----------
    scratch_sizes : dict of str to int
        Elements of `dtype` that each pass ("forward", "input_gradient", "weight_gradient") needs as `scratch`.
    statistics_rows : int
        Output pixels in a block of the batch-norm partial sums that `forward` collects.
    """

    name = "im2col"
    statistics_rows = ROW_BLOCK

    @staticmethod
    def refusal(shape: ConvolutionShape) -> str | None:
        """Return why this algorithm cannot take `shape`: None, for it takes all."""
        return None

    def __init__(self, shape: ConvolutionShape, dtype: np.dtype):
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._panel_width = TILE_VECTORS * VECTOR_BYTES // self.dtype.itemsize
        self._threads = numba.config.NUMBA_NUM_THREADS
        self._forward = _forward_phase(shape)
        self._gradients = _gradient_phases(shape)
        self._nothing = np.empty(0, self.dtype)
        self._plain = plain(self.dtype)
        self._plan_weight_gradient()
        self.scratch_sizes = {
            "forward": self._correlation_scratch([self._forward], shape.out_channels),
            "input_gradient": self._correlation_scratch(self._gradients, shape.in_channels),
            "weight_gradient": self._slot_size + self._threads * self._weight_stride,
        }

    def forward(self, x, ldx, w, y, ldy, scratch, prologue=None, accumulate=False, bias=None, statistics=None):
        """y (+)= correlate(prologue(x), w) + b.

        Parameters
        ----------
        x, y : ndarray of T[::1]
            Pixel matrices [images * height * width, in_channels] and [out_pixels, out_channels], leading dimensions
            `ldx` and `ldy`.
        w : ndarray of T[::1]
            Weights [kernel, kernel, in, out].
        scratch : ndarray of T[::1]
            ``scratch_sizes["forward"]`` elements.
        prologue : Prologue, optional
            Applied to `x`: nothing, or scale, shift and ReLU.
        accumulate : bool
            Add to `y` instead of overwriting it.
        bias : ndarray of T[out_channels], optional
        statistics : ndarray of T, optional
            [ceil(out_pixels / statistics_rows)][mean, M2][out_channels], written.
        """
        bias = self._nothing if bias is None else bias
        statistics = self._nothing if statistics is None else statistics
        self._correlate(
            self._forward, False, x, ldx, w, y, ldy, scratch, prologue or self._plain, accumulate, bias, statistics
        )

    def input_gradient(self, dy, lddy, w, dx, lddx, scratch, prologue=None, accumulate=False):
        """dx (+)= the adjoint of `forward` in x, applied to prologue(dy); `prologue` is of a gradient kind."""
        for phase in self._gradients:
            self._correlate(
                phase,
                True,
                dy,
                lddy,
                w,
                dx,
                lddx,
                scratch,
                prologue or self._plain,
                accumulate,
                self._nothing,
                self._nothing,
            )

    def weight_gradient(self, x, ldx, dy, lddy, dw, scratch, x_prologue=None, dy_prologue=None, accumulate=False):
        """dw (+)= the adjoint of `forward` in w, from x_prologue(x) and dy_prologue(dy)."""
        on_x, on_dy = x_prologue or self._plain, dy_prologue or self._plain
        slot_sums, per_thread = scratch[: self._slot_size], scratch[self._slot_size :]
        correlate_weights(
            self._forward.geometry,
            x,
            ldx,
            on_x.kind,
            on_x.coefficients,
            dy,
            lddy,
            on_dy.kind,
            on_dy.coefficients,
            on_dy.z,
            on_dy.ldz,
            dw,
            accumulate,
            self._row_block,
            self._column_block,
            self._slots,
            slot_sums,
            per_thread,
            self._weight_stride,
        )
        if self._slots > 1:
            add_slots(slot_sums, self._slots, dw.size, dw, accumulate)

    def _correlate(
        self, phase, transposed, x, ldx, w, y, ldy, scratch, prologue: Prologue, accumulate, bias, statistics
    ):  # fmt: skip
        columns = int(phase.geometry[correlation.COLUMNS])
        size = packed_size(phase.depth, columns, self.dtype.itemsize)
        panels, per_thread = scratch[:size], scratch[size:]
        tap_depth = int(phase.geometry[correlation.CHANNELS])
        pack_taps(w, phase.taps, len(phase.taps), tap_depth, columns, transposed, panels)
        group = columns if statistics.size else self._group(phase, columns)
        correlate(
            phase.geometry,
            x,
            ldx,
            panels,
            group,
            prologue.kind,
            prologue.coefficients,
            prologue.z,
            prologue.ldz,
            y,
            ldy,
            accumulate,
            bias,
            statistics,
            per_thread,
            self._correlation_stride(phase, columns),
        )

    def _group(self, phase: _Phase, columns: int) -> int:
        """Return how many columns a task takes: all, unless there are too few blocks of rows."""
        panels = block_count(columns, self._panel_width)
        tasks = max(1, block_count(phase.positions, ROW_BLOCK))
        groups = min(panels, block_count(MINIMUM_TASKS, tasks))
        return block_count(panels, groups) * self._panel_width

    @staticmethod
    def _correlation_stride(phase: _Phase, columns: int) -> int:
        segment = block_count(phase.depth, max(1, block_count(phase.depth, DEPTH_BLOCK)))
        return ROW_BLOCK * (_gathered_ld(segment) + _gathered_ld(columns))

    def _correlation_scratch(self, phases: list[_Phase], columns: int) -> int:
        return max(
            packed_size(phase.depth, columns, self.dtype.itemsize)
            + self._threads * self._correlation_stride(phase, columns)
            for phase in phases
        )

    def _plan_weight_gradient(self) -> None:
        rows, columns = self._forward.depth, self.shape.out_channels
        chunks = block_count(self._forward.positions, ROW_BLOCK)
        in_slots = rows * columns * self.dtype.itemsize <= SLOT_BYTES
        # A multiple of 16 rows: a gathered line then belongs to one task.
        self._row_block = WEIGHT_ROWS if in_slots else max(96, block_count(block_count(rows, MINIMUM_TASKS), 16) * 16)
        self._row_block = min(rows, self._row_block, WEIGHT_ROWS)
        self._column_block = min(columns, WEIGHT_COLUMNS)
        blocks = block_count(rows, self._row_block) * block_count(columns, self._column_block)
        self._slots = min(chunks, block_count(MINIMUM_TASKS, blocks)) if in_slots else 1
        self._slot_size = self._slots * rows * columns if self._slots > 1 else 0
        panels = block_count(self._column_block, self._panel_width) * self._panel_width
        self._weight_stride = ROW_BLOCK * (_gathered_ld(self._row_block) + panels + _gathered_ld(self._column_block))


def _gathered_ld(columns: int) -> int:
    return correlation.gathered_ld.py_func(columns)
