"""The IDX format of MNIST (LeCun, Cortes and Burges): big-endian magic number, extents, bytes; gzip or not.

The magic number is two zero bytes, 8 for unsigned bytes, and the number of dimensions: 2049 for labels [N], 2051 for
gray images [N, rows, columns], 2052 for color images: [N, channels, rows, columns] is written, and read as well as
[N, rows, columns, channels].

A folder holds one pair of files for each split, or for each of several batches of a split. The names accepted are the
published ones (`train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, with `.gz` or without) and their common variants:
`test` for `t10k`, `idx4` for color images, `.idx3-ubyte`, `train_images.idx`, `train_batch_1_images.idx`. Where a file
is there both compressed and not, the plain one is read.
"""

import gzip
import re
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal

import numpy as np

from cnnzoo.data.dataset import Split
from cnnzoo.data.files import assemble, check_labels, file_size, naming
from cnnzoo.errors import DataError

GRAY, COLOR = 3, 4
_DIMENSIONS = {1: "labels", GRAY: "gray images", COLOR: "color images"}
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_BEST_RATIO = 1032  # of the deflate format
_NAME = re.compile(
    r"(?P<split>train|t10k|test)(_batch)?(_(?P<number>\d+))?[-_](?P<content>images|labels)"
    r"[-._]idx(?P<dimensions>\d?)(-ubyte)?(\.gz)?"
)
SplitName = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class IdxFolder:
    """The IDX files of a folder.

    Attributes
    ----------
    folder : Path
    dimensions : 3 or 4
        Of the images: gray or color.
    files : dict from (split, batch number, "images" or "labels") to a path
    prefix : str
        With which the names of all files begin.
    """

    folder: Path
    dimensions: int
    files: dict[tuple[str, int, str], Path]
    prefix: str = ""


