"""What is written in each layout is read back equal, wherever in the folder it lies."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from cnnzoo.data import NORMALIZATIONS, choose_dataset, default_data_dir, find_cifar10, get_normalization, load_dataset
from cnnzoo.data.idx import read_idx
from cnnzoo.errors import ConfigError, DataError
from tests.data.layouts import NAMES, draw_pictures, idx_bytes, write_binary, write_idx, write_python

PICTURES = draw_pictures()


def write_idx_batches(folder, pictures):
    """Write a pair of files for each batch, under plain names."""
    folder.mkdir(parents=True)
    for i in range(6):
        name = f"train_batch_{i + 1}" if i < 5 else "test_batch"
        (folder / f"{name}_images.idx").write_bytes(idx_bytes(pictures.images[i]))
        (folder / f"{name}_labels.idx").write_bytes(idx_bytes(pictures.labels[i]))


WRITERS = {
    "binary": write_binary,
    "python": write_python,
    "python, written by Python 3 at protocol 2": lambda folder, pictures: write_python(
        folder, pictures, lambda value: pickle.dumps(value, 2)
    ),
    "python, written by Python 3 at protocol 4": lambda folder, pictures: write_python(
        folder, pictures, lambda value: pickle.dumps({key.decode(): item for key, item in value.items()}, 4)
    ),
    "idx": write_idx,
    "idx, compressed": lambda folder, pictures: write_idx(folder, pictures, compressed=True),
    "idx, test files called test": lambda folder, pictures: write_idx(folder, pictures, test="test"),
    "idx, a pair for each batch": write_idx_batches,
}


def assert_is_pictures(dataset, pictures):
    np.testing.assert_array_equal(dataset.train.images, pictures.train_images)
    np.testing.assert_array_equal(dataset.train.labels, pictures.train_labels)
    np.testing.assert_array_equal(dataset.test.images, pictures.images[5])
    np.testing.assert_array_equal(dataset.test.labels, pictures.labels[5])
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.dtype == np.int64


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("place", [".", "some folder"])
def test_cifar10_is_read_back(tmp_path, kind, place):
    WRITERS[kind](tmp_path / "data" / place, PICTURES)
    dataset = load_dataset("cifar10", tmp_path / "data")
    assert_is_pictures(dataset, PICTURES)
    assert dataset.classes == NAMES
    assert dataset.image_shape == (3, 32, 32)
    assert (dataset.mean, dataset.std) == (NORMALIZATIONS["cifar10"].mean, NORMALIZATIONS["cifar10"].std)
    assert str(tmp_path) in dataset.source
    assert "20 training and 4 test images" in dataset.source
    assert choose_dataset(None, tmp_path / "data") == ("cifar10", tmp_path / "data")


@pytest.mark.parametrize("compressed", [False, True])
def test_mnist_is_read_back(tmp_path, compressed):
    pictures = draw_pictures(shape=(1, 28, 28))
    write_idx(tmp_path / "mnist", pictures, compressed)
    dataset = load_dataset("mnist", tmp_path)
    assert_is_pictures(dataset, pictures)
    assert dataset.image_shape == (1, 28, 28)
    assert choose_dataset(None, tmp_path) == ("mnist", tmp_path)
    assert find_cifar10(tmp_path) is None


def test_cifar10_comes_before_mnist(tmp_path):
    write_idx(tmp_path / "a", draw_pictures(shape=(1, 28, 28)))
    write_idx(tmp_path / "b", PICTURES)
    assert choose_dataset(None, tmp_path) == ("cifar10", tmp_path)
    assert find_cifar10(tmp_path).folder == tmp_path / "b"
    assert load_dataset("mnist", tmp_path).image_shape == (1, 28, 28)


def test_color_images_under_the_names_of_gray_ones(tmp_path):
    write_idx(tmp_path, PICTURES)
    for path in tmp_path.glob("*images*"):
        path.rename(path.with_name(path.name.replace("idx4", "idx3")))
    assert_is_pictures(load_dataset("cifar10", tmp_path), PICTURES)


def test_color_images_with_the_channels_last(tmp_path):
    write_idx(tmp_path, PICTURES)
    for path in tmp_path.glob("*images*"):
        path.write_bytes(idx_bytes(np.moveaxis(read_idx(path, 4), 1, 3)))
    assert_is_pictures(load_dataset("cifar10", tmp_path), PICTURES)


def test_class_names_are_those_of_the_files(tmp_path):
    write_binary(tmp_path, PICTURES)
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    assert load_dataset("cifar10", tmp_path).classes == tuple("abcdefghij")
    (tmp_path / "batches.meta.txt").unlink()
    assert load_dataset("cifar10", tmp_path).classes == NAMES


@pytest.mark.parametrize("kind", WRITERS)
def test_limits_keep_the_first_images(tmp_path, kind):
    WRITERS[kind](tmp_path / "data", PICTURES)
    dataset = load_dataset("cifar10", tmp_path / "data", limit_train=6, limit_test=99)
    np.testing.assert_array_equal(dataset.train.images, PICTURES.train_images[:6])
    np.testing.assert_array_equal(dataset.train.labels, PICTURES.train_labels[:6])
    assert len(dataset.test) == 4


@pytest.mark.parametrize("option", ["limit_train", "limit_test"])
def test_limits_are_one_or_more(option):
    with pytest.raises(ConfigError, match=f"{option}: expected 1 or more images, got 0"):
        load_dataset("synthetic", **{option: 0})


def test_default_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CNNZOO_DATA_DIR", raising=False)
    assert default_data_dir() == Path("data")
    assert choose_dataset() == ("synthetic", None)
    write_binary(tmp_path / "data" / "cifar-10-batches-bin", PICTURES)
    assert choose_dataset() == ("cifar10", Path("data"))
    assert_is_pictures(load_dataset(*choose_dataset()), PICTURES)
    monkeypatch.setenv("CNNZOO_DATA_DIR", str(tmp_path / "elsewhere"))
    assert choose_dataset() == ("synthetic", None)
    assert choose_dataset("cifar10") == ("cifar10", tmp_path / "elsewhere")
    assert choose_dataset("synthetic", tmp_path) == ("synthetic", None)


@pytest.mark.parametrize("use", [choose_dataset, load_dataset])
def test_unknown_name(use):
    with pytest.raises(ConfigError, match=r"mnist, emnist, synthetic, got 'cifar-10' \(did you mean cifar10\?\)"):
        use("cifar-10")


def test_normalization_by_name(tmp_path):
    write_binary(tmp_path, PICTURES)
    dataset = load_dataset("cifar10", tmp_path, normalization="imagenet")
    assert dataset.mean == (0.485, 0.456, 0.406)
    assert dataset.std == (0.229, 0.224, 0.225)
    with pytest.raises(ConfigError, match="'mnist' is for 1 channels, the images have 3"):
        load_dataset("cifar10", tmp_path, normalization="mnist")
    with pytest.raises(ConfigError, match="expected one of cifar10, imagenet, mnist, synthetic, got 'imagnet'"):
        get_normalization("imagnet", 3)


@pytest.mark.skipif("CNNZOO_TEST_DATA" not in os.environ, reason="CNNZOO_TEST_DATA names no folder of published data")
def test_published_pictures():
    """The layouts agree with each other and with the statistics that they are normalized by."""
    folder = Path(os.environ["CNNZOO_TEST_DATA"])
    places = [folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"]
    places = [place for place in places if place.is_dir()]
    assert places, f"{folder} holds no CIFAR-10"
    datasets = [load_dataset("cifar10", place) for place in places]
    for dataset in datasets:
        assert dataset.train.images.shape == (50_000, 3, 32, 32)
        assert dataset.classes == NAMES
        np.testing.assert_array_equal(np.bincount(dataset.train.labels), np.full(10, 5_000))
        np.testing.assert_array_equal(np.bincount(dataset.test.labels), np.full(10, 1_000))
        np.testing.assert_array_equal(dataset.train.images, datasets[0].train.images)
        np.testing.assert_array_equal(dataset.test.labels, datasets[0].test.labels)
        # Copies that went through JPEG lose up to 0.002 of the deviation.
        pixels = dataset.train.images.swapaxes(0, 1).reshape(3, -1)
        np.testing.assert_allclose(pixels.mean(1) / 255, dataset.mean, atol=5e-4)
        np.testing.assert_allclose(pixels.std(1) / 255, dataset.std, atol=2e-3)


def test_asking_for_what_is_missing_says_how_to_get_it(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(DataError, match=r"to get it, download it by .* or unpack cifar-10-binary\.tar\.gz .* into"):
            load_dataset("cifar10", folder)
        with pytest.raises(DataError, match=r"to get it, download it by .* or put train-images-idx3-ubyte\.gz"):
            load_dataset("mnist", folder)
