"""One machine vector as a value in kernels: load, compute, store.

Left to LLVM, a loop is vectorised if it can prove, when the loop starts, that its arrays do not overlap. In place they
do, and the loop runs scalar; with many arrays LLVM does not try. A loop over these vectors needs no proof:

    x, y = pointer(x), pointer(y)
    for c in range(0, channels, lanes(x)):
        n = channels - c
        store(y, at + c, n, positive_part(load(x, at + c, n)))

`load` and `store` take the first `n` elements where less than a vector is left, and no byte beyond them is touched.
They take pointers because Numba counts references to arrays, and would go on counting in the inner loop.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from cnnzoo.kernels.vectors import VECTOR_BYTES, Vectors, data_pointer

# Numba gives `FASTMATH` to operations without a flag of their own, and LLVM then adds in an order that suits the
# processor. This flag is there to keep it from that: the sign of zeros matters to nobody.
AS_WRITTEN = ("nsz",)


class VectorType(types.Type):
    """The type of one vector of `dtype`."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """A vector is an LLVM vector of the host's width."""

    def __init__(self, manager, vector):
        element = ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType()
        super().__init__(manager, vector, ir.VectorType(element, VECTOR_BYTES * 8 // vector.dtype.bitwidth))


@intrinsic
def pointer(typingctx, x):
    """Return the pointer to the first element of the array x."""

    def codegen(context, builder, signature, arguments):
        return data_pointer(context, builder, signature.args[0], arguments[0])

    return types.CPointer(x.dtype)(x), codegen


@intrinsic
def address(typingctx, x):
    """Return where the pointer x points to, in bytes."""

    def codegen(context, builder, signature, arguments):
        return builder.ptrtoint(arguments[0], ir.IntType(64))

    return types.int64(x), codegen


@intrinsic
def lanes(typingctx, x):
    """Return how many elements a vector holds of the type that the pointer x points to."""

    def codegen(context, builder, signature, arguments):
        return ir.Constant(ir.IntType(64), VECTOR_BYTES * 8 // signature.args[0].dtype.bitwidth)

    return types.int64(x), codegen


@intrinsic
def zeros(typingctx, x):
    """Return a vector of zeros of the type that the pointer x points to."""

    def codegen(context, builder, signature, arguments):
        return Vectors(context, builder, signature.args[0].dtype).zero

    return VectorType(x.dtype)(x), codegen


def _emit_prefetch(context, builder, signature, arguments, to_write):
    v = Vectors(context, builder, signature.args[0].dtype)
    v.prefetch(v.pointer(*arguments), level=2, to_write=to_write)  # the first level is in use
    return context.get_dummy_value()


@intrinsic
def prefetch(typingctx, x, at):
    """Ask for x[at] to be brought into the second-level cache; any address will do."""

    def codegen(context, builder, signature, arguments):
        return _emit_prefetch(context, builder, signature, arguments, to_write=False)

    return types.void(x, types.int64), codegen


@intrinsic
def prefetch_to_write(typingctx, x, at):
    """Ask for x[at] to be brought into that cache as this thread's alone, since it will be written."""

    def codegen(context, builder, signature, arguments):
        return _emit_prefetch(context, builder, signature, arguments, to_write=True)

    return types.void(x, types.int64), codegen


def _emit_load(v, x, at, count):
    """Emit the load of a vector, or of its first `count` lanes where they are fewer."""
    builder = v.builder
    place = v.pointer(x, at)
    with builder.if_else(builder.icmp_signed(">=", count, count.type(v.lanes)), likely=True) as (whole, part):
        with whole:
            all_lanes, whole_block = v.load(place), builder.block
        with part:
            first_lanes, part_block = v.load(place, v.mask_below(count)), builder.block
    value = builder.phi(v.type)
    value.add_incoming(all_lanes, whole_block)
    value.add_incoming(first_lanes, part_block)
    return value


def _emit_store(v, x, at, count, value):
    """Emit the store of a vector, or of its first `count` lanes where they are fewer."""
    builder = v.builder
    place = v.pointer(x, at)
    with builder.if_else(builder.icmp_signed(">=", count, count.type(v.lanes)), likely=True) as (whole, part):
        with whole:
            v.store(value, place)
        with part:
            v.store(value, place, v.mask_below(count))


@intrinsic
def load(typingctx, x, at, count):
    """Return x[at : at + lanes]; if count < lanes only the first `count` >= 1 are read and the others are 0."""

    def codegen(context, builder, signature, arguments):
        return _emit_load(Vectors(context, builder, signature.args[0].dtype), *arguments)

    return VectorType(x.dtype)(x, types.int64, types.int64), codegen


@intrinsic
def store(typingctx, x, at, count, value):
    """x[at : at + lanes] = value; if count < lanes only the first `count` >= 1 are written."""

    def codegen(context, builder, signature, arguments):
        _emit_store(Vectors(context, builder, signature.args[0].dtype), *arguments)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, value), codegen


@intrinsic
def add(typingctx, a, b):
    """Return a + b."""

    def codegen(context, builder, signature, arguments):
        return builder.fadd(*arguments, flags=AS_WRITTEN)

    return a(a, b), codegen


@intrinsic
def subtract(typingctx, a, b):
    """Return a - b."""

    def codegen(context, builder, signature, arguments):
        return builder.fsub(*arguments, flags=AS_WRITTEN)

    return a(a, b), codegen


@intrinsic
def multiply_add(typingctx, a, b, c):
    """Return a * b + c, rounded once where the machine can."""

    def codegen(context, builder, signature, arguments):
        return Vectors(context, builder, signature.args[0].dtype).multiply_add(*arguments)

    return a(a, b, c), codegen


@intrinsic
def positive_part(typingctx, a):
    """Return max(a, 0); a NaN stays NaN."""

    def codegen(context, builder, signature, arguments):
        (a,) = arguments
        zero = Vectors(context, builder, signature.args[0].dtype).zero
        return builder.select(builder.fcmp_ordered("<=", a, zero), zero, a)

    return a(a), codegen


@intrinsic
def where_positive(typingctx, a, value):
    """Return `value` where a > 0, else 0."""

    def codegen(context, builder, signature, arguments):
        a, value = arguments
        zero = Vectors(context, builder, signature.args[0].dtype).zero
        return builder.select(builder.fcmp_ordered(">", a, zero), value, zero)

    return a(a, value), codegen


@intrinsic
def where_greater(typingctx, a, b, value, other):
    """Return `value` where a > b or a is NaN, else `other`."""

    def codegen(context, builder, signature, arguments):
        a, b, value, other = arguments
        greater = builder.or_(builder.fcmp_ordered(">", a, b), builder.fcmp_unordered("uno", a, a))
        return builder.select(greater, value, other)

    return value(a, b, value, other), codegen


@intrinsic
def splat(typingctx, x, value):
    """Return the vector, of the type that the pointer x points to, whose lanes are all the integer `value`."""

    def codegen(context, builder, signature, arguments):
        v = Vectors(context, builder, signature.args[0].dtype)
        return v.broadcast(builder.sitofp(arguments[1], v.element))

    return VectorType(x.dtype)(x, types.int64), codegen


@intrinsic
def store_bytes(typingctx, x, at, count, value):
    """x[at : at + lanes] = value, bytes of lanes that are whole numbers from 0 to 255; `count` as in `store`."""

    def codegen(context, builder, signature, arguments):
        x, at, count, value = arguments
        v = Vectors(context, builder, signature.args[3].dtype)
        numbers = builder.fptoui(value, ir.VectorType(ir.IntType(32), v.lanes))
        bytes_ = Vectors(context, builder, types.uint8, v.lanes)
        _emit_store(bytes_, x, at, count, builder.trunc(numbers, bytes_.type))
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, value), codegen
