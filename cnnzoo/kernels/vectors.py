"""Vector code that Numba's loops cannot express: the register tile of the matrix product, and copies of short runs.

Each intrinsic emits LLVM vectors of the host's width for the element type of the arrays it is given, so one source
serves float32 and float64 on AVX2, AVX-512 and NEON. Offsets and strides count elements; nothing is checked.

A tile holds ``TILE_ROWS x TILE_VECTORS`` accumulators in registers: 24 of AVX-512's 32, 16 of NEON's, 12 of AVX2's 16
(Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34, 2008).
"""

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnzoo.kernels.compile import target, worker

_FEATURES = {feature[1:] for feature in target()[2].split(",") if feature.startswith("+")}
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
_IS_ARM = platform.machine().lower() in ("aarch64", "arm64")

VECTOR_BYTES = 64 if "avx512f" in _FEATURES else 32 if "avx" in _FEATURES else 16
TILE_ROWS = 12 if VECTOR_BYTES == 64 else 8 if _IS_ARM else 6
TILE_VECTORS = 2
PANEL_AHEAD = 2048  # bytes of a panel that are asked for before they are multiplied
AHEAD_PARTS = 256  # so many to a byte: in them are counted the steps of what `multiply_tile` asks for meanwhile
_HAS_FMA = "fma" in _FEATURES or _IS_ARM

_I1, _I8, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))


def panel_columns(itemsize: int) -> int:
    """Return `panel_width` for elements of `itemsize` bytes."""
    return TILE_VECTORS * VECTOR_BYTES // itemsize


@worker
def panel_width(x):
    """Columns of a packed panel for the element type of `x`: the width of a register tile."""
    return TILE_VECTORS * VECTOR_BYTES // x.itemsize


@worker
def vector_lanes(x):
    """Elements of a vector of the type of `x`."""
    return VECTOR_BYTES // x.itemsize


class Vectors:
    """Emit operations on vectors of one element type into one builder; `lanes` by default fill the host's width."""

    def __init__(self, context, builder, dtype, lanes=None):
        self.builder = builder
        self.element = context.get_value_type(dtype)
        self.bytes = dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.bytes if lanes is None else lanes
        self.type = ir.VectorType(self.element, self.lanes)
        is_real = isinstance(dtype, types.Float)
        self.zero = ir.Constant(self.type, [0.0 if is_real else 0] * self.lanes)
        self.suffix = f"v{self.lanes}{'f' if is_real else 'i'}{dtype.bitwidth}"
        self.masks = ir.VectorType(_I1, self.lanes)

    def pointer(self, base, offset):
        return self.builder.gep(base, [offset])

    def as_vector(self, pointer):
        return self.builder.bitcast(pointer, self.type.as_pointer())

    def load(self, pointer, mask=None):
        if mask is None:
            return self.builder.load(self.as_vector(pointer), align=self.bytes)
        arguments = [self.type.as_pointer(), _I32, self.masks, self.type]
        function = self._declare(f"llvm.masked.load.{self.suffix}.p0{self.suffix}", self.type, arguments)
        return self.builder.call(function, [self.as_vector(pointer), _I32(self.bytes), mask, self.zero])

    def store(self, value, pointer, mask=None):
        if mask is None:
            self.builder.store(value, self.as_vector(pointer), align=self.bytes)
            return
        arguments = [self.type, self.type.as_pointer(), _I32, self.masks]
        function = self._declare(f"llvm.masked.store.{self.suffix}.p0{self.suffix}", ir.VoidType(), arguments)
        self.builder.call(function, [value, self.as_vector(pointer), _I32(self.bytes), mask])

    def store_past_cache(self, value, pointer):
        """Store to a place aligned to vectors, which is not read soon by this thread, without fetching it first."""
        store = self.builder.store(value, self.as_vector(pointer), align=VECTOR_BYTES)
        store.set_metadata("nontemporal", self.builder.module.add_metadata([_I32(1)]))

    def prefetch(self, pointer, level, to_write=False):
        """Ask for a line to be brought into the cache of that level, 1 or 2; any address will do."""
        arguments = [_I8.as_pointer(), _I32, _I32, _I32]
        function = self._declare("llvm.prefetch.p0i8", ir.VoidType(), arguments)
        place = self.builder.bitcast(pointer, _I8.as_pointer())
        self.builder.call(function, [place, _I32(int(to_write)), _I32(4 - level), _I32(1)])

    def broadcast(self, scalar):
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, _I32(0))
        lanes = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def multiply_add(self, a, b, c):
        if not _HAS_FMA:
            return self.builder.fadd(self.builder.fmul(a, b), c)
        function = self._declare(f"llvm.fma.{self.suffix}", self.type, [self.type] * 3)
        return self.builder.call(function, [a, b, c])

    def mask_below(self, count):
        """Return the mask of the lanes whose index is below `count`."""
        wide = ir.VectorType(_I64, self.lanes)
        undefined = ir.Constant(wide, ir.Undefined)
        first = self.builder.insert_element(undefined, count, _I32(0))
        limit = self.builder.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        )
        return self.builder.icmp_signed("<", ir.Constant(wide, list(range(self.lanes))), limit)

    def _declare(self, name, result, arguments):
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, arguments), name)


