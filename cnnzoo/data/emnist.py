"""EMNIST (Cohen, Afshar, Tapson and van Schaik 2017, "EMNIST: an extension of MNIST to handwritten letters").

28x28 gray digits and letters in IDX files `emnist-<split>-train-images-idx3-ubyte` and so on, compressed or not. Six
splits of one collection (table II): byclass has 62 classes; bymerge and balanced merge the lower case of fifteen
letters that look alike in both cases into their upper case; letters merges the cases of all 26; digits and mnist have
the digits alone. The files store each image by columns and number the classes of letters from 1: images are turned
upright and classes counted from 0 here.

No statistics are published, so the mean and deviation that a split is normalized by are those of all its training
images, measured whenever it is read.
"""

import dataclasses
import string
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cnnzoo.data.dataset import Split
from cnnzoo.data.files import folders_to_search, naming
from cnnzoo.data.idx import GRAY, IdxFolder, SplitName, find_idx, read_idx_split
from cnnzoo.data.normalization import Normalization, measure_normalization

IMAGE_SHAPE = (1, 28, 28)
_MERGED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")
CLASSES: dict[str, tuple[str, ...]] = {
    "balanced": _MERGED,
    "letters": tuple(string.ascii_uppercase),
    "digits": tuple(string.digits),
    "byclass": (*string.digits, *string.ascii_uppercase, *string.ascii_lowercase),
    "bymerge": _MERGED,
    "mnist": tuple(string.digits),
}
"""The splits, and what the labels of each stand for."""


def find_emnist(folder: Path, split: str) -> IdxFolder | None:
    """Look for the files of one split in a folder and the folders in it, and in folders `gzip` and `raw` of those.

    Raises
    ------
    DataError
        `folder` is no folder, or cannot be read.
    """
    for place in _places(folder):
        with naming(place):
            found = find_idx(place, prefix=f"emnist-{split}-")
        if found is not None:
            return dataclasses.replace(found, dimensions=GRAY)
    return None


def list_emnist(folder: Path) -> list[str]:
    """Return the splits of which `find_emnist` finds files."""
    return [split for split in CLASSES if find_emnist(folder, split)]


def read_emnist(
    found: IdxFolder, split: str, *, limit_train: int | None = None, limit_test: int | None = None
) -> tuple[Split, Split, Normalization]:
    """Read and check every file, then keep the first images.

    Returns
    -------
    train, test : Split
        uint8[N, 1, 28, 28], upright.
    normalization : Normalization
        Of all training images, whatever the limit.

    Raises
    ------
    DataError
        As `read_idx_split`.
    """
    train = _read(found, split, "train", None)
    normalization = measure_normalization(train.images)
    return _upright(train, limit_train), _upright(_read(found, split, "test", limit_test), None), normalization


def _places(folder: Path) -> Iterator[Path]:
    for place in folders_to_search(folder):
        yield place
        yield from (place / name for name in ("gzip", "raw") if (place / name).is_dir())


def _read(found: IdxFolder, split: str, part: SplitName, limit: int | None) -> Split:
    first_label = 1 if split == "letters" else 0
    return read_idx_split(found, part, IMAGE_SHAPE, len(CLASSES[split]), limit, first_label=first_label)


def _upright(split: Split, limit: int | None) -> Split:
    images = np.ascontiguousarray(split.images[:limit].swapaxes(2, 3))
    return Split(images=images, labels=split.labels[:limit].copy())
