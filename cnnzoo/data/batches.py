"""Mini-batches of a split, each a function of (seed, epoch, index): any of them can be had without the ones before."""

import operator
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike

from cnnzoo.data.augmentation import Augmentation, cut_out, draw_crop_flip, draw_mixup, jitter_colors, mix_labels
from cnnzoo.data.dataset import Split
from cnnzoo.errors import ConfigError
from cnnzoo.hashing import permutation, stream_key
from cnnzoo.kernels.augment import crop_flip_normalize

_ORDER = 1  # key of this use of the seed; see `cnnzoo.data.augmentation` for the others


class Batches:
    """Normalized mini-batches of one split, shuffled anew each epoch.

    Every image comes once an epoch, with one exception: when `shuffle` is true and fewer than `fewest` images would be
    left for the last batch, they sit this epoch out: by default one image alone, because batch norm needs two values.
    Which images those are changes with the epoch. A smaller last batch of `fewest` or more images is kept.

    Parameters
    ----------
    split : Split
    batch_size : int
        Images in every batch but the last.
    indices : int64[n] or None
        The images of the split that batches are made of, n >= 1, by their places in it. None: all.
    mean, std : sequence of float, one for each channel
        A byte x of channel c becomes (x / 255 - mean[c]) / std[c], rounded once to `dtype`.
    seed : int
        Of the order and the augmentation.
    shuffle : bool
        False: the order of `indices`, and a last batch of any size.
    fewest : int
        Images of a last batch that is kept, at least.
    augmentation : Augmentation or None
        Its draws depend on the seed, the epoch and the image's index in the split, never on the batch it is in.
    num_classes : int or None
        Needed for mixup, whose labels are probabilities of the classes.
    share : (int, int)
        (k, n): `extract_batch` returns part k, from 0, of n parts of a batch, which differ by one image at most.
    dtype : float32 or float64

    Raises
    ------
    ConfigError
        An argument out of its range; the message names it.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        indices: np.ndarray | None = None,
        seed: int = 0,
        shuffle: bool = True,
        fewest: int = 2,
        augmentation: Augmentation | None = None,
        num_classes: int | None = None,
        share: tuple[int, int] = (0, 1),
        dtype: DTypeLike = "float32",
    ) -> None:
        self.split = split
        self.indices = np.arange(len(split)) if indices is None else indices
        self.batch_size = operator.index(batch_size)
        self.seed = operator.index(seed)
        self.shuffle = shuffle
        self._fewest = operator.index(fewest)
        self.augmentation = augmentation
        self._num_classes = num_classes
        self._share, self._shares = share
        self._mean, self._std = tuple(mean), tuple(std)
        self.dtype = np.dtype(dtype)
        if self.batch_size < 1:
            raise ConfigError(f"batch_size: expected 1 or more, got {batch_size}")
        if self.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise ConfigError(f"dtype: expected float32 or float64, got {self.dtype}")
        if augmentation is not None and augmentation.mixup and num_classes is None:
            raise ConfigError("num_classes: expected a number, which mixup needs, got none")
        smallest = (self.num_images - 1) % self.batch_size + 1
        if shuffle and self._shares > 1 and smallest < 2 * self._shares:
            raise ConfigError(
                f"batch_size: expected 2 or more images a batch for each of {self._shares} ranks, "
                f"got {smallest} in all, in the smallest of an epoch"
            )
        self._table = _normalization_table(mean, std, split.images.shape[1]).astype(self.dtype).reshape(-1)
        # Kernels take writable contiguous buffers; a split that is neither is copied once.
        self._images = np.require(split.images, requirements=["C", "W"]).reshape(-1)
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return -(-self.num_images // self.batch_size)

    @property
    def num_images(self) -> int:
        """Images in an epoch."""
        n = len(self.indices)
        left = n % self.batch_size if n > self.batch_size else 0
        return n - left if self.shuffle and left < self._fewest else n

    @property
    def largest_share(self) -> int:
        """Images that `extract_batch` returns at most."""
        return -(-min(self.batch_size, self.num_images) // self._shares)

    def order(self, epoch: int) -> np.ndarray:
        """Return the epoch's image indices in the order of its batches, int64[num_images]; do not write to it."""
        # One attribute, set at once, so that a thread that prepares batches never sees half of a change.
        cached = self._order
        if cached is None or cached[0] != epoch:
            order = self.indices
            if self.shuffle:
                order = order[permutation(stream_key(self.seed, epoch, _ORDER), len(order))]
            self._order = cached = (epoch, order[: self.num_images])
        return cached[1]

    def extract_batch(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one batch, or this one's share of it.

        Parameters
        ----------
        epoch : int
            Not negative.
        index : int
            0 <= index < num_batches.

        Returns
        -------
        images : float[n, C, H, W]
            Normalized; the caller's to keep.
        labels : int64[n], or with mixup float[n, num_classes]
            Classes, or how probable each of them is.

        Raises
        ------
        IndexError
            No such batch.
        """
        chosen = self.batch_indices(epoch, index)
        images, labels = self._load(epoch, chosen), self.split.labels[chosen]
        if self.augmentation is None or not self.augmentation.mixup:
            return images, labels
        partners, weights = draw_mixup(self.augmentation.mixup, self.seed, epoch, chosen, self.indices)
        assert self._num_classes is not None
        targets = mix_labels(labels, self.split.labels[partners], weights, self._num_classes).astype(self.dtype)
        shares = weights.astype(self.dtype)[:, None, None, None]
        images *= shares
        images += (1 - shares) * self._load(epoch, partners)
        return images, targets

    def batch_indices(self, epoch: int, index: int) -> np.ndarray:
        """Return the images' places in the split, int64[n]; arguments and errors as `extract_batch`."""
        if epoch < 0 or not 0 <= index < self.num_batches:
            raise IndexError(f"epoch {epoch}, batch {index}: an epoch has batches 0 to {self.num_batches - 1}")
        batch = self.order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        first, last = (len(batch) * part // self._shares for part in (self._share, self._share + 1))
        return batch[first:last]

    def epoch(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over the batches of an epoch."""
        return (self.extract_batch(epoch, index) for index in range(self.num_batches))

    def _load(self, epoch: int, chosen: np.ndarray) -> np.ndarray:
        """Return images by their indices, augmented all but for mixup, and normalized."""
        _, channels, height, width = self.split.images.shape
        images = np.empty((len(chosen), channels, height, width), self.dtype)
        top, left, flip = draw_crop_flip(self.augmentation, self.seed, epoch, chosen)
        flat = images.reshape(-1)
        crop_flip_normalize(self._images, chosen, top, left, flip, self._table, channels, height, width, flat)
        if self.augmentation is not None:
            draws = self.seed, epoch, chosen
            if self.augmentation.color_jitter:
                jitter_colors(images, self.augmentation.color_jitter, *draws, self._mean, self._std)
            if self.augmentation.cutout:
                cut_out(images, self.augmentation.cutout, *draws)
        return images


def _normalization_table(mean: Sequence[float], std: Sequence[float], channels: int) -> np.ndarray:
    """Return what each byte becomes, float64[channels, 256]."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels or not np.all(np.isfinite(values)):
            raise ConfigError(f"{name}: expected {channels} finite numbers, one for each channel, got {list(values)}")
    if min(std) <= 0:
        raise ConfigError(f"std: expected numbers above 0, got {list(std)}")
    return (np.arange(256) / 255 - np.reshape(mean, (-1, 1))) / np.reshape(std, (-1, 1))
