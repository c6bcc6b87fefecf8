"""Winograd's minimal filtering: a quarter of the multiplications of a 3x3 convolution, nine sixteenths at stride 2.

A 5x5 convolution takes 36 of 100.

The output is cut into tiles of m x m pixels. A tile depends on n x n inputs d, n = m + r - 1 for an r x r kernel g, and
with the matrices of F(m, r), which `toom_cook` derives, it is (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016)::

    Y = A' [(G g G') * (B' d B)] A

Summed over input channels, each of the n x n elementwise products is a product of matrices: [tiles, in] of transformed
inputs times [in, out] of transformed weights. A block of tiles is transformed, multiplied and transformed back while it
lies in cache. Both F(4x4, 3x3) and F(2x2, 5x5) have n = 6 and the same points, and so the same B. At stride 2 the
kernel falls apart into 2x2, 2x1, 1x2 and 1x1 kernels on the four phases of the image, and F(4, 2) serves those of two
taps: 9 multiplications in each direction, for windows of 9 inputs (`toom_cook.derive_strided`).

The input gradient is the same correlation of dy with the kernel rotated by half a turn and its channels exchanged, at
padding r - 1 - padding; at stride 2 it is no correlation, and has matrices of its own. The weight gradient is the
adjoint of the formula above in g, summed over tiles::

    dg = G' [sum (B' d B) * (A dY A')] G

The largest error in float32 is about 1e-5 of the largest output on random data, and below 1e-4 at 512 channels: that of
a dot product, times what the transforms amplify (A' and B' hold coefficients up to 8 and 5).
"""

from dataclasses import dataclass

import numpy as np

from cnnzoo.kernels import winograd_passes
from cnnzoo.kernels.blocks import block_count, padded_ld
from cnnzoo.kernels.convolution import ConvolutionShape, Scratch, plain, plain_epilogue
from cnnzoo.kernels.correlation import add_slots
from cnnzoo.kernels.costs import (
    COST_LANES,
    MULTIPLY_ADD,
    TRANSFORMED_SUM_VECTOR,
    TRANSFORMED_VECTOR,
    TRANSFORMED_WEIGHT_VECTOR,
    count_vectors,
)
from cnnzoo.kernels.forms import FORMS, STRIDE_1_KERNEL_3, STRIDE_1_KERNEL_5, STRIDE_2, STRIDE_2_GRADIENT
from cnnzoo.kernels.vectors import VECTOR_BYTES, panel_columns
from cnnzoo.kernels.winograd_passes import (
    PAD,
    WEIGHT_DEPTH,
    correlate_tile_weights,
    correlate_tiles,
    transform_inputs,
    transform_weights,
)

MINIMUM_TASKS = 32  # work is cut into so many tasks where the shape allows, for machines of many cores
BLOCK_TILES = 16  # tiles of a block, about: with 256 channels their transforms take six tenths of a 1 MiB cache
LARGEST_BLOCK = 96  # tiles of a block that holds whole rows of tiles, so that it is a run of output pixels
LARGEST_REPETITION = 2  # inputs that more tasks need than this are transformed once for all of them
GRADIENT_BLOCK = 1152  # grid elements of a block of the weight gradient, over all its tiles: 32 of 6x6
CHANNEL_BLOCK = 64  # a weight gradient's task owns so many input and output channels: sums of 590 KB in float32
SLAB_BYTES = 10 * 1024 * 1024  # transformed weights are made and used in slabs of this size, which a large cache holds

# The forms of forward and of the input gradient, by kernel and stride; the weight gradient has that of forward.
FORMS_OF = {
    (3, 1): (STRIDE_1_KERNEL_3, STRIDE_1_KERNEL_3),
    (5, 1): (STRIDE_1_KERNEL_5, STRIDE_1_KERNEL_5),
    (3, 2): (STRIDE_2, STRIDE_2_GRADIENT),
}


