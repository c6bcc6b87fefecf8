"""The transforms of Winograd's algorithm as vector code: X -> M X M' for a small grid X of channel vectors.

A grid element is a run of channels; a vector of them is loaded for each element, all are transformed in registers, and
stored. The matrices are constants of the code. Rows, or columns, that differ in the signs of every other coefficient
share their work: (e + o) and (e - o), or x + x' and x - x'.
"""

from collections.abc import Sequence
from fractions import Fraction

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnzoo.kernels.forms import FORMS, STRIDE_2_GRADIENT
from cnnzoo.kernels.toom_cook import RationalMatrix, transpose
from cnnzoo.kernels.vectors import IS_X86, VECTOR_BYTES, Vectors, data_pointer, opaque

_I32, _I64 = ir.IntType(32), ir.IntType(64)

# What the intrinsics take as a literal `transform`: which matrix of the form they multiply with.
INPUT, WEIGHTS, OUTPUT, OUTPUT_GRADIENT, WEIGHT_GRADIENT = range(5)


def _matrices(transform: int) -> dict[RationalMatrix, list[int]]:
    """Return the matrices that a transform uses, and which forms use each; gradients are taken of plain forms."""
    adjoint = transform in (OUTPUT_GRADIENT, WEIGHT_GRADIENT)
    used: dict[RationalMatrix, list[int]] = {}
    for index, form in enumerate(FORMS):
        if adjoint and index == STRIDE_2_GRADIENT:
            continue
        matrices = form.matrices
        matrix = {
            INPUT: matrices.input,
            WEIGHTS: matrices.weights,
            OUTPUT: matrices.output,
            OUTPUT_GRADIENT: transpose(matrices.output),
            WEIGHT_GRADIENT: transpose(matrices.weights),
        }[transform]
        used.setdefault(matrix, []).append(index)
    return used


def _for_form(builder, transform, form, emit):
    """Call ``emit(matrix)`` for each matrix of a transform, each where `form`, an LLVM value, is one that uses it."""
    end = builder.append_basic_block("form.end")
    switch = builder.switch(form, end)
    for matrix, users in _matrices(transform).items():
        block = builder.append_basic_block("form")
        for index in users:
            switch.add_case(_I64(index), block)
        builder.position_at_end(block)
        emit(matrix)
        builder.branch(end)
    builder.position_at_end(end)


def _are_paired(a: Sequence[Fraction], b: Sequence[Fraction]) -> bool:
    """Tell whether two rows have the same absolute values, some with the same signs and some with others."""
    pairs = list(zip(a, b, strict=True))
    same, opposite = any(p == q != 0 for p, q in pairs), any(p == -q != 0 for p, q in pairs)
    return same and opposite and all(abs(p) == abs(q) for p, q in pairs)


class _Linear:
    """Emit y = M x for lists of vectors x and y."""

    def __init__(self, v: Vectors, matrix: RationalMatrix):
        self.v, self.builder, self.matrix = v, v.builder, matrix
        columns = transpose(matrix)
        self.pairs = [j for j in range(1, len(columns) - 1, 2) if _are_paired(columns[j], columns[j + 1])]

    def apply(self, x):
        if self.pairs:
            return self._by_columns(x)
        return self._by_rows(x)

    def _constant(self, value: Fraction):
        return ir.Constant(self.v.type, [float(value)] * self.v.lanes)

    def _dot(self, coefficients, x):
        """Return the sum of coefficients times x, for LLVM to order: those of 1 and -1 first; None for an empty one."""
        terms = [(c, value) for c, value in zip(coefficients, x, strict=True) if c]
        terms.sort(key=lambda term: (abs(term[0]) != 1, term[0] != 1))
        total = None
        for c, value in terms:
            if total is None:
                total = value if c == 1 else self.builder.fmul(self._constant(c), value)
            elif abs(c) == 1:
                total = (self.builder.fadd if c == 1 else self.builder.fsub)(total, value)
            else:
                total = self.v.multiply_add(self._constant(c), value, total)
        return total

    def _by_columns(self, x):
        """Columns j and j + 1 of each pair are equal or opposite: they multiply a sum or a difference."""
        values: list = []
        rows: list[list[Fraction]] = [[] for _ in self.matrix]
        j = 0
        while j < len(x):
            if j in self.pairs:
                values += [self.builder.fadd(x[j], x[j + 1]), self.builder.fsub(x[j], x[j + 1])]
                for row, source in zip(rows, self.matrix, strict=True):
                    same = source[j] == source[j + 1]
                    row += [source[j] if same else Fraction(0), Fraction(0) if same else source[j]]
            else:
                values.append(x[j])
                for row, source in zip(rows, self.matrix, strict=True):
                    row.append(source[j])
            j += 2 if j in self.pairs else 1
        return [self._dot(row, values) for row in rows]

    def _by_rows(self, x):
        y: list = []
        while len(y) < len(self.matrix):
            i = len(y)
            row = self.matrix[i]
            following = self.matrix[i + 1] if i + 1 < len(self.matrix) else row
            if not _are_paired(row, following):
                y.append(self._dot(row, x))
                continue
            even = self._dot([p if p == q else Fraction(0) for p, q in zip(row, following, strict=True)], x)
            odd_row = [p if p != q else Fraction(0) for p, q in zip(row, following, strict=True)]
            scale = min(abs(p) for p in odd_row if p)
            odd = self._dot([p / scale for p in odd_row], x)
            if scale == 1:
                y += [self.builder.fadd(even, odd), self.builder.fsub(even, odd)]
            else:
                y += [self.v.multiply_add(self._constant(sign * scale), odd, even) for sign in (1, -1)]
        return y