def data_pointer(context, builder, array_type, value):
    return context.make_array(array_type)(context, builder, value).data


def _loop(builder, count, name):
    """Open a loop over 0 <= i < count, count >= 1; returns its index and a function that closes it."""
    entry, body = builder.block, builder.append_basic_block(name)
    builder.branch(body)
    builder.position_at_end(body)
    index = builder.phi(_I64)
    index.add_incoming(_I64(0), entry)

    def close():
        following = builder.add(index, _I64(1))
        index.add_incoming(following, builder.block)
        end = builder.append_basic_block(name + ".end")
        builder.cbranch(builder.icmp_signed("<", following, count), body, end)
        builder.position_at_end(end)

    return index, entry, body, close


@intrinsic(prefer_literal=True)
def multiply_tile(
    typingctx, rows, a, a_at, a_row, a_step, b, b_at, c, c_at, c_row, depth, columns, add, asks, ahead, ahead_step
):  # fmt: skip
    """C[i, j] = (add ? C[i, j] : 0) + sum_k A[i, k] B[k, j] for i < rows, j < columns, all sums in registers.

    A[i, k] is ``a[a_at + i * a_row + k * a_step]``, B[k, j] is ``b[b_at + k * panel_width + j]`` (a packed panel) and
    C[i, j] is ``c[c_at + i * c_row + j]``. `rows` is a literal, 1 <= columns <= panel_width and depth >= 1; no column
    of C past `columns` is touched. The sum runs over k in order, in one accumulator an element.

    With the literal `asks` of 1, term k asks for the line at address `ahead` + k `ahead_step` / AHEAD_PARTS, in bytes.
    """
    if not isinstance(rows, types.Literal) or not isinstance(asks, types.Literal):
        return None
    i64 = types.int64
    arrays_and_offsets = (a, *[i64] * 3, b, i64, c, *[i64] * 4)
    signature = types.void(rows, *arrays_and_offsets, types.boolean, asks, i64, i64)

    def codegen(context, builder, signature, arguments):
        _, a, a_at, a_row, a_step, b, b_at, c, c_at, c_row, depth, columns, add, _, *ahead = arguments
        v = Vectors(context, builder, signature.args[7].dtype)
        a = v.pointer(data_pointer(context, builder, signature.args[1], a), a_at)
        b = v.pointer(data_pointer(context, builder, signature.args[5], b), b_at)
        c = v.pointer(data_pointer(context, builder, signature.args[7], c), c_at)

        def emit(vectors, masked):
            masks = [v.mask_below(builder.sub(columns, _I64(j * v.lanes))) if masked else None for j in range(vectors)]
            asked = ahead if asks.literal_value else None
            _emit_tile(v, rows.literal_value, a, a_row, a_step, b, c, c_row, depth, add, masks, asked)

        whole = builder.icmp_signed("==", columns, _I64(TILE_VECTORS * v.lanes))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                emit(TILE_VECTORS, masked=False)
            with otherwise, builder.if_else(builder.icmp_signed(">", columns, _I64(v.lanes))) as (wide, narrow):
                with wide:
                    emit(TILE_VECTORS, masked=True)
                with narrow:
                    emit(1, masked=True)
        return context.get_dummy_value()

    return signature, codegen


