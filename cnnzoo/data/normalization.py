"""Per-channel means and standard deviations by name, for pixels scaled to 0..1."""

import math
from dataclasses import dataclass

import numpy as np

from cnnzoo.errors import ConfigError

_CHUNK = 4096  # images counted at once: counting widens every pixel


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """Channel c of a picture x (uint8) becomes (x / 255 - mean[c]) / std[c]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


NORMALIZATIONS = {
    # Over all pixels of the 50,000 training images. The deviations .2023, .1994, .2010 that are often quoted are
    # averages of each image's own deviation, not the deviation of the pixels.
    "cifar10": Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    # torchvision's, for networks trained on ImageNet.
    "imagenet": Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "mnist": Normalization(mean=(0.1307,), std=(0.3081,)),
    # Over the 10,000 training pictures of seed 0.
    "synthetic": Normalization(mean=(0.4610, 0.4584, 0.4580), std=(0.1506, 0.1497, 0.1506)),
}


def get_normalization(name: str, channels: int) -> Normalization:
    """Return the statistics called `name`.

    Parameters
    ----------
    name : str
        A key of `NORMALIZATIONS`.
    channels : int
        Of the pictures they are meant for.

    Raises
    ------
    ConfigError
        Unknown name, or statistics for another number of channels.
    """
    if name not in NORMALIZATIONS:
        raise ConfigError(f"normalization: expected one of {', '.join(NORMALIZATIONS)}, got {name!r}")
    found = NORMALIZATIONS[name]
    if len(found.mean) != channels:
        raise ConfigError(f"normalization {name!r} is for {len(found.mean)} channels, the images have {channels}")
    return found


def measure_normalization(images: np.ndarray) -> Normalization:
    """Return the statistics of all pixels of uint8[N, C, H, W], to four digits as the published ones.

    Pixels are counted by value, so that the sums are exact and the same on any machine.
    """
    values, means, deviations = np.arange(256) / 255, [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), _CHUNK):
            counts += np.bincount(images[start : start + _CHUNK, channel].reshape(-1), minlength=256)
        mean = float(np.average(values, weights=counts))
        variance = float(np.average((values - mean) ** 2, weights=counts))
        means.append(round(mean, 4))
        deviations.append(round(math.sqrt(variance), 4))
    return Normalization(mean=tuple(means), std=tuple(deviations))
