"""Winograd's minimal filtering: a quarter of the multiplications of a 3x3 convolution, nine sixteenths at stride 2.

A 5x5 convolution takes 36 of 100, and a 3x3 one of images of 2x2 pixels 9 of the 16 that no padding meets.

The output is cut into tiles of m x m pixels. A tile depends on n x n inputs d, n = m + r - 1 for an r x r kernel g, and
with the matrices of F(m, r), which `toom_cook` derives, it is (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016)::

    Y = A' [(G g G') * (B' d B)] A

Summed over input channels, each of the n x n elementwise products is a product of matrices: [tiles, in] of transformed
inputs times [in, out] of transformed weights. A block of tiles is transformed, multiplied and transformed back while it
lies in cache; where tiles are few and weights many, a product of all tiles at a time comes from memory.

Both F(4x4, 3x3) and F(2x2, 5x5) have n = 6 and the same points, and so the same B. At stride 2 the kernel falls apart
into 2x2, 2x1, 1x2 and 1x1 kernels on the four phases of the image, and F(4, 2) serves those of two taps: 9
multiplications in each direction, for windows of 9 inputs (`toom_cook.derive_strided`), four of which take the same
weights: 36 transformed ones serve 81 products. An image of 2x2 pixels is a tile by itself, whose window is without its
padding (`toom_cook.derive_pair`).

The input gradient is the same correlation of dy with the kernel rotated by half a turn and its channels exchanged, at
padding r - 1 - padding; at stride 2 it is no correlation, and has matrices of its own. The weight gradient is the
adjoint of the formula above in g, summed over tiles::

    dg = G' [sum (B' d B) * (A dY A')] G

The largest error in float32 is about 1e-5 of the largest output on random data, and below 1e-4 at 512 channels: that of
a dot product, times what the transforms amplify (A' and B' hold coefficients up to 8 and 5).
"""

import numpy as np

