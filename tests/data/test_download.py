"""Downloads from a server on loopback that drops, truncates, lies about ranges, redirects and fails."""

import errno
import hashlib
import os

import numpy as np
import pytest

from cnnzoo.data.download import download
from cnnzoo.data.sources import Download
from cnnzoo.errors import DataError
from tests.data.flaky_server import (
    FlakyServer,
    append,
    drop_after,
    drop_at_once,
    fail_with,
    ignore_range,
    lie_about_range,
    redirect_to,
    say_no_range,
    say_wrong_range,
    truncate,
)

CONTENT = np.random.default_rng(0).bytes(300_000)
FILE = Download(name="file.bin", size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def server():
    with FlakyServer({"/file.bin": CONTENT}).running() as server:
        yield server


@pytest.fixture
def get(server, tmp_path):
    """Return a function that downloads the file with the given behaviors of the server, in turn."""

    def get(*behaviors, url=f"{server.url}/file.bin", file=FILE, **options):
        server.behaviors.extend(behaviors)
        download(url, tmp_path / "file.bin", file, **{"pause": 0.0, "timeout": 5.0} | options)
        assert (tmp_path / "file.bin").read_bytes() == CONTENT
        assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]
        return [start for _, start in server.requests]

    return get


def test_straight(get):
    sizes = []
    assert get(on_progress=sizes.append) == [None]
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(CONTENT)


def test_goes_on_where_the_connection_broke(get):
    assert get(drop_after(100_000), drop_after(50_000), drop_at_once) == [None, 100_000, 150_000, 150_000]


def test_many_breaks_are_no_reason_to_give_up_while_something_comes(get):
    assert len(get(*[drop_after(20_000)] * 14)) == 15


def test_goes_on_after_an_interrupt(get, server, tmp_path):
    class Interrupt(Exception):
        pass

    def interrupt(size):
        if size > 100_000:
            raise Interrupt

    with pytest.raises(Interrupt):
        get(on_progress=interrupt)
    kept = (tmp_path / ".file.bin.part").stat().st_size
    assert kept > 100_000
    assert not (tmp_path / "file.bin").exists()
    assert get() == [None, kept]


def test_part_of_another_file_is_found_out(get, tmp_path):
    (tmp_path / ".file.bin.part").write_bytes(bytes(1000))
    assert get() == [1000, None]


def test_whole_part_is_not_fetched_again(get, tmp_path):
    (tmp_path / ".file.bin.part").write_bytes(CONTENT)
    assert get() == []


def test_part_that_is_too_long(get, tmp_path):
    (tmp_path / ".file.bin.part").write_bytes(CONTENT + b"x")
    assert get() == [None]


@pytest.mark.parametrize(
    ("behavior", "requests"),
    [
        (ignore_range, [None, 100_000]),
        (say_wrong_range, [None, 100_000, None]),
        (lie_about_range, [None, 100_000, None]),
        (say_no_range, [None, 100_000, None]),
    ],
)
def test_server_without_honest_ranges(get, behavior, requests):
    assert get(drop_after(100_000), behavior) == requests


def test_server_that_lies_and_breaks_is_given_up(get, tmp_path):
    with pytest.raises(DataError, match=r"file\.bin: expected 300,000 bytes, the connection keeps failing \(cut off\)"):
        get(drop_after(1000), lie_about_range, *[drop_after(1000)] * 6)
    assert not (tmp_path / "file.bin").exists()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_server_that_is_busy_for_a_while(get, status):
    assert get(fail_with(status), fail_with(status)) == [None] * 3


def test_server_that_stays_busy(get, server):
    with pytest.raises(DataError, match=r"the connection keeps failing \(HTTP 503 Service Unavailable\)$"):
        get(*[fail_with(503)] * 5)
    assert len(server.requests) == 5


def test_what_came_is_kept_when_the_server_goes(get, tmp_path):
    with pytest.raises(DataError, match=r"keeps failing .*; .*\.file\.bin\.part keeps what came"):
        get(drop_after(70_000), *[drop_at_once] * 5)
    assert (tmp_path / ".file.bin.part").read_bytes() == CONTENT[:70_000]
    assert get()[-1] == 70_000


@pytest.mark.parametrize("status", [403, 404, 410])
def test_refusal_is_final(get, server, status):
    with pytest.raises(DataError, match=rf"file\.bin: expected the file, got HTTP {status} "):
        get(fail_with(status))
    assert len(server.requests) == 1


def test_redirect(get, server):
    assert get(redirect_to(f"{server.url}/file.bin"), drop_after(1000)) == [None, None, 1000]


def test_redirect_keeps_the_range(get, server):
    assert get(drop_after(1000), redirect_to("/file.bin")) == [None, 1000, 1000]


def test_redirect_in_circles(get, server):
    with pytest.raises(DataError, match="expected the file, got HTTP 302"):
        get(*[redirect_to("/file.bin")] * 20)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("ftp://127.0.0.1/file.bin", "expected a redirect to a place as safe, got ftp://127.0.0.1/file.bin"),
        ("http://[::1", "expected an address that can be opened, got none"),
        ("http://127.0.0.1:port/", "expected an address that can be opened, got none"),
        ("file:///etc/passwd", "expected the file, got HTTP 302 .* is not allowed"),
    ],
)
def test_redirect_away_from_http(get, target, message):
    with pytest.raises(DataError, match=message):
        get(redirect_to(target))


def test_shorter_file_is_refused_before_it_is_fetched(get, tmp_path):
    with pytest.raises(DataError, match=r"expected a file of 300,000 bytes, the server has one of 9,000$"):
        get(truncate(9000))
    assert not list(tmp_path.iterdir())


def test_longer_file(get, tmp_path):
    with pytest.raises(DataError, match="expected 300,000 bytes, the server sends more"):
        get(append(b"more"))
    assert not (tmp_path / "file.bin").exists()


def test_another_file_of_the_same_size(get, server, tmp_path):
    server.files["/file.bin"] = bytes(300_000)
    with pytest.raises(DataError, match=f"expected SHA-256 {FILE.sha256}, got a file with "):
        get()
    assert not list(tmp_path.iterdir())
    assert len(server.requests) == 1


def test_nobody_listens(get):
    with pytest.raises(DataError, match=r"the connection keeps failing \(.*refused"):
        get(url="http://127.0.0.1:1/file.bin")


def test_silent_server_counts_as_broken(get):
    def stay_silent(handler, content, start):
        handler.rfile.read(1)  # until the client hangs up

    assert get(stay_silent, timeout=0.2) == [None, None]


def test_full_disk_is_no_broken_connection(get, server, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left on device"):
        get()
    assert len(server.requests) == 1
