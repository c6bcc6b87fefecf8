"""EMNIST's files: six splits, images upright, labels from 0, statistics measured."""

import gzip
import os
import string
from pathlib import Path

import numpy as np
import pytest

from cnnzoo.config import RunConfig
from cnnzoo.data import NORMALIZATIONS, choose_dataset, load_dataset
from cnnzoo.data.emnist import CLASSES
from cnnzoo.data.normalization import measure_normalization
from cnnzoo.errors import ConfigError, DataError
from cnnzoo.training.trainer import Trainer
from tests.data.layouts import idx_bytes

# The published mapping files' code points of upper and lower case letters; where cases are merged, the upper one.
MERGED = [*range(48, 58), *range(65, 91), 97, 98, 100, 101, 102, 103, 104, 110, 113, 114, 116]
CODES = {
    "balanced": MERGED,
    "bymerge": MERGED,
    "byclass": [*range(48, 58), *range(65, 91), *range(97, 123)],
    "letters": list(range(65, 91)),
    "digits": list(range(48, 58)),
    "mnist": list(range(48, 58)),
}
TRAIN, TEST = 30, 20


class Drawn:
    """Upright pictures uint8[N, 1, 28, 28] and labels from 0."""

    def __init__(self, split, seed=0):
        rng = np.random.default_rng(seed)
        self.images = [rng.integers(0, 256, (n, 1, 28, 28), dtype=np.uint8) for n in (TRAIN, TEST)]
        self.labels = [rng.integers(0, len(CODES[split]), n) for n in (TRAIN, TEST)]
        self.labels[0][:2] = 0, len(CODES[split]) - 1