class _Grid:
    """Vectors on the stack between the two halves of a transform: by columns, then by rows.

    The halves are loops, for 36 values at once fit no machine's registers; what LLVM spills of an unrolled transform
    lies across cache lines and costs as much as the arithmetic.
    """

    def __init__(self, v: Vectors, rows: int, columns: int):
        self.v, self.builder, self.columns = v, v.builder, columns
        self.base = cgutils.alloca_once(self.builder, v.type, size=rows * columns)
        self.base.align = VECTOR_BYTES

    def place(self, i, j):
        """Return the pointer to element (i, j), LLVM values."""
        at = self.builder.add(self.builder.mul(i, _I64(self.columns)), j)
        return self.builder.gep(self.base, [at])

    def load(self, i, j):
        return self.builder.load(self.place(i, j), align=VECTOR_BYTES)

    def store(self, value, i, j):
        self.builder.store(value, self.place(i, j), align=VECTOR_BYTES)


def _transform(v, matrix, load, store, rows):
    """Emit M X M': ``load(i, j)`` returns elements of X, ``store(i, j, value)`` takes those of rows below `rows`.

    j in `load` and i in `store` are LLVM values.
    """
    builder, linear = v.builder, _Linear(v, matrix)
    # Counts that LLVM does not know: it would unroll the loops.
    size, depth = len(matrix), len(matrix[0])
    grid = _Grid(v, size, depth)
    with cgutils.for_range(builder, opaque(builder, _I64(depth))) as loop:
        for i, value in enumerate(linear.apply([load(i, loop.index) for i in range(depth)])):
            grid.store(value, _I64(i), loop.index)
    with cgutils.for_range(builder, opaque(builder, rows)) as loop:
        for j, value in enumerate(linear.apply([grid.load(loop.index, _I64(j)) for j in range(depth)])):
            store(loop.index, j, value)


def _each_vector(v, channels, whole, body):
    """Call ``body(c, None)`` for whole vectors of channels if `whole`, then ``body(c, mask)`` for all that are left."""
    builder = v.builder
    plain = builder.select(whole, builder.and_(channels, _I64(-v.lanes)), _I64(0))
    with cgutils.for_range_slice(builder, _I64(0), plain, _I64(v.lanes), _I64) as (c, _):
        body(c, None)
    with cgutils.for_range_slice(builder, plain, channels, _I64(v.lanes), _I64) as (c, _):
        body(c, v.mask_below(builder.sub(channels, c)))


def _element(v, base, i, row_stride, j, column_stride):
    """Return the pointer to element (i, j) of a grid; indices may be ints or LLVM values."""
    builder = v.builder
    i, j = (_I64(index) if isinstance(index, int) else index for index in (i, j))
    return v.pointer(v.pointer(base, builder.mul(row_stride, i)), builder.mul(column_stride, j))


