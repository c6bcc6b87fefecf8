"""Cutout, color jitter and mixup: what they do, that their draws are fair, and that each depends on its image alone."""

import numpy as np
import pytest

from cnnzoo.data import Augmentation, Batches, Split
from cnnzoo.data.augmentation import cut_out, draw_mixup, jitter_colors, mix_labels
from cnnzoo.errors import ConfigError

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
ALL = Augmentation(crop_padding=2, flip=True, cutout=3, color_jitter=0.4, mixup=1.0)


def _split(n, channels=3, size=8, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), dtype=np.uint8)
    return Split(images=images, labels=np.arange(n) % 10)


def _batches(split, batch_size, augmentation, **options):
    options = {"mean": MEAN, "std": STD, "num_classes": 10, "dtype": "float64"} | options
    return Batches(split, batch_size, augmentation=augmentation, **options)


def _by_image(batches, epoch):
    """Return images and targets of an epoch, each by the index of its image."""
    found = {}
    for number, (images, labels) in enumerate(batches.epoch(epoch)):
        first = number * batches.batch_size
        for index, *pair in zip(batches.order(epoch)[first : first + len(images)], images, labels, strict=True):
            found[int(index)] = pair
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_image_is_the_same_in_any_batch(dtype):
    split = _split(30)
    first = _by_image(_batches(split, 7, ALL, dtype=dtype), 3)
    for other in (_batches(split, 30, ALL, dtype=dtype), _batches(split, 1, ALL, dtype=dtype, shuffle=False)):
        found = _by_image(other, 3)
        assert len(found) == 30
        for index, (image, target) in found.items():
            if index in first:  # a lone last image sits out
                np.testing.assert_array_equal(image, first[index][0], strict=True)
                np.testing.assert_array_equal(target, first[index][1], strict=True)


@pytest.mark.parametrize(
    "changes", [{"cutout": 3}, {"color_jitter": 0.4}, {"mixup": 1.0}], ids=["cutout", "jitter", "mixup"]
)
def test_seed_and_epoch_decide(changes):
    split, augmentation = _split(10), Augmentation(crop_padding=0, flip=False, **changes)

    def pixels(seed, epoch):
        return _batches(split, 10, augmentation, seed=seed, shuffle=False).extract_batch(epoch, 0)[0]

    np.testing.assert_array_equal(pixels(0, 0), pixels(0, 0))
    plain = _batches(split, 10, None, shuffle=False).extract_batch(0, 0)[0]
    for other in (pixels(0, 1), pixels(1, 0), plain):
        assert np.all(np.any(pixels(0, 0) != other, axis=(1, 2, 3)))


def test_crop_and_flip_stay_what_they_are_beside_the_others():
    split = _split(10)
    plain = _batches(split, 10, Augmentation(), shuffle=False).extract_batch(2, 0)[0]
    cut = _batches(split, 10, Augmentation(cutout=2), shuffle=False).extract_batch(2, 0)[0]
    same = (cut == plain).all(axis=1)
    assert np.all((cut == 0).all(axis=1) | same)
    assert np.all(same.sum(axis=(1, 2)) >= 64 - 4)


def test_cutout_is_one_square_that_may_be_cut_off():
    images = np.ones((5000, 2, 10, 12))
    cut_out(images, 4, 0, 0, np.arange(5000))
    holes = images == 0
    assert set(np.unique(images)) == {0, 1}
    np.testing.assert_array_equal(holes[:, 0], holes[:, 1])
    times = holes[:, 0].sum(axis=0)
    for image in holes[:200, 0]:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert image.sum() == len(rows) * len(columns)
        assert np.all(np.diff(rows) == 1)
        assert np.all(np.diff(columns) == 1)
        assert 2 <= len(rows) <= 4
        assert 2 <= len(columns) <= 4
    # Within, 16 of 120 centers cover a pixel; in a corner, the square of 2 or of 3 pixels on a side.
    assert times[5, 6] == pytest.approx(5000 * 16 / 120, rel=0.15)
    assert times[0, 0] == pytest.approx(5000 * 9 / 120, rel=0.2)
    assert times[9, 11] == pytest.approx(5000 * 4 / 120, rel=0.25)


def test_cutout_larger_than_the_picture():
    images = np.ones((3, 1, 4, 4))
    cut_out(images, 100, 0, 0, np.arange(3))
    assert not images.any()


def _jittered(pixels, strength, n):
    """Return pixels float[C, H, W] of 0..1 as jitter makes them for n images, float[n, C, H, W]."""
    mean, std = MEAN[: len(pixels)], STD[: len(pixels)]
    shape = (-1, 1, 1)
    images = np.tile((pixels - np.reshape(mean, shape)) / np.reshape(std, shape), (n, 1, 1, 1))
    jitter_colors(images, strength, 0, 0, np.arange(n), mean, std)
    return images * np.reshape(std, shape) + np.reshape(mean, shape)


def test_jitter_of_a_plain_gray_picture_is_brightness_alone():
    bright = _jittered(np.full((3, 4, 4), 0.5), 0.4, 4000)
    assert np.all(np.ptp(bright, axis=(1, 2, 3)) < 1e-12)
    factors = bright[:, 0, 0, 0] / 0.5
    assert factors.min() == pytest.approx(0.6, abs=0.01)
    assert factors.max() == pytest.approx(1.4, abs=0.01)
    assert factors.mean() == pytest.approx(1, abs=0.02)


