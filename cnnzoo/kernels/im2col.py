"""Convolution as a matrix product over im2col blocks: the general path, and the yardstick of the others.

Forward: each output pixel is a row of the im2col matrix, its taps side by side, times the weights [taps * in, out]
(Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document Processing", 2006). The
rows are gathered a cache-sized block at a time; the matrix as a whole never exists.

The input gradient is the same product with other operands: input pixel h receives dy[i] through the tap r for which
i * stride + r - padding = h. Pixels with the same (h mod stride, w mod stride) share their taps, so each of these
stride**2 phases is a plain correlation of dy with the transposed weights of its taps: nothing is scattered and no
product is wasted.

The weight gradient multiplies transposed im2col blocks with blocks of dy. Each task owns a block of the
gradient; where pixels are many, over a slot of them, a fixed range, and the slots are added in order.

The error is that of a dot product, |error| <= terms * eps * sum |x||w|, with terms = kernel**2 * in for forward,
kernel**2 * out for the input gradient and the number of output pixels for the weight gradient.
"""

from dataclasses import dataclass

import numpy as np

from cnnzoo.kernels.blocks import block_count, padded_ld
from cnnzoo.kernels.convolution import ConvolutionShape, Scratch, plain, plain_epilogue
from cnnzoo.kernels.correlation import DEPTH_BLOCK, ROW_BLOCK, add_slots, correlate, correlate_weights
from cnnzoo.kernels.costs import (
    COST_LANES,
    GATHERED_RUN,
    GATHERED_VECTOR,
    MULTIPLY_ADD,
    PACKED_VECTOR,
    SUMMED_VECTOR,
    count_vectors,
)
from cnnzoo.kernels.gemm import packed_size
from cnnzoo.kernels.vectors import TILE_ROWS, panel_columns

MINIMUM_TASKS = 32  # work is cut into so many tasks where the shape allows, for machines of many cores
PACKED_ALONE = 2  # so many blocks of positions pack the weights each for itself
WEIGHT_TASKS = 16  # the same for weight gradients of many pixels, each of whose slots is a sum to be added
WEIGHT_BLOCK = 256, 384  # rows and columns of a weight gradient that one task owns, at most
SMALL_WEIGHT_BYTES = 512 * 1024  # weight gradients of many pixels up to this size are cut less:
BLOCK_OF_SMALL_WEIGHT = 576, 512


@dataclass(frozen=True)
class _Correlation:
    """One call of `correlate`: which positions it computes from which source, with which taps of the weights.

    Attributes
    ----------
    geometry : ndarray of int64
        As `cnnzoo.kernels.correlation` reads it.
    taps : ndarray of int64
        Where each tap's matrix begins in the weights.
    depth, columns : int
        Terms of a sum, and sums a position.
    positions, rows : int
        Positions computed, and those of one block.
    panels : int
        Elements of the packed weights; 0 where each task packs its own.
    group : int
        Columns a task takes: all, unless there are too few blocks of positions.
    scratch : int
        Elements that a thread needs.
    """

    geometry: np.ndarray
    taps: np.ndarray
    depth: int
    columns: int
    positions: int
    rows: int
    panels: int
    group: int
    scratch: int

    @staticmethod
    def plan(images, source, channels, grid, step, target, target_step, corner, columns, taps, itemsize):
        """Return the correlation for `taps`: row offset, column offset and place in the weights of each."""
        positions, depth = images * grid[0] * grid[1], len(taps) * channels
        rows = min(ROW_BLOCK, _balanced(positions, ROW_BLOCK, TILE_ROWS))
        fields = [images, *source, channels, *grid, step, *target, target_step, *corner, columns, rows, len(taps)]
        offsets = [offset for row, column, _ in taps for offset in (row, column)]
        width = panel_columns(itemsize)
        panels = block_count(columns, width)
        blocks = max(1, block_count(positions, rows))
        packs_alone = len(taps) == 1 and blocks <= PACKED_ALONE
        groups = min(panels, block_count(MINIMUM_TASKS, blocks))
        group = block_count(panels, groups) * width
        segment = block_count(depth, max(1, block_count(depth, DEPTH_BLOCK)))
        return _Correlation(
            geometry=np.array(fields + offsets, np.int64),
            taps=np.array([place for _, _, place in taps], np.int64),
            depth=depth,
            columns=columns,
            positions=positions,
            rows=rows,
            panels=0 if packs_alone else packed_size(depth, columns, itemsize),
            group=group,
            scratch=ROW_BLOCK * (padded_ld(segment) + padded_ld(columns)) + packs_alone * segment * group,
        )