class _Window:
    """The part of a grid that lies inside: top <= i < bottom and left <= j < right."""

    def __init__(self, v, size, bounds):
        self.v, self.builder = v, v.builder
        self.top, self.bottom, self.left, self.right = bounds
        self.rows = [self._within(_I64(i), self.top, self.bottom) for i in range(size)]
        self.is_whole = self.builder.and_(self.rows[0], self.rows[-1])
        for j in (0, size - 1):
            self.is_whole = self.builder.and_(self.is_whole, self._within(_I64(j), self.left, self.right))

    def _within(self, i, low, high):
        return self.builder.and_(self.builder.icmp_signed("<=", low, i), self.builder.icmp_signed("<", i, high))

    def mask(self, i, j, mask):
        """Return `mask` where element (i, j) is inside, i an int and j an LLVM value; else a mask of nothing."""
        inside = self.builder.and_(self.rows[i], self._within(j, self.left, self.right))
        return self.builder.select(inside, mask, ir.Constant(self.v.masks, [0] * self.v.lanes))


@intrinsic(prefer_literal=True)
def gather_tile(
    typingctx, transform, form, x, at, row_stride, column_stride, top, bottom, left, right, channels,
    on_load, scale, scale_at, shift_at, out, out_at, out_stride, past_cache,
):  # fmt: skip
    """out[k] = element k of M X M' for `channels` channels; elements of X outside a window are 0 and not read.

    M is the matrix that `transform` names of the algorithm `form`, an index of `FORMS`.

    Element (i, j) of X is at ``x[at + i * row_stride + j * column_stride]``, inside where top <= i < bottom and
    left <= j < right; if `on_load` it is max(0, scale x + shift), the coefficients of the first channel at
    ``scale[scale_at]`` and ``scale[shift_at]``. Element k of the result goes to ``out[out_at + k * out_stride]``, in
    whole vectors: zeros follow the last channel. With the literal `past_cache` of 1, all these places are aligned to
    vectors, and are written past the caches: `finish_stores` has to follow before another thread reads them.
    """
    if not isinstance(transform, types.Literal) or not isinstance(past_cache, types.Literal):
        return None
    i64 = types.int64
    signature = types.void(transform, i64, x, *[i64] * 8, types.boolean, scale, i64, i64, out, i64, i64, past_cache)

    def codegen(context, builder, signature, arguments):
        v = Vectors(context, builder, signature.args[2].dtype)
        at, row_stride, column_stride, *bounds, channels, on_load = arguments[3:12]
        scale_at, shift_at = arguments[13:15]
        x, scale, out = (data_pointer(context, builder, signature.args[k], arguments[k]) for k in (2, 12, 15))
        x, out = v.pointer(x, at), v.pointer(out, arguments[16])
        coefficients = v.pointer(scale, scale_at), v.pointer(scale, shift_at)
        out_stride, streams = arguments[17], signature.args[-1].literal_value == 1

        def emit(matrix):
            _emit_gather(
                v, matrix, x, row_stride, column_stride, bounds, channels, on_load, coefficients,
                out, out_stride, streams,
            )  # fmt: skip

        _for_form(builder, signature.args[0].literal_value, arguments[1], emit)
        return context.get_dummy_value()

    return signature, codegen


def _emit_gather(
    v, matrix, x, row_stride, column_stride, bounds, channels, on_load, coefficients, out, out_stride, streams
):
    builder, size = v.builder, len(matrix)
    window = _Window(v, len(matrix[0]), bounds)

    def body(c, mask):
        source, to = v.pointer(x, c), v.pointer(out, c)

        def load(i, j, factors=None):
            here = None if mask is None else window.mask(i, j, mask)
            value = v.load(_element(v, source, i, row_stride, j, column_stride), here)
            if factors is None:
                return value
            value = v.multiply_add(value, *factors)
            value = builder.select(builder.fcmp_ordered("<=", value, v.zero), v.zero, value)  # a NaN stays
            return value if here is None else builder.select(here, value, v.zero)

        def store(i, j, value):
            k = builder.add(builder.mul(i, _I64(size)), _I64(j))
            place = v.pointer(to, builder.mul(out_stride, k))
            if streams:
                v.store_past_cache(value, place)
            else:
                v.store(value, place)

        with builder.if_else(on_load) as (applied, plain):
            with applied:
                factors = [v.load(v.pointer(first, c), mask) for first in coefficients]
                _transform(v, matrix, lambda i, j: load(i, j, factors), store, _I64(size))
            with plain:
                _transform(v, matrix, load, store, _I64(size))

    _each_vector(v, channels, window.is_whole, body)


