"""CIFAR-10 (Krizhevsky 2009, "Learning multiple layers of features from tiny images") in its published layouts.

- binary: `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`, records of one label byte and 3072 pixel bytes
  (red, green, blue, each 32x32 by rows); `batches.meta.txt`, a class name a line;
- python: `data_batch_1` to `data_batch_5` and `test_batch`, pickles with `data` uint8[n, 3072] and `labels`;
  `batches.meta` with `label_names`;
- idx: color images and labels as `cnnzoo.data.idx` describes.

The published files hold 10,000 images each. Smaller sets in the same layouts are read as well, with two rules for
binary files, which say nowhere how many images they should hold: the five training batches are of one size, and where
any file has the published size, all have it. So a file cut off between two records is found out.

The class names file is optional; the published names are used where it is missing.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cnnzoo.data.dataset import Split
from cnnzoo.data.files import assemble, check_labels, file_size, folders_to_search, naming
from cnnzoo.data.idx import COLOR, IdxFolder, find_idx, read_idx_split
from cnnzoo.data.pickles import read_pickled_dict
from cnnzoo.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS
_PUBLISHED_SIZE = 10_000 * _RECORD
_TRAIN_NAMES = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST_NAME = "test_batch"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where CIFAR-10 was found, and in which of its layouts; `idx` has the files of the IDX layout."""

    kind: Literal["binary", "python", "idx"]
    folder: Path
    idx: IdxFolder | None = None


def find_cifar10(folder: Path) -> Layout | None:
    """Look for CIFAR-10 in a folder and the folders in it.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Layout or None
        The first found: `folder` itself before the folders in it, and in each place binary before python before idx.
        Any one batch file counts, so that an incomplete set is found, and reading it says what is missing.

    Raises
    ------
    DataError
        `folder` is no folder, or cannot be read.
    """
    names = (*_TRAIN_NAMES, _TEST_NAME)
    for place in folders_to_search(folder):
        with naming(place):
            if any((place / f"{name}.bin").exists() for name in names):
                return Layout(kind="binary", folder=place)
            if any((place / name).exists() for name in names):
                return Layout(kind="python", folder=place)
            found = find_idx(place)
        if found is not None and found.dimensions == COLOR:
            return Layout(kind="idx", folder=place, idx=found)
    return None


def read_cifar10(
    layout: Layout, *, limit_train: int | None = None, limit_test: int | None = None
) -> tuple[Split, Split, tuple[str, ...]]:
    """Read and check every file of the set, then keep the first images of each split.

    Returns
    -------
    train, test : Split
        uint8[N, 3, 32, 32] in the order of the files.
    classes : tuple of 10 str

    Raises
    ------
    DataError
        A missing, truncated or malformed file, or a label that is not in 0..9.
    """
    if layout.idx is not None:
        train = read_idx_split(layout.idx, "train", IMAGE_SHAPE, len(CLASSES), limit_train)
        return train, read_idx_split(layout.idx, "test", IMAGE_SHAPE, len(CLASSES), limit_test), CLASSES
    folder = layout.folder
    suffix, read, meta = (
        (".bin", _read_binary, "batches.meta.txt") if layout.kind == "binary" else ("", _read_python, "batches.meta")
    )
    train_paths = [folder / f"{name}{suffix}" for name in _TRAIN_NAMES]
    test_paths = [folder / f"{_TEST_NAME}{suffix}"]
    sizes = {path: file_size(path) for path in (*train_paths, *test_paths)}
    if layout.kind == "binary":
        _check_binary_sizes(sizes, train_paths)
    splits = []
    for paths, limit in ((train_paths, limit_train), (test_paths, limit_test)):
        capacity = sum(sizes[path] for path in paths) // _PIXELS
        splits.append(assemble(map(read, paths), IMAGE_SHAPE, capacity, limit))
    return splits[0], splits[1], _read_classes(folder / meta)


def _check_binary_sizes(sizes: dict[Path, int], train_paths: list[Path]) -> None:
    for path, size in sizes.items():
        if size == 0 or size % _RECORD:
            expected = f"{_PUBLISHED_SIZE} bytes, or another multiple of {_RECORD}"
            raise DataError(f"{path}: expected {expected}, found {size} bytes")
    if _PUBLISHED_SIZE in sizes.values():
        expected_sizes = dict.fromkeys(sizes, _PUBLISHED_SIZE)
    else:
        expected_sizes = dict.fromkeys(train_paths, statistics.mode(sizes[path] for path in train_paths))
    for path, expected_size in expected_sizes.items():
        if sizes[path] != expected_size:
            raise DataError(f"{path}: expected {expected_size} bytes like the other batches, found {sizes[path]} bytes")


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with naming(path):
        records = np.fromfile(path, np.uint8).reshape(-1, _RECORD)
    check_labels(path, records[:, 0], len(CLASSES))
    return records[:, 1:], records[:, 0]


def _read_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = read_pickled_dict(path)
    for key in ("data", "labels"):
        if key not in content:
            raise DataError(f"{path}: expected a dictionary with data and labels, found {', '.join(sorted(content))}")
    data, labels = content["data"], content["labels"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        found = f"{data.dtype}{list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path}: expected data uint8[n, {_PIXELS}], found {found}")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{path}: expected labels as a list of integers, found {type(labels).__name__}")
    if len(labels) != len(data) or not labels:
        raise DataError(f"{path}: expected one label for each image, found {len(labels)} labels, {len(data)} images")
    numbers = np.array(labels)
    check_labels(path, numbers, len(CLASSES))
    return data, numbers


def _read_classes(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return CLASSES
    if path.suffix == ".txt":
        with naming(path):
            names = [line.strip() for line in path.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    else:
        listed = read_pickled_dict(path).get("label_names")
        strings = listed if isinstance(listed, list) else []
        names = [name.decode("utf-8", errors="replace") if isinstance(name, bytes) else str(name) for name in strings]
    if len(names) != len(CLASSES):
        raise DataError(f"{path}: expected {len(CLASSES)} class names, found {len(names)}")
    return tuple(names)