@dataclass(frozen=True)
class _Correlation:
    """One correlation of a source with weights, forward or the input gradient.

    Attributes
    ----------
    geometry : ndarray of int64
        As `cnnzoo.kernels.winograd_passes` reads it.
    transposed : bool
        The weights are taken as the input gradient needs them.
    columns : int
        Channels of the target.
    slab : int
        Columns whose weights are transformed at a time.
    weights : int
        Elements of a slab's transformed weights.
    group : int
        Columns a task takes: all of a slab, unless there are too few blocks of tiles.
    rows_per_block : int or None
        Rows of the target that a block of tiles is; None if they are no run of rows, or not always as many.
    inputs : int
        Elements of all transformed inputs, where they are made once for all tasks; 0 where each task makes its own.
    scratch : int
        Elements that a thread needs.
    """

    geometry: np.ndarray
    transposed: bool
    columns: int
    slab: int
    weights: int
    group: int
    rows_per_block: int | None
    inputs: int
    scratch: int

    @staticmethod
    def plan(form_index, kernel, images, source, depth, target, columns, padding, transposed, itemsize):
        """Return the correlation of `source` with `depth` channels, at `padding`, to `target` with `columns`."""
        form, width = FORMS[form_index], panel_columns(itemsize)
        tile, products = form.tile, form.products
        down, across = (block_count(extent, tile) for extent in target)
        # Whole rows of tiles are runs of pixels; the last of an image may be lower, so then a block is whole images.
        unit = across if target[0] % tile == 0 else down * across
        is_run = unit <= LARGEST_BLOCK
        tiles = max(1, BLOCK_TILES // unit) * unit if is_run else BLOCK_TILES
        panel = products * (depth * width + PAD)
        panels = block_count(columns, width)
        slab = block_count(panels, block_count(panels, max(1, SLAB_BYTES // (panel * itemsize))))
        blocks = block_count(images * down * across, tiles)
        groups = min(slab, block_count(MINIMUM_TASKS, blocks))
        inputs, outputs = products * (tiles * padded_ld(depth) + PAD), products * (tiles * width + PAD)
        is_shared = groups * block_count(panels, slab) > LARGEST_REPETITION
        geometry = [
            kernel, images, *source, depth, *target, columns, padding, down, across, tiles,
            form_index, products, tile, form.step,
        ]  # fmt: skip
        run = tiles * target[0] * target[1] // (down * across) if is_run else 0
        return _Correlation(
            geometry=np.array(geometry, np.int64),
            transposed=transposed,
            columns=columns,
            slab=slab * width,
            weights=slab * panel,
            group=block_count(slab, groups) * width,
            rows_per_block=run or None,
            inputs=blocks * inputs if is_shared else 0,
            scratch=max(outputs + run * width + (0 if is_shared else inputs), kernel**2 * WEIGHT_DEPTH * width),
        )

    @property
    def shared(self) -> int:
        """Elements that all threads share."""
        return self.weights + self.inputs


class Winograd:
    """The three passes of one convolution, planned once; see `cnnzoo.kernels.convolution` for the contract.

    The passes take the arguments that those of `cnnzoo.kernels.im2col.Im2col` document.

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
    statistics_rows : int or None
        Output pixels in a block of the batch-norm partial sums that `forward` collects; None if it cannot.
    gradient_rows : int or None
        Input pixels in a block of the sums that an epilogue of `input_gradient` collects; None if it takes none.
    """

    name = "winograd"

    @staticmethod
    def refusal(shape: ConvolutionShape) -> str | None:
        """Return why this algorithm cannot take `shape`, or None."""
        if shape.groups > 1:
            return "takes no groups"
        if (shape.kernel, shape.stride) not in FORMS_OF or shape.padding >= shape.kernel:
            return "takes 3x3 and 5x5 kernels at stride 1 and 3x3 ones at stride 2, with less padding than that"
        if shape.stride == 2 and shape.padding != 1:
            return "takes a padding of 1 at stride 2"
        return None

    @staticmethod
    def costs(shape: ConvolutionShape) -> dict[str, float]:
        """Return the estimated cost of each pass; see `cnnzoo.kernels.costs`."""
        s, forms = shape, [FORMS[index] for index in FORMS_OF[shape.kernel, shape.stride]]
        ins, outs = count_vectors(s.in_channels), count_vectors(s.out_channels)

        def correlation(form, extents, depth, depth_vectors, columns, weight_vector):
            tiles = s.images * block_count(extents[0], form.tile) * block_count(extents[1], form.tile)
            products = tiles * depth * columns * COST_LANES * MULTIPLY_ADD
            transforms = tiles * (depth_vectors + columns) * TRANSFORMED_VECTOR
            return form.products * (products + transforms + depth * columns * weight_vector)

        forward = forms[0], (s.out_height, s.out_width), s.in_channels, ins, outs
        input_gradient = forms[1], (s.height, s.width), s.out_channels, outs, ins
        # The weight gradient transforms the tiles of each block of channels again for each block of the others.
        tiles = s.images * block_count(s.out_height, forms[0].tile) * block_count(s.out_width, forms[0].tile)
        in_blocks, out_blocks = (block_count(c, CHANNEL_BLOCK) for c in (s.in_channels, s.out_channels))
        again = tiles * (ins * (out_blocks - 1) + outs * (in_blocks - 1))
        return {
            "forward": correlation(*forward, TRANSFORMED_WEIGHT_VECTOR),
            "input_gradient": correlation(*input_gradient, TRANSFORMED_WEIGHT_VECTOR),
            "weight_gradient": correlation(*forward, TRANSFORMED_SUM_VECTOR)
            + again * forms[0].products * TRANSFORMED_VECTOR,
        }

    def __init__(self, shape: ConvolutionShape, dtype: np.dtype):
        self.shape = s = shape
        self.dtype = np.dtype(dtype)
        self._nothing = np.empty(0, self.dtype)
        self._plain, self._plain_epilogue = plain(self.dtype), plain_epilogue(self.dtype)
        itemsize, source, target = self.dtype.itemsize, (s.height, s.width), (s.out_height, s.out_width)
        forward, gradient = FORMS_OF[s.kernel, s.stride]
        self._forward = _Correlation.plan(
            forward, s.kernel, s.images, source, s.in_channels, target, s.out_channels, s.padding, False, itemsize
        )
        padding = s.kernel - 1 - s.padding if s.stride == 1 else 0
        self._gradient = _Correlation.plan(
            gradient, s.kernel, s.images, target, s.out_channels, source, s.in_channels, padding, True, itemsize
        )
        self.statistics_rows = self._forward.rows_per_block
        self.gradient_rows = self._gradient.rows_per_block
        self._plan_weight_gradient()
        alignment = VECTOR_BYTES // itemsize
        self.scratch = {
            "forward": Scratch(alignment + self._forward.shared, self._forward.scratch),
            "input_gradient": Scratch(alignment + self._gradient.shared, self._gradient.scratch),
            "weight_gradient": Scratch(self._slot_size, self._weight_scratch),
        }

    def forward(self, x, ldx, w, y, ldy, scratch, prologue=None, accumulate=False, bias=None, statistics=None):
        """y (+)= correlate(prologue(x), w) + b; no `statistics` where `statistics_rows` is None."""
        bias = self._nothing if bias is None else bias
        assert statistics is None or self.statistics_rows is not None
        sums = self._nothing if statistics is None else statistics
        fused = *(prologue or self._plain), self._nothing, 0
        self._correlate(self._forward, x, ldx, w, y, ldy, scratch, fused, accumulate, bias, sums)

    def input_gradient(self, dy, lddy, w, dx, lddx, scratch, epilogue=None, accumulate=False):
        """dx (+)= epilogue(the adjoint of `forward` in x, applied to dy); none where `gradient_rows` is None."""
        assert epilogue is None or self.gradient_rows is not None
        *fused, sums = epilogue or self._plain_epilogue
        self._correlate(self._gradient, dy, lddy, w, dx, lddx, scratch, fused, accumulate, self._nothing, sums)

    def weight_gradient(self, x, ldx, dy, lddy, dw, scratch, prologue=None, accumulate=False):
        """dw (+)= the adjoint of `forward` in w, from prologue(x) and dy."""
        on_x = prologue or self._plain
        slot_sums, per_thread = scratch[: self._slot_size], scratch[self._slot_size :]
        correlate_tile_weights(
            self._weight_geometry, x, ldx, on_x.kind, on_x.coefficients, dy, lddy, dw, accumulate,
            self._row_block, self._column_block, self._slots, slot_sums, per_thread, self._weight_scratch,
        )  # fmt: skip
        if self._slots > 1:
            add_slots(slot_sums, self._slots, dw.size, dw, accumulate)

    def _correlate(self, c, x, ldx, w, y, ldy, scratch, fused, accumulate, bias, sums):
        kind, coefficients, z, ldz = fused
        start = -scratch.ctypes.data % VECTOR_BYTES // scratch.itemsize
        u, v, per_thread = np.split(scratch[start:], [c.weights, c.shared])
        if v.size > 0:
            transform_inputs(c.geometry, x, ldx, kind, coefficients, v)
        for first in range(0, c.columns, c.slab):
            columns = min(c.slab, c.columns - first)
            transform_weights(c.geometry, w, c.transposed, first, columns, u, per_thread, c.scratch)
            correlate_tiles(
                c.geometry, x, ldx, kind, coefficients, z, ldz, v, u, first, columns, c.group, y, ldy, accumulate,
                bias, sums, c.rows_per_block or 0, per_thread, c.scratch,
            )  # fmt: skip

    def _plan_weight_gradient(self) -> None:
        s, width = self.shape, panel_columns(self.dtype.itemsize)
        products = FORMS[FORMS_OF[s.kernel, s.stride][0]].products
        self._weight_geometry = self._forward.geometry.copy()
        all_tiles = int(winograd_passes.all_tiles.py_func(self._weight_geometry))
        tiles = self._weight_geometry[winograd_passes.BLOCK] = min(GRADIENT_BLOCK // products, all_tiles)
        self._row_block = min(CHANNEL_BLOCK, s.in_channels)
        panels = block_count(min(CHANNEL_BLOCK, s.out_channels), width)
        self._column_block = panels * width
        tasks = block_count(s.in_channels, self._row_block) * block_count(s.out_channels, self._column_block)
        self._slots = min(block_count(all_tiles, tiles), block_count(MINIMUM_TASKS, tasks))
        weights = s.kernel**2 * s.in_channels * s.out_channels
        self._slot_size = self._slots * weights if self._slots > 1 else 0
        inputs, outputs = tiles * padded_ld(self._row_block) + PAD, panels * (tiles * width + PAD)
        self._weight_scratch = products * (inputs + outputs + self._row_block * self._column_block + PAD)
