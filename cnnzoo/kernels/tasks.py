"""How a kernel's `prange` loops run: each is cut out into a function of its own, and Numba's threads share its tasks.

Numba's own way (`parallel=True`) makes a function, its vectorised wrapper and its launcher of each loop, three
libraries that each link and optimise the same workers once more. Here

    for block in prange(count):
        _work(block, x, y)

becomes a serial function of a range of tasks, and the loop a call of `run_tasks` with its address. That takes two
thirds of the time to compile, and an empty call 2 us instead of 8; a loop of one task is a plain call. Each thread
begins with a share of the tasks that lie together, and one that is done takes of what is left of the others' shares.

What the loop reads must be there before it. What it assigns stays in it: a sum over the loop, which would depend on
the number of threads, is refused.
"""

import ast
import inspect
import platform
import textwrap
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES = _I8.as_pointer()
_VOID = ir.VoidType()
_MACHINE = platform.machine().lower()

MOST_SHARES = 480  # threads that share a loop, at most: what they count with is less than a page of the stack
PART_OF_SHARE = 4  # a thread takes one of so many parts of what is left of a share, or all where it is alone

X86_FLUSH_TO_ZERO, X86_DENORMALS_ARE_ZERO = 1 << 15, 1 << 6  # of the MXCSR register
ARM_FLUSH_TO_ZERO = 1 << 24  # of the FPCR register


def cut_loops(function: Callable, compile_task: Callable[[Callable], Callable]) -> Callable:
    """Return `function` with its `prange` loops cut out.

    Parameters
    ----------
    function : callable
        Of a module, without closure.
    compile_task : callable
        Makes a Numba function of the function of each loop: ``loop(share, first, last, *what it reads)``.

    Raises
    ------
    SyntaxError
        A loop assigns a name, other than its index, that is assigned outside of it too, or may end early.
    """
    source = textwrap.dedent(inspect.getsource(function))
    tree = ast.parse(source)
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    cutter = _Cutter(definition)
    cutter.visit(definition)
    tree.body = [*cutter.loops, definition]
    names = function.__globals__ | {"run_tasks": run_tasks}
    exec(compile(ast.fix_missing_locations(tree), function.__code__.co_filename, "exec"), names)
    for loop in cutter.loops:
        names[loop.name] = compile_task(names[loop.name])
    return names[function.__name__]


class _Cutter(ast.NodeTransformer):
    """Replaces the loops of one function by calls, and collects the functions that they became."""

    def __init__(self, definition: ast.FunctionDef):
        self.loops: list[ast.FunctionDef] = []
        self._name = definition.name
        inside = {id(node) for loop in ast.walk(definition) if _is_parallel(loop) for node in ast.walk(loop)}
        outside = [node for node in ast.walk(definition) if id(node) not in inside]
        self._known = {node.arg for node in outside if isinstance(node, ast.arg)}
        self._known |= {node.id for node in outside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}

    def visit_For(self, node: ast.For) -> ast.AST:
        """Cut out a `prange` loop."""
        if not _is_parallel(node):
            self.generic_visit(node)
            return node
        (count,) = node.iter.args  # type: ignore[attr-defined]
        names = [inner for inner in ast.walk(node) if isinstance(inner, ast.Name)]
        index = ast.unparse(node.target)
        shared = self._known.intersection(name.id for name in names) - {index}
        assigned = sorted(shared.intersection(name.id for name in names if isinstance(name.ctx, ast.Store)))
        if assigned:
            raise SyntaxError(
                f"{self._name}: expected a prange loop with names of its own, got one that sets {assigned}"
            )
        if node.orelse or any(isinstance(inner, (ast.Return, ast.Yield)) for inner in ast.walk(node)) or _breaks(node):
            raise SyntaxError(f"{self._name}: expected a prange loop without else, return, yield and break, got one")
        arguments = sorted(shared)
        loop_name = f"{self._name}_loop{len(self.loops)}"
        parameters = ", ".join(["_share", "_first", "_last", *arguments])
        loop: Any = _parse(f"def {loop_name}({parameters}):\n for _ in range(_first, _last): pass")
        loop.body[0].target, loop.body[0].body = node.target, [_ShareNumber().visit(part) for part in node.body]
        self.loops.append(ast.copy_location(loop, node))
        call: Any = _parse(f"run_tasks({loop_name}, count, ({', '.join(arguments)},))")
        call.value.args[1] = count
        return ast.copy_location(call, node)


