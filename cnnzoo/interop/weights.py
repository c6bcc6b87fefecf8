"""Weights as safetensors files, and reading weights in whichever form they are.

Names and layouts are PyTorch's: `safetensors.torch.save_file(model.state_dict(), path)` writes what `load_weights`
reads, and `model.load_state_dict(safetensors.torch.load_file(path))` takes what `save_weights` wrote. PyTorch's batch
norms count batches in `num_batches_tracked`, which `Network.load_state_dict` ignores and `Network.state_dict` has not;
PyTorch does without it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from cnnzoo.atomic import write_atomically
from cnnzoo.errors import WeightsError
from cnnzoo.interop.hex_weights import load_hex_weights

# Safetensors' names of the types that are read. NumPy has no bfloat16: it is the upper half of a float32.
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}


def save_weights(
    path: str | os.PathLike[str], weights: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays by name to a safetensors file, atomically.

    Parameters
    ----------
    path : path
    weights : mapping from str to array
        As `Network.state_dict` returns it.
    metadata : mapping from str to str, or None
        Kept in the file's header.

    Raises
    ------
    OSError
        The file cannot be written; one of that name stays as it was.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
    write_atomically(path, safetensors.numpy.save(arrays, metadata=dict(metadata or {})))


def load_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read arrays by name, from a safetensors file or from a folder that `save_hex_weights` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict from str to array
        float16, float32, float64 or int64; bfloat16 becomes float32, exactly. `Network.load_state_dict` rounds to the
        network's own type.

    Raises
    ------
    WeightsError
        There is no such file or folder, it cannot be read, is damaged or incomplete, or holds arrays of a type that
        weights do not have: quantized or complex ones.
    """
    path = Path(path)
    if path.is_dir():
        return load_hex_weights(path)
    if not path.is_file():
        raise WeightsError(f"{path}: expected a safetensors file or a folder of hexadecimal weights, found nothing")
    try:
        content = path.read_bytes()
        tensors = sorted(safetensors.deserialize(content), key=lambda item: item[0])  # they come in any order
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path}: expected a safetensors file, found {_describe(content, error)}") from error
    refused = [f"{name} of {tensor['dtype']}" for name, tensor in tensors if tensor["dtype"] not in _DTYPES]
    if refused:
        raise WeightsError(f"{path}: expected arrays of {', '.join(_DTYPES)}, found {', '.join(refused)}")
    return {name: _make_array(tensor) for name, tensor in tensors}


def _make_array(tensor: Mapping[str, Any]) -> np.ndarray:
    array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    if tensor["dtype"] == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _describe(content: bytes, error: Exception) -> str:
    """Return what the bytes are that safetensors refused."""
    if content[:4] == b"PK\x03\x04" or content[:2] == b"\x80\x02":
        return "a pickle; in PyTorch, safetensors.torch.save_file(model.state_dict(), path) writes one"
    return f"a damaged one or something else ({error})"
