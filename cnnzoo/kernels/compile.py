"""How a kernel is compiled: lazily, with an explicit signature, into a cache that follows its sources.

Every compiled function of the package is declared with one of two decorators:

- `kernel("void(T[::1], i8)")`: callable from Python. ``T`` stands for the real type; one compilation serves float32,
  one float64, each made at the first call that needs it and kept on disk. A call whose argument types do not fit the
  signature raises `TypeError` instead of silently compiling again.
- `worker`: callable from kernels only, compiled into each kernel that calls it.
"""

import functools
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np
from numba import types
from numba.core.registry import cpu_target
from numba.np.ufunc.parallel import _launch_threads

from cnnzoo.errors import ConfigError
from cnnzoo.kernels.linking import WorkerCompiler
from cnnzoo.kernels.tasks import cut_loops

# Reassociation without `nnan` and `ninf`: a NaN stays a NaN, so that divergence can be seen. Sums are added in an order
# that suits the vectors: bits may differ between processors whose vectors differ in width.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}

REAL_TYPES = {np.dtype(np.float32): types.float32, np.dtype(np.float64): types.float64}

worker = numba.njit(
    fastmath=FASTMATH,
    error_model="numpy",
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
    pipeline_class=WorkerCompiler,
)
"""Compile a serial function that kernels call."""


def target() -> tuple[str, str, str]:
    """Return the triple, name and features of the CPU that numba compiles for."""
    return cpu_target.target_context.codegen().magic_tuple()


