"""How Winograd's passes are cut into tasks and blocks, by the shape alone; see `winograd`."""

from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np

from cnnzoo.kernels.blocks import block_count, padded_ld
from cnnzoo.kernels.convolution import ConvolutionShape
from cnnzoo.kernels.forms import FORMS
from cnnzoo.kernels.gemm import SMALL_ROWS
from cnnzoo.kernels.vectors import panel_columns
from cnnzoo.kernels.winograd_pairs import CHUNK_TILES, INPUT_PANEL, panels_elements
from cnnzoo.kernels.winograd_panels import part_rows
from cnnzoo.kernels.winograd_passes import BLOCK, DISTINCT_WEIGHTS, PRODUCTS, WEIGHT_DEPTH, all_tiles, matrix_elements

MINIMUM_TASKS = 32  # work is cut into so many tasks where the shape allows, for machines of many cores
BLOCK_TILES = 12  # tiles of a block, or a multiple: the rows of AVX-512's register tile, and twice AVX2's
LARGEST_WHOLE = 28  # tiles of a block of whole rows of tiles, at most, unless a row has more
LARGEST_BLOCK = 96  # tiles of a block that holds whole rows of tiles, so that it is a run of output pixels
LARGEST_REPETITION = 2  # inputs that more tasks need than this are transformed once for all of them
FEWEST_TILES = 64  # so many tiles at most do not pay for weights that are transformed once for all tasks,
FEWEST_PANELS = 16  # if so many panels make enough tasks;
FEW_TILES = 160  # and so many are multiplied a whole product at a time
MANY_WEIGHTS_BYTES = 2 * 1024 * 1024  # where transformed weights are at least so many,
PRODUCTS_BYTES = 10 * 1024 * 1024  # in slabs of that size
GRADIENT_TILES = 16  # tiles of a block of the weight gradient: what 81 products take of it and their sums are 1.3 MB
CHANNEL_BLOCK = 64  # a weight gradient's task owns the square of it of channel pairs: 590 KB of sums of 36 products
LARGEST_COLUMNS = 256  # output channels among them, at most
LARGEST_OWN = 3  # more blocks of a weight gradient's channels than this share what is transformed, once for all
PAIRS_BYTES = 12 * 1024 * 1024  # what is shared then, about; it is made and used in slices of the tiles,
SUMS_BYTES = 10 * 1024 * 1024  # or all at once for slabs of columns whose sums take this, if that is less memory
SLAB_BYTES = 10 * 1024 * 1024  # transformed weights are made and used in slabs of this size, which a large cache holds


