"""Convolution and the fully connected layer, which is a 1x1 convolution of one pixel."""

import numpy as np

from cnnzoo.errors import ModelError
from cnnzoo.graph.algorithms import Passes, Planned, choose_algorithms, plan_algorithms
from cnnzoo.graph.initializers import Initializer, zeros
from cnnzoo.graph.ledger import Pass
from cnnzoo.graph.operator import Context, Matrix, Operator, Parameter, Requirements
from cnnzoo.graph.tensor import Extent
from cnnzoo.kernels.activation import rectify_gradient
from cnnzoo.kernels.batch_norm import merge_gradient_sums
from cnnzoo.kernels.blocks import block_count, block_rows
from cnnzoo.kernels.convolution import SCALE_MASKED, SCALE_SHIFT_RELU, ConvolutionShape, Epilogue, Prologue, Scratch
from cnnzoo.kernels.elementwise import sum_rows


class WeightedSum(Operator):
    """What convolution and the fully connected layer share: the three passes of a `ConvolutionShape`, and a bias.

    Attributes
    ----------
    wanted_algorithm : str or None
        Used for every pass whose shape it accepts; None for what the cost table says.
    pinned_algorithms : dict of int to Passes
        What is used for a number of images, whatever the above says.
    """

    saves_inputs = (0,)
    skips_unwanted = True
    applies_batch_norm = False  # the input is a deferred batch norm + ReLU, applied on load; set by a pass
    collects_statistics = False  # forward writes batch-norm partial sums of its output; set by a pass
    relu = False  # y = max(0, that); set by a pass
    masks_gradient = False  # the ReLU that was merged into what made the input masks dx as it is stored; set by a pass
    keeps_gradient_sums = False  # the reader may do so to dy, and leaves the bias's gradient here; set by a pass

    def __init__(self, name: str, weight: Parameter, bias: bool):
        super().__init__(name)
        self.out_channels = weight.shape[0]
        self.has_bias = bias
        self.wanted_algorithm: str | None = None
        self.pinned_algorithms: dict[int, Passes] = {}
        self.parameters = (weight, Parameter("bias", (self.out_channels,), zeros)) if bias else (weight,)

    @property
    def kind(self) -> str:
        """With the ReLU that was merged into it."""
        return type(self).__name__ + "+ReLU" * self.relu

    @property
    def saves_output(self) -> bool:  # type: ignore[override]
        """The ReLU's mask is seen in the output, where nobody has applied it before."""
        return self.relu

    def shape(self, images: int, x: Extent) -> ConvolutionShape:
        """Return the convolution that a batch of `images` of extent `x` is."""
        raise AssertionError

    def output_extent(self, *inputs: Extent) -> Extent:
        """Return the extent of y; raise `ModelError` where the image is smaller than the kernel."""
        shape = self.shape(1, inputs[0])
        if shape.out_height < 1 or shape.out_width < 1:
            raise ModelError(f"{self.name}: expected an image no smaller than its {shape.kernel}x{shape.kernel} kernel")
        return Extent(shape.out_height, shape.out_width, self.out_channels)

    def choose(self, images: int, x: Extent) -> Passes:
        """Return what computes a batch of `images` of extent `x`: what was pinned for it, else what is wanted."""
        return self.pinned_algorithms.get(images) or choose_algorithms(self.shape(images, x), self.wanted_algorithm)

    def requirements(self, images: int, training: bool, dtype: np.dtype, *inputs: Extent) -> Requirements:
        """Return what one node needs for a batch.

        Its state is `Planned`: the algorithms of the three passes. What they work in is scratch, and backward the
        partial sums of a bias and of an epilogue are too. It lends the batch-norm partial sums of y if it collects them
        and the forward algorithm can, and begins the backward of the batch norm on load, or of the ReLU that made x, if
        that of dx can. It keeps the sums over rows of dy, in float64, where the reader may take them.

        Raises
        ------
        StateError
            A pinned algorithm does not accept the shape.
        """
        shape = self.shape(images, inputs[0])
        planned = plan_algorithms(shape, self.choose(images, inputs[0]), dtype)
        columns = self.out_channels
        bias_partials = block_count(shape.out_pixels, block_rows(columns)) * columns if self.has_bias else 0
        shared, each = planned.input_gradient.scratch["input_gradient"]
        needs = Requirements(
            state=planned,
            forward_scratch=(planned.forward.scratch["forward"],),
            backward_scratch=(
                Scratch(shared + self._gradient_sums(planned), each),
                planned.weight_gradient.scratch["weight_gradient"],
                Scratch(bias_partials),
            ),
            begins_producer_backward=self._gradient_sums(planned) > 0,
        )
        if training and self.keeps_gradient_sums:
            needs.kept["gradient_sums"] = 2 * columns, np.dtype(np.float64)
        if training and self.collects_statistics and planned.forward.statistics_rows:
            blocks = block_count(shape.out_pixels, planned.forward.statistics_rows)
            needs.lent["statistics"] = (blocks * 2 * columns, None)
        return needs

    def multiply_adds(self, *inputs: Extent) -> int:
        """Return those of one image forward by the direct method, padding included."""
        return self.shape(1, inputs[0]).multiply_adds

    def algorithm(self, c: Context, direction: Pass) -> str:
        """Return the algorithm's name; backward those of both gradients where they differ."""
        if direction != "backward":
            return c.state.forward.name
        names = (
            [c.state.weight_gradient.name, c.state.input_gradient.name]
            if c.wanted[0]
            else [c.state.weight_gradient.name]
        )
        return ", ".join(dict.fromkeys(names))

    def operations(self, c: Context, direction: Pass) -> int:
        """Return two for each multiply-add, backward for each gradient that is computed."""
        passes = 1 + c.wanted[0] if direction == "backward" else 1
        return 2 * passes * c.state.forward.shape.multiply_adds

    def moved(self, c: Context, direction: Pass) -> int:
        """Return the bytes read and written; behind a ReLU dy is masked by y first, unless it came masked."""
        moved = super().moved(c, direction)
        if self.relu and direction == "backward":
            moved += -c.y.nbytes if c.masked else 2 * c.dy.nbytes
        return moved

    def flat(self, x: Matrix) -> Matrix:
        """Return the input, or its gradient, as the pixel matrix that the convolution reads."""
        return x

    def _prologue(self, c: Context) -> Prologue | None:
        return Prologue(SCALE_SHIFT_RELU, c.lent("coefficients")) if self.applies_batch_norm else None

    def forward(self, c: Context) -> None:
        """y = correlate(x, w) + b, with the batch norm of x applied on load and the batch-norm sums of y collected."""
        x, y = self.flat(c.x[0]), c.y
        c.state.forward.forward(
            x.data, x.ld, c.weights["weight"], y.data, y.ld, c.scratch, prologue=self._prologue(c),
            bias=c.weights.get("bias"), statistics=c.kept.get("statistics"), rectify=self.relu,
        )  # fmt: skip

    def backward(self, c: Context) -> None:
        """Compute dw, db and, if somebody wants it, dx; behind a ReLU from what passes it of dy."""
        x, y, dy, scratch, add = self.flat(c.x[0]), c.y, c.dy, c.backward_scratch, c.accumulate_gradients
        if c.masked:
            sums, bias = c.kept["gradient_sums"][: dy.channels], c.gradients["bias"]
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found, and named, elsewhere
                bias[:] = bias + sums if add else sums
        elif self.relu:
            bias = c.gradients["bias"]
            rectify_gradient(dy.data, dy.ld, y.data, y.ld, dy.rows, dy.channels, scratch, bias, add)
        c.state.weight_gradient.weight_gradient(
            x.data, x.ld, dy.data, dy.ld, c.gradients["weight"], scratch, prologue=self._prologue(c), accumulate=add
        )
        if self.has_bias and not self.relu:
            sum_rows(dy.data, dy.ld, dy.rows, dy.channels, scratch, c.gradients["bias"], add)
        if c.wanted[0]:
            self._input_gradient(c)

    def _input_gradient(self, c: Context) -> None:
        """Compute dx, and with it the first half of the backward of the batch norm on load, or of the ReLU before."""
        x, dy, dx, algorithm = self.flat(c.x[0]), c.dy, self.flat(c.dx[0]), c.state.input_gradient
        sums, scratch = np.split(c.backward_scratch, [self._gradient_sums(c.state)])
        epilogue = None
        if sums.size > 0:
            # The mask of a ReLU is that of a batch norm of scale 1, shift 0 and mean 0.
            of_relu = np.repeat(np.array((1, 0, 0), x.data.dtype), x.channels) if self.masks_gradient else None
            coefficients = c.lent("coefficients") if of_relu is None else of_relu
            epilogue = Epilogue(SCALE_MASKED, coefficients, x.data, x.ld, sums)
        algorithm.input_gradient(
            dy.data, dy.ld, c.weights["weight"], dx.data, dx.ld, scratch, epilogue, accumulate=c.accumulate[0]
        )
        if epilogue:
            blocks = block_count(x.rows, algorithm.gradient_rows)
            merge_gradient_sums(sums, blocks, c.lent("gradient_sums"))

    def _gradient_sums(self, planned: Planned) -> int:
        """Return the elements that the sums of the input gradient's epilogue take; 0 where there is none."""
        s, rows = planned.input_gradient.shape, planned.input_gradient.gradient_rows
        if not (self.applies_batch_norm or self.masks_gradient) or rows is None:
            return 0
        return block_count(s.images * s.height * s.width, rows) * 2 * s.in_channels


