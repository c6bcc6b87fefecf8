"""Reading the pickles of CIFAR-10 without running what a pickle may hold.

A pickle is a program: it can name any function of any module and call it. The published batches need three names,
`numpy.ndarray`, `numpy.dtype` and NumPy's `_reconstruct`, and nothing else is admitted. Pickles that were written again
by Python 3 at protocol 2 spell a byte string as a call of `_codecs.encode`; a function of this module takes its place,
which knows Latin-1 alone.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

from cnnzoo.data.files import file_size, naming
from cnnzoo.errors import DataError


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"a byte string in the encoding {encoding!r}")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _latin1_bytes,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not admitted") from None


def read_pickled_dict(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of plain values and arrays.

    Parameters
    ----------
    path : Path
        Written by Python 2 or 3.

    Returns
    -------
    dict
        Keys decoded to str; strings of Python 2 in the values are bytes.

    Raises
    ------
    DataError
        No such file, truncated or no pickle, a name that is not admitted, or something other than a dictionary.
    """
    size = file_size(path)
    with naming(path):
        file = path.open("rb")
    with file:
        try:
            content = _ArrayUnpickler(file, encoding="bytes").load()
        except Exception as error:  # a malformed pickle fails in any of a dozen ways
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{path}: expected a whole pickle of arrays, found {size} bytes that are not ({reason})"
            ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a pickled dictionary, found {type(content).__name__}")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}
