"""Files out of archives, each asked for by name: what else an archive holds, and where it wants to go, is ignored."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from cnnzoo.data.files import naming
from cnnzoo.errors import DataError


def read_members(path: Path, members: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Read some files of an archive, one after another.

    Parameters
    ----------
    path : Path
        A zip file, or a tar file compressed by gzip.
    members : mapping from str to str
        Their paths in the archive, and what they are called from here on.

    Yields
    ------
    name : str
        One of the mapping's values.
    content : bytes

    Raises
    ------
    DataError
        The archive is damaged, or one of the files is missing or is a folder or a link.
    """
    missing = dict(members)
    read = _read_zip if path.suffix == ".zip" else _read_tar
    with naming(path):
        try:
            for name, content in read(path, members):
                if name in missing:
                    yield missing.pop(name), content
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: expected a whole archive, found a damaged one ({error})") from error
    if missing:
        raise DataError(f"{path}: expected a file {next(iter(missing))} in it, found none")


def _read_tar(path: Path, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if member.name in wanted and member.isreg():
                file = archive.extractfile(member)
                assert file is not None  # a regular file has content
                yield member.name, file.read()


def _read_zip(path: Path, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name in wanted:
                yield name, archive.read(name)
