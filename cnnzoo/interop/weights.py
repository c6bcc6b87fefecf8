"""Weights as safetensors files, and reading weights in whichever form they are.

Names and layouts are PyTorch's: `safetensors.torch.save_file(model.state_dict(), path)` writes what `load_weights`
reads, and `model.load_state_dict(safetensors.torch.load_file(path))` takes what `save_weights` wrote. PyTorch's batch
norms count batches in `num_batches_tracked`, which `Network.load_state_dict` ignores and `Network.state_dict` has not;
PyTorch does without it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnnzoo.errors import WeightsError
from cnnzoo.interop.hex_weights import load_hex_weights
from cnnzoo.interop.tensor_file import read_tensors, write_tensors

STATE_ENTRY, STATE_PREFIX = "checkpoint", "checkpoint/"
"""A checkpoint's entry in the metadata, and how the names of its arrays that are no weights begin."""


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
        Kept in the file's header, with a checksum of the file.

    Raises
    ------
    WeightsError
        An array of a type that weights do not have.
    OSError
        The file cannot be written; one of that name stays as it was.
    """
    write_tensors(path, weights, metadata)


def load_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read arrays by name, from a safetensors file or from a folder that `save_hex_weights` wrote.

    Parameters
    ----------
    path : path
        A checkpoint's weights are read, and the rest of its state left out.

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
    return load_described_weights(path)[0]


def load_described_weights(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays of a safetensors file, by name, and what its header says of them; otherwise as `load_weights`."""
    arrays, metadata = read_tensors(path)
    metadata.pop(STATE_ENTRY, None)
    return {name: array for name, array in arrays.items() if not name.startswith(STATE_PREFIX)}, metadata
