"""Images held out of the training set: how many, which, and that batches keep to them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.data import Batches, Split
from cnnzoo.data.validation import count_held_out, hold_out
from cnnzoo.errors import ConfigError


@pytest.mark.parametrize(
    ("validation", "images", "expected"),
    [
        (5000, 50_000, 5000),
        (5000, 60_000, 5000),
        (20_000, 50_000, 20_000),
        (0, 50_000, 0),
        (5000, 49_999, 4999),
        (5000, 1000, 100),
        (50, 1000, 50),
        (5000, 9, 0),
        (0, 9, 0),
    ],
)
def test_count(validation, images, expected):
    assert count_held_out(validation, images) == expected


def test_nothing_left_to_train_on():
    with pytest.raises(ConfigError, match=r"^validation: expected fewer than the 50000 training images, got 50000$"):
        count_held_out(50_000, 50_000)


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_every_image_is_on_one_side_and_classes_in_proportion(sizes, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = round(share * len(labels))
    kept, held = hold_out(labels, count, seed)
    assert len(held) == count
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(labels)))
    for indices in (kept, held):
        assert np.all(np.diff(indices) > 0)
    counts = np.bincount(labels[held], minlength=len(sizes))
    assert np.all(abs(counts - np.array(sizes) * count / len(labels)) < 1)


def test_seed_decides_which():
    labels = np.arange(1000) % 10
    first, again, other = (hold_out(labels, 100, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 0 < len(np.intersect1d(first, other)) < 50  # 10 by chance
    np.testing.assert_array_equal(np.bincount(labels[first]), np.full(10, 10))


def test_of_a_class_any_image_may_be_held_out():
    labels = np.zeros(100, np.int64)
    times = sum(np.bincount(hold_out(labels, 20, seed)[1], minlength=100) for seed in range(200))
    assert times.min() > 15  # 40 expected, with a deviation of 5.7
    assert times.max() < 65


def test_batches_of_some_images():
    images = np.arange(30, dtype=np.uint8).reshape(30, 1, 1, 1)
    split = Split(images=images, labels=np.arange(30))
    indices = np.arange(1, 30, 3)
    options = {"mean": (0,), "std": (1 / 255,), "dtype": "float64"}
    plain = Batches(split, 4, indices=indices, shuffle=False, **options)
    assert (plain.num_images, plain.num_batches) == (10, 3)
    pixels = np.concatenate([x.reshape(-1) for x, _ in plain.epoch(0)])
    np.testing.assert_allclose(pixels, indices, rtol=1e-15)
    shuffled = Batches(split, 4, indices=indices, **options)
    orders = [np.concatenate([labels for _, labels in shuffled.epoch(epoch)]) for epoch in range(2)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), indices)
    assert not np.array_equal(*orders)