@dataclass(frozen=True)
class Correlation:
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
        Columns whose weights are transformed at a time, where they are transformed once for all tasks.
    weights : int
        Elements of a slab's transformed weights; 0 where each task transforms those of its panel itself.
    group : int
        Columns a task takes there: all of a slab, unless there are too few tasks.
    rows_per_block : int or None
        Rows of the target that a block of tiles is; None if they are no run of rows, or not always as many.
    together : int
        Tiles whose transformed inputs lie together: those of a block, or all.
    inputs : int
        Elements of all transformed inputs, where they are made once for all tasks; 0 where each task makes its own.
    products : int
        Elements of a slab's products, where each is one of whole matrices; 0 where blocks of tiles have all of theirs.
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
    together: int
    inputs: int
    products: int
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
        panels, all_ = block_count(columns, width), images * down * across
        panel = form.distinct_weights * matrix_elements(depth, width)
        is_few = is_run and all_ <= FEW_TILES and panels * panel * itemsize >= MANY_WEIGHTS_BYTES
        by_panels = is_few and all_ <= FEWEST_TILES and panels >= FEWEST_PANELS
        by_products = is_few and not by_panels
        tiles = _block_of_whole(unit) if is_run else BLOCK_TILES
        together = all_ if is_few else tiles
        largest = PRODUCTS_BYTES if by_products else SLAB_BYTES
        slab = block_count(panels, block_count(panels, max(1, largest // (panel * itemsize))))
        blocks = block_count(all_, tiles)
        groups = min(slab, block_count(MINIMUM_TASKS, form.distinct_weights if by_products else blocks))
        inputs = products * matrix_elements(together, padded_ld(depth))
        outputs = products * matrix_elements(together, width)
        is_shared = is_few or groups * block_count(panels, slab) > LARGEST_REPETITION
        geometry = [
            kernel, images, *source, depth, *target, columns, padding, down, across, tiles,
            form_index, products, form.distinct_weights, tile, form.step, *chain.from_iterable(form.order),
        ]  # fmt: skip
        run = (all_ if by_panels else tiles) * target[0] * target[1] // (down * across) if is_run else 0
        staging = kernel**2 * WEIGHT_DEPTH * width
        behind = run * width + (0 if is_shared else inputs)
        if by_panels:
            behind = max(
                run * width,
                form.distinct_weights * matrix_elements(part_rows(depth), width) + kernel**2 * part_rows(depth) * width,
            )
        return Correlation(
            geometry=np.array(geometry, np.int64),
            transposed=transposed,
            columns=columns,
            slab=slab * width,
            weights=0 if by_panels else slab * panel,
            group=block_count(slab, groups) * width,
            rows_per_block=run or None,
            together=together,
            inputs=block_count(all_, together) * inputs if is_shared else 0,
            products=slab * outputs if by_products else 0,
            scratch=max(behind + (0 if by_products else outputs), staging),
        )

    @property
    def shared(self) -> int:
        """Elements that all threads share."""
        return self.weights + self.inputs + self.products


def _block_of_whole(unit: int) -> int:
    """Return the tiles of a block, a multiple of `unit`, that leave fewest of them to register tiles of fewer rows."""

    def register_tiles(tiles):
        return tiles // BLOCK_TILES + tiles % BLOCK_TILES // SMALL_ROWS + tiles % SMALL_ROWS

    sizes = range(unit, max(unit, LARGEST_WHOLE) + 1, unit)
    return min(sizes, key=lambda tiles: register_tiles(tiles) / tiles)


def channel_blocks(s: ConvolutionShape, width: int) -> tuple[int, int]:
    """Return input channels and panels of output channels that a task of the weight gradient owns.

    Where the convolution has few of the one, the task takes more of the other: it transforms fewer tiles again.
    """
    panels = block_count(s.out_channels, width)
    rows = min(CHANNEL_BLOCK**2 // min(CHANNEL_BLOCK, panels * width) // 16 * 16, s.in_channels)
    return rows, min(min(CHANNEL_BLOCK**2 // rows, LARGEST_COLUMNS) // width, panels)


@dataclass(frozen=True, kw_only=True)
class WeightGradient:
    """The weight gradient of one convolution.

    Attributes
    ----------
    geometry : ndarray of int64
        As `cnnzoo.kernels.winograd_passes` reads it.
    sums : int
        Elements of what is summed apart, for all threads: the slots' weight gradients, or a slab's transformed ones.
    row_block, column_block : int
        Where tasks transform for themselves, input and output channels that one owns.
    slots : int
        Parts that are summed apart there.
    scratch : int
        Elements that a thread needs there.
    inputs, gradients : int
        Elements of transformed inputs and output gradients, where they are made once for all tasks; else 0.
    slices : tuple of (int, int)
        Ranges of tiles, first and count, that are transformed and summed one after the other there.
    slab : int
        Columns that are summed at a time there: all, if there are several slices.
    group : int
        Columns a task takes there.
    """

    geometry: np.ndarray
    sums: int
    row_block: int = 0
    column_block: int = 0
    slots: int = 0
    scratch: int = 0
    inputs: int = 0
    gradients: int = 0
    slices: tuple[tuple[int, int], ...] = ()
    slab: int = 0
    group: int = 0

    @staticmethod
    def plan(shape, forward, itemsize):
        """Return the weight gradient of the convolution of `shape` that `forward`, a geometry, describes."""
        g, width = forward.copy(), panel_columns(itemsize)
        g[BLOCK] = min(GRADIENT_TILES, int(all_tiles.py_func(g)))
        rows, panels = channel_blocks(shape, width)
        blocks = block_count(shape.in_channels, rows) * block_count(shape.out_channels, panels * width)
        if blocks > LARGEST_OWN:
            return WeightGradient._plan_shared(shape, g, itemsize)
        return WeightGradient._plan_own(shape, g, width, rows, panels, blocks)

    @staticmethod
    def _plan_own(s, g, width, rows, panels, blocks):
        block, products = int(g[BLOCK]), int(g[PRODUCTS])
        own = products * (matrix_elements(block, padded_ld(rows)) + panels * matrix_elements(block, width))
        slots = min(block_count(int(all_tiles.py_func(g)), block), block_count(MINIMUM_TASKS, blocks))
        return WeightGradient(
            geometry=g,
            sums=slots * s.kernel**2 * s.in_channels * s.out_channels if slots > 1 else 0,
            row_block=rows,
            column_block=panels * width,
            slots=slots,
            scratch=int(g[DISTINCT_WEIGHTS]) * matrix_elements(rows, panels * width) + own,
        )

    @staticmethod
    def _plan_shared(s, g, itemsize):
        width, tiles = panel_columns(itemsize), int(all_tiles.py_func(g))
        products, distinct = int(g[PRODUCTS]), int(g[DISTINCT_WEIGHTS])
        panels = block_count(s.out_channels, width)

        def inputs(count):
            return products * panels_elements(s.in_channels, INPUT_PANEL, count)

        def gradients(count):
            return products * panels_elements(s.out_channels, width, count)

        def sums(count):
            return distinct * matrix_elements(s.in_channels, count * width)

        pairs = inputs(tiles) + gradients(tiles)
        chunks = block_count(tiles, CHUNK_TILES)
        slices = min(chunks, block_count(pairs * itemsize, PAIRS_BYTES))
        slab = block_count(panels, block_count(sums(panels) * itemsize, SUMS_BYTES))
        if pairs // slices + sums(panels) < pairs + sums(slab):
            slab = panels
        else:
            slices = 1
        ends = [min(tiles, i * chunks // slices * CHUNK_TILES) for i in range(slices + 1)]
        largest = max(end - first for first, end in pairwise(ends))
        groups = min(slab, block_count(MINIMUM_TASKS, distinct))
        return WeightGradient(
            geometry=g,
            sums=sums(slab),
            inputs=inputs(largest),
            gradients=gradients(largest),
            slices=tuple((first, end - first) for first, end in pairwise(ends)),
            slab=slab * width,
            group=block_count(slab, groups) * width,
        )

    @property
    def is_shared(self) -> bool:
        """What is transformed is made once for all tasks."""
        return self.inputs > 0

    @property
    def shared(self) -> int:
        """Elements that all threads share."""
        return self.inputs + self.gradients + self.sums

    @property
    def tiles(self) -> int:
        """All tiles of a batch."""
        return int(all_tiles.py_func(self.geometry))
