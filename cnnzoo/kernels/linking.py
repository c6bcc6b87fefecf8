"""How the code of workers reaches the kernels that call them: as it comes, to be optimised once, in the kernel.

Numba optimises each function and generates its machine code, then links it into its callers and optimises it again in
each, level by level. Workers are never called but from kernels: here they are kept as unoptimised LLVM modules, and
all that a kernel consists of is optimised together when the kernel is. That takes less than half of the time.
"""

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.typed_passes import NativeLowering


class _NotCalledFromPython:
    """Stands for the code generator where Numba would tell it of a function's Python environment."""

    def set_env(self, name, environment):
        """Do nothing: compiled code asks for its environment when it raises, which workers do not."""


class _LinkedLibrary(JITCodeLibrary):
    """The code of one worker, with no machine code of its own."""

    codegen = _NotCalledFromPython()

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name):
        self._ensure_finalized()
        return 0


@register_pass(mutates_CFG=False, analysis_only=False)
class _UseLinkedLibrary(LoweringPass):
    """Make the library that the lowering which follows fills."""

    _name = "use_linked_library"

    def __init__(self):
        super().__init__()

    def run_pass(self, state):
        """Make it."""
        state.library = _LinkedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        return False


class WorkerCompiler(CompilerBase):
    """Numba's own passes, with the code left to the linker."""

    def define_pipelines(self):
        """Return the passes."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        lowering = next(i for i, (made, _) in enumerate(passes.passes) if made is NativeLowering)
        passes.passes.insert(lowering, (_UseLinkedLibrary, "leave the code to the linker"))
        passes.finalize()
        return [passes]