def test_jitter_keeps_grays_gray_and_hues_their_order():
    gray = np.tile(np.linspace(0.3, 0.6, 16).reshape(4, 4), (3, 1, 1))
    assert np.all(np.ptp(_jittered(gray, 0.3, 50), axis=1) < 1e-12)
    color = np.empty((3, 4, 4))
    color[:] = np.reshape((0.6, 0.5, 0.4), (3, 1, 1))
    changed = _jittered(color, 0.5, 200)
    spread = (changed[:, 0] - changed[:, 2])[:, 0, 0]
    assert spread.min() > 0.2 * 0.5**3 - 1e-9
    assert spread.max() < 0.2 * 1.5**3 + 1e-9
    assert np.all(changed[:, 0] > changed[:, 1])
    # Saturation does not change what the pixel's gray is: brightness alone does, in a plain picture.
    weights = np.array([0.299, 0.587, 0.114])
    brightness = (changed[:, :, 0, 0] @ weights) / (color[:, 0, 0] @ weights)
    assert brightness.min() > 0.5 - 1e-9
    assert brightness.max() < 1.5 + 1e-9


def test_jitter_stays_within_black_and_white():
    pixels = np.random.default_rng(0).integers(0, 2, (3, 8, 8)).astype(float)
    changed = _jittered(pixels, 1.0, 100)
    assert changed.min() >= -1e-12
    assert changed.max() <= 1 + 1e-12


def test_jitter_of_no_strength_changes_nothing():
    pixels = np.random.default_rng(0).random((3, 8, 8))
    np.testing.assert_allclose(_jittered(pixels, 0.0, 2)[1], pixels, rtol=0, atol=1e-14)


def test_jitter_of_one_channel():
    pixels = np.linspace(0.4, 0.6, 16).reshape(1, 4, 4)
    changed = _jittered(pixels, 0.2, 500)
    slopes = (changed[:, 0, 3, 3] - changed[:, 0, 0, 0]) / 0.2
    assert slopes.min() > 0.8**2 - 1e-9
    assert slopes.max() < 1.2**2 + 1e-9
    middles = changed.mean(axis=(1, 2, 3)) / 0.5
    assert middles.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.1)  # uniform within 0.8 and 1.2


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 2.0])
def test_mixup_weights_are_beta(alpha):
    _, weights = draw_mixup(alpha, 0, 0, np.arange(20_000), np.arange(20_000))
    assert np.all((weights >= 0) & (weights <= 1))
    assert weights.mean() == pytest.approx(0.5, abs=0.015)
    # Beta(a, a) has the variance 1 / (4 (2 a + 1)), and the fourth central moment 3 / (16 (2 a + 1) (2 a + 3)).
    centered = weights - 0.5
    assert (centered**2).mean() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.04)
    assert (centered**4).mean() == pytest.approx(3 / (16 * (2 * alpha + 1) * (2 * alpha + 3)), rel=0.06)


def test_mixup_weights_of_a_tiny_alpha():
    _, weights = draw_mixup(1e-4, 0, 0, np.arange(1000), np.arange(1000))
    assert np.all((weights >= 0) & (weights <= 1))
    assert 400 < np.count_nonzero(weights > 0.5) < 600


def test_mixup_partners_are_any_of_the_others():
    others = np.arange(100, 110)
    partners, _ = draw_mixup(1.0, 0, 0, np.arange(5000), others)
    counts = np.bincount(partners, minlength=120)
    assert counts.sum() == counts[100:110].sum() == 5000
    assert counts[100:110].min() > 400  # 500 expected, with a deviation of 21
    assert counts[100:110].max() < 600


def test_mixup_mixes_images_and_labels_alike():
    split = _split(20)
    augmentation = Augmentation(mixup=0.7, cutout=2)
    without = _batches(split, 20, Augmentation(cutout=2), shuffle=False)
    plain, labels = without.extract_batch(1, 0)
    mixed, targets = _batches(split, 20, augmentation, shuffle=False).extract_batch(1, 0)
    partners, weights = draw_mixup(0.7, 0, 1, np.arange(20), np.arange(20))
    expected = weights[:, None, None, None] * plain + (1 - weights)[:, None, None, None] * plain[partners]
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(targets, mix_labels(labels, labels[partners], weights, 10))
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-12)
    for row, label, partner, weight in zip(targets, labels, partners, weights, strict=True):
        if label != labels[partner]:
            assert (row[label], row[labels[partner]]) == (weight, 1 - weight)


def test_mixup_never_takes_an_image_that_is_held_out():
    """The images held out are white: mixed in, they would show."""
    images = np.zeros((40, 3, 4, 4), np.uint8)
    held_out = np.arange(0, 40, 4)
    images[held_out] = 255
    split = Split(images=images, labels=np.arange(40) % 10)
    kept = np.setdiff1d(np.arange(40), held_out)
    options = {"indices": kept, "mean": (0,) * 3, "std": (1,) * 3}
    batches = _batches(split, 6, Augmentation(flip=False, crop_padding=0, mixup=1.0), **options)
    for epoch in range(10):
        assert not any(x.any() for x, _ in batches.epoch(epoch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutout": -1}, "cutout: expected 0 or more pixels, got -1"),
        ({"color_jitter": 1.1}, "color_jitter: expected a number from 0 to 1, got 1.1"),
        ({"mixup": -0.1}, "mixup: expected a number from 0 to 2, got -0.1"),
        ({"mixup": float("nan")}, "mixup: expected a number from 0 to 2, got nan"),
    ],
)
def test_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Augmentation(**settings)


def test_mixup_needs_the_number_of_classes():
    with pytest.raises(ConfigError, match=r"^num_classes: expected a number, which mixup needs, got none$"):
        _batches(_split(4), 2, ALL, num_classes=None)
