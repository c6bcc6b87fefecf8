"""A process beside rank 0 that learns at once when a rank ends too early, says so once, and ends the others.

Launchers tell little of that: MPICH's names the first process of the host, whichever was killed. Each rank keeps a
connection to the watch. A rank that leaves says so; one whose connection ends without a word was killed. This file is
also the program of the watch, and so imports nothing but what comes with Python.
"""

import contextlib
import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NamedTuple

_DONE = b"done\n"
_PATIENCE = 2.0  # seconds that a launcher has for ending the other ranks itself
_ARRIVAL = 60.0  # seconds within which all ranks connect


class Address(NamedTuple):
    """Where the watch listens, and a word by which it knows its ranks."""

    host: str
    port: int
    token: str


def start_watch(ranks: int) -> Address | None:
    """Start the watch of so many ranks in a process of its own, which ends when all of them have left.

    None where it cannot be started.
    """
    with contextlib.suppress(OSError, ValueError):
        return _start(ranks)
    return None


def _start(ranks: int) -> Address:
    token = secrets.token_hex(16)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(ranks)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # the launcher ends rank 0 with all that is in its session
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(token.encode() + b"\n")
    process.stdin.close()
    port = int(process.stdout.readline())
    process.returncode = 0  # nobody waits for it: it outlives this process
    return Address(socket.gethostname(), port, token)


class Watched:
    """A rank's connection to the watch.

    Where the watch cannot be reached, as behind a firewall, there is none: then a launcher's own words have to do.

    Parameters
    ----------
    address : Address or None
    place : str
        The rank in messages.
    """

    def __init__(self, address: Address | None, place: str) -> None:
        self._connection: socket.socket | None = None
        if address is None:
            return
        host = "127.0.0.1" if address.host == socket.gethostname() else address.host
        with contextlib.suppress(OSError):
            self._connection = socket.create_connection((host, address.port), timeout=10)
            self._connection.settimeout(None)
            self._connection.sendall(json.dumps([address.token, place, os.getpid()]).encode() + b"\n")
            threading.Thread(target=self._obey, daemon=True).start()

    def leave(self) -> None:
        """Tell the watch that this rank ends as it should."""
        self._send(_DONE)

    def fail(self, line: str) -> None:
        """Have a line printed, if no other rank was first; print it here where there is no watch."""
        if not self._send(f"{line}\n".encode()):
            with contextlib.suppress(OSError):
                os.write(2, f"{line}\n".encode())

    def _send(self, message: bytes) -> bool:
        if self._connection is None:
            return False
        try:
            self._connection.sendall(message)
        except OSError:
            return False
        return True

    def _obey(self) -> None:
        """End this process when the watch says so; it may be waiting for a rank that is gone, in a call of MPI."""
        assert self._connection is not None
        with contextlib.suppress(OSError):
            if self._connection.recv(1):
                os.kill(os.getpid(), signal.SIGKILL)


class _Watch:
    """The watch itself."""

    def __init__(self, ranks: int, token: str) -> None:
        self._token = token
        self._server = socket.create_server(("", 0), backlog=ranks)
        self._expected = ranks
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._names: dict[socket.socket, str] = {}

    @property
    def port(self) -> int:
        return self._server.getsockname()[1]

    def run(self) -> None:
        """Watch until every rank has left, or one has not."""
        deadline = time.monotonic() + _ARRIVAL
        while self._names or (self._expected and time.monotonic() < deadline):
            for key, _ in self._selector.select(1.0):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is self._server:
                    self._welcome()
                    continue
                line = _read_line(connection)
                self._selector.unregister(connection)
                name = self._names.pop(connection)
                if line != _DONE:
                    self._tell(name, line)
                    self._end_others()
                    return

    def _welcome(self) -> None:
        connection, _ = self._server.accept()
        connection.settimeout(5)
        try:
            token, place, process = json.loads(_read_line(connection))
        except (OSError, ValueError):
            token = ""
        if not secrets.compare_digest(token, self._token):
            connection.close()
            return
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):  # a host that lost its power says nothing
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
        self._names[connection] = f"{place} (process {process})"
        self._expected -= 1
        self._selector.register(connection, selectors.EVENT_READ)

    def _tell(self, name: str, line: bytes) -> None:
        """Print what a rank said last; of one that said nothing, that it was killed."""
        killed = f"cnnzoo: {name} was killed, or its host is gone; --resume goes on from the last checkpoint\n"
        with contextlib.suppress(OSError):
            os.write(2, line or killed.encode())

    def _end_others(self) -> None:
        """Give the launcher some time, then end the ranks that are still there."""
        self._selector.unregister(self._server)
        deadline = time.monotonic() + _PATIENCE
        while self._names and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if not _read_line(connection):
                    self._selector.unregister(connection)
                    del self._names[connection]
        for connection in self._names:
            with contextlib.suppress(OSError):
                connection.sendall(b"x")


def _read_line(connection: socket.socket) -> bytes:
    """Return what came up to the end of a line, nothing where the connection has ended."""
    line = b""
    with contextlib.suppress(OSError):
        while not line.endswith(b"\n"):
            part = connection.recv(1)
            if not part:
                return b""
            line += part
    return line


def main() -> None:
    """Watch as the process that `start_watch` made."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # they are for the ranks
    watch = _Watch(int(sys.argv[1]), sys.stdin.readline().strip())
    print(watch.port, flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the launcher waits for the end of rank 0's output
    watch.run()


if __name__ == "__main__":
    main()