def _balanced(count: int, largest: int, multiple: int) -> int:
    """Return the size of blocks of `largest` or less, made even, then rounded up to a multiple."""
    return block_count(block_count(count, block_count(count, largest)), multiple) * multiple


def _forward_correlation(s: ConvolutionShape, itemsize: int) -> _Correlation:
    size = s.in_channels * s.out_channels
    taps = [(r - s.padding, q - s.padding, (r * s.kernel + q) * size) for r in range(s.kernel) for q in range(s.kernel)]
    source, grid = (s.height, s.width), (s.out_height, s.out_width)
    return _Correlation.plan(
        s.images, source, s.in_channels, grid, s.stride, grid, 1, (0, 0), s.out_channels, taps, itemsize
    )


def _gradient_correlations(s: ConvolutionShape, itemsize: int) -> list[_Correlation]:
    """Return a correlation of dy for each phase of the input's pixels."""
    correlations = []
    size = s.in_channels * s.out_channels
    source, target = (s.out_height, s.out_width), (s.height, s.width)
    for top in range(min(s.stride, s.height)):
        for left in range(min(s.stride, s.width)):
            taps = [
                ((top + s.padding - r) // s.stride, (left + s.padding - q) // s.stride, (r * s.kernel + q) * size)
                for r in range(s.kernel)
                for q in range(s.kernel)
                if (top + s.padding - r) % s.stride == 0 and (left + s.padding - q) % s.stride == 0
            ]
            grid = (block_count(s.height - top, s.stride), block_count(s.width - left, s.stride))
            c = _Correlation.plan(
                s.images, source, s.out_channels, grid, 1, target, s.stride, (top, left), s.in_channels, taps, itemsize
            )
            correlations.append(c)
    return correlations


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
    scratch : dict of str to Scratch
        What each pass ("forward", "input_gradient", "weight_gradient") needs as its argument of that name.
    statistics_rows : int
        Output pixels in a block of the batch-norm partial sums that `forward` collects.
    gradient_rows : int or None
        Input pixels in a block of the sums that an epilogue of `input_gradient` collects; None if it takes none.
    """

    name = "im2col"

    @staticmethod
    def refusal(shape: ConvolutionShape) -> str | None:
        """Return why this algorithm cannot take `shape`, or None if it can."""
        return None if shape.groups == 1 else f"it takes one group of channels, not {shape.groups}"

    @staticmethod
    def multiply_adds(shape: ConvolutionShape) -> dict[str, int]:
        """Return the multiply-adds of each pass: those of the direct method, padding included."""
        return dict.fromkeys(("forward", "input_gradient", "weight_gradient"), shape.multiply_adds)

    @staticmethod
    def costs(shape: ConvolutionShape) -> dict[str, float]:
        """Return the estimated cost of each pass; see `cnnzoo.kernels.costs`."""
        s, taps = shape, shape.kernel**2
        ins, outs = count_vectors(s.in_channels), count_vectors(s.out_channels)

        def correlation(depth, depth_vectors, columns):
            products = s.out_pixels * taps * depth * columns * COST_LANES
            runs = 0 if taps == 1 else s.out_pixels * taps
            return products * MULTIPLY_ADD + runs * (GATHERED_RUN + depth_vectors * GATHERED_VECTOR)

        packing = taps * PACKED_VECTOR
        forward = correlation(s.in_channels, ins, outs)
        return {
            "forward": forward + packing * s.in_channels * outs,
            "input_gradient": correlation(s.out_channels, outs, ins) + packing * s.out_channels * ins,
            "weight_gradient": forward + taps * s.in_channels * outs * SUMMED_VECTOR,
        }

    def __init__(self, shape: ConvolutionShape, dtype: np.dtype):
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._forward = _forward_correlation(shape, self.dtype.itemsize)
        self._gradients = _gradient_correlations(shape, self.dtype.itemsize)
        self._nothing = np.empty(0, self.dtype)
        self._plain, self._plain_epilogue = plain(self.dtype), plain_epilogue(self.dtype)
        self.statistics_rows = self._forward.rows
        self.gradient_rows = self._gradients[0].rows if shape.stride == 1 else None
        self._plan_weight_gradient()
        self.scratch = {
            "forward": Scratch(self._forward.panels, self._forward.scratch),
            "input_gradient": Scratch(
                max(phase.panels for phase in self._gradients), max(phase.scratch for phase in self._gradients)
            ),
            "weight_gradient": Scratch(self._slot_size, self._weight_scratch),
        }

    def forward(
        self, x, ldx, w, y, ldy, scratch, prologue=None, accumulate=False, bias=None, statistics=None, rectify=False
    ):
        """y (+)= correlate(prologue(x), w) + b, or max(0, that).

        Parameters
        ----------
        x, y : ndarray of T[::1]
            Pixel matrices [images * height * width, in_channels] and [out_pixels, out_channels], leading dimensions
            `ldx` and `ldy`.
        w : ndarray of T[::1]
            Weights [kernel, kernel, in, out].
        scratch : ndarray of T[::1]
            ``scratch["forward"].size()`` elements.
        prologue : Prologue, optional
            Applied to `x`: nothing, or scale, shift and ReLU.
        accumulate : bool
            Add to `y` instead of overwriting it.
        bias : ndarray of T[out_channels], optional
        statistics : ndarray of T, optional
            [ceil(out_pixels / statistics_rows)][mean, M2][out_channels], written.
        rectify : bool
            Take max(0, y).
        """
        bias = self._nothing if bias is None else bias
        sums = self._nothing if statistics is None else statistics
        fused = *(prologue or self._plain), self._nothing, 0
        self._correlate(self._forward, False, x, ldx, w, y, ldy, scratch, fused, accumulate, bias, rectify, sums)

    def input_gradient(self, dy, lddy, w, dx, lddx, scratch, epilogue=None, accumulate=False):
        """dx (+)= epilogue(the adjoint of `forward` in x, applied to dy).

        `epilogue` is an `Epilogue` or None; none is taken where `gradient_rows` is None.
        """
        assert epilogue is None or self.gradient_rows is not None
        *fused, sums = epilogue or self._plain_epilogue
        for phase in self._gradients:
            if accumulate and phase.depth == 0:  # pixels that no tap reads
                continue
            self._correlate(phase, True, dy, lddy, w, dx, lddx, scratch, fused, accumulate, self._nothing, False, sums)

    def weight_gradient(self, x, ldx, dy, lddy, dw, scratch, prologue=None, accumulate=False):
        """dw (+)= the adjoint of `forward` in w, from prologue(x) and dy."""
        on_x = prologue or self._plain
        slot_sums, per_thread = self._split(scratch, self._slot_size)
        correlate_weights(
            self._forward.geometry, x, ldx, *on_x, dy, lddy, dw, accumulate,
            self._row_block, self._column_block, self._slots, slot_sums, per_thread, self._weight_scratch,
        )  # fmt: skip
        if self._slots > 1:
            add_slots(slot_sums, self._slots, dw.size, dw, accumulate)

    def _correlate(
        self, c: _Correlation, transposed, x, ldx, w, y, ldy, scratch, fused, accumulate, bias, rectify, sums
    ):
        panels, per_thread = self._split(scratch, c.panels)
        correlate(
            c.geometry, x, ldx, *fused, w, c.taps, transposed, panels, c.group,
            y, ldy, accumulate, bias, rectify, sums, per_thread, c.scratch,
        )  # fmt: skip

    def _split(self, scratch: np.ndarray, shared: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the part that all threads share and the rest; views take time that the smallest products notice."""
        return (scratch[:shared], scratch[shared:]) if shared else (self._nothing, scratch)

    def _plan_weight_gradient(self) -> None:
        rows, columns = self._forward.depth, self.shape.out_channels
        chunks = block_count(self._forward.positions, self._forward.rows)
        width = panel_columns(self.dtype.itemsize)
        many_pixels = chunks >= WEIGHT_TASKS
        largest_rows, largest_columns = WEIGHT_BLOCK
        if not many_pixels:
            largest_rows = min(largest_rows, max(96, block_count(rows, MINIMUM_TASKS)))
            groups = block_count(MINIMUM_TASKS, block_count(rows, largest_rows))
            largest_columns = min(largest_columns, max(width, columns // groups))
        elif rows * columns * self.dtype.itemsize <= SMALL_WEIGHT_BYTES:
            largest_rows, largest_columns = BLOCK_OF_SMALL_WEIGHT
        # A multiple of 16 rows: a gathered line then belongs to one task.
        self._row_block = min(rows, _balanced(rows, largest_rows, 16))
        self._column_block = _balanced(columns, largest_columns, width)
        blocks = block_count(rows, self._row_block) * block_count(columns, self._column_block)
        self._slots = min(chunks, block_count(WEIGHT_TASKS, blocks)) if many_pixels else 1
        self._slot_size = self._slots * rows * columns if self._slots > 1 else 0
        self._weight_scratch = ROW_BLOCK * (padded_ld(self._row_block) + self._column_block)
