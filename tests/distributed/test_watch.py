"""The watch beside rank 0, and what ranks do when they lose it; no MPI takes part."""

import contextlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from cnnzoo.training.watch import start_watch
from tests.distributed.ranks import ROOT

_RANK = """
import sys, time
from cnnzoo.training.watch import Address, Watched
port, turn = sys.argv[1:]
watched = Watched(Address({host!r}, int(port), "token"), "rank 1 on node", int(turn))
{act}
"""
_STRANGE = (b"5\n", b"\xff\xfe 1\n", b"[" * 60_000 + b"\n", b"\n", b"token rank 9\n", b"a" * 10_000)


@pytest.fixture
def connect():
    """Return a function that connects to a watch and says something."""
    with contextlib.ExitStack() as stack:

        def say(address, *said):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", address.port), timeout=10))
            connection.sendall(b"".join(said))
            return connection

        yield say


def _greet(address, rank):
    return f"{address.token} rank {rank} on node (process 1)\n".encode()


def _is_closed(connection):
    try:
        return not connection.recv(1)
    except ConnectionResetError:
        return True


def test_strangers_do_not_disturb_the_watch(connect, capfd):
    """One of them sends byte after byte, and never a line."""
    address = start_watch(2)
    strangers = [connect(address, said) for said in _STRANGE]
    slow = connect(address, b"a")
    first, second = connect(address, _greet(address, 0)), connect(address, _greet(address, 1))
    assert all(map(_is_closed, strangers))
    start = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - start < 20:
            slow.send(b"a")
            time.sleep(0.2)
    assert time.monotonic() - start < 20, "the slow one is still let in"
    first.sendall(b"rank 0: an error\n")
    assert first.recv(1) == b"t"
    assert second.recv(1) == b"x"  # it had its time to end by itself
    assert capfd.readouterr().err == "rank 0: an error\n"


def test_what_several_ranks_say_is_printed_once(connect, capfd):
    address = start_watch(3)
    ranks = [connect(address, _greet(address, rank)) for rank in range(3)]
    ranks[2].sendall(b"done\n")
    assert _is_closed(ranks[2])
    for rank in ranks[:2]:
        rank.sendall(b"an error\n")
        assert rank.recv(1) == b"t"
    assert capfd.readouterr().err == "an error\n"


def test_line_that_comes_with_the_greeting_counts(connect, capfd):
    address = start_watch(1)
    assert connect(address, _greet(address, 0), b"an error\n").recv(1) == b"t"
    assert capfd.readouterr().err == "an error\n"


def _run_rank(act, turn=0, heard=None):
    """Run a rank whose watch says nothing, and ends when it has heard some words: (exit code, errors)."""
    program = _RANK.format(host=socket.gethostname(), act=act)
    with socket.create_server(("", 0)) as server, contextlib.ExitStack() as stack:
        server.settimeout(30)
        command = [sys.executable, "-c", program, str(server.getsockname()[1]), str(turn)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        connection = stack.enter_context(server.accept()[0])
        if heard is not None:
            received = b""
            while heard not in received:
                received += connection.recv(100)
            connection.close()
        _, errors = process.communicate(timeout=30)
    return process.returncode, errors


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_rank_that_loses_the_watch_ends_itself(turn):
    code, errors = _run_rank("time.sleep(60)", turn, heard=b"token rank 1 on node (process ")
    assert code == -signal.SIGKILL
    told = f"cnnzoo: the watch beside rank 0 was killed, or {socket.gethostname()} is gone; --resume goes on"
    assert errors.startswith(told) if turn < 2 else errors == ""


def test_rank_that_leaves_does_not_need_the_watch():
    assert _run_rank("watched.leave(); time.sleep(1)", heard=b"done\n") == (0, "")


def test_line_that_no_watch_prints_is_printed_by_the_rank():
    assert _run_rank("watched.fail('an error')") == (0, "an error\n")


def test_watch_of_ranks_that_left_ends(connect):
    address = start_watch(1)
    rank = connect(address, _greet(address, 0), b"done\n")
    assert _is_closed(rank)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            connect(address).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.1)
    raise AssertionError("the watch is still there")