@intrinsic(prefer_literal=True)
def scatter_tile(
    typingctx, transform, form, x, at, stride, out, out_at, row_stride, column_stride, rows, columns, channels, add,
    bias, bias_at, has_bias, rectify,
):  # fmt: skip
    """out (+)= M X M' + bias for `channels` channels, at the first `rows` x `columns` elements of the result.

    M is as in `gather_tile`. Element k of X is at ``x[at + k * stride]``, in whole vectors. Element (i, j) of the
    result goes to ``out[out_at + i * row_stride + j * column_stride]``, added if `add`, and max(0, that) if `rectify`;
    the bias begins at ``bias[bias_at]``.
    """
    if not isinstance(transform, types.Literal):
        return None
    i64, flag = types.int64, types.boolean
    signature = types.void(transform, i64, x, i64, i64, out, *[i64] * 6, flag, bias, i64, flag, flag)

    def codegen(context, builder, signature, arguments):
        v = Vectors(context, builder, signature.args[2].dtype)
        at, stride = arguments[3:5]
        out_at, row_stride, column_stride, rows, columns, channels, add = arguments[6:13]
        bias_at, has_bias, rectify = arguments[14:]
        x, out, bias = (data_pointer(context, builder, signature.args[k], arguments[k]) for k in (2, 5, 13))
        x, out, bias = v.pointer(x, at), v.pointer(out, out_at), v.pointer(bias, bias_at)

        def emit(matrix):
            _emit_scatter(
                v, matrix, x, stride, out, row_stride, column_stride, rows, columns, channels, add,
                bias, has_bias, rectify,
            )  # fmt: skip

        _for_form(builder, signature.args[0].literal_value, arguments[1], emit)
        return context.get_dummy_value()

    return signature, codegen


def _emit_scatter(
    v, matrix, x, stride, out, row_stride, column_stride, rows, columns, channels, add, bias, has_bias, rectify
):
    builder, size, depth = v.builder, len(matrix), len(matrix[0])
    last_row = builder.select(builder.icmp_signed("<", rows, _I64(size)), rows, _I64(size))
    nothing = ir.Constant(v.masks, [0] * v.lanes)

    def body(c, mask):
        source, to = v.pointer(x, c), v.pointer(out, c)
        before = builder.block
        with builder.if_then(has_bias):
            loaded, loading = v.load(v.pointer(bias, c), mask), builder.block
        offset = builder.phi(v.type)
        offset.add_incoming(v.zero, before)
        offset.add_incoming(loaded, loading)

        def load(i, j):
            k = builder.add(_I64(i * depth), j)
            return v.load(v.pointer(source, builder.mul(stride, k)))

        def store(i, j, value):
            place, here = _element(v, to, i, row_stride, j, column_stride), mask
            if mask is not None:
                here = builder.select(builder.icmp_signed("<", _I64(j), columns), mask, nothing)
            value, before = builder.fadd(value, offset), builder.block
            with builder.if_then(add):
                raised, adding = builder.fadd(value, v.load(place, here)), builder.block
            total = builder.phi(v.type)
            total.add_incoming(value, before)
            total.add_incoming(raised, adding)
            before = builder.block
            with builder.if_then(rectify):
                positive = builder.select(builder.fcmp_ordered("<=", total, v.zero), v.zero, total)  # a NaN stays
                rectifying = builder.block
            result = builder.phi(v.type)
            result.add_incoming(total, before)
            result.add_incoming(positive, rectifying)
            v.store(result, place, here)

        _transform(v, matrix, load, store, last_row)

    _each_vector(v, channels, builder.icmp_signed(">=", columns, _I64(size)), body)


@intrinsic
def finish_stores(typingctx):
    """Make what was written past the caches seen by whoever is told afterwards that it was written."""

    def codegen(context, builder, signature, arguments):
        if IS_X86:
            fence = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse.sfence"
            )
            builder.call(fence, [])
        else:
            builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen
