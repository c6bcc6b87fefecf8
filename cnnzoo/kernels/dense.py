"""Convolution of images of few pixels as a dense product over pairs of positions.

An image of Q pixels that gives P outputs is a matrix [Q * in] times [Q * in, P * out], made of the kernel's taps; where
a pixel and an output share no tap, it is zero. Only the pairs that share one are multiplied: 16 of the 36 products of a
3x3 convolution of 2x2 images, the others being padding.

All images of a block are the rows of one product for each pair. The input gradient runs over the same pairs with its
ends and the weights exchanged, the weight gradient adds the pairs of each tap. The error is that of a dot product, as
with `im2col`.
"""

import numpy as np
from numba import get_thread_id, prange

from cnnzoo.kernels.blocks import block_count, padded_ld
from cnnzoo.kernels.compile import kernel, worker
from cnnzoo.kernels.convolution import PLAIN, ConvolutionShape, Scratch, plain
from cnnzoo.kernels.correlation import finish_rows, transform_run
from cnnzoo.kernels.costs import COST_LANES, GATHERED_VECTOR, MULTIPLY_ADD, PACKED_VECTOR, SUMMED_VECTOR, count_vectors
from cnnzoo.kernels.gemm import multiply_block, pack_rows, pack_taps, pack_tasks, packed_size
from cnnzoo.kernels.vectors import copy_run, panel_columns, panel_width

LARGEST_IMAGE = 4  # pixels, of the input and of the output
BLOCK_IMAGES = 64
CHANNEL_BLOCK = 64  # a weight gradient's task owns so many input and output channels, of every tap
MINIMUM_TASKS = 32  # work is cut into so many tasks where the shape allows, for machines of many cores

# A geometry is one int64 array; these are its fields. Pairs follow: target position, source position and tap of each,
# in the order of target positions.
IMAGES, SOURCE_PIXELS, DEPTH, TARGET_PIXELS, COLUMNS, TAPS, PAIRS = range(7)
FIELDS = 7


@worker
def _gather_images(pixels, first, count, x, ldx, channel, channels, kind, coefficients, all_channels, out, out_at, ld):
    """Write channels of each pixel of images first .. first + count, an image in a row, rows `ld` apart."""
    for n in range(count):
        for q in range(pixels):
            at = ((first + n) * pixels + q) * ldx + channel
            to = out_at + n * ld + q * channels
            if kind == PLAIN:
                copy_run(x, at, out, to, channels)
            else:
                transform_run(x, at, coefficients, all_channels, channel, channels, out, to)


@worker
def _correlate_images(
    g, block, column, columns, x, ldx, kind, coefficients, panels, y, ldy, accumulate, bias, rectify, statistics,
    scratch, at,
):  # fmt: skip
    depth, taps, targets = g[DEPTH], g[TAPS], g[TARGET_PIXELS]
    first = block * BLOCK_IMAGES
    count = min(BLOCK_IMAGES, g[IMAGES] - first)
    width = panel_width(x)
    ld = padded_ld(g[SOURCE_PIXELS] * depth)
    _gather_images(g[SOURCE_PIXELS], first, count, x, ldx, 0, depth, kind, coefficients, depth, scratch, at, ld)
    previous = -1
    for pair in range(g[PAIRS]):
        p, q, tap = g[FIELDS + 3 * pair], g[FIELDS + 3 * pair + 1], g[FIELDS + 3 * pair + 2]
        panels_at = column * taps * depth + tap * depth * width
        multiply_block(
            count, columns, depth, scratch, at + q * depth, ld, 1, panels, panels_at, taps * depth * width,
            y, (first * targets + p) * ldy + column, targets * ldy, accumulate or p == previous,
        )  # fmt: skip
        previous = p
    rows = count * targets
    finish_rows(y, ldy, first * targets, rows, column, columns, bias, rectify, statistics, block, g[COLUMNS])


@kernel(
    "void(i8[::1], T[::1], i8, i8, T[::1], T[::1], i8[::1], bool_, T[::1], i8, T[::1], i8, bool_, T[::1], bool_, "
    "T[::1], T[::1], i8)",
    parallel=True,
)
def correlate_positions(
    g, x, ldx, kind, coefficients, w, tap_places, transposed, panels, group, y, ldy, accumulate, bias, rectify,
    statistics, scratch, scratch_stride,
):  # fmt: skip
    """y (+)= bias + the sum over the pairs of geometry `g` of prologue(x) times their tap; max(0, that) if `rectify`.

    Every target has a pair. Tap t of the weights begins at ``w[tap_places[t]]``: [DEPTH, COLUMNS], or [COLUMNS, DEPTH]
    if `transposed`; all are packed into `panels` first. Tasks are blocks of images by `group` columns, a multiple of
    the panel width. `bias` and `statistics` may be empty; the latter are [blocks][mean, M2][COLUMNS].
    """
    blocks, groups = block_count(g[IMAGES], BLOCK_IMAGES), block_count(g[COLUMNS], group)
    for item in prange(pack_tasks(g[TAPS], g[DEPTH], g[COLUMNS])):
        pack_taps(np.int64(item), w, tap_places, g[DEPTH], g[COLUMNS], transposed, panels)
    for task in prange(blocks * groups):
        block, column = np.int64(task) % blocks, np.int64(task) // blocks * group
        _correlate_images(
            g, block, column, min(group, g[COLUMNS] - column), x, ldx, kind, coefficients, panels,
            y, ldy, accumulate, bias, rectify, statistics, scratch, np.int64(get_thread_id()) * scratch_stride,
        )  # fmt: skip


@worker
def _weight_gradient_block(
    g, channel, channels, column, columns, x, ldx, kind, coefficients, dy, lddy, dw, accumulate, scratch, x_at
):
    sources, targets, depth, all_columns = g[SOURCE_PIXELS], g[TARGET_PIXELS], g[DEPTH], g[COLUMNS]
    width = panel_width(x)
    ld = padded_ld(sources * CHANNEL_BLOCK)
    panel = BLOCK_IMAGES * width
    target = block_count(CHANNEL_BLOCK, width) * panel
    dy_at = x_at + BLOCK_IMAGES * ld
    for first in range(0, g[IMAGES], BLOCK_IMAGES):
        count = min(BLOCK_IMAGES, g[IMAGES] - first)
        _gather_images(sources, first, count, x, ldx, channel, channels, kind, coefficients, depth, scratch, x_at, ld)
        for p in range(targets):
            at = (first * targets + p) * lddy + column
            pack_rows(count, columns, dy, at, targets * lddy, scratch, dy_at + p * target, panel)
        for tap in range(g[TAPS]):
            add = accumulate or first > 0
            out_at = (tap * depth + channel) * all_columns + column
            for pair in range(g[PAIRS]):
                if g[FIELDS + 3 * pair + 2] == tap:
                    p, q = g[FIELDS + 3 * pair], g[FIELDS + 3 * pair + 1]
                    multiply_block(
                        channels, columns, count, scratch, x_at + q * channels, 1, ld,
                        scratch, dy_at + p * target, panel, dw, out_at, all_columns, add,
                    )  # fmt: skip
                    add = True
            if not add:  # no pixel meets this tap
                for c in range(channels):
                    row = dw[out_at + c * all_columns : out_at + c * all_columns + columns]
                    for k in range(columns):
                        row[k] = 0


@kernel("void(i8[::1], T[::1], i8, i8, T[::1], T[::1], i8, T[::1], bool_, T[::1], i8)", parallel=True)
def correlate_position_weights(g, x, ldx, kind, coefficients, dy, lddy, dw, accumulate, scratch, scratch_stride):
    """dw[taps, in, out] (+)= the sum over the pairs of each tap of prologue(x)' dy.

    Tasks are CHANNEL_BLOCK x CHANNEL_BLOCK channels of every tap.
    """
    row_blocks, column_blocks = block_count(g[DEPTH], CHANNEL_BLOCK), block_count(g[COLUMNS], CHANNEL_BLOCK)
    for item in prange(row_blocks * column_blocks):
        channel = np.int64(item) // column_blocks * CHANNEL_BLOCK
        column = np.int64(item) % column_blocks * CHANNEL_BLOCK
        _weight_gradient_block(
            g, channel, min(CHANNEL_BLOCK, g[DEPTH] - channel), column, min(CHANNEL_BLOCK, g[COLUMNS] - column),
            x, ldx, kind, coefficients, dy, lddy, dw, accumulate,
            scratch, np.int64(get_thread_id()) * scratch_stride,
        )  # fmt: skip


def list_pairs(s: ConvolutionShape) -> list[tuple[int, int, int]]:
    """Return output position, input position and tap of each product, ordered by output, input."""
    pairs = []
    for i in range(s.out_height):
        for j in range(s.out_width):
            for r in range(s.kernel):
                for q in range(s.kernel):
                    h, w = i * s.stride + r - s.padding, j * s.stride + q - s.padding
                    if 0 <= h < s.height and 0 <= w < s.width:
                        pairs.append((i * s.out_width + j, h * s.width + w, r * s.kernel + q))
    return pairs


