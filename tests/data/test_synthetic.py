"""The rendered pictures are the same everywhere, balanced, and neither trivial nor without a pattern."""

import hashlib

import numpy as np
import pytest

from cnnzoo.data import NORMALIZATIONS, load_dataset
from cnnzoo.data.synthetic import CLASSES, NUM_TEST, NUM_TRAIN, render_synthetic


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic")


def test_bytes_are_the_same_on_any_machine():
    train, test = render_synthetic(40, 10)
    digest = hashlib.sha256()
    for split in (train, test):
        digest.update(split.images.tobytes() + split.labels.astype("<i8").tobytes())
    assert digest.hexdigest() == "46d6334ff566d314f10811d411e18c32ca1e86cd40af68083a3216b78ed36793"


def test_pictures_do_not_depend_on_how_many_are_rendered(dataset):
    for num_train, num_test in ((505, 3), (7, 501)):
        for whole, part in zip((dataset.train, dataset.test), render_synthetic(num_train, num_test), strict=True):
            np.testing.assert_array_equal(part.images, whole.images[: len(part)])
            np.testing.assert_array_equal(part.labels, whole.labels[: len(part)])


def test_classes_are_balanced_in_every_ten(dataset):
    assert (len(dataset.train), len(dataset.test)) == (NUM_TRAIN, NUM_TEST)
    for split in (dataset.train, dataset.test):
        np.testing.assert_array_equal(
            np.sort(split.labels.reshape(-1, 10)), np.tile(np.arange(10), (len(split) // 10, 1))
        )
    assert dataset.classes == CLASSES
    assert len(set(dataset.train.labels.reshape(-1, 10)[:, 0])) == 10


def test_all_pictures_differ(dataset):
    both = np.concatenate([dataset.train.images, dataset.test.images])
    assert len({image.tobytes() for image in both}) == len(both)


def test_another_seed_gives_other_pictures():
    (one, _), (other, _) = render_synthetic(10, 1), render_synthetic(10, 1, seed=1)
    assert all(not np.array_equal(x, y) for x, y in zip(one.images, other.images, strict=True))
    assert list(one.labels) != list(other.labels)


def test_normalization_is_that_of_the_pictures(dataset):
    pixels = dataset.train.images.swapaxes(0, 1).reshape(3, -1) / 255
    np.testing.assert_allclose(pixels.mean(1), NORMALIZATIONS["synthetic"].mean, atol=5e-5)
    np.testing.assert_allclose(pixels.std(1), NORMALIZATIONS["synthetic"].std, atol=5e-5)
    assert dataset.mean == NORMALIZATIONS["synthetic"].mean


def test_a_linear_classifier_finds_something_but_not_much(dataset):
    """Least squares on the means of 4x4 blocks: the classes lean to colors, but are told by shape and texture."""

    def features(split):
        blocks = split.images.reshape(-1, 3, 8, 4, 8, 4).mean((3, 5)).reshape(len(split), -1) / 255
        return np.concatenate([blocks, np.ones((len(split), 1))], 1)

    weights, *_ = np.linalg.lstsq(features(dataset.train), np.eye(10)[dataset.train.labels], rcond=None)
    accuracy = np.mean((features(dataset.test) @ weights).argmax(1) == dataset.test.labels)
    assert 0.2 < accuracy < 0.5


def test_every_result_can_say_which_data_it_was(dataset):
    assert dataset.source == (
        "synthetic pictures rendered from seed 0, not CIFAR-10: 10,000 training and 2,000 test images"
    )
    assert "cifar-10-binary.tar.gz" in dataset.note
