"""Signals that ask a command to end: the first one politely, the second at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows lacks the last


class Interrupt(KeyboardInterrupt):
    """A signal ended a command; the exit code is 128 and the signal's number.

    Parameters
    ----------
    message : str
        What the command says.
    number : int
        The signal's.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Deliver Ctrl-C after the ``with`` block, and never to processes that are started within it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


class StopSignals:
    """Within its ``with`` block, SIGINT, SIGTERM and SIGUSR1 call `stop`, or raise `Interrupt` while that is None.

    After the first one they have the system's own effect again: a second one ends the process at once, in the middle of
    a kernel too. For commands: a library leaves signals alone. In another thread than the main one it does nothing.

    Attributes
    ----------
    stop : callable or None
    received : int or None
        The signal that came.
    repeated : bool
        A launcher of several processes may pass on a signal that the process has had already: a second one does
        nothing, and the first one is not told of.
    """

    def __init__(self) -> None:
        self.stop: Callable[[], None] | None = None
        self.received: int | None = None
        self.repeated = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def raise_at_once(self) -> None:
        """Raise `Interrupt` from here on: now, for a signal that has come already."""
        self.stop = None
        if self.received is not None:
            raise Interrupt("interrupted", self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for other in self._previous:
            signal.signal(other, signal.SIG_IGN if self.repeated else signal.SIG_DFL)
        if self.stop is None:
            raise Interrupt("interrupted", number)
        self.stop()
        if self.repeated:
            return
        name = signal.Signals(number).name
        # Not print: the signal may have come within one. Whoever reads may have gone by the same signal, as in a pipe.
        with contextlib.suppress(OSError):
            os.write(2, f"\n{name}: finishing the step, then saving; a second signal leaves at once\n".encode())
