"""What the readers share: opening files with one-line errors, checking labels, putting parts together."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cnnzoo.data.dataset import Split
from cnnzoo.errors import DataError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn the system's errors into a `DataError` that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def file_size(path: Path) -> int:
    """Return the bytes of a regular file; raise `DataError` where there is none."""
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}")
    with naming(path):
        return path.stat().st_size


def folders_to_search(folder: Path) -> list[Path]:
    """Return `folder` and, by name, the folders in it that are not hidden, as those of unfinished downloads are.

    Raises
    ------
    DataError
        It is no folder, or cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a data folder, found {'a file' if folder.is_file() else 'nothing'}")
    with naming(folder):
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    return [folder, *(folder / name for name in sorted(names))]


def check_labels(path: Path, labels: np.ndarray, num_classes: int, first_label: int = 0) -> None:
    """Raise `DataError` for the first label that is not in first_label..first_label+num_classes-1."""
    last_label = first_label + num_classes - 1
    wrong = np.flatnonzero((labels < first_label) | (labels > last_label))
    if len(wrong):
        image = wrong[0]
        expected = f"expected labels from {first_label} to {last_label}"
        raise DataError(f"{path}: {expected}, image {image} has label {labels[image]}")


def assemble(
    parts: Iterable[tuple[np.ndarray, np.ndarray]], image_shape: tuple[int, int, int], capacity: int, limit: int | None
) -> Split:
    """Read all parts, so that each is checked, and keep the first images.

    Parameters
    ----------
    parts : iterable of (uint8[n, ...], integer[n])
        Images of `image_shape`, in any shape of that size, and their labels.
    image_shape : (channels, height, width)
    capacity : int
        No fewer than the images of all parts. Memory that is not needed is not touched.
    limit : int or None
        Images to keep.
    """
    room = capacity if limit is None else min(capacity, limit)
    images, labels = np.empty((room, *image_shape), np.uint8), np.empty(room, np.int64)
    count = 0
    for part_images, part_labels in parts:
        taken = min(len(part_labels), room - count)
        images[count : count + taken] = part_images[:taken].reshape(taken, *image_shape)
        labels[count : count + taken] = part_labels[:taken]
        count += taken
    return Split(images=images[:count], labels=labels[:count])