def opaque(builder, value):
    """Return an integer as LLVM does not know it, to keep it from rewriting what is computed from it."""
    return builder.asm(ir.FunctionType(_I64, [_I64]), "", "=r,0", [value], False)


class _Walk:
    """Pointers that move together by `step` bytes each round of a loop, to `rows` places that lie `stride` bytes apart.

    Left to LLVM, each place is an addition each round, and additions take the ports that vectors need. From a pointer
    to every fourth place, x86's addressing reaches the next three: by one, two and three strides.
    """

    REACH = 4

    def __init__(self, builder, base, rows, stride, step):
        self.builder = builder
        self.stride, self.step = opaque(builder, stride), opaque(builder, step)
        self.thrice = opaque(builder, builder.mul(self.stride, _I64(3)))
        base = builder.bitcast(base, _I8.as_pointer())
        groups = range(0, rows, self.REACH)
        self.starts = [builder.gep(base, [builder.mul(self.stride, _I64(first))]) for first in groups]

    def enter(self, entry):
        """Begin a round, of a loop that is entered from the block `entry`."""
        self.here = [self.builder.phi(_I8.as_pointer()) for _ in self.starts]
        for pointer, start in zip(self.here, self.starts, strict=True):
            pointer.add_incoming(start, entry)

    def place(self, row):
        """Return the pointer to place `row`."""
        group, within = divmod(row, self.REACH)
        offsets = None, self.stride, self.builder.shl(self.stride, _I64(1)), self.thrice
        return self.here[group] if within == 0 else self.builder.gep(self.here[group], [offsets[within]])

    def leave(self, body):
        """End the round, in the block `body`."""
        for pointer in self.here:
            pointer.add_incoming(self.builder.gep(pointer, [self.step]), body)