class _ShareNumber(ast.NodeTransformer):
    """Lets `get_thread_id()` be the number of the share of the tasks: not all of Numba's threads count from 0."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Replace the call."""
        self.generic_visit(node)
        return ast.Name("_share", ast.Load()) if ast.unparse(node.func) == "get_thread_id" else node


def _is_parallel(node: Any) -> bool:
    return isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and ast.unparse(node.iter.func) == "prange"


def _breaks(loop: ast.AST) -> bool:
    """Tell whether a statement of this loop, and not of one inside it, ends it."""
    inner = [node for node in ast.iter_child_nodes(loop) if not isinstance(node, (ast.For, ast.While))]
    return any(isinstance(node, ast.Break) or _breaks(node) for node in inner)


def _parse(statement: str) -> Any:
    return ast.parse(statement).body[0]


@intrinsic
def run_tasks(typingctx, loop, count, arguments):
    """Call ``loop(share, first, last, *arguments)`` for ranges of the tasks 0 .. count; each thread has a share."""
    values = tuple(types.unliteral(a) for a in arguments.types)
    called = loop.get_call_type(typingctx, (*[types.int64] * 3, *values), {})

    def codegen(context, builder, signature, arguments):
        _, count, packed = arguments
        values = [
            _borrowed(context, builder, to, context.cast(builder, value, given, to))
            for value, given, to in zip(
                cgutils.unpack_tuple(builder, packed), signature.args[2].types, called.args[3:], strict=True
            )
        ]
        result = loop.dispatcher.get_compile_result(called)
        context.active_code_library.add_linking_library(result.library)
        threads = builder.call(_declare(builder, "get_num_threads", _I64, []), [])
        threads = builder.select(builder.icmp_signed("<", threads, _I64(MOST_SHARES)), threads, _I64(MOST_SHARES))
        next_tasks = cgutils.alloca_once(builder, _I64, size=MOST_SHARES)
        with cgutils.for_range(builder, threads) as share:
            builder.store(_share_begin(builder, count, threads, share.index), builder.gep(next_tasks, [share.index]))
        fields = [count, threads, next_tasks, *values]
        work = cgutils.alloca_once(builder, ir.LiteralStructType([field.type for field in fields]))
        for i, field in enumerate(fields):
            builder.store(field, cgutils.gep_inbounds(builder, work, 0, i))
        run = _emit_runner(context, builder.module, result.fndesc, called, work.type)
        _emit_launch(builder, run, work, count, threads)
        return context.get_dummy_value()

    return types.void(loop, types.int64, arguments), codegen


def _borrowed(context, builder, kind, value):
    """Return the value without its owner: threads that counted references to one array would wait for each other."""
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    array.parent = cgutils.get_null_value(array.parent.type)
    return array._getvalue()


def _emit_launch(builder, run, work, count, threads):
    """Call `run` for each thread's share, on Numba's threads; for all of them here where there is nothing to share."""
    data = builder.bitcast(work, _BYTES)
    # Numba's threads take arrays, of which each call gets its part: here bytes, whose address says which call it is.
    place, shares, step = (cgutils.alloca_once_value(builder, value) for value in (data, threads, _I64(1)))
    with builder.if_else(builder.or_(_at_most_1(builder, count), _at_most_1(builder, threads))) as (alone, together):
        with alone:
            builder.call(run, [place, shares, step, data])
        with together:
            launch = _declare(builder, "numba_parallel_for", _VOID, [_BYTES] * 5 + [_I64] * 3)
            pointers = [builder.bitcast(pointer, _BYTES) for pointer in (run, place, shares, step, data)]
            builder.call(launch, [*pointers, _I64(0), _I64(1), threads])


def _at_most_1(builder, value):
    return builder.icmp_signed("<=", value, _I64(1))


def _share_begin(builder, count, threads, share):
    """Return the first task of a share: all have about as many."""
    return builder.sdiv(builder.mul(count, share), threads)


def _emit_runner(context, module, loop, called, work_type):
    """Emit the function that Numba's threads call: ``run(place, shares, step, work)``.

    It does the tasks of share k = place[0] - work, and then what is left of the others, with denormal numbers taken as
    zero.
    """
    kind = ir.FunctionType(_VOID, [_BYTES.as_pointer(), _I64.as_pointer(), _I64.as_pointer(), _BYTES])
    run = ir.Function(module, kind, module.get_unique_name(f"run.{loop.unique_name}"))
    run.linkage = "internal"
    builder = ir.IRBuilder(run.append_basic_block())
    place, _, _, data = run.args
    work = builder.bitcast(data, work_type)
    fields = [builder.load(cgutils.gep_inbounds(builder, work, 0, i)) for i in range(len(work_type.pointee.elements))]
    count, threads, next_tasks, *values = fields
    share = builder.sub(builder.ptrtoint(builder.load(place), _I64), builder.ptrtoint(data, _I64))
    restore = _emit_flush(builder)
    function = context.declare_function(module, loop)

    def run_range(first, last):
        # Not inlined: no computation of the loop may move to where denormal numbers count.
        context.call_conv.call_function(
            builder, function, called.return_type, called.args, [share, first, last, *values], attrs=("noinline",)
        )

    with cgutils.for_range(builder, threads) as other:
        owner = builder.srem(builder.add(share, other.index), threads)
        end = _share_begin(builder, count, threads, builder.add(owner, _I64(1)))
        parts = builder.select(_at_most_1(builder, threads), _I64(1), _I64(PART_OF_SHARE))
        _emit_taking(builder, builder.gep(next_tasks, [owner]), end, parts, run_range)
    restore()
    builder.ret_void()
    return run


def _emit_taking(builder, next_task, end, parts, run_range):
    """Emit a loop that takes tasks below `end`, one of `parts` of those that are left at a time, until there are none.

    Threads that take of the same share exchange the number of its next task: a slow core, or one that has other work,
    leaves to the others what it has not begun. Which thread does a task changes no bit.
    """
    look, take, taken, done = (builder.append_basic_block(name) for name in ("look", "take", "taken", "done"))
    builder.branch(look)
    builder.position_at_end(look)
    first = builder.load_atomic(next_task, ordering="monotonic", align=8)
    left = builder.sub(end, first)
    builder.cbranch(builder.icmp_signed(">", left, _I64(0)), take, done)
    builder.position_at_end(take)
    size = builder.sdiv(builder.sub(builder.add(left, parts), _I64(1)), parts)
    last = builder.add(first, size)
    exchanged = builder.cmpxchg(next_task, first, last, ordering="monotonic", failordering="monotonic")
    builder.cbranch(builder.extract_value(exchanged, 1), taken, look)
    builder.position_at_end(taken)
    run_range(first, last)
    builder.branch(look)
    builder.position_at_end(done)


def _emit_flush(builder):
    """Emit code after which the thread takes denormal numbers as zero; returns what emits the code that ends this.

    Weights and gradients that fade away would otherwise make each operation on them up to a hundred times slower.
    """
    if _MACHINE in ("x86_64", "amd64"):
        place = cgutils.alloca_once(builder, _I32)
        argument = builder.bitcast(place, _BYTES)
        read = _declare(builder, "llvm.x86.sse.stmxcsr", _VOID, [_BYTES])
        write = _declare(builder, "llvm.x86.sse.ldmxcsr", _VOID, [_BYTES])
        builder.call(read, [argument])
        before = builder.load(place)

        def set_register(value):
            builder.store(value, place)
            builder.call(write, [argument])

        set_register(builder.or_(before, _I32(X86_FLUSH_TO_ZERO | X86_DENORMALS_ARE_ZERO)))
    elif _MACHINE in ("aarch64", "arm64"):
        before = builder.call(_declare(builder, "llvm.aarch64.get.fpcr", _I64, []), [])
        write = _declare(builder, "llvm.aarch64.set.fpcr", _VOID, [_I64])

        def set_register(value):
            builder.call(write, [value])

        set_register(builder.or_(before, _I64(ARM_FLUSH_TO_ZERO)))
    else:
        return lambda: None
    return lambda: set_register(before)


def _declare(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)
