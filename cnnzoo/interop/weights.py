"""Weights as safetensors files, under PyTorch's names and in its layouts."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from cnnzoo.atomic import write_atomically
from cnnzoo.errors import WeightsError


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
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    write_atomically(path, safetensors.numpy.save(arrays, metadata=dict(metadata or {})))


def load_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays of a safetensors file by name.

    Raises
    ------
    WeightsError
        There is no such file, it cannot be read, or is no complete safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise WeightsError(f"{path}: expected a safetensors file, found {found}")
    try:
        return safetensors.numpy.load_file(path)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}") from error
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a type that NumPy has not
        raise WeightsError(f"{path}: expected a safetensors file that NumPy can hold, got {error}") from error