def _default_cache_root() -> Path:
    if os.environ.get("CNNZOO_CACHE_DIR"):
        return Path(os.environ["CNNZOO_CACHE_DIR"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cnnzoo"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "cnnzoo" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnnzoo"


@functools.cache
def cache_directory() -> Path:
    """Return the private folder that holds the compiled kernels of exactly these sources, versions and CPU.

    Numba looks for edits in the file of the function it loads and nowhere else; a kernel calls workers of other files.
    So the folder's name carries a hash over all kernel sources.
    """
    digest = hashlib.sha256()
    for version in (platform.python_version(), numba.__version__, llvmlite.__version__, np.__version__, *target()):
        digest.update(version.encode() + b"\0")
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    folder = _default_cache_root() / f"kernels-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"kernel cache: expected a folder that can be made, got {folder}: {error.strerror}") from None
    _check_private(folder)
    return folder


def _check_private(folder: Path) -> None:
    """Refuse a folder that others can write to: the kernels in it are pickles, which run what is in them."""
    status = folder.stat()
    owned = not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)
    if not owned or not os.access(folder, os.W_OK):
        raise ConfigError(
            f"kernel cache: expected a folder that this user alone can write to, got {folder}; "
            "set CNNZOO_CACHE_DIR to another place"
        )


@dataclass(frozen=True)
class Compilation:
    """One kernel compiled for one real type, or loaded from the cache.

    Attributes
    ----------
    module, name : str
        The kernel's.
    dtype : str
        "float32" or "float64".
    seconds : float
    loaded : bool
        An earlier process compiled it.
    """

    module: str
    name: str
    dtype: str
    seconds: float
    loaded: bool

    @property
    def request(self) -> "Request":
        """What it fulfills."""
        return Request(self.module, self.name, self.dtype)


class Request(NamedTuple):
    """A kernel, by the names of its module and its own, and the real type that it is wanted for."""

    module: str
    name: str
    dtype: str

    @property
    def mark(self) -> Path:
        """The empty file that says that the cache has it."""
        return cache_directory() / f"{self.module}.{self.name}.{self.dtype}"


_requests: set[Request] | None = None


@contextmanager
def record_requests() -> Iterator[set[Request]]:
    """While this lasts no kernel runs, and none is compiled: what would be called is collected in the set returned."""
    global _requests  # noqa: PLW0603
    previous, _requests = _requests, set()
    try:
        yield _requests
    finally:
        _requests = previous


_prepare: Callable[[], None] | None = None


@contextmanager
def before_compiling(prepare: Callable[[], None]) -> Iterator[None]:
    """While this lasts, `prepare` is called once, before the first kernel that the cache lacks is compiled."""
    global _prepare  # noqa: PLW0603
    previous, _prepare = _prepare, prepare
    try:
        yield
    finally:
        _prepare = previous


def fulfill(request: Request) -> Compilation:
    """Compile, or load, what was requested."""
    requested: Kernel = getattr(import_module(request.module), request.name)
    return requested.compile(np.dtype(request.dtype))


def _not_compiled(*arguments: Any) -> None:
    raise TypeError("expected a kernel that has been compiled")


class Kernel:
    """A function compiled at its first call, once for each real type that its signature's ``T`` takes."""

    __name__: str

    def __init__(self, function: Callable, signature: str, parallel: bool):
        functools.update_wrapper(self, function)
        self.signature = signature
        self.parallel = parallel
        self._function = function
        self._dispatcher: Any = _not_compiled
        self._compiled: set[np.dtype] = set()
        # The position of the argument whose dtype tells what T is.
        arguments = signature[signature.index("(") + 1 :].split(",")
        self._tells_type = next((i for i, a in enumerate(arguments) if a.strip().startswith("T[")), None)

    def __call__(self, *arguments: Any) -> Any:
        if _requests is not None:
            _requests.add(Request(self.__module__, self.__name__, self._real_type(arguments).name))
            return None
        try:
            return self._dispatcher(*arguments)
        except TypeError:
            dtype = self._real_type(arguments)
            if dtype in self._compiled or dtype not in REAL_TYPES:
                raise
        self.compile(dtype)
        return self._dispatcher(*arguments)

    def _real_type(self, arguments: tuple[Any, ...]) -> np.dtype:
        return np.dtype(np.float32) if self._tells_type is None else arguments[self._tells_type].dtype

    def compile(self, dtype: np.dtype) -> Compilation:
        """Compile for one real type, or load what an earlier process compiled."""
        global _prepare
        mark = Request(self.__module__, self.__name__, np.dtype(dtype).name).mark
        if _prepare is not None and not mark.exists():
            prepare, _prepare = _prepare, None
            prepare()
        start = time.perf_counter()
        if not self._compiled:
            self._dispatcher = self._make_dispatcher()
        names = {"T": REAL_TYPES[np.dtype(dtype)], "i8": types.int64, "u8": types.uint64, "u1": types.uint8}
        names |= {
            "u2": types.uint16,
            "u4": types.uint32,
            "f8": types.float64,
            "bool_": types.boolean,
            "void": types.void,
        }
        hits = sum(self._dispatcher.stats.cache_hits.values())
        self._dispatcher.disable_compile(False)
        self._dispatcher.compile(eval(self.signature, {"__builtins__": {}}, names))
        self._dispatcher.disable_compile(True)
        self._compiled.add(np.dtype(dtype))
        mark.touch()
        loaded = sum(self._dispatcher.stats.cache_hits.values()) > hits
        return Compilation(self.__module__, self.__name__, np.dtype(dtype).name, time.perf_counter() - start, loaded)

    def _make_dispatcher(self) -> Any:
        function = self._function
        if self.parallel:
            _launch_threads()  # what they are called by must be known before code that calls them is loaded
            function = cut_loops(function, worker)
        dispatcher = numba.njit(fastmath=FASTMATH, error_model="numpy", nogil=True, no_cfunc_wrapper=True)(function)
        # Numba asks for its cache folder once, here; a user's own numba code keeps its own setting.
        previous, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(cache_directory())
        try:
            dispatcher.enable_caching()
        finally:
            numba.config.CACHE_DIR = previous
        return dispatcher


def kernel(signature: str, parallel: bool = False) -> Callable[[Callable], Kernel]:
    """Declare a kernel; see the module's docstring for the signature.

    Parameters
    ----------
    signature : str
        As numba writes it, with ``T`` for the real type and ``i8``, ``u8``, ``u4``, ``u2``, ``u1``, ``f8``, ``bool_``
        for the others. Arrays are contiguous: ``T[::1]``, ``u1[::1]``.
    parallel : bool
        The kernel holds a `prange` loop.
    """
    return lambda function: Kernel(function, signature, parallel)
