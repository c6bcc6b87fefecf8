"""A process beside rank 0 that learns at once when a rank ends too early, says so once, and ends the others.

Launchers tell little of that: MPICH's names the first process of the host, whichever was killed. Each rank keeps a
connection to the watch. A rank that leaves says so; one whose connection ends without a word was killed. A rank that
loses the watch before it has left ends itself: rank 0's host is gone. This file is also the program of the watch, and
so imports nothing but what comes with Python.
"""

import contextlib
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

_DONE = b"done"
_TOLD, _END = b"t", b"x"  # what the watch says to a rank: its line is printed; it has to end
_PATIENCE = 2.0  # seconds that a launcher has for ending the other ranks itself, and the watch for printing a line
_PASSING_ON = 0.2  # seconds that a launcher has for passing on what was printed before it ends all
_ARRIVAL = 60.0  # seconds within which all ranks connect
_GREETING = 5.0  # seconds, and bytes, within which a connection has to prove that it is a rank's
_LONGEST_GREETING = 4096
_ADVICE = "--resume goes on from the last checkpoint"


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
    with process.stdout as output:
        port = int(output.readline())
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
    turn : int
        In which this rank tells that the watch is gone, and ends: 0 at once, 1 where no earlier one did; from 2 on it
        ends without a word.
    """

    def __init__(self, address: Address | None, place: str, turn: int) -> None:
        self._connection: socket.socket | None = None
        self._ends = False
        self._told = threading.Event()
        if address is None:
            return
        self._turn, self._host = turn, address.host
        host = "127.0.0.1" if address.host == socket.gethostname() else address.host
        with contextlib.suppress(OSError):
            self._connection = socket.create_connection((host, address.port), timeout=10)
            self._connection.settimeout(None)
            _keep_alive(self._connection)
            self._connection.sendall(f"{address.token} {place} (process {os.getpid()})\n".encode())
            threading.Thread(target=self._obey, daemon=True).start()

    def leave(self) -> None:
        """Tell the watch that this rank ends as it should."""
        self._ends = True
        self._send(_DONE)

    def fail(self, line: str) -> None:
        """Have a line printed, if no other rank was first; print it here where no watch does. Then all may be ended."""
        self._ends = True
        time.sleep(_PASSING_ON)  # what this rank has printed comes first
        if not (self._send(line.encode()) and self._told.wait(_PATIENCE)):
            _print(line.encode())
        time.sleep(_PASSING_ON)

    def _send(self, line: bytes) -> bool:
        if self._connection is None:
            return False
        try:
            self._connection.sendall(line + b"\n")
        except OSError:
            return False
        return True

    def _obey(self) -> None:
        """End this process when the watch says so or is gone; it may be waiting for a lost rank, in a call of MPI."""
        while (word := self._hear()) == _TOLD:
            self._told.set()
        if not word:
            if self._ends:
                return
            time.sleep(self._turn * _PATIENCE)
            if self._turn < 2:
                _print(f"cnnzoo: the watch beside rank 0 was killed, or {self._host} is gone; {_ADVICE}".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def _hear(self) -> bytes:
        """Return what the watch says next, nothing where it is gone."""
        assert self._connection is not None
        with contextlib.suppress(OSError):
            return self._connection.recv(1)
        return b""


class _Client:
    """A connection to the watch."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        _keep_alive(connection)
        self.connection = connection
        self.since = time.monotonic()
        self.received = b""  # of a line that has not ended

    def read_lines(self) -> list[bytes]:
        """Return the lines that have come; the last one is empty where the connection has ended."""
        try:
            part = self.connection.recv(_LONGEST_GREETING)
        except BlockingIOError:
            return []
        except OSError:
            part = b""
        *lines, self.received = (self.received + part).split(b"\n")
        return lines if part else [b""]

    def say(self, word: bytes) -> None:
        """Send a word to a rank that may be gone."""
        with contextlib.suppress(OSError):
            self.connection.send(word)


class _Watch:
    """The watch itself."""

    def __init__(self, ranks: int, token: str) -> None:
        self._token = token.encode()
        self._server = socket.create_server(("", 0), backlog=ranks)
        self._server.setblocking(False)
        self._expected = ranks
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._strangers: set[_Client] = set()
        self._ranks: dict[_Client, str] = {}

    @property
    def port(self) -> int:
        return self._server.getsockname()[1]

    def run(self) -> None:
        """Watch until every rank has left, or one has not."""
        deadline = time.monotonic() + _ARRIVAL
        while self._ranks or (self._expected and time.monotonic() < deadline):
            for client, line in self._listen(1.0):
                if client in self._strangers:
                    self._welcome(client, line)
                elif line == _DONE:
                    self._drop(client)
                else:
                    self._tell(client, line)
                    self._end_others()
                    return
            for client in list(self._strangers):
                late = time.monotonic() > client.since + _GREETING
                if late or len(client.received) > _LONGEST_GREETING:
                    self._drop(client)

    def _listen(self, seconds: float) -> Iterator[tuple[_Client, bytes]]:
        """Yield what comes within some time, line by line, until something has; let in who knocks."""
        for key, _ in self._selector.select(seconds):
            client = key.data
            if client is None:
                with contextlib.suppress(OSError):
                    client = _Client(self._server.accept()[0])
                    self._selector.register(client.connection, selectors.EVENT_READ, client)
                    self._strangers.add(client)
                continue
            for line in client.read_lines():
                if client in self._strangers or client in self._ranks:  # the line before may have been its last
                    yield client, line

    def _welcome(self, client: _Client, line: bytes) -> None:
        """Take a connection that knows the token for a rank's; end any other."""
        token, _, name = line.partition(b" ")
        if not secrets.compare_digest(token, self._token):
            self._drop(client)
            return
        self._strangers.remove(client)
        self._ranks[client] = name.decode(errors="replace")
        self._expected -= 1

    def _drop(self, client: _Client) -> None:
        self._strangers.discard(client)
        self._ranks.pop(client, None)
        self._selector.unregister(client.connection)
        client.connection.close()

    def _tell(self, client: _Client, line: bytes) -> None:
        """Print what a rank said last; of one that said nothing, that it was killed."""
        killed = f"cnnzoo: {self._ranks[client]} was killed, or its host is gone; {_ADVICE}"
        _print(line or killed.encode())
        client.say(_TOLD)

    def _end_others(self) -> None:
        """Give the launcher some time, then end the ranks that are still there."""
        deadline = time.monotonic() + _PATIENCE
        while self._ranks and (left := deadline - time.monotonic()) > 0:
            for client, line in self._listen(left):
                if line:
                    client.say(_TOLD)  # what it says follows from what was told
                else:
                    self._drop(client)
        for client in self._ranks:
            client.say(_END)


def _keep_alive(connection: socket.socket) -> None:
    """Let a connection end within seconds where the other host does; one that lost its power says nothing."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)


def _print(line: bytes) -> None:
    """Print a line on standard error, whose reader may be gone."""
    with contextlib.suppress(OSError):
        os.write(2, line + b"\n")


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
