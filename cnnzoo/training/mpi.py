"""Ranks on MPI: the engine of processes that mpiexec or srun started together."""

import atexit
import contextlib
import io
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import numpy as np

from cnnzoo.errors import CnnzooError, ConfigError, DistributedError
from cnnzoo.threads import list_cores
from cnnzoo.training.engine import Describe, Engine, GradientSum, Result
from cnnzoo.training.watch import Watched, start_watch

_LEAST_BUCKET = 2**20
_COMPANY = 3.0  # seconds within which all ranks have to meet an error, so that it is not one rank's alone
_INSTALL = "pip install 'cnnzoo[mpi]' (mpi4py and MPICH), or mpi4py beside the MPI of the cluster"


def _import_mpi() -> Any:
    """Return mpi4py's module MPI; importing it initializes MPI, and leaving Python finalizes it."""
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"  # the main thread alone calls it
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ConfigError(f"distributed: expected mpi4py with an MPI, got {error}; install {_INSTALL}") from None
    return MPI


class MpiEngine(Engine):
    """The ranks of MPI's world.

    A rank that raises an error which nobody handles, or that is killed, ends all of them: see `cnnzoo.training.watch`.
    `make_engine` makes the one that a process has.

    Raises
    ------
    ConfigError
        mpi4py or an MPI is not installed.
    DistributedError
        The launcher is that of another MPI.
    """

    def __init__(self) -> None:
        self._mpi = _import_mpi()
        self._comm, self._errors = self._mpi.COMM_WORLD.Dup(), self._mpi.COMM_WORLD.Dup()
        self.rank, self.size = self._comm.rank, self._comm.size
        self._check_launcher()
        host = platform.node()
        on_host = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        self.neighbors = on_host.size
        cores = on_host.allgather(list_cores())
        self.threads = share_cores(cores, on_host.rank)
        member = {"rank": self.rank, "host": host, "process": os.getpid(), "cores": len(cores[on_host.rank])}
        member |= {"host_cores": len(set().union(*cores)), "threads": self.threads}
        on_host.Free()
        self.members = self._comm.allgather(member)
        self._watched: Watched | None = None
        self._is_together = False
        if self.size > 1:
            address = self._comm.bcast(start_watch(self.size) if self.is_root else None)
            self._watched = Watched(address, self.place, self._find_turn())
            atexit.register(self._watched.leave)
            self._print_error, sys.excepthook = sys.excepthook, self._end_by_error

    def _find_turn(self) -> int:
        """Return the turn in which this rank tells that the watch is gone: first rank 0, then one on another host."""
        elsewhere = [member["rank"] for member in self.members if member["host"] != self.members[0]["host"]]
        return [0, *elsewhere[:1]].index(self.rank) if self.rank in (0, *elsewhere[:1]) else 2

    def _check_launcher(self) -> None:
        """Refuse ranks that a launcher of another MPI has started: each would take itself for the only one."""
        for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
            started = os.environ.get(name, "1")
            if self.size == 1 and started.isdigit() and int(started) > 1:
                raise DistributedError(
                    f"distributed=mpi: expected the {started} ranks that {name} tells of, got 1: the launcher is of "
                    f"another MPI than mpi4py uses, {self.library}"
                )

    @property
    def library(self) -> str:
        """The MPI's name and version."""
        return self._mpi.Get_library_version().split("\n")[0].replace("\t", " ").strip()

    def any(self, flag: bool) -> bool:
        return self.largest(int(flag)) > 0

    def largest(self, number: int) -> int:
        found = np.array([number])
        self._comm.Allreduce(self._mpi.IN_PLACE, found, self._mpi.MAX)
        return int(found[0])

    def from_root(self, function: Callable[[], Result]) -> Result:
        result: Any = None
        error: CnnzooError | None = None
        if self.is_root:
            try:
                result = function()
            except CnnzooError as raised:
                error = raised
        result, error = self._comm.bcast((result, error))
        if error is not None:
            raise error
        return result

    def collect(self, value: Any) -> list[Any]:
        return self._comm.allgather(value)

    def add_up(self, array: np.ndarray) -> None:
        self._comm.Allreduce(self._mpi.IN_PLACE, array, self._mpi.SUM)

    def copy_from_root(self, array: np.ndarray) -> None:
        self._comm.Bcast(array)

    def sum_gradients(self, arena: np.ndarray, bucket_bytes: int, check: Callable[[int, int], object]) -> GradientSum:
        if self.size == 1:
            return GradientSum()
        return _BucketSum(self._mpi, self._comm, arena, bucket_bytes, check)

    @contextlib.contextmanager
    def together(self, describe: Describe = lambda error: None) -> Iterator[None]:
        """Return what `Engine.together` does; that all ranks met an error shows in their coming to a barrier."""
        if self._is_together or self.size == 1:
            yield
            return
        self._is_together = True
        try:
            yield
        except BaseException as error:
            if not (isinstance(error, CnnzooError) and self._meet()):
                told = describe(error)
                if told is None:
                    self._end_by_error(type(error), error, error.__traceback__)
                else:
                    self._end_all(*told)
            raise
        finally:
            self._is_together = False

    def _meet(self) -> bool:
        """Tell whether all ranks call this within some seconds; those that do not may be in any other call."""
        request, deadline = self._errors.Ibarrier(), time.monotonic() + _COMPANY
        while not request.Test():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _end_by_error(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        """Print an error as Python does where nobody handles it, and end all ranks."""
        if isinstance(error, self._mpi.Exception):
            time.sleep(2)  # another rank has gone, and the watch ends this one
        text = io.StringIO()
        with contextlib.redirect_stderr(text):
            self._print_error(kind, error, traceback)
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text.getvalue())  # whole: launchers pass on the pieces of several ranks in any order
        self._end_all(f"cnnzoo: {self.place}: {kind.__name__}: {error}", 1)

    def _end_all(self, line: str, code: int) -> None:
        """End all ranks at once with an exit code and, printed once, a line that tells why."""
        assert self._watched is not None
        for stream in (sys.stdout, sys.stderr):  # `Abort` leaves no time for that
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        self._watched.fail(" ".join(line.split()))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what `Abort` prints adds nothing
        self._comm.Abort(code)


