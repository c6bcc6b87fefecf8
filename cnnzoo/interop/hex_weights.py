"""Weights as a folder of hexadecimal text files, one a parameter: they can be read, compared and loaded anywhere.

A file is called ``<name>.hex``. It is ASCII text: three lines that say what the array is, and then its bytes, little
endian, by rows (the last index runs fastest), as hexadecimal digits, two a byte and 32 bytes a line::

    name conv1.bias
    dtype float32
    shape 6
    cdcc4c3f0000803f9a99993f3333b33fcdcccc3f6666e63f

- name: PyTorch's, of ASCII letters, digits, ``_``, ``-`` and ``.``, not beginning with a dot;
- dtype: float16, float32, float64 or int64;
- shape: the extents, separated by blanks; none for a single value.

Digits may be of either case, broken into lines anywhere, and lines may end in CR LF.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from cnnzoo.atomic import write_folder_atomically
from cnnzoo.errors import WeightsError

DTYPES = ("float16", "float32", "float64", "int64")
SUFFIX = ".hex"
_BYTES_PER_LINE = 32
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_HEADER = re.compile(rb"name (.*?)\r?\ndtype (.*?)\r?\nshape ?(.*?)\r?(?:\n|\Z)")
_NO_DIGIT = re.compile(rb"[^0-9A-Fa-f\s]")


def save_hex_weights(folder: str | os.PathLike[str], weights: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name to a new folder, atomically.

    Parameters
    ----------
    folder : path
        Nothing may be there yet, but an empty folder: what is there is never replaced.
    weights : mapping from str to array
        As `Network.state_dict` returns it; of any name and type that the format has.

    Raises
    ------
    WeightsError
        Something is there already, there are no weights, or a name or a type is none of the format's.
    OSError
        The folder cannot be written; nothing is left behind.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        found = "a folder with something in it" if folder.is_dir() else "a file"
        raise WeightsError(f"{folder}: expected a new or an empty folder, found {found}")
    if not weights:
        raise WeightsError(f"{folder}: expected weights to write, got none")
    for name, array in weights.items():
        if not _NAME.fullmatch(name):
            raise WeightsError(f"{folder}: expected a name of letters, digits, '_', '-' and '.', got {name!r}")
        if np.asarray(array).dtype.name not in DTYPES:
            raise WeightsError(f"{folder}: expected {name} of {', '.join(DTYPES)}, got {np.asarray(array).dtype}")
    write_folder_atomically(folder, _encode_all(weights))


def load_hex_weights(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays of a folder by name; files that are not called ``*.hex`` are left alone.

    Raises
    ------
    WeightsError
        There is no such folder or no weights in it, or a file is not in the format, is called otherwise than its
        parameter, or does not hold exactly the bytes that its type and shape take.
    """
    folder = Path(folder)
    try:
        paths = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX))
        files = [(path, path.read_bytes()) for path in paths]
    except OSError as error:
        raise WeightsError(f"{error.filename or folder}: {error.strerror or error}") from error
    if not files:
        raise WeightsError(f"{folder}: expected weights, a file *{SUFFIX} for each parameter, found none")
    return dict(_decode(path, content) for path, content in files)


def _encode_all(weights: Mapping[str, np.ndarray]) -> Iterator[tuple[str, bytes]]:
    for name, array in weights.items():
        array = np.asarray(array)
        header = f"name {name}\ndtype {array.dtype.name}\nshape {' '.join(map(str, array.shape))}".rstrip()
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        yield f"{name}{SUFFIX}", f"{header}\n{data.hex(chr(10), -_BYTES_PER_LINE)}\n".encode("ascii")


def _decode(path: Path, content: bytes) -> tuple[str, np.ndarray]:
    """Return the name and the array that a file holds."""
    header = _HEADER.match(content)
    if header is None:
        raise WeightsError(f"{path}: expected a file that begins with lines of name, dtype and shape, found others")
    name, dtype, extents = (field.decode("ascii", "backslashreplace").strip() for field in header.groups())
    if path.name != f"{name}{SUFFIX}":
        raise WeightsError(f"{path}: expected the parameter that the file is called after, found {name!r}")
    if dtype not in DTYPES:
        raise WeightsError(f"{path}: expected a dtype of {', '.join(DTYPES)}, found {dtype!r}")
    if not all(re.fullmatch(r"[0-9]{1,18}", extent) for extent in extents.split()):
        raise WeightsError(f"{path}: expected a shape of whole numbers separated by blanks, found {extents!r}")
    shape = tuple(map(int, extents.split()))
    if wrong := _NO_DIGIT.search(content, header.end()):
        line = content.count(b"\n", 0, wrong.start()) + 1
        raise WeightsError(f"{path}, line {line}: expected hexadecimal digits, found {chr(wrong[0][0])!r}")
    digits = b"".join(content[header.end() :].split())
    expected = 2 * np.dtype(dtype).itemsize * math.prod(shape)
    if len(digits) != expected:
        words = f"{expected} hexadecimal digits for {dtype} of shape {shape}"
        raise WeightsError(f"{path}: expected {words}, found {len(digits)}")
    little_endian = np.frombuffer(bytes.fromhex(digits.decode("ascii")), np.dtype(dtype).newbyteorder("<"))
    return name, little_endian.astype(dtype).reshape(shape)
