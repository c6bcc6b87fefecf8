"""Vector code of depthwise convolution: a strip of outputs, or a row of taps, in registers.

A depthwise convolution does little arithmetic on what it loads, so loads are shared: a strip of 4 outputs of a 3x3
kernel at stride 1 meets 6 columns of x a row, and each is loaded once and multiplied into all the outputs that meet it.
A strip runs over all channels, a vector at a time, so memory is read and written in order. What decides about a border
is the same for all channels: each row and column of the window has a branch of its own, always predicted, around its
load and its products; so padding costs nothing and is never multiplied. Kernels other than 3x3 loop over their taps.

See `simd` for pointers and vectors. Offsets and strides count elements, and tuples of int64 carry the geometry of one
row of outputs at channel 0:

- window: where the first tap of the first output lies in x (it may lie in the padding), row stride, pixel stride, its
  row in the image, rows of the image, its column, columns of the image, how far ahead to prefetch (0: not at all)
- taps: where the first weight lies, row stride, column stride, rows, columns
- outputs: where the first one lies, pixel stride, how many they are
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnzoo.kernels.vectors import Vectors

_STRIPS = (4, 2, 1)  # outputs; the widest that fits is taken
_I32, _I64 = ir.IntType(32), ir.IntType(64)


class _Variables:
    """Vectors that change in loops and under branches; LLVM holds them in registers."""

    def __init__(self, v, values):
        self._builder = v.builder
        self._places = [cgutils.alloca_once(v.builder, v.type) for _ in values]
        for k, value in enumerate(values):
            self[k] = value

    def __getitem__(self, k):
        return self._builder.load(self._places[k])

    def __setitem__(self, k, value):
        self._builder.store(value, self._places[k])


def _opaque(builder, pointer):
    """Return the pointer, as one of unknown origin.

    LLVM would otherwise compute every address of a strip before the loop over channels, and keep them on the stack.
    """
    return builder.asm(ir.FunctionType(pointer.type, [pointer.type]), "", "=r,0", [pointer], False)


def _each_vector(v, channels, body):
    """Call ``body(c, mask)`` for each whole vector of channels, then for the rest."""
    whole = v.builder.and_(channels, _I64(-v.lanes))
    with cgutils.for_range_slice(v.builder, _I64(0), whole, _I64(v.lanes), _I64) as (c, _):
        body(c, None)
    rest = v.builder.sub(channels, whole)
    with v.builder.if_then(v.builder.icmp_signed(">", rest, _I64(0))):
        body(whole, v.mask_below(rest))


def _each_strip(builder, count, body):
    """Call ``body(q, size)`` for strips of `size` outputs from q on, the widest first."""
    widest = _STRIPS[0]
    whole = builder.and_(count, _I64(-widest))
    with cgutils.for_range_slice(builder, _I64(0), whole, _I64(widest), _I64) as (q, _):
        body(q, widest)
    for size in _STRIPS[1:]:
        with builder.if_then(builder.icmp_signed("!=", builder.and_(count, _I64(size)), _I64(0))):
            body(builder.and_(count, _I64(-2 * size)), size)


class _Strip:
    """What one strip of `size` outputs from q on meets, for one vector of channels from c on.

    Parameters
    ----------
    v : Vectors
    q, c : LLVM values
    size : int
    step : LLVM value
        Pixels of x between the windows of neighboring outputs.
    mask : LLVM value or None
        Of the last channels.
    """

    def __init__(self, v, q, size, step, c, mask):
        self.v, self.builder = v, v.builder
        self.q, self.size, self.step, self.c, self.mask = q, size, step, c, mask

    def _row(self, base, place, stride, count):
        """Return pointers to `count` vectors from `place` on, which the strip's first output begins with."""
        offset = self.builder.add(place, self.c)
        return self._following(_opaque(self.builder, self.v.pointer(base, offset)), stride, count)

    def _following(self, first, stride, count):
        places = [first]
        for _ in range(count - 1):
            places.append(self.v.pointer(places[-1], stride))
        return places

    def outputs(self, base, outputs):
        """Return pointers to the strip's outputs."""
        place, stride, _ = outputs
        return self._row(base, self.builder.add(place, self.builder.mul(self.q, stride)), stride, self.size)

    def open(self, x, window, prologue, coefficients, shift_at):
        """Set the window on x. If `prologue`, x is max(x scale + shift, 0), scale and shift at 0 and `shift_at`."""
        place, self._row_stride, self._pixel_stride, self._top, self._height, left, self._width, self._ahead = window
        moved = self.builder.mul(self.q, self.step)
        self._left = self.builder.add(left, moved)
        place = self.builder.add(place, self.builder.mul(moved, self._pixel_stride))
        (self._origin,) = self._row(x, place, self._pixel_stride, 1)
        self._prologue = prologue
        factors = _Variables(self.v, [self.v.zero, self.v.zero])
        with self.builder.if_then(prologue):
            factors[0] = self.v.load(self.v.pointer(coefficients, self.c), self.mask)
            factors[1] = self.v.load(self.v.pointer(coefficients, self.builder.add(shift_at, self.c)), self.mask)
        self._scale, self._shift = factors[0], factors[1]

    def _row_inside(self, i):
        return self.builder.icmp_unsigned("<", self.builder.add(self._top, i), self._height)

    def _column_inside(self, j):
        return self.builder.icmp_unsigned("<", self.builder.add(self._left, j), self._width)

    def _load(self, place):
        """Return a vector of x, after the prologue."""
        v, builder = self.v, self.builder
        plain, before = v.load(place, self.mask), builder.block
        with builder.if_then(self._prologue):
            z = v.multiply_add(plain, self._scale, self._shift)
            rectified = builder.select(builder.fcmp_ordered("<", z, v.zero), v.zero, z)  # a NaN stays
            after = builder.block
        value = builder.phi(v.type)
        value.add_incoming(plain, before)
        value.add_incoming(rectified, after)
        return value

    def _prefetch(self, row, columns):
        """Fetch the columns of a row, as far ahead as the window says, into the cache."""
        byte = ir.IntType(8).as_pointer()
        signature = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(self.builder.module, signature, "llvm.prefetch.p0i8")
        with self.builder.if_then(self.builder.icmp_signed("!=", self._ahead, _I64(0))):
            for place in self._following(self.v.pointer(row, self._ahead), self._pixel_stride, columns):
                self.builder.call(function, [self.builder.bitcast(place, byte), _I32(0), _I32(3), _I32(1)])

    def each_row(self, kernel, step, base, taps, body):
        """Call ``body(weights, columns)`` for each row of a `kernel` x `kernel` window that lies inside the image.

        `weights` are pointers to the row's weights; ``columns(use)`` calls ``use(x, t, j)`` wherever a column of x
        meets output t with tap j. `step` is an int here: a column is loaded once for all its uses.
        """
        meetings = [
            [(t, column - t * step) for t in range(self.size) if 0 <= column - t * step < kernel]
            for column in range((self.size - 1) * step + kernel)
        ]
        row, (weights,) = self._origin, self._row(base, taps[0], taps[2], 1)
        for i in range(kernel):
            if i >= kernel - step and self.mask is None:  # rows that the row of outputs above does not meet
                self._prefetch(row, self.size * step)

            def columns(use, row=row):
                places = self._following(row, self._pixel_stride, len(meetings))
                for column, uses in enumerate(meetings):
                    if uses:
                        with self.builder.if_then(self._column_inside(_I64(column))):
                            x = self._load(places[column])
                            for t, j in uses:
                                use(x, t, j)

            with self.builder.if_then(self._row_inside(_I64(i))):
                body(self._following(weights, taps[2], kernel), columns)
            row, weights = self.v.pointer(row, self._row_stride), self.v.pointer(weights, taps[1])

    def each_tap(self, base, taps, body):
        """Call ``body(weight, columns)`` for each tap in a row inside the image.

        `weight` is a pointer; ``columns(use)`` calls ``use(x, t)`` for each output t whose column lies inside.
        """
        builder, v = self.builder, self.v
        (weights,) = self._row(base, taps[0], taps[2], 1)
        with cgutils.for_range(builder, taps[3]) as i, builder.if_then(self._row_inside(i.index)):
            row = v.pointer(self._origin, builder.mul(self._row_stride, i.index))
            weights = v.pointer(weights, builder.mul(taps[1], i.index))
            with cgutils.for_range(builder, taps[4]) as j:

                def columns(use):
                    for t in range(self.size):
                        column = builder.add(builder.mul(self.step, _I64(t)), j.index)
                        with builder.if_then(self._column_inside(column)):
                            use(self._load(v.pointer(row, builder.mul(column, self._pixel_stride))), t)

                body(v.pointer(weights, builder.mul(taps[2], j.index)), columns)


