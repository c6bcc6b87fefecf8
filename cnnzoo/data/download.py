"""Downloading a file whose size and digest are known, over connections that break."""

import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cnnzoo.data.sources import Download
from cnnzoo.errors import DataError

# What may go away by itself: time-outs, too many requests, and the server's own errors.
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
_CHUNK = 1 << 16

# How connections break; other errors of the system, such as a full disk, are none of these.
_BROKEN = (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError)


class _Unusable(Exception):
    """What the server sent does not continue what is there."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but neither away from HTTP nor from an encrypted connection to an open one."""

    def redirect_request(self, request: Any, file: Any, code: Any, message: Any, headers: Any, url: str) -> Any:
        scheme = urlsplit(url).scheme
        if scheme not in ("http", "https") or (request.type == "https" and scheme != "https"):
            raise DataError(f"{request.full_url}: expected a redirect to a place as safe, got {url}")
        return super().redirect_request(request, file, code, message, headers, url)


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(
    url: str,
    path: Path,
    expected: Download,
    on_progress: Callable[[int], None] = lambda size: None,
    *,
    timeout: float = 30.0,
    patience: int = 5,
    pause: float = 1.0,
) -> None:
    """Download a file, and be sure that it is the right one.

    What has come is kept beside `path` as `.NAME.part`: after a broken connection, and when called again after an
    interrupt, the rest alone is asked for, by a range request. The part becomes `path` once size and digest are right.

    Parameters
    ----------
    url : str
        http or https.
    path : Path
        In a folder that exists.
    expected : Download
    on_progress : callable
        Told how many bytes are there, after each piece.
    timeout : float
        Seconds of silence after which a connection counts as broken.
    patience : int
        Connections in a row that bring nothing new, before giving up.
    pause : float
        Seconds before the second attempt that follows one without gain; doubled from one to the next.

    Raises
    ------
    DataError
        The server refuses, keeps failing, or sends another file.
    OSError
        The file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    losses = fruitless = 0  # times that a part was useless; attempts in a row without gain
    while True:
        before = _size(part)
        # After a loss everything is fetched in one piece: the server's parts may not fit together.
        start = 0 if losses else before
        try:
            if before < expected.size:
                _receive(url, part, expected, start, on_progress, timeout)
            digest = digest_file(part)
            if digest == expected.sha256:
                break
            if start == 0:
                part.unlink()
                raise DataError(f"{url}: expected SHA-256 {expected.sha256}, got a file with {digest}")
            raise _Unusable("its parts do not fit together")
        except _Unusable as error:
            part.unlink(missing_ok=True)
            losses += 1
            reason = str(error)
        except _BROKEN as error:
            reason = _describe(url, error)
        fruitless = 0 if _size(part) > before else fruitless + 1
        if fruitless >= patience:
            kept = f"; {part} keeps what came, and the same command goes on from there" if part.exists() else ""
            raise DataError(f"{url}: expected {expected.size:,} bytes, the connection keeps failing ({reason}){kept}")
        if fruitless:
            time.sleep(pause * 2 ** (fruitless - 1))
    os.replace(part, path)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _receive(
    url: str, part: Path, expected: Download, start: int, on_progress: Callable[[int], None], timeout: float
) -> None:
    """Append what one connection brings, from byte `start` on; a start of 0 begins anew."""
    headers = {"User-Agent": "cnnzoo", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with _open(url, headers, timeout) as response:
        if start and response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # it sends all, whatever is asked for
        elif start:
            _check_range(response.headers.get("Content-Range", ""), start, expected.size)
        _check_length(url, response.headers.get("Content-Length"), expected.size - start, start)
        size = start
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            while chunk := response.read(_CHUNK):
                size += len(chunk)
                if size > expected.size:
                    raise DataError(f"{url}: expected {expected.size:,} bytes, the server sends more")
                file.write(chunk)
                on_progress(size)
            file.flush()
            os.fsync(file.fileno())
    if size < expected.size:
        raise http.client.IncompleteRead(b"", expected.size - size)


def _open(url: str, headers: dict[str, str], timeout: float) -> Any:
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.build_opener(_Redirects).open(request, timeout=timeout)
    except DataError:
        raise
    except (ValueError, http.client.InvalidURL) as error:  # of where a redirect leads, too
        raise DataError(f"{url}: expected an address that can be opened, got none ({error})") from error
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _Unusable("it has no such range") from error
        raise


def _check_range(said: str, start: int, size: int) -> None:
    """Raise `_Unusable` where the server sends another part than it was asked for."""
    if said not in (f"bytes {start}-{size - 1}/{size}", f"bytes {start}-{size - 1}/*"):
        raise _Unusable(f"bytes from {start} asked for, {said or 'some'} sent")


def _check_length(url: str, said: str | None, expected: int, start: int) -> None:
    """Refuse a file of another length before it is fetched, such as a page that says something went wrong."""
    if said is not None and said.isdecimal() and int(said) != expected:
        if start:
            raise _Unusable(f"{expected} bytes asked for, {said} announced")
        raise DataError(f"{url}: expected a file of {expected:,} bytes, the server has one of {int(said):,}")


def _describe(url: str, error: Exception) -> str:
    """Return why a connection failed; raise `DataError` where another attempt would fail as well."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if error.code not in _TEMPORARY:
            raise DataError(f"{url}: expected the file, got HTTP {error.code} {' '.join(str(error.reason).split())}")
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, http.client.IncompleteRead):
        return "cut off"
    return str(getattr(error, "reason", None) or error) or type(error).__name__