from cnnzoo.kernels.blocks import block_count
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
from cnnzoo.kernels.forms import BY_KERNEL_AND_STRIDE, FORMS, forms_of
from cnnzoo.kernels.vectors import VECTOR_BYTES
from cnnzoo.kernels.winograd_pairs import multiply_pairs, transform_pairs, transform_sums
from cnnzoo.kernels.winograd_panels import correlate_panels
from cnnzoo.kernels.winograd_passes import correlate_tiles, transform_inputs, transform_weights
from cnnzoo.kernels.winograd_planning import LARGEST_OWN, Correlation, WeightGradient, channel_blocks
from cnnzoo.kernels.winograd_products import finish_products, multiply_products
from cnnzoo.kernels.winograd_weights import correlate_tile_weights


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
        if (shape.kernel, shape.stride) not in BY_KERNEL_AND_STRIDE or shape.padding >= shape.kernel:
            return "takes 3x3 and 5x5 kernels at stride 1 and 3x3 ones at stride 2, with less padding than that"
        if shape.stride == 2 and shape.padding != 1:
            return "takes a padding of 1 at stride 2"
        return None

    @staticmethod
    def multiply_adds(shape: ConvolutionShape) -> dict[str, int]:
        """Return the multiply-adds of each pass's products; the transforms come on top."""
        s, (forward, gradient) = shape, (FORMS[index] for index in forms_of(shape)[:2])

        def count(form, height, width):
            tiles = s.images * block_count(height, form.tile) * block_count(width, form.tile)
            return form.products * tiles * s.in_channels * s.out_channels

        outputs = count(forward, s.out_height, s.out_width)
        return {
            "forward": outputs,
            "input_gradient": count(gradient, s.height, s.width),
            "weight_gradient": outputs,
        }

    @staticmethod
    def costs(shape: ConvolutionShape) -> dict[str, float]:
        """Return the estimated cost of each pass; see `cnnzoo.kernels.costs`."""
        s, forms = shape, [FORMS[index] for index in forms_of(shape)[:2]]
        ins, outs = count_vectors(s.in_channels), count_vectors(s.out_channels)

        def correlation(form, extents, depth, depth_vectors, columns, weight_vector):
            tiles = s.images * block_count(extents[0], form.tile) * block_count(extents[1], form.tile)
            products = tiles * depth * columns * COST_LANES * MULTIPLY_ADD
            transforms = tiles * (depth_vectors + columns) * TRANSFORMED_VECTOR
            weights = depth * columns * weight_vector
            return form.products * (products + transforms) + form.distinct_weights * weights

        forward = forms[0], (s.out_height, s.out_width), s.in_channels, ins, outs
        input_gradient = forms[1], (s.height, s.width), s.out_channels, outs, ins
        panel = 2 * COST_LANES
        # A few blocks of channels transform the tiles of each again for each of the others.
        tiles = s.images * block_count(s.out_height, forms[0].tile) * block_count(s.out_width, forms[0].tile)
        rows, panels = channel_blocks(s, panel)
        in_blocks, out_blocks = block_count(s.in_channels, rows), block_count(s.out_channels, panels * panel)
        is_shared = in_blocks * out_blocks > LARGEST_OWN
        again = 0 if is_shared else tiles * (ins * (out_blocks - 1) + outs * (in_blocks - 1))
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
        forward, gradient, padding, gradient_padding = forms_of(s)
        self._forward = Correlation.plan(
            forward, s.kernel, s.images, source, s.in_channels, target, s.out_channels, padding, False, itemsize
        )
        self._gradient = Correlation.plan(
            gradient, s.kernel, s.images, target, s.out_channels, source, s.in_channels, gradient_padding, True,
            itemsize,
        )  # fmt: skip
        self.statistics_rows = self._forward.rows_per_block
        self.gradient_rows = self._gradient.rows_per_block
        self._weights = WeightGradient.plan(s, self._forward.geometry, itemsize)
        alignment = VECTOR_BYTES // itemsize
        self.scratch = {
            "forward": Scratch(alignment + self._forward.shared, self._forward.scratch),
            "input_gradient": Scratch(alignment + self._gradient.shared, self._gradient.scratch),
            "weight_gradient": Scratch(alignment + self._weights.shared, self._weights.scratch),
        }

    def forward(
        self, x, ldx, w, y, ldy, scratch, prologue=None, accumulate=False, bias=None, statistics=None, rectify=False
    ):
        """y (+)= correlate(prologue(x), w) + b, or max(0, that); no `statistics` where `statistics_rows` is None."""
        bias = self._nothing if bias is None else bias
        assert statistics is None or self.statistics_rows is not None
        sums = self._nothing if statistics is None else statistics
        fused = *(prologue or self._plain), self._nothing, 0
        self._correlate(self._forward, x, ldx, w, y, ldy, scratch, fused, accumulate, bias, rectify, sums)

    def input_gradient(self, dy, lddy, w, dx, lddx, scratch, epilogue=None, accumulate=False):
        """dx (+)= epilogue(the adjoint of `forward` in x, applied to dy); none where `gradient_rows` is None."""
        assert epilogue is None or self.gradient_rows is not None
        *fused, sums = epilogue or self._plain_epilogue
        self._correlate(self._gradient, dy, lddy, w, dx, lddx, scratch, fused, accumulate, self._nothing, False, sums)

    def weight_gradient(self, x, ldx, dy, lddy, dw, scratch, prologue=None, accumulate=False):
        """dw (+)= the adjoint of `forward` in w, from prologue(x) and dy."""
        c, on_x = self._weights, prologue or self._plain
        operands = x, ldx, on_x.kind, on_x.coefficients, dy, lddy
        if not c.is_shared:
            sums, per_thread = _split(scratch, c.sums)
            adds = accumulate and c.slots == 1
            correlate_tile_weights(
                c.geometry, *operands, dw, adds, c.row_block, c.column_block, c.slots, sums, per_thread, c.scratch
            )
            if c.slots > 1:
                add_slots(sums, c.slots, dw.size, dw, accumulate)
            return
        v, d, sums, _ = _split(scratch, c.inputs, c.gradients, c.sums)
        for first, tiles in c.slices:
            transform_pairs(c.geometry, first, tiles, *operands, v, d)
            for column in range(0, self.shape.out_channels, c.slab):
                columns = min(c.slab, self.shape.out_channels - column)
                multiply_pairs(c.geometry, tiles, v, d, column, columns, c.group, sums, first > 0)
                if first + tiles == c.tiles:
                    transform_sums(c.geometry, sums, column, columns, dw, accumulate)

    def _correlate(self, c, x, ldx, w, y, ldy, scratch, fused, accumulate, bias, rectify, sums):
        kind, coefficients, *_ = fused
        u, v, m, per_thread = _split(scratch, c.weights, c.inputs, c.products)
        if v.size > 0:
            transform_inputs(c.geometry, x, ldx, kind, coefficients, c.together, v)
        written = y, ldy, accumulate, bias, rectify, sums, c.rows_per_block or 0
        if u.size == 0:
            correlate_panels(c.geometry, w, c.transposed, *fused, v, *written, per_thread, c.scratch)
            return
        for first in range(0, c.columns, c.slab):
            columns = min(c.slab, c.columns - first)
            transform_weights(c.geometry, w, c.transposed, first, columns, u, per_thread, c.scratch)
            if m.size > 0:
                multiply_products(c.geometry, v, u, columns, c.group, m)
                finish_products(c.geometry, m, first, columns, *fused, *written, per_thread, c.scratch)
            else:
                correlate_tiles(
                    c.geometry, x, ldx, *fused, v, u, first, columns, c.group, *written, per_thread, c.scratch
                )


def _split(scratch, *sizes):
    """Return parts of `scratch` of these sizes, the first aligned to vectors, and what is left."""
    start = -scratch.ctypes.data % VECTOR_BYTES // scratch.itemsize
    return np.split(scratch[start:], np.cumsum(sizes))