def _each_strip_and_vector(v, count, channels, step, body):
    """Call ``body(strip)`` for each strip of `count` outputs, and in it for each vector of channels."""
    _each_strip(
        v.builder,
        count,
        lambda q, size: _each_vector(v, channels, lambda c, mask: body(_Strip(v, q, size, step, c, mask))),
    )


@intrinsic(prefer_literal=True)
def correlate_row(
    typingctx,
    kernel,
    step,
    x,
    window,
    prologue,
    coefficients,
    w,
    taps,
    bias,
    has_bias,
    y,
    outputs,
    accumulate,
    channels,
):
    """One row of outputs: y (+)= bias + the sum over taps of prologue(x) w.

    `kernel` is the literal 3, for 3x3 taps at a literal `step`, or the literal 1: any taps, any step. `prologue` tells
    whether x is max(x scale + shift, 0), with `coefficients` [scale, shift][channels]; `has_bias` whether there is one.
    """
    if not isinstance(kernel, types.Literal):
        return None
    loops = kernel.literal_value == 1
    flag, i64 = types.boolean, types.int64
    operands = (x, window, flag, coefficients, w, taps, bias, flag, y, outputs, flag, i64)

    def codegen(context, builder, signature, arguments):
        _, step, x, window, prologue, coefficients, w, taps, bias, has_bias, y, outputs, accumulate, channels = (
            arguments
        )
        v = Vectors(context, builder, signature.args[2].dtype)
        window, taps, outputs = (cgutils.unpack_tuple(builder, t) for t in (window, taps, outputs))

        def compute(strip):
            strip.open(x, window, prologue, coefficients, channels)
            places = strip.outputs(y, outputs)
            sums = _Variables(v, [v.zero] * strip.size)
            with builder.if_then(has_bias):
                for t in range(strip.size):
                    sums[t] = v.load(v.pointer(bias, strip.c), strip.mask)
            with builder.if_then(accumulate):
                for t in range(strip.size):
                    sums[t] = builder.fadd(sums[t], v.load(places[t], strip.mask))

            def add_tap(place, columns):
                weight = v.load(place, strip.mask)

                def add(x, t):
                    sums[t] = v.multiply_add(x, weight, sums[t])

                columns(add)

            def add_row(places, columns):
                weights = [v.load(place, strip.mask) for place in places]

                def add(x, t, j):
                    sums[t] = v.multiply_add(x, weights[j], sums[t])

                columns(add)

            if loops:
                strip.each_tap(w, taps, add_tap)
            else:
                strip.each_row(*(argument.literal_value for argument in signature.args[:2]), w, taps, add_row)
            for t in range(strip.size):
                v.store(sums[t], places[t], strip.mask)

        _each_strip_and_vector(
            v, outputs[2], channels, step if loops else _I64(signature.args[1].literal_value), compute
        )
        return context.get_dummy_value()

    return types.void(kernel, i64 if loops else step, *operands), codegen