class Dense:
    """The three passes of one convolution, planned once; see `cnnzoo.kernels.convolution` for the contract.

    Parameters and attributes are those of `cnnzoo.kernels.im2col.Im2col`, whose passes document their arguments.
    """

    name = "dense"
    gradient_rows = None

    @staticmethod
    def refusal(shape: ConvolutionShape) -> str | None:
        """Return why this algorithm cannot take `shape`, or None."""
        if shape.groups > 1:
            return "takes no groups"
        if max(shape.height * shape.width, shape.out_height * shape.out_width) > LARGEST_IMAGE:
            return f"takes images of up to {LARGEST_IMAGE} pixels"
        pairs = list_pairs(shape)
        if len({p for p, _, _ in pairs}) < shape.out_height * shape.out_width:
            return "takes no outputs of padding alone"
        if len({q for _, q, _ in pairs}) < shape.height * shape.width:
            return "takes no pixels that reach no output"
        return None

    @staticmethod
    def multiply_adds(shape: ConvolutionShape) -> dict[str, int]:
        """Return the multiply-adds of each pass: those of the direct method, without padding."""
        count = shape.images * len(list_pairs(shape)) * shape.in_channels * shape.out_channels
        return dict.fromkeys(("forward", "input_gradient", "weight_gradient"), count)

    @staticmethod
    def costs(shape: ConvolutionShape) -> dict[str, float]:
        """Return the estimated cost of each pass; see `cnnzoo.kernels.costs`."""
        s, pairs = shape, len(list_pairs(shape))
        ins, outs = count_vectors(s.in_channels), count_vectors(s.out_channels)

        def correlation(pixels, depth, depth_vectors, columns):
            products = s.images * pairs * depth * columns * COST_LANES
            return products * MULTIPLY_ADD + s.images * pixels * depth_vectors * GATHERED_VECTOR

        packing = s.kernel**2 * PACKED_VECTOR
        forward = correlation(s.height * s.width, s.in_channels, ins, outs)
        return {
            "forward": forward + packing * s.in_channels * outs,
            "input_gradient": correlation(s.out_height * s.out_width, s.out_channels, outs, ins)
            + packing * s.out_channels * ins,
            "weight_gradient": forward + pairs * s.in_channels * outs * SUMMED_VECTOR,
        }

    def __init__(self, shape: ConvolutionShape, dtype: np.dtype):
        self.shape = s = shape
        self.dtype = np.dtype(dtype)
        self._nothing = np.empty(0, self.dtype)
        self._plain = plain(self.dtype)
        sources, targets, taps = s.height * s.width, s.out_height * s.out_width, s.kernel**2
        self._places = np.arange(taps, dtype=np.int64) * s.in_channels * s.out_channels
        pairs = list_pairs(s)
        self._forward = np.array(
            [s.images, sources, s.in_channels, targets, s.out_channels, taps, len(pairs), *sum(pairs, ())], np.int64
        )
        reversed_pairs = sorted((q, p, tap) for p, q, tap in pairs)
        self._gradient = np.array(
            [s.images, targets, s.out_channels, sources, s.in_channels, taps, len(pairs), *sum(reversed_pairs, ())],
            np.int64,
        )
        self.statistics_rows = BLOCK_IMAGES * targets
        width = panel_columns(self.dtype.itemsize)
        block = padded_ld(sources * CHANNEL_BLOCK) + targets * block_count(CHANNEL_BLOCK, width) * width
        self.scratch = {
            "forward": Scratch(
                packed_size(taps * s.in_channels, s.out_channels, self.dtype.itemsize),
                BLOCK_IMAGES * padded_ld(sources * s.in_channels),
            ),
            "input_gradient": Scratch(
                packed_size(taps * s.out_channels, s.in_channels, self.dtype.itemsize),
                BLOCK_IMAGES * padded_ld(targets * s.out_channels),
            ),
            "weight_gradient": Scratch(0, BLOCK_IMAGES * block),
        }

    def forward(
        self, x, ldx, w, y, ldy, scratch, prologue=None, accumulate=False, bias=None, statistics=None, rectify=False
    ):
        """y (+)= correlate(prologue(x), w) + b, or max(0, that) if `rectify`."""
        bias = self._nothing if bias is None else bias
        statistics = self._nothing if statistics is None else statistics
        on_x = prologue or self._plain
        self._correlate(
            "forward", self._forward, x, ldx, on_x, w, y, ldy, accumulate, bias, rectify, statistics, scratch
        )

    def input_gradient(self, dy, lddy, w, dx, lddx, scratch, epilogue=None, accumulate=False):
        """dx (+)= the adjoint of `forward` in x, applied to dy; it takes no epilogue."""
        assert epilogue is None
        nothing, name = self._nothing, "input_gradient"
        operands = dy, lddy, self._plain, w, dx, lddx
        self._correlate(name, self._gradient, *operands, accumulate, nothing, False, nothing, scratch)

    def weight_gradient(self, x, ldx, dy, lddy, dw, scratch, prologue=None, accumulate=False):
        """dw (+)= the adjoint of `forward` in w, from prologue(x) and dy."""
        on_x = prologue or self._plain
        correlate_position_weights(
            self._forward, x, ldx, on_x.kind, on_x.coefficients, dy, lddy, dw, accumulate,
            scratch, self.scratch["weight_gradient"].each,
        )  # fmt: skip

    def _correlate(self, name, geometry, x, ldx, on_x, w, y, ldy, accumulate, bias, rectify, statistics, scratch):
        panels, per_thread = np.split(scratch, [self.scratch[name].shared])
        width = panel_columns(self.dtype.itemsize)
        column_panels = block_count(int(geometry[COLUMNS]), width)
        groups = min(column_panels, block_count(MINIMUM_TASKS, block_count(self.shape.images, BLOCK_IMAGES)))
        correlate_positions(
            geometry, x, ldx, on_x.kind, on_x.coefficients, w, self._places, name == "input_gradient", panels,
            block_count(column_panels, groups) * width, y, ldy, accumulate, bias, rectify, statistics,
            per_thread, self.scratch[name].each,
        )  # fmt: skip
