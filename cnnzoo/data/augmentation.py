"""Random changes of training images: each a function of (seed, epoch, image), whatever batch the image comes in.

Cutting and mirroring is done while pixels are normalized, by the kernel `crop_flip_normalize`; what is here works on
normalized images. These are small arrays, and each change is one or two passes of NumPy over them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnnzoo.errors import ConfigError
from cnnzoo.hashing import draw_bits, stream_key

# Keys of the uses of one seed, so that no two share draws. Batches have 1 for their order, the run 3 for validation.
CROP_FLIP = 2
_CUTOUT, _COLOR, _MIXUP = 4, 5, 6
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to training images.

    In this order: crop, flip, color jitter, normalization, cutout, mixup.

    Attributes
    ----------
    crop_padding : int
        Zeros put around the raw picture, in pixels, before a crop of the picture's own size is taken anywhere in it
        (He et al. 2016, "Deep residual learning", section 4.2). The border is black before normalization, so a padded
        pixel of channel c is -mean[c] / std[c] after it, as with torchvision's RandomCrop followed by Normalize.
        0: no crop.
    flip : bool
        Mirror every picture left to right with probability 1/2.
    cutout : int
        Side of a square, in pixels, that is replaced by the mean color; its center is anywhere in the picture, what
        lies outside of it is lost (DeVries and Taylor 2017, "Improved regularization of convolutional neural networks
        with cutout"). 0: none.
    color_jitter : float
        Brightness, contrast and, of color pictures, saturation are each multiplied by a factor between
        1 - color_jitter and 1 + color_jitter (Howard 2013, "Some improvements on deep convolutional neural network
        based image classification"). Contrast is the distance from the picture's mean gray, saturation that from the
        pixel's own. 0 <= color_jitter <= 1. 0: none.
    mixup : float
        Every picture is mixed with another one of the training images, itself augmented, and its label in the same
        proportion, drawn from Beta(mixup, mixup) (Zhang et al. 2018, "mixup: beyond empirical risk minimization").
        0 <= mixup <= 2. 0: none.
    """

    crop_padding: int = 4
    flip: bool = True
    cutout: int = 0
    color_jitter: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected 0 or more pixels, got {getattr(self, name)}")
        for name, largest in (("color_jitter", 1), ("mixup", 2)):
            if not 0 <= getattr(self, name) <= largest:
                raise ConfigError(f"{name}: expected a number from 0 to {largest}, got {getattr(self, name)}")


def draw_crop_flip(
    augmentation: Augmentation | None, seed: int, epoch: int, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each image's crop origin (top, left: int64[n]) and whether it is mirrored (uint8[n])."""
    n = len(chosen)
    if augmentation is None:
        return np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.uint8)
    padding = augmentation.crop_padding
    places = np.uint64(2 * padding + 1)
    bits = draw_bits(stream_key(seed, epoch, CROP_FLIP), chosen)
    # 31 bits, 32 bits and one; the remainder's bias is below 1e-8 for any padding in use.
    top = (bits >> np.uint64(33)) % places
    left = (bits >> np.uint64(1) & np.uint64(0xFFFFFFFF)) % places
    flip = bits & np.uint64(augmentation.flip)
    return top.astype(np.int64) - padding, left.astype(np.int64) - padding, flip.astype(np.uint8)


def jitter_colors(
    images: np.ndarray,
    strength: float,
    seed: int,
    epoch: int,
    chosen: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Change brightness, contrast and saturation of normalized images, in place.

    With x a pixel of 0..1, g its gray and m the mean gray of its picture, it becomes
    b (s c x + (1 - s) c g + (1 - c) m) for factors b, c and s, and then what of that lies within 0..1.

    Parameters
    ----------
    images : float[n, C, H, W]
        Normalized by `mean` and `std`, which are those of pixels scaled to 0..1.
    strength : float
        Factors lie between 1 - strength and 1 + strength.
    seed, epoch : int
    chosen : int64[n]
        The images' indices.
    mean, std : sequence of float, one for each channel
    """
    factors = 1 + strength * (2 * _uniform(stream_key(seed, epoch, _COLOR), chosen, 3) - 1)
    brightness, contrast, saturation = factors.T.astype(images.dtype)[:, :, None, None, None]
    scale, shift = (np.reshape(values, (-1, 1, 1)).astype(images.dtype) for values in (std, mean))
    images *= scale
    images += shift
    if images.shape[1] == 3:
        red, green, blue = (images[:, channel, None] * images.dtype.type(_LUMA[channel]) for channel in range(3))
        gray = red + green + blue
    else:
        gray, saturation = images.mean(axis=1, keepdims=True), np.ones_like(saturation)
    # One row for each image: what is summed, and in which order, must not depend on how many there are.
    middle = gray.reshape(len(gray), -1).mean(axis=1)[:, None, None, None]
    images *= brightness * contrast * saturation
    images += brightness * (contrast * (1 - saturation) * gray + (1 - contrast) * middle)
    np.clip(images, 0, 1, out=images)
    images -= shift
    images /= scale


def cut_out(images: np.ndarray, side: int, seed: int, epoch: int, chosen: np.ndarray) -> None:
    """Replace a square of each normalized image float[n, C, H, W] by the mean color, which is 0, in place."""
    height, width = images.shape[2:]
    places = _uniform(stream_key(seed, epoch, _CUTOUT), chosen, 2) * (height, width)
    corners = places.astype(np.int64) - side // 2
    for image, (top, left) in zip(images, corners.tolist(), strict=True):
        image[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0


def draw_mixup(
    alpha: float, seed: int, epoch: int, chosen: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw what each image is mixed with.

    Parameters
    ----------
    alpha : float
        Above 0.
    seed, epoch : int
    chosen : int64[n]
        The images' indices.
    others : int64[m]
        Indices of those to mix with.

    Returns
    -------
    partners : int64[n]
        One of `others` for each, with equal probability.
    weights : float64[n]
        Of the image itself, from Beta(alpha, alpha).
    """
    key = stream_key(seed, epoch, _MIXUP)
    partners = others[draw_bits(key, chosen) % np.uint64(len(others))]
    weights = np.full(len(chosen), math.nan)
    attempt = 0
    # Johnk 1964: u^(1/a) / (u^(1/a) + v^(1/a)) where that sum is at most 1; in logarithms, against underflow.
    while (left := np.flatnonzero(np.isnan(weights))).size:
        attempt += 1
        u, v = np.log(_uniform(stream_key(key, attempt), chosen[left], 2)).T / alpha
        accepted = np.logaddexp(u, v) <= 0
        with np.errstate(over="ignore"):  # 1 / (1 + inf) is the 0 that it should be
            weights[left[accepted]] = 1 / (1 + np.exp((v - u)[accepted]))
    return partners, weights


def mix_labels(labels: np.ndarray, partner_labels: np.ndarray, weights: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the probabilities of each class, float64[n, num_classes]: those of both labels by their weights."""
    rows = np.arange(len(labels))
    targets = np.zeros((len(labels), num_classes))
    targets[rows, labels] = weights
    targets[rows, partner_labels] += 1 - weights
    return targets


def _uniform(key: int, chosen: np.ndarray, count: int) -> np.ndarray:
    """Return draws between 0 and 1, neither included, float64[n, count]."""
    bits = draw_bits(key, chosen[:, None] * count + np.arange(count))
    return ((bits >> np.uint64(12)) + 0.5) * 2.0**-52
