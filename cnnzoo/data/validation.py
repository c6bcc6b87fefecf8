"""Holding training images out, so that the best epoch is not chosen on the test images."""

import numpy as np

from cnnzoo.errors import ConfigError
from cnnzoo.hashing import permutation, stream_key

_HOLD_OUT = 3  # key of this use of the run's seed; batches have 1 and 2
_FULL_SET = 50_000


def count_held_out(validation: int, num_images: int) -> int:
    """Return how many training images are held out where `validation` are asked for.

    As many as asked for of 50,000 images or more, which all published sets have; of fewer, at most a tenth.

    Raises
    ------
    ConfigError
        None would be left to train on.
    """
    if num_images < _FULL_SET:
        return min(validation, num_images // 10)
    if validation >= num_images:
        raise ConfigError(f"validation: expected fewer than the {num_images} training images, got {validation}")
    return validation


def hold_out(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide images at random, each class in the same proportion.

    Parameters
    ----------
    labels : int64[N]
    count : int
        0 <= count <= N.
    seed : int

    Returns
    -------
    kept, held : int64[N - count], int64[count]
        Indices in ascending order. Of each class, `count` times its share are held out, rounded down, and one more of
        those whose fractions are the largest, until there are `count` (the method of largest remainders).
    """
    num_images = len(labels)
    order = permutation(stream_key(seed, _HOLD_OUT), num_images)
    counts = np.bincount(labels)
    quotas, remainders = np.divmod(counts * count, num_images)
    quotas[np.argsort(-remainders, kind="stable")[: count - quotas.sum()]] += 1
    # By class, and within each in the random order.
    grouped = order[np.argsort(labels[order], kind="stable")]
    places = np.arange(num_images) - np.repeat(np.cumsum(counts) - counts, counts)
    held = places < np.repeat(quotas, counts)
    return np.sort(grouped[~held]), np.sort(grouped[held])
