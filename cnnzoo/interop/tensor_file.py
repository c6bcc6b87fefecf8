"""Safetensors files: a header in JSON and the bytes of arrays, with a checksum.

What is written depends on the arrays and the metadata alone, to the byte. The metadata say ``"checksum": "sha256"`` and
carry the SHA-256 of the file, taken with zeros in its own place. A file with neither entry, as those of other programs,
is not checked; one with one of them has lost the other.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from cnnzoo.atomic import write_atomically
from cnnzoo.errors import WeightsError, list_names

# Safetensors' names of the types that are read. NumPy has no bfloat16: it is the upper half of a float32.
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items() if name != "BF16"}
_CHECKSUM, _DIGEST = "checksum", "sha256"
_NO_DIGEST = "0" * 64
_LONGEST_HEADER = 100_000_000  # safetensors' own limit


def write_tensors(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays by name to a file, atomically.

    Parameters
    ----------
    path : path
    arrays : mapping from str to array
        Of float16, float32, float64 or int64.
    metadata : mapping from str to str, or None

    Raises
    ------
    WeightsError
        An array of another type.
    OSError
        The file cannot be written; one of that name stays as it was.
    """
    entries: dict[str, Any] = {"__metadata__": {_CHECKSUM: _DIGEST, _DIGEST: _NO_DIGEST} | dict(metadata or {})}
    data, offset = [], 0
    given = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in sorted(given.items(), key=lambda item: (-item[1].itemsize, item[0])):
        little_endian = array.dtype.newbyteorder("<")
        if little_endian not in _NAMES:
            raise WeightsError(f"{path}: expected arrays of {', '.join(_NAMES.values())}, got {name} of {array.dtype}")
        end = offset + array.nbytes
        entries[name] = {"dtype": _NAMES[little_endian], "shape": array.shape, "data_offsets": [offset, end]}
        data.append(np.ascontiguousarray(array, little_endian).reshape(-1).view(np.uint8))
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(header)
    for part in data:
        digest.update(part.data)
    header = header.replace(_NO_DIGEST.encode(), digest.hexdigest().encode(), 1)
    write_atomically(path, header, *data)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays of a file, by name, and its metadata.

    Raises
    ------
    WeightsError
        There is no such file, it cannot be read, is damaged or incomplete, or holds arrays of a type that weights do
        not have: quantized or complex ones.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        tensors = sorted(safetensors.deserialize(content), key=lambda item: item[0])  # they come in any order
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path}: expected a safetensors file, found {_describe(content, error)}") from error
    metadata = _check(path, content)
    refused = {name: tensor["dtype"] for name, tensor in tensors if tensor["dtype"] not in _DTYPES}
    if refused:
        found = list_names(list(refused), {name: f"of {dtype}" for name, dtype in refused.items()})
        raise WeightsError(f"{path}: expected arrays of {', '.join(_DTYPES)}, found {found}")
    return {name: _make_array(tensor) for name, tensor in tensors}, metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the metadata of a file alone, which is quick; its arrays and its checksum are not looked at.

    Raises
    ------
    WeightsError
        There is no such file, or it has no such header.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if 0 < length <= _LONGEST_HEADER else b""
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}") from error
    try:
        return dict(json.loads(text).get("__metadata__", {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise WeightsError(f"{path}: expected a safetensors file, found {_describe(text, error)}") from error


def _check(path: Path, content: bytes) -> dict[str, str]:
    """Return the metadata, after comparing the checksum where there is one."""
    end = 8 + int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8:end]).get("__metadata__", {})
    method, expected = metadata.pop(_CHECKSUM, None), metadata.pop(_DIGEST, None)
    if (method, expected) != (None, None):
        if method != _DIGEST or expected is None:
            raise WeightsError(f"{path}: expected a header with a SHA-256, found one that has lost it")
        digest = hashlib.sha256(content[:end].replace(expected.encode(), _NO_DIGEST.encode(), 1))
        digest.update(memoryview(content)[end:])
        if digest.hexdigest() != expected:
            raise WeightsError(
                f"{path}: expected the SHA-256 that its header tells, {expected[:12]}..., found another: "
                "it is damaged, or was written anew by a program that kept the header"
            )
    return metadata


def _make_array(tensor: Mapping[str, Any]) -> np.ndarray:
    array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    if tensor["dtype"] == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _describe(content: bytes, error: Exception) -> str:
    """Return what the bytes are that were refused."""
    if content[:4] == b"PK\x03\x04" or content[:2] == b"\x80\x02":
        return "a pickle; in PyTorch, safetensors.torch.save_file(model.state_dict(), path) writes one"
    return f"a damaged one or something else ({error})"
