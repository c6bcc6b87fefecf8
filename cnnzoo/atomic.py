"""Files and folders that are there whole or not at all."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Buffer = Any  # bytes, or what else has the buffer protocol; collections.abc.Buffer is there from Python 3.12 on

_LEFTOVER = re.compile(r"\..+\.\d+\.tmp")


@contextmanager
def naming_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let an OSError that names no file, as that of a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def write_atomically(path: str | os.PathLike[str], *content: Buffer) -> None:
    """Write a file in one piece: whoever opens it, now or after a power cut, finds the old content or all of the new.

    Parameters
    ----------
    path : path
        In a folder that exists; a file of that name is replaced.
    *content : bytes or other buffers
        Written one after another.

    Raises
    ------
    OSError
        The folder cannot be written to, or is full; the old file stays and nothing is left behind.
    """
    path = Path(path)
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)  # of a process that was killed, and had this number
    try:
        with naming_file(path):
            _write_to_disk(temporary, *content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _put_on_disk(path.parent)


def write_folder_atomically(path: str | os.PathLike[str], files: Iterable[tuple[str, bytes]]) -> None:
    """Write a new folder of files in one piece: now and after a power cut, it is there with all of them or not at all.

    Parameters
    ----------
    path : path
        In a folder that exists. Nothing may be there yet, but an empty folder.
    files : iterable of (str, bytes)
        Names and contents.

    Raises
    ------
    OSError
        Two files have one name, the place cannot be written to, or is full or taken: what is there stays and nothing
        is left behind.
    """
    path = Path(path)
    temporary = _temporary(path)
    for leftover in _list_leftovers(path):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir()
        for name, content in files:
            with naming_file(path / name):
                _write_to_disk(temporary / name, content)
        _put_on_disk(temporary)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _put_on_disk(path.parent)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove what `write_atomically` left in a folder in processes that were killed; no other may be writing there."""
    for path in Path(folder).iterdir():
        if _LEFTOVER.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _list_leftovers(path: Path) -> list[Path]:
    """Return what processes that were killed left when they wrote to `path`, one that had this number included."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.tmp")
    found = [(other, pattern.fullmatch(other.name)) for other in path.parent.iterdir()]
    return [other for other, match in found if match and not _is_another_running(int(match[1]))]


def _is_another_running(process: int) -> bool:
    """Tell whether a process that is not this one runs; where the system cannot tell, it may."""
    if process == os.getpid():
        return False
    if os.name == "nt":  # there, signal 0 is no question
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _write_to_disk(path: Path, *content: Buffer) -> None:
    with open(path, "xb") as file:
        for part in content:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _put_on_disk(folder: Path) -> None:
    """Make names that are new in a folder last: they do once the folder is on the disk too."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