def share_cores(cores: list[list[int]], number: int) -> int:
    """Return the threads of one of the processes on a host, so that all together have no more of them than cores.

    Parameters
    ----------
    cores : list of list of int
        Those that each process may use: all of the host's, or those that the launcher bound it to.
    number : int
        Of the process.
    """
    users = [core for own in cores for core in own]
    return max(1, int(sum(1 / users.count(core) for core in cores[number]) + 1e-9))


def cut_buckets(elements: int, largest: int, least: int) -> list[tuple[int, int]]:
    """Return the bounds of the messages in which an arena is added up, in the order in which backward fills it.

    Each takes half of what is left, but at most `largest` elements and, but for the last, at least `least`: what
    leaves last, with no backward left to hide behind, is short.
    """
    bounds, start = [], 0
    while start < elements:
        stop = min(elements, start + min(largest, max(least, (elements - start) // 2)))
        bounds.append((start, stop))
        start = stop
    return bounds


class _BucketSum(GradientSum):
    """Adds up the arena bucket by bucket, in place; each leaves as soon as backward has filled it."""

    def __init__(
        self, mpi: Any, comm: Any, arena: np.ndarray, bucket_bytes: int, check: Callable[[int, int], object]
    ) -> None:
        self._mpi, self._comm, self._arena, self._check = mpi, comm, arena, check
        least = min(_LEAST_BUCKET, bucket_bytes)
        self._buckets = cut_buckets(arena.size, max(1, bucket_bytes // arena.itemsize), least // arena.itemsize or 1)
        self._requests: list[Any] = []
        self.on_gradient = self._advance

    def _advance(self, done: int) -> None:
        """Send what is among the first `done` elements and has not left; let MPI get on with what has."""
        start = time.perf_counter()
        self._send(done)
        if self._requests:
            self._mpi.Request.Testall(self._requests)
        self.alongside += time.perf_counter() - start

    def finish(self) -> None:
        start = time.perf_counter()
        self._send(self._arena.size)
        self._mpi.Request.Waitall(self._requests)
        self._requests.clear()
        self.waited += time.perf_counter() - start

    def _send(self, done: int) -> None:
        for first, last in self._buckets[len(self._requests) :]:
            if last > done:
                return
            self._check(first, last)
            part = self._arena[first:last]
            self._requests.append(self._comm.Iallreduce(self._mpi.IN_PLACE, part, self._mpi.SUM))