class Convolution(WeightedSum):
    """y = correlate(x, w) + b, with a square kernel and one stride and one padding for both axes.

    Parameters
    ----------
    name : str
    in_channels, out_channels, kernel, stride, padding : int
    bias : bool
    initializer : Initializer
        Of the weight [out, in / groups, kernel, kernel]; the bias begins at zero.
    groups : int
        As in `ConvolutionShape`.
    """

    def __init__(
        self, name, in_channels, out_channels, kernel, stride, padding, bias: bool, initializer: Initializer, groups=1
    ):
        depth = in_channels // groups
        weight = Parameter(
            "weight",
            (out_channels, depth, kernel, kernel),
            initializer,
            to_internal=lambda w: w.transpose(2, 3, 1, 0),
            to_public=lambda w: w.reshape(kernel, kernel, depth, out_channels).transpose(3, 2, 0, 1),
        )
        super().__init__(name, weight, bias)
        self.in_channels, self.kernel, self.stride, self.padding = in_channels, kernel, stride, padding
        self.groups = groups

    def shape(self, images: int, x: Extent) -> ConvolutionShape:
        """Return the convolution that a batch of `images` of extent `x` is."""
        channels = self.in_channels, self.out_channels
        return ConvolutionShape(
            images, x.height, x.width, *channels, self.kernel, self.stride, self.padding, self.groups
        )