@intrinsic(prefer_literal=True)
def gradient_row(
    typingctx, kernel, step, x, window, prologue, coefficients, all_channels, dy, outputs, dw, taps, channels
):
    """One row of outputs: dw[tap] += the sum over outputs of prologue(x) dy.

    Arguments as `correlate_row` has them, dw and dy in the places of w and y, but coefficients are
    [scale, shift][all_channels].
    """
    if not isinstance(kernel, types.Literal):
        return None
    loops = kernel.literal_value == 1
    i64 = types.int64
    operands = (x, window, types.boolean, coefficients, i64, dy, outputs, dw, taps, i64)

    def codegen(context, builder, signature, arguments):
        _, step, x, window, prologue, coefficients, all_channels, dy, outputs, dw, taps, channels = arguments
        v = Vectors(context, builder, signature.args[2].dtype)
        window, taps, outputs = (cgutils.unpack_tuple(builder, t) for t in (window, taps, outputs))

        def compute(strip):
            strip.open(x, window, prologue, coefficients, all_channels)
            gradients = [v.load(place, strip.mask) for place in strip.outputs(dy, outputs)]

            def add_to(places, columns):
                sums = _Variables(v, [v.load(place, strip.mask) for place in places])

                def add(x, t, j=0):
                    sums[j] = v.multiply_add(x, gradients[t], sums[j])

                columns(add)
                for j, place in enumerate(places):
                    v.store(sums[j], place, strip.mask)

            if loops:
                strip.each_tap(dw, taps, lambda place, columns: add_to([place], columns))
            else:
                strip.each_row(*(argument.literal_value for argument in signature.args[:2]), dw, taps, add_to)

        _each_strip_and_vector(
            v, outputs[2], channels, step if loops else _I64(signature.args[1].literal_value), compute
        )
        return context.get_dummy_value()

    return types.void(kernel, i64 if loops else step, *operands), codegen
