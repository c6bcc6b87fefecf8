"""Batches hold every image once, are the same in whatever order they are asked for, and their draws are fair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.data import Augmentation, Batches, Split
from cnnzoo.errors import ConfigError, DataError
from cnnzoo.hashing import draw_bits, permutation, stream_key

IDENTITY = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3, "dtype": "float64"}


def make_split(n, size=6):
    """Return random pictures whose labels are their own indices, so that a batch tells which images it holds."""
    images = np.random.default_rng(n).integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    return Split(images=images, labels=np.arange(n))


def collect(batches, epoch):
    """Return the epoch's images by their label, and the labels in order."""
    images, labels = {}, []
    for x, y in batches.epoch(epoch):
        images.update(zip(y.tolist(), x, strict=True))
        labels += y.tolist()
    return images, labels


def test_draws_are_splitmix64():
    """The published first values of the generator started at 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert draw_bits(1234567, np.arange(3)).tolist() == expected
    assert draw_bits(1234567, np.array([[2], [0]])).tolist() == [[expected[2]], [expected[0]]]


def test_stream_keys_depend_on_order_and_number():
    parts = [(), (0,), (0, 0), (1,), (0, 1), (1, 0), (-1,), (2**64 - 2,)]
    assert len({stream_key(*some) for some in parts}) == len(parts)
    assert stream_key(2**64 - 1) == stream_key(-1)


def test_order_stays_what_it_is():
    """A resumed run relies on it."""
    assert permutation(stream_key(0, 0, 1), 10).tolist() == [9, 1, 5, 2, 4, 7, 8, 6, 0, 3]


@given(n=st.integers(1, 40), batch_size=st.integers(1, 45), seed=st.integers(0, 2**64), shuffle=st.booleans())
def test_every_image_comes_once_an_epoch(n, batch_size, seed, shuffle):
    batches = Batches(make_split(n), batch_size, seed=seed, shuffle=shuffle, **IDENTITY)
    sizes = [len(y) for _, y in batches.epoch(3)]
    _, labels = collect(batches, 3)
    assert len(labels) == len(set(labels)) == batches.num_images
    lone_is_left_out = shuffle and n > batch_size > 1 and n % batch_size == 1
    assert batches.num_images == n - lone_is_left_out
    assert len(sizes) == batches.num_batches
    assert set(sizes[:-1]) <= {batch_size}
    assert 1 <= sizes[-1] <= batch_size
    if not shuffle:
        assert labels == list(range(n))
    if shuffle and n > 1 and batch_size > 1:
        assert sizes[-1] > 1


@given(n=st.integers(12, 60), batch_size=st.integers(12, 20), fewest=st.integers(1, 12), shares=st.integers(1, 6))
def test_shares_of_any_number_are_the_same_batches(n, batch_size, fewest, shares):
    """What is left for the last batch is kept or not whatever the number of shares."""
    split, options = make_split(n, size=1), {"fewest": fewest, "seed": 1, **IDENTITY}
    whole = Batches(split, batch_size, **options)
    left = n % batch_size
    assert whole.num_images == n - (left if n > batch_size and left < fewest else 0)
    sizes = [len(whole.batch_indices(2, index)) for index in range(whole.num_batches)]
    if shares > 1 and min(sizes) < 2 * shares:
        with pytest.raises(ConfigError, match=f"each of {shares} ranks, got {min(sizes)} in all"):
            Batches(split, batch_size, share=(0, shares), **options)
        return
    parts = [Batches(split, batch_size, share=(k, shares), **options) for k in range(shares)]
    for index in range(whole.num_batches):
        found = [part.batch_indices(2, index) for part in parts]
        assert np.concatenate(found).tolist() == whole.batch_indices(2, index).tolist()
        assert max(map(len, found)) - min(map(len, found)) <= 1


@given(st.data())
def test_any_batch_can_be_had_by_itself(data):
    split = make_split(23)
    options = {"seed": 5, "augmentation": Augmentation(crop_padding=2), **IDENTITY}
    epochs = {epoch: list(Batches(split, 4, **options).epoch(epoch)) for epoch in range(3)}
    asked = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=12))
    batches = Batches(split, 4, **options)
    for epoch, index in asked:
        x, y = batches.extract_batch(epoch, index)
        np.testing.assert_array_equal(x, epochs[epoch][index][0])
        np.testing.assert_array_equal(y, epochs[epoch][index][1])


def test_augmentation_does_not_depend_on_the_batch():
    split, options = make_split(21), {"augmentation": Augmentation(), **IDENTITY}
    expected, _ = collect(Batches(split, 21, **options), 1)
    for batch_size, shuffle in ((2, True), (5, True), (1, False), (8, False)):
        images, _ = collect(Batches(split, batch_size, shuffle=shuffle, **options), 1)
        for label, image in images.items():
            np.testing.assert_array_equal(image, expected[label])


@pytest.mark.parametrize(("epoch", "seed"), [(1, 0), (0, 1)])
def test_epochs_and_seeds_differ(epoch, seed):
    split = make_split(40)
    images, labels = collect(Batches(split, 8, augmentation=Augmentation(), **IDENTITY), 0)
    others, other_labels = collect(Batches(split, 8, seed=seed, augmentation=Augmentation(), **IDENTITY), epoch)
    assert labels != other_labels
    assert sum(not np.array_equal(images[i], others[i]) for i in range(40)) > 30


def test_the_image_left_out_changes():
    batches = Batches(make_split(33), 8, **IDENTITY)
    left_out = {(set(range(33)) - set(collect(batches, epoch)[1])).pop() for epoch in range(10)}
    assert len(left_out) > 3


def test_crops_and_flips_are_fair():
    """A single lit pixel tells where the crop began and whether it was mirrored."""
    n, size, padding = 9000, 16, 4
    images = np.zeros((n, 3, size, size), np.uint8)
    images[:, :, 6, 4] = 255
    batches = Batches(Split(images=images, labels=np.arange(n)), n, augmentation=Augmentation(), **IDENTITY)
    x, _ = batches.extract_batch(0, 0)
    assert set(x.reshape(n, -1).sum(1)) == {3 * 255.0}
    image, row, column = np.nonzero(x[:, 0])
    np.testing.assert_array_equal(image, np.arange(n))
    # Unmirrored, the pixel is in columns 0 to 8; mirrored, in 7 to 15, where 7 and 8 may be either.
    np.testing.assert_array_equal(np.unique(row), 6 + np.arange(-padding, padding + 1))
    np.testing.assert_array_equal(np.unique(column), np.arange(size))
    counts = {"row": np.bincount(row - 2), "left": np.bincount(column)[:7], "right": np.bincount(column)[9:]}
    for axis, count in counts.items():
        expected = n / 9 if axis == "row" else n / 18
        assert np.all(abs(count - expected) < 5 * np.sqrt(expected)), axis
    joint = np.histogram2d(row, column, (9, 16))[0]
    assert abs(np.corrcoef(row, column)[0, 1]) < 5 / np.sqrt(n)
    assert joint.min() > 0


def test_padding_is_black_before_normalization():
    split = Split(images=np.full((200, 3, 8, 8), 255, np.uint8), labels=np.arange(200))
    mean, std = (0.5, 0.25, 0.125), (0.5, 0.25, 0.5)
    x, _ = Batches(split, 200, mean=mean, std=std, augmentation=Augmentation()).extract_batch(0, 0)
    assert x.dtype == np.float32
    for c, (padded, whole) in enumerate([(-1.0, 1.0), (-1.0, 3.0), (-0.25, 1.75)]):
        assert set(np.unique(x[:, c])) == {padded, whole}


def test_without_augmentation_pictures_are_whole():
    split = make_split(5)
    x, y = Batches(split, 5, shuffle=False, **IDENTITY).extract_batch(0, 0)
    # 1 / 255 is rounded, and so is its quotient.
    np.testing.assert_allclose(x, split.images, rtol=4e-16)
    np.testing.assert_array_equal(y, split.labels)


def test_read_only_and_strided_pictures():
    whole = make_split(6)
    images = whole.images[::2, :, :, ::-1]
    images.flags.writeable = False
    split = Split(images=images, labels=np.arange(3))
    x, _ = Batches(split, 3, shuffle=False, **IDENTITY).extract_batch(0, 0)
    np.testing.assert_allclose(x, images, rtol=4e-16)


def test_no_such_batch():
    batches = Batches(make_split(10), 4, **IDENTITY)
    for epoch, index in ((0, 3), (0, -1), (-1, 0)):
        with pytest.raises(IndexError, match="an epoch has batches 0 to 2"):
            batches.extract_batch(epoch, index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected 1 or more, got 0"),
        ({"dtype": "float16"}, "dtype: expected float32 or float64, got float16"),
        ({"mean": (0.5,)}, r"mean: expected 3 finite numbers, one for each channel, got \[0.5\]"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean: expected 3 finite numbers"),
        ({"std": (0.5, 0.5)}, "std: expected 3 finite numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "std: expected numbers above 0"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ConfigError, match=message):
        Batches(make_split(4), **({"batch_size": 2} | IDENTITY | change))


def test_negative_padding():
    with pytest.raises(ConfigError, match="crop_padding: expected 0 or more pixels, got -1"):
        Augmentation(crop_padding=-1)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 4, 4)), np.arange(2), r"images: expected uint8\[N, C, H, W\], got float64\[2, 3, 4, 4\]"),
        (np.zeros((2, 4, 4), np.uint8), np.arange(2), r"images: expected .* got uint8\[2, 4, 4\]"),
        (np.zeros((0, 3, 4, 4), np.uint8), np.arange(0), r"images: expected .* got uint8\[0, 3, 4, 4\]"),
        (np.zeros((2, 3, 4, 4), np.uint8), np.arange(3), r"labels: expected int64\[2\], .* got int64\[3\]"),
        (np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2), r"labels: expected int64\[2\], .* got float64\[2\]"),
    ],
)
def test_bad_splits(images, labels, message):
    with pytest.raises(DataError, match=message):
        Split(images=images, labels=labels)