class Linear(WeightedSum):
    """y = x w + b over all values of an image: a 1x1 convolution of one pixel.

    Parameters
    ----------
    name : str
    extent : Extent
        Of the input. PyTorch flattens it by channels first, the kernels have them last: the weight
        [out, channels * height * width] is reordered on its way in and out.
    out_features : int
    initializer : Initializer
        Of the weight; the bias begins at zero.
    """

    def __init__(self, name: str, extent: Extent, out_features: int, initializer: Initializer):
        self.features = extent.size
        channels_first = (out_features, extent.channels, extent.height, extent.width)
        channels_last = (extent.height, extent.width, extent.channels, out_features)
        weight = Parameter(
            "weight",
            (out_features, extent.size),
            initializer,
            to_internal=lambda w: w.reshape(channels_first).transpose(2, 3, 1, 0),
            to_public=lambda w: w.reshape(channels_last).transpose(3, 2, 0, 1).reshape(out_features, extent.size),
        )
        super().__init__(name, weight, bias=True)
        self.needs_contiguous = extent.pixels > 1

    def shape(self, images: int, x: Extent) -> ConvolutionShape:
        """Return the 1x1 convolution of one pixel of all of an image's values."""
        return ConvolutionShape(images, 1, 1, self.features, self.out_channels, kernel=1)

    def flat(self, x: Matrix) -> Matrix:
        """Return x with one row for each image."""
        if x.channels == self.features:
            return x
        return Matrix(x.data, self.features, x.rows * x.channels // self.features, self.features)
