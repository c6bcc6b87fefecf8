"""Putting published data sets into a data folder, and checking later that they are still what they were."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cnnzoo.atomic import write_folder_atomically
from cnnzoo.data.archives import read_members
from cnnzoo.data.download import digest_file, download
from cnnzoo.data.files import naming
from cnnzoo.data.sources import Download, Source
from cnnzoo.errors import DataError

CHECKSUMS = "SHA256SUMS"
"""The file beside the data that has their digests, as `sha256sum` writes and checks it."""

_DOWNLOADS = ".downloads"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Where a data set lies, and whether it was there before."""

    folder: Path
    was_there: bool


def fetch(
    sources: tuple[Source, ...],
    data_dir: Path,
    *,
    mirror: str | None = None,
    from_file: Path | None = None,
    on_progress: Callable[[Download, int], None] = lambda file, size: None,
    **patience: float,
) -> Fetched:
    """Put a data set into a data folder, unless it is there already.

    Nothing is used before its digest is right, and the set's folder appears at once with all of its files, and with
    their digests in `SHA256SUMS`. Downloads go to `.downloads` first, and stay there until the set is complete.

    Parameters
    ----------
    sources : tuple of Source
        The forms of the data set.
    data_dir : Path
        Made where it is not there.
    mirror : str or None
        URL of a folder to download from instead.
    from_file : Path or None
        The published file, or a folder with the published files, to take instead of downloading.
    on_progress : callable
        Told the file and how many bytes of it are there.
    **patience
        `timeout`, `patience` and `pause` of `download`.

    Raises
    ------
    DataError
        The set is there but damaged, the given file is not the published one, or a download fails.
    OSError
        The folder cannot be written.
    """
    source, files = (sources[0], None) if from_file is None else _recognize(sources, from_file)
    folder = data_dir / source.folder
    if folder.is_dir() and any(folder.iterdir()):
        check_sums(folder)
        return Fetched(folder=folder, was_there=True)
    data_dir.mkdir(parents=True, exist_ok=True)
    if files is not None:
        write_folder_atomically(folder, _with_sums(_contents(source, files)))
        return Fetched(folder=folder, was_there=False)
    downloads = data_dir / _DOWNLOADS
    downloads.mkdir(exist_ok=True)
    files = [downloads / file.name for file in source.downloads]
    for file, path in zip(source.downloads, files, strict=True):
        if not (path.is_file() and digest_file(path) == file.sha256):

            def tell(size: int, file: Download = file) -> None:
                on_progress(file, size)

            download(f"{(mirror or source.site).rstrip('/')}/{file.name}", path, file, tell, **patience)  # type: ignore[arg-type]
    write_folder_atomically(folder, _with_sums(_contents(source, files)))
    for path in files:
        path.unlink()
    if not any(downloads.iterdir()):
        downloads.rmdir()
    return Fetched(folder=folder, was_there=False)


def check_sums(folder: Path) -> int:
    """Compare the files of a folder with its `SHA256SUMS`, and return how many they are.

    Raises
    ------
    DataError
        There are no sums, they cannot be read, or a file is missing or differs.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        raise DataError(f"{folder}: expected {CHECKSUMS} beside the data, found none: they were not fetched by cnnzoo")
    with naming(path):
        lines = path.read_text("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or os.path.basename(match[2]) != match[2]:
            raise DataError(f"{path}, line {number}: expected a digest and a name, found {line!r}")
        file = folder / match[2]
        if not file.is_file():
            raise DataError(f"{file}: expected a file, found nothing; remove {folder} and fetch it again")
        with naming(file):
            digest = digest_file(file)
        if digest != match[1]:
            raise DataError(f"{file}: expected SHA-256 {match[1]}, found {digest}; remove {folder} and fetch it again")
    return len(lines)


def _recognize(sources: tuple[Source, ...], given: Path) -> tuple[Source, list[Path]]:
    """Return the source whose files are given, and the files."""
    if not given.exists():
        raise DataError(f"{given}: expected a file or a folder, found nothing")
    wrong = []
    for source in sources:
        files = [given / file.name if given.is_dir() else given for file in source.downloads]
        if given.is_file() and len(files) > 1:
            raise DataError(f"{given}: expected a folder with {', '.join(file.name for file in source.downloads)}")
        for file, path in zip(source.downloads, files, strict=True):
            if not path.is_file():
                wrong.append(f"{path}: expected a file, found nothing")
            elif (digest := digest_file(path)) != file.sha256:
                wrong.append(f"{path}: expected {file.name} with SHA-256 {file.sha256}, found {digest}")
            else:
                continue
            break
        else:
            return source, files
    raise DataError(wrong[0])


def _contents(source: Source, files: list[Path]) -> Iterator[tuple[str, bytes]]:
    if source.members:
        yield from read_members(files[0], source.members)
    else:
        for file, path in zip(source.downloads, files, strict=True):
            with naming(path):
                yield file.name, path.read_bytes()


def _with_sums(contents: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Pass files on, and a list of their digests behind them."""
    lines = []
    for name, content in contents:
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        yield name, content
    yield CHECKSUMS, "".join(lines).encode()