def find_idx(folder: Path, prefix: str = "") -> IdxFolder | None:
    """Look for IDX files whose names begin with `prefix` directly in `folder`; None where there are none."""
    files: dict[tuple[str, int, str], Path] = {}
    named: set[str] = set()
    for path in sorted(folder.iterdir()):
        if path.name.startswith(prefix) and (match := _NAME.fullmatch(path.name, len(prefix))):
            split = "train" if match["split"] == "train" else "test"
            files.setdefault((split, int(match["number"] or 0), match["content"]), path)
            named.add(match["dimensions"])
    if not files:
        return None
    magics = {_peek_magic(path) for (_, _, content), path in files.items() if content == "images"}
    # Names decide where the magic numbers contradict them or one another: then reading says which file is wrong.
    if "4" in named or 0x800 + COLOR in magics:
        return IdxFolder(folder=folder, dimensions=COLOR, files=files, prefix=prefix)
    gray = "3" in named or 0x800 + GRAY in magics
    return IdxFolder(folder=folder, dimensions=GRAY if gray else COLOR, files=files, prefix=prefix)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read one file.

    Parameters
    ----------
    path : Path
        Compressed by gzip or not: its first bytes tell.
    dimensions : int
        That it must have.

    Returns
    -------
    uint8 array of that many dimensions

    Raises
    ------
    DataError
        No such file, another magic number, a size that does not fit the header, no item in it, or broken compression.
    """
    size = file_size(path)
    with naming(path):
        try:
            with path.open("rb") as file:
                compressed = file.peek(2)[:2] == _GZIP_MAGIC
                if not compressed:
                    return _read(path, file, dimensions, size)
                with gzip.GzipFile(fileobj=file) as plain:
                    return _read(path, plain, dimensions, None, at_most=size * _GZIP_BEST_RATIO)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: expected a whole gzip file, found a broken one ({error})") from error


def read_idx_split(
    found: IdxFolder,
    split: SplitName,
    image_shape: tuple[int, int, int],
    num_classes: int,
    limit: int | None,
    *,
    first_label: int = 0,
) -> Split:
    """Read and check all files of one split and keep the first `limit` images; labels are counted from 0 then.

    Raises
    ------
    DataError
        As `read_idx`; images without labels or the other way round; images of another shape than (channels, height,
        width) `image_shape`; labels that are not in first_label..first_label+num_classes-1.
    """
    numbers = sorted({number for name, number, _ in found.files if name == split})
    if not numbers:
        names = " or ".join(
            f"{found.prefix}{name}-images-idx*" for name in (("train",) if split == "train" else ("t10k", "test"))
        )
        raise DataError(f"{found.folder}: expected IDX files of the {split} images ({names}), found none")
    parts = []
    for number in numbers:
        for content in ("images", "labels"):
            if (split, number, content) not in found.files:
                other = found.files[split, number, "labels" if content == "images" else "images"]
                raise DataError(f"{found.folder}: expected an IDX file of {content} beside {other.name}, found none")
        images, labels = _read_pair(
            found, (split, number), image_shape if found.dimensions == COLOR else image_shape[1:]
        )
        check_labels(found.files[split, number, "labels"], labels, num_classes, first_label)
        parts.append((images, labels - np.uint8(first_label)))
    return assemble(parts, image_shape, sum(len(labels) for _, labels in parts), limit)


def encode_idx(array: np.ndarray) -> bytes:
    """Return the content of a file with this array, uint8 of one, three or four dimensions."""
    header = np.array([0x800 + array.ndim, *array.shape], ">u4")
    return header.tobytes() + array.tobytes()


def _read_pair(found: IdxFolder, part: tuple[str, int], image_shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    images_path, labels_path = (found.files[*part, content] for content in ("images", "labels"))
    images, labels = read_idx(images_path, found.dimensions), read_idx(labels_path, 1)
    if found.dimensions == COLOR and images.shape[1:] == (*image_shape[1:], image_shape[0]) != image_shape:
        images = np.moveaxis(images, 3, 1)
    if images.shape[1:] != image_shape:
        raise DataError(
            f"{images_path}: expected images of {_extents(image_shape)}, found {_extents(images.shape[1:])}"
        )
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: expected {len(images)} labels, one for each image, found {len(labels)}")
    return images, labels


def _extents(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _peek_magic(path: Path) -> int | None:
    """Return the magic number, or None where the file is too broken to have one: reading it will say how."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head[:2] == _GZIP_MAGIC:
            with gzip.open(path) as plain:
                head = plain.read(4)
    except (OSError, EOFError, zlib.error):
        return None
    return int.from_bytes(head, "big")


def _read(
    path: Path, file: BufferedReader | gzip.GzipFile, dimensions: int, size: int | None, at_most: int = 0
) -> np.ndarray:
    """Read from an open file of `size` bytes, or of a size that is not known, but no more than `at_most`."""
    length = 4 * (1 + dimensions)
    header = file.read(length)
    magic = int.from_bytes(header[:4], "big")
    if len(header) >= 4 and magic != 0x800 + dimensions:
        meaning = _DIMENSIONS.get(magic - 0x800)
        found = f"{magic} ({meaning})" if meaning else str(magic)
        raise DataError(f"{path}: expected IDX magic {0x800 + dimensions} ({_DIMENSIONS[dimensions]}), found {found}")
    if len(header) < length:
        raise DataError(f"{path}: expected an IDX header of {length} bytes, found {len(header)} bytes")
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, length, 4))
    expected = 1
    for extent in shape:
        expected *= extent
    if expected == 0:
        raise DataError(f"{path}: expected one item or more, the IDX header says {_extents(shape)}")
    told = f"{path}: expected {length + expected} bytes for {_extents(shape)} items by its IDX header, found"
    if size is not None and size != length + expected:
        raise DataError(f"{told} {size}")
    if size is None and expected > at_most:
        raise DataError(f"{told} at most {at_most}")
    data = np.empty(expected, np.uint8)
    view, count = data.data, 0
    while count < expected and (taken := file.readinto(view[count:])):
        count += taken
    if count < expected or file.read(1):
        raise DataError(f"{told} {f'{length + count}' if count < expected else 'more'}")
    return data.reshape(shape)
