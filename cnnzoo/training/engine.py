"""The processes that train one network together, its ranks, as the trainer sees them: alone until it is told otherwise.

The trainer calls the same methods in either case; what several ranks do is in `cnnzoo.training.mpi`, which is imported
when it is asked for.
"""

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from typing import Any, TypeVar, cast

import numpy as np

from cnnzoo.errors import ConfigError

Result = TypeVar("Result")
Method = TypeVar("Method", bound=Callable[..., Any])
Describe = Callable[[BaseException], tuple[str, int] | None]
"""Returns the line that tells of an error and the exit code, None for an error that has to be shown with its origin."""


class GradientSum:
    """The sum of all ranks' gradients, taken while backward goes on; of one rank it is the gradient itself.

    Attributes
    ----------
    on_gradient : callable or None
        For `Network.backward`, of the last batch of a step.
    alongside, waited : float
        Seconds spent between the steps of backward and after it, in all.
    """

    on_gradient: Callable[[int], None] | None = None
    alongside = waited = 0.0

    def finish(self) -> None:
        """Wait until the arena holds the sum."""


class Engine:
    """One process alone, and what an engine of several has to be able to do.

    All ranks call the methods that exchange something, and in the same order.

    Attributes
    ----------
    rank, size : int
        This process's number, from 0, and how many there are.
    neighbors : int
        Ranks on this host, this one included.
    threads : int or None
        With which the ranks on this host share its cores; None: numba's own number.
    members : sequence of dict of str to object
        Of each rank its ``rank``, ``host``, ``process``, ``cores`` and ``threads``, and ``host_cores``, which all
        ranks on its host together may use; empty for one process alone.
    """

    rank, size, neighbors = 0, 1, 1
    threads: int | None = None
    members: Sequence[dict[str, Any]] = ()

    @property
    def is_root(self) -> bool:
        """This is rank 0, which alone writes."""
        return self.rank == 0

    @property
    def place(self) -> str:
        """This process in messages."""
        return f"rank {self.rank} on {platform.node()}"

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set on any rank."""
        return flag

    def largest(self, number: int) -> int:
        """Return the largest of all ranks' numbers."""
        return number

    def from_root(self, function: Callable[[], Result]) -> Result:
        """Call a function on rank 0 alone, and return its result on every rank, or raise its error there."""
        return function()

    def collect(self, value: Any) -> list[Any]:
        """Return the values of all ranks, by rank."""
        return [value]

    def add_up(self, array: np.ndarray) -> None:
        """Replace a contiguous array by the sum of all ranks' arrays, with the same bits on each."""

    def copy_from_root(self, array: np.ndarray) -> None:
        """Replace a contiguous array by rank 0's."""

    def sum_gradients(self, arena: np.ndarray, bucket_bytes: int, check: Callable[[int, int], object]) -> GradientSum:
        """Return what adds up the gradients in `arena`, in messages of at most so many bytes.

        Parameters
        ----------
        arena : ndarray, 1-d
            `Network.gradient_arena`.
        bucket_bytes : int
        check : callable
            Called with the bounds of a part of this rank's own gradients before they leave it.
        """
        return GradientSum()

    def together(self, describe: Describe = lambda error: None) -> AbstractContextManager[None]:
        """Return a context that no rank leaves alone by an error, for the others would wait for it in vain.

        An error of cnnzoo's own is raised where every rank meets one; any other error ends all ranks at once, told
        once. Within another such context it does nothing.
        """
        return nullcontext()


@cache
def make_engine(name: str) -> Engine:
    """Return the engine of a name, "none" or "mpi"; a process has one of each.

    Raises
    ------
    ConfigError
        There is no such engine, or what it needs is not installed.
    """
    if name == "none":
        return Engine()
    if name != "mpi":
        raise ConfigError(f"distributed: expected one of none, mpi, got {name!r}")
    from cnnzoo.training.mpi import MpiEngine

    return MpiEngine()


def act_together(method: Method) -> Method:
    """Have all of a method of an object that has an `engine` happen within the context `Engine.together`."""

    @wraps(method)
    def act(self: Any, *arguments: Any, **options: Any) -> Any:
        with self.engine.together():
            return method(self, *arguments, **options)

    return cast(Method, act)