def _emit_tile(v, rows, a, a_row, a_step, b, c, c_row, depth, add, masks, ahead):
    """Emit one tile of `rows` rows and a vector a mask; a mask of None stands for a whole vector."""
    builder = v.builder
    tile = [(i, j) for i in range(rows) for j in range(len(masks))]
    c_rows = [v.pointer(c, builder.mul(c_row, _I64(i))) for i in range(rows)]
    c_tile = {(i, j): v.pointer(c_rows[i], _I64(j * v.lanes)) for i, j in tile}

    before = builder.block
    with builder.if_then(add):
        loaded = {(i, j): v.load(c_tile[i, j], masks[j]) for i, j in tile}
        loading = builder.block
    start = {t: builder.phi(v.type) for t in tile}
    for t in tile:
        start[t].add_incoming(v.zero, before)
        start[t].add_incoming(loaded[t], loading)

    size = _I64(v.bytes)
    a_walk = _Walk(builder, a, rows, builder.mul(a_row, size), builder.mul(a_step, size))
    b_walk = _Walk(builder, b, 1, _I64(0), _I64(TILE_VECTORS * VECTOR_BYTES))
    k, entry, body, close = _loop(builder, depth, "k")
    sums = {t: builder.phi(v.type) for t in tile}
    a_walk.enter(entry)
    b_walk.enter(entry)
    b_k = builder.bitcast(b_walk.place(0), v.element.as_pointer())
    b_vectors = []
    for j in range(len(masks)):
        b_vectors.append(v.load(v.pointer(b_k, _I64(j * v.lanes))))
        v.prefetch(v.pointer(b_k, _I64(j * v.lanes + PANEL_AHEAD // v.bytes)), level=1)
    if ahead is not None:
        asked = builder.add(ahead[0], builder.udiv(builder.mul(k, ahead[1]), _I64(AHEAD_PARTS)))
        v.prefetch(builder.inttoptr(asked, _I8.as_pointer()), level=2)
    updated = {}
    for i in range(rows):
        a_ik = builder.load(builder.bitcast(a_walk.place(i), v.element.as_pointer()), align=v.bytes)
        a_ik = v.broadcast(a_ik)
        for j in range(len(masks)):
            updated[i, j] = v.multiply_add(a_ik, b_vectors[j], sums[i, j])
    for t in tile:
        sums[t].add_incoming(start[t], entry)
        sums[t].add_incoming(updated[t], body)
    a_walk.leave(body)
    b_walk.leave(body)
    close()
    for i, j in tile:
        v.store(updated[i, j], c_tile[i, j], masks[j])


def _emit_run(builder, v, count, body):
    """Call ``body(offset, mask)`` for each whole vector of a run of `count` elements, then once for its tail."""
    whole = builder.sdiv(count, _I64(v.lanes))
    with builder.if_then(builder.icmp_signed(">", whole, _I64(0))):
        index, _, _, close = _loop(builder, whole, "run")
        body(builder.mul(index, _I64(v.lanes)), None)
        close()
    done = builder.mul(whole, _I64(v.lanes))
    rest = builder.sub(count, done)
    with builder.if_then(builder.icmp_signed(">", rest, _I64(0))):
        body(done, v.mask_below(rest))


@intrinsic
def copy_run(typingctx, source, source_at, destination, destination_at, count):
    """destination[destination_at + i] = source[source_at + i] for i < count."""
    signature = types.void(source, types.int64, destination, types.int64, types.int64)

    def codegen(context, builder, signature, arguments):
        source, source_at, destination, destination_at, count = arguments
        v = Vectors(context, builder, signature.args[0].dtype)
        source = v.pointer(data_pointer(context, builder, signature.args[0], source), source_at)
        destination = v.pointer(data_pointer(context, builder, signature.args[2], destination), destination_at)

        def body(offset, mask):
            v.store(v.load(v.pointer(source, offset), mask), v.pointer(destination, offset), mask)

        _emit_run(builder, v, count, body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def zero_run(typingctx, destination, destination_at, count):
    """destination[destination_at + i] = 0 for i < count."""
    signature = types.void(destination, types.int64, types.int64)

    def codegen(context, builder, signature, arguments):
        destination, destination_at, count = arguments
        v = Vectors(context, builder, signature.args[0].dtype)
        destination = v.pointer(data_pointer(context, builder, signature.args[0], destination), destination_at)
        _emit_run(builder, v, count, lambda offset, mask: v.store(v.zero, v.pointer(destination, offset), mask))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def transpose_tile(typingctx, source, source_at, row_stride, destination, destination_at, column_stride):
    """destination[.. + k * column_stride + i] = source[.. + i * row_stride + k] for i and k below a vector's lanes."""
    i64 = types.int64
    signature = types.void(source, i64, i64, destination, i64, i64)

    def codegen(context, builder, signature, arguments):
        source, source_at, row_stride, destination, destination_at, column_stride = arguments
        v = Vectors(context, builder, signature.args[0].dtype)
        source = v.pointer(data_pointer(context, builder, signature.args[0], source), source_at)
        destination = v.pointer(data_pointer(context, builder, signature.args[3], destination), destination_at)
        rows = [v.load(v.pointer(source, builder.mul(row_stride, _I64(i)))) for i in range(v.lanes)]
        half = 1
        while half < v.lanes:  # exchange the off-diagonal blocks of `half` x `half` elements
            low = [n + v.lanes - half if n & half else n for n in range(v.lanes)]
            high = [n + v.lanes if n & half else n + half for n in range(v.lanes)]
            for i in range(v.lanes):
                if not i & half:
                    a, b = rows[i], rows[i + half]
                    rows[i], rows[i + half] = (
                        builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, v.lanes), lanes))
                        for lanes in (low, high)
                    )
            half *= 2
        for k, value in enumerate(rows):
            v.store(value, v.pointer(destination, builder.mul(column_stride, _I64(k))))
        return context.get_dummy_value()

    return signature, codegen
