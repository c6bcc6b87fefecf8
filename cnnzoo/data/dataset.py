"""What a data set is once it is read: two splits of bytes and labels, and what they are."""

import hashlib
from dataclasses import dataclass

import numpy as np

from cnnzoo.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Pictures and their labels.

    Attributes
    ----------
    images : uint8[N, C, H, W]
        Raw pixels; channels of color pictures are red, green, blue.
    labels : int64[N]
        Class of each picture, 0 <= label < number of classes.

    Raises
    ------
    DataError
        Another dtype or shape, no picture at all, or not one label a picture.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or 0 in self.images.shape:
            raise DataError(f"images: expected uint8[N, C, H, W], got {self.images.dtype}{list(self.images.shape)}")
        if self.labels.dtype != np.int64 or self.labels.shape != (len(self.images),):
            expected = f"int64[{len(self.images)}], one for each image"
            raise DataError(f"labels: expected {expected}, got {self.labels.dtype}{list(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A training and a test split with what is needed to use and to name them.

    Attributes
    ----------
    name : str
        As `load_dataset` takes it.
    train, test : Split
    classes : tuple of str
        The name of each label.
    mean, std : tuple of float, one for each channel
        Statistics that batches are normalized by, for pixels scaled to 0..1.
    source : str
        One line: what data this is, how many images, and from where.
    note : str
        One line to print with every result, such as how to get CIFAR-10 when this is not it; may be empty.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    note: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def fingerprint(self) -> str:
        """Return the SHA-256, in hexadecimal, of all images and labels: other data have another one."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(str(split.images.shape).encode())
            digest.update(np.ascontiguousarray(split.images).data)
            digest.update(np.ascontiguousarray(split.labels, "<i8").data)
        return digest.hexdigest()

    @property
    def num_classes(self) -> int:
        """Number of classes, whether or not each of them occurs."""
        return len(self.classes)