def write_emnist(folder: Path, split: str, drawn: Drawn, compressed=True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    first = 1 if split == "letters" else 0
    for part, images, labels in zip(("train", "test"), drawn.images, drawn.labels, strict=True):
        by_columns = images[:, 0].transpose(0, 2, 1)
        contents = {
            "images-idx3": idx_bytes(np.ascontiguousarray(by_columns)),
            "labels-idx1": idx_bytes((labels + first).astype(np.uint8)),
        }
        for name, content in contents.items():
            path = folder / f"emnist-{split}-{part}-{name}-ubyte{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(content) if compressed else content)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("place", [".", "gzip", "emnist", "emnist/gzip", "EMNIST/raw"])
@pytest.mark.parametrize("split", CODES)
def test_split_is_read_back_upright(tmp_path, split, place, compressed):
    drawn = Drawn(split)
    write_emnist(tmp_path / place, split, drawn, compressed)
    dataset = load_dataset("emnist", tmp_path, emnist_split=split)
    for part, images, labels in zip((dataset.train, dataset.test), drawn.images, drawn.labels, strict=True):
        np.testing.assert_array_equal(part.images, images)
        assert part.images.flags.c_contiguous
        np.testing.assert_array_equal(part.labels, labels)
    assert dataset.classes == tuple(map(chr, CODES[split]))
    assert dataset.image_shape == (1, 28, 28)
    assert dataset.source == f"EMNIST {split} from {tmp_path / place}: 30 training and 20 test images"


def test_classes_are_as_many_as_published():
    assert {split: len(classes) for split, classes in CLASSES.items()} == {
        "balanced": 47,
        "letters": 26,
        "digits": 10,
        "byclass": 62,
        "bymerge": 47,
        "mnist": 10,
    }
    missing = set(string.ascii_letters) - set(CLASSES["balanced"])
    assert sorted(missing) == list("cijklmopsuvwxyz")


def test_balanced_is_the_default(tmp_path):
    for seed, split in enumerate(("letters", "balanced")):
        write_emnist(tmp_path, split, Drawn(split, seed))
    dataset = load_dataset("emnist", tmp_path)
    np.testing.assert_array_equal(dataset.train.images, Drawn("balanced", 1).images[0])
    assert choose_dataset(None, tmp_path) == ("emnist", tmp_path)


def test_statistics_are_those_of_all_training_images(tmp_path):
    drawn = Drawn("digits")
    drawn.images[0] //= 3
    write_emnist(tmp_path, "digits", drawn)
    pixels = drawn.images[0].astype(np.float64) / 255
    for limit in (None, 5):
        dataset = load_dataset("emnist", tmp_path, emnist_split="digits", limit_train=limit, limit_test=limit)
        assert dataset.mean == (round(pixels.mean(), 4),)
        assert dataset.std == (round(pixels.std(), 4),)
        np.testing.assert_array_equal(dataset.train.images, drawn.images[0][:limit])
        np.testing.assert_array_equal(dataset.test.labels, drawn.labels[1][:limit])
    dataset = load_dataset("emnist", tmp_path, emnist_split="digits", normalization="mnist")
    assert (dataset.mean, dataset.std) == (NORMALIZATIONS["mnist"].mean, NORMALIZATIONS["mnist"].std)


def test_channels_are_measured_apart():
    images = np.random.default_rng(0).integers(0, 256, (9000, 2, 1, 3), dtype=np.uint8)
    images[:, 1] //= 2
    found = measure_normalization(images)
    pixels = images.swapaxes(0, 1).reshape(2, -1) / 255
    np.testing.assert_allclose(found.mean, pixels.mean(1), rtol=0, atol=5.1e-5)
    np.testing.assert_allclose(found.std, pixels.std(1), rtol=0, atol=5.1e-5)


@pytest.mark.parametrize(
    ("split", "label", "expected"),
    [
        ("letters", -1, "expected labels from 1 to 26, image 3 has label 0"),
        ("letters", 26, "expected labels from 1 to 26, image 3 has label 27"),
        ("balanced", 47, "expected labels from 0 to 46, image 3 has label 47"),
        ("digits", 10, "expected labels from 0 to 9, image 3 has label 10"),
    ],
)
def test_label_out_of_range(tmp_path, split, label, expected):
    drawn = Drawn(split)
    drawn.labels[1][3] = label
    write_emnist(tmp_path, split, drawn)
    with pytest.raises(DataError) as caught:
        load_dataset("emnist", tmp_path, emnist_split=split)
    assert str(caught.value) == f"{tmp_path / f'emnist-{split}-test-labels-idx1-ubyte.gz'}: {expected}"


def test_another_split_than_the_one_asked_for(tmp_path):
    write_emnist(tmp_path / "gzip", "letters", Drawn("letters"))
    write_emnist(tmp_path / "gzip", "mnist", Drawn("mnist"))
    with pytest.raises(DataError) as caught:
        load_dataset("emnist", tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: expected the balanced split of EMNIST, found letters, mnist; to get it, ")
    assert "emnist-balanced-*" in message


def test_missing_files(tmp_path):
    with pytest.raises(
        DataError,
        match=r"expected emnist, found none of its files; to get it, download it by .* or unpack emnist-balanced-\* ",
    ):
        load_dataset("emnist", tmp_path)
    write_emnist(tmp_path, "balanced", Drawn("balanced"))
    for path in tmp_path.glob("*-test-*"):
        path.unlink()
    with pytest.raises(
        DataError, match=r"expected IDX files of the test images \(emnist-balanced-t10k-images-idx\* or"
    ):
        load_dataset("emnist", tmp_path)


def test_wrong_magic_number(tmp_path):
    write_emnist(tmp_path, "balanced", Drawn("balanced"), compressed=False)
    path = tmp_path / "emnist-balanced-train-images-idx3-ubyte"
    path.write_bytes(b"\0\0\x08\x04" + path.read_bytes()[4:])
    with pytest.raises(DataError, match=r"idx3-ubyte: expected IDX magic 2051 \(gray images\), found 2052"):
        load_dataset("emnist", tmp_path)


def test_files_of_emnist_are_not_mnist(tmp_path):
    write_emnist(tmp_path, "mnist", Drawn("mnist"))
    with pytest.raises(DataError, match="expected mnist, found none of its files"):
        load_dataset("mnist", tmp_path)


def test_unknown_split():
    with pytest.raises(ConfigError, match=r"emnist_split: expected one of balanced, .*'leters' \(did you mean letters"):
        load_dataset("emnist", emnist_split="leters")


@pytest.mark.parametrize(("split", "parameters"), [("balanced", 64_851), ("letters", 63_066), ("digits", 61_706)])
def test_trainer_takes_the_split(tmp_path, split, parameters):
    write_emnist(tmp_path, split, Drawn(split))
    trainer = Trainer(RunConfig(model="lenet5", dataset="emnist", emnist_split=split, data_dir=tmp_path))
    assert trainer.net.num_classes == len(CODES[split])
    assert trainer.net.num_parameters == parameters
    assert not trainer.config.flip


@pytest.mark.skipif("CNNZOO_TEST_DATA" not in os.environ, reason="CNNZOO_TEST_DATA names no folder of published data")
def test_measured_statistics_of_mnist_are_the_published_ones():
    images = load_dataset("mnist", os.environ["CNNZOO_TEST_DATA"]).train.images
    assert images.shape == (60_000, 1, 28, 28)
    assert measure_normalization(images) == NORMALIZATIONS["mnist"]
