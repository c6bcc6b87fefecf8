"""Each way in which a data folder can be wrong ends in one line that names the file, what was expected and found."""

import gzip
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnnzoo.data import choose_dataset, load_dataset
from cnnzoo.errors import DataError
from tests.data.layouts import draw_pictures, idx_bytes, pickle_python2, write_binary, write_idx, write_python

PICTURES = draw_pictures()
RECORD = 3073
WRITERS: dict[str, Callable] = {"binary": write_binary, "python": write_python, "idx": write_idx}


def read_error(folder: Path, name: str = "cifar10") -> str:
    """Return the one line that loading ends in, whether few images are asked for or all."""
    messages = set()
    for limit in (None, 1):
        with pytest.raises(DataError) as caught:
            load_dataset(name, folder, limit_train=limit, limit_test=limit)
        messages.add(str(caught.value))
    assert len(messages) == 1
    message = messages.pop()
    assert "\n" not in message
    return message


def write_and_break(folder: Path, kind: str, name: str, change: Callable[[bytes], bytes | None]) -> str:
    """Write a whole set, change one file of it (None: remove it), and return the error, which must name it."""
    WRITERS[kind](folder, PICTURES)
    path = folder / name
    content = change(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    message = read_error(folder)
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize("name", ["cifar10", None])
def test_missing_folder(tmp_path, name):
    with pytest.raises(DataError, match=r"missing: expected a .*folder.*, found nothing"):
        load_dataset(*choose_dataset(name, tmp_path / "missing"))


@pytest.mark.parametrize("name", ["cifar10", None])
def test_empty_folder(tmp_path, name):
    with pytest.raises(DataError, match=rf"^{re.escape(str(tmp_path))}: expected .*, found n"):
        load_dataset(*choose_dataset(name, tmp_path))


@pytest.mark.parametrize("name", ["cifar10", None])
def test_file_for_a_folder(tmp_path, name):
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(b"archive")
    with pytest.raises(DataError, match=r"tar\.gz: expected a .*folder.*, found a file"):
        load_dataset(*choose_dataset(name, path))


def test_gray_digits_are_not_cifar10(tmp_path):
    write_idx(tmp_path, draw_pictures(shape=(1, 28, 28)))
    assert "expected cifar10, found none of its files" in read_error(tmp_path)


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_4", "test_batch"])
@pytest.mark.parametrize("kind", ["binary", "python"])
def test_missing_batch(tmp_path, kind, name):
    name = f"{name}.bin" if kind == "binary" else name
    assert write_and_break(tmp_path, kind, name, lambda content: None).endswith("expected a file, found nothing")


def test_folder_for_a_batch(tmp_path):
    write_binary(tmp_path, PICTURES)
    (tmp_path / "data_batch_2.bin").unlink()
    (tmp_path / "data_batch_2.bin").mkdir()
    assert read_error(tmp_path).endswith("data_batch_2.bin: expected a file, found a folder")


@pytest.mark.parametrize("size", [0, 1, RECORD - 1, 2 * RECORD + 5, 4 * RECORD - 1, 4 * RECORD + 1])
@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin"])
def test_binary_of_a_size_that_is_no_multiple_of_a_record(tmp_path, name, size):
    message = write_and_break(tmp_path, "binary", name, lambda content: (content + b"\0")[:size])
    assert message.endswith(f"expected 30730000 bytes, or another multiple of 3073, found {size} bytes")


@pytest.mark.parametrize("records", [2, 5])
def test_binary_batch_of_another_size(tmp_path, records):
    message = write_and_break(tmp_path, "binary", "data_batch_3.bin", lambda content: (2 * content)[: records * RECORD])
    assert message.endswith(f"expected {4 * RECORD} bytes like the other batches, found {records * RECORD} bytes")


def test_half_a_test_batch_beside_batches_of_the_published_size(tmp_path):
    write_binary(tmp_path, PICTURES)
    for i in range(1, 6):
        with (tmp_path / f"data_batch_{i}.bin").open("wb") as file:
            file.truncate(30_730_000)  # a hole: takes no room on the disk
    assert read_error(tmp_path).endswith("expected 30730000 bytes like the other batches, found 12292 bytes")


@pytest.mark.parametrize("label", [10, 255])
@pytest.mark.parametrize(("kind", "name"), [("binary", "data_batch_5.bin"), ("idx", "t10k-labels-idx1-ubyte")])
def test_label_byte_out_of_range(tmp_path, kind, name, label):
    position = 2 * RECORD if kind == "binary" else 8 + 2

    def change(content):
        return content[:position] + bytes([label]) + content[position + 1 :]

    message = write_and_break(tmp_path, kind, name, change)
    assert message.endswith(f"expected labels from 0 to 9, image 2 has label {label}")


@pytest.mark.parametrize("label", [-1, 10])
def test_pickled_label_out_of_range(tmp_path, label):
    content = pickle_python2({b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 9, label]})
    message = write_and_break(tmp_path, "python", "data_batch_5", lambda _: content)
    assert message.endswith(f"expected labels from 0 to 9, image 2 has label {label}")


@pytest.mark.parametrize("kept", [0, 1, 5, 1000, -1])
def test_truncated_pickle(tmp_path, kept):
    message = write_and_break(tmp_path, "python", "data_batch_2", lambda content: content[:kept])
    assert re.search(r"expected a whole pickle of arrays, found \d+ bytes that are not \(", message)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "expected a pickled dictionary, found list"),
        ({b"labels": [0]}, "expected a dictionary with data and labels, found labels"),
        ({b"data": [0], b"labels": [0]}, "expected data uint8[n, 3072], found list"),
        (
            {b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]},
            "expected data uint8[n, 3072], found uint8[1, 3071]",
        ),
        (
            {b"data": np.zeros((1, 3072), np.int32), b"labels": [0]},
            "expected data uint8[n, 3072], found int32[1, 3072]",
        ),
        (
            {b"data": np.zeros((1, 3072), np.uint8), b"labels": b"0"},
            "expected labels as a list of integers, found bytes",
        ),
        (
            {b"data": np.zeros((1, 3072), np.uint8), b"labels": [None]},
            "expected labels as a list of integers, found list",
        ),
        (
            {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
            "expected one label for each image, found 1 labels, 2 images",
        ),
    ],
)
def test_pickle_of_something_else(tmp_path, content, expected):
    assert write_and_break(tmp_path, "python", "data_batch_2", lambda _: pickle_python2(content)).endswith(expected)


class Touch:
    """Makes a file when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_malicious_pickle_is_not_run(tmp_path, name):
    mark = tmp_path / "mark"
    content = pickle.dumps({"data": Touch(mark)})
    message = write_and_break(tmp_path / "data", "python", name, lambda _: content)
    assert "which is not admitted" in message
    assert not mark.exists()
    pickle.loads(content)
    assert mark.exists(), "the pickle of this test does no harm"


@pytest.mark.parametrize(
    "asked", ["os system", "builtins eval", "numpy load", "numpy.core.multiarray fromfile", "numpy ndarray.tofile"]
)
def test_pickle_may_name_arrays_only(tmp_path, asked):
    module, name = asked.split()
    content = f"c{module}\n{name}\n(S'x'\ntR.".encode()
    message = write_and_break(tmp_path, "python", "data_batch_1", lambda _: content)
    assert f"it asks for {module}.{name}, which is not admitted" in message


def test_pickled_bytes_are_latin1_only(tmp_path):
    content = b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00xX\x05\x00\x00\x00rot13tR."
    message = write_and_break(tmp_path, "python", "data_batch_1", lambda _: content)
    assert "a byte string in the encoding 'rot13'" in message


@pytest.mark.parametrize(("kind", "name"), [("binary", "batches.meta.txt"), ("python", "batches.meta")])
def test_too_few_class_names(tmp_path, kind, name):
    few = b"a\nb\n" if kind == "binary" else pickle_python2({b"label_names": [b"a", b"b"]})
    assert write_and_break(tmp_path, kind, name, lambda _: few).endswith("expected 10 class names, found 2")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("name", "magic", "expected"),
    [
        ("train-images-idx4-ubyte", 2051, "expected IDX magic 2052 (color images), found 2051 (gray images)"),
        ("t10k-images-idx4-ubyte", 2049, "expected IDX magic 2052 (color images), found 2049 (labels)"),
        ("train-labels-idx1-ubyte", 2052, "expected IDX magic 2049 (labels), found 2052 (color images)"),
        ("t10k-labels-idx1-ubyte", 0x01080000, "expected IDX magic 2049 (labels), found 17301504"),
    ],
)
def test_wrong_idx_magic(tmp_path, name, magic, expected, compressed):
    def change(content):
        changed = magic.to_bytes(4, "big") + content[4:]
        return gzip.compress(changed) if compressed else changed

    assert write_and_break(tmp_path, "idx", name, change).endswith(expected)


@pytest.mark.parametrize("dimensions", [3, 4])
def test_idx_magic_of_neither_form(tmp_path, dimensions):
    """The names tell what the files should be."""
    write_idx(tmp_path, draw_pictures(shape=(1, 28, 28) if dimensions == 3 else (3, 32, 32)))
    for path in tmp_path.glob("*images*"):
        path.write_bytes(b"\0\0\0\0" + path.read_bytes()[4:])
    message = read_error(tmp_path, "mnist" if dimensions == 3 else "cifar10")
    assert f"expected IDX magic {2048 + dimensions}" in message
    assert message.endswith("found 0")


@pytest.mark.parametrize("size", [0, 3, 19, 20, 20 + 20 * 3072 - 1, 20 + 20 * 3072 + 1])
def test_idx_of_another_size_than_its_header_says(tmp_path, size):
    message = write_and_break(tmp_path, "idx", "train-images-idx4-ubyte", lambda content: (content + b"\0")[:size])
    if size < 20:
        assert message.endswith(f"expected an IDX header of 20 bytes, found {size} bytes")
    else:
        assert message.endswith(f"expected 61460 bytes for 20x3x32x32 items by its IDX header, found {size}")


@pytest.mark.parametrize(("change", "found"), [(lambda x: x[:-1], "27"), (lambda x: x + b"\0", "more")])
def test_compressed_idx_of_another_size_than_its_header_says(tmp_path, change, found):
    message = write_and_break(
        tmp_path, "idx", "train-labels-idx1-ubyte", lambda content: gzip.compress(change(content))
    )
    assert message.endswith(f"expected 28 bytes for 20 items by its IDX header, found {found}")


def test_compressed_idx_whose_header_asks_for_all_memory(tmp_path):
    content = gzip.compress(b"\0\0\x08\x04" + b"\xff" * 16)
    message = write_and_break(tmp_path, "idx", "train-images-idx4-ubyte", lambda _: content)
    assert re.search(r"items by its IDX header, found at most \d+$", message)


@pytest.mark.parametrize("change", [lambda x: x[:-9], lambda x: x[:5], lambda x: x[:60] + b"\0\0\0" + x[63:]])
def test_broken_compression(tmp_path, change):
    message = write_and_break(
        tmp_path, "idx", "train-images-idx4-ubyte", lambda content: change(gzip.compress(content))
    )
    assert "expected a whole gzip file, found a broken one" in message


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((20, 3, 32, 31), np.uint8), "expected images of 3x32x32, found 3x32x31"),
        (np.zeros((0, 3, 32, 32), np.uint8), "expected one item or more, the IDX header says 0x3x32x32"),
    ],
)
def test_idx_images_of_another_shape(tmp_path, array, expected):
    message = write_and_break(tmp_path, "idx", "train-images-idx4-ubyte", lambda _: idx_bytes(array))
    assert message.endswith(expected)


def test_idx_with_a_label_too_few(tmp_path):
    message = write_and_break(tmp_path, "idx", "t10k-labels-idx1-ubyte", lambda _: idx_bytes(np.zeros(3, np.uint8)))
    assert message.endswith("expected 4 labels, one for each image, found 3")


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        ("*-labels-*", "expected an IDX file of labels beside train-images-idx4-ubyte, found none"),
        ("train-images-*", "expected an IDX file of images beside train-labels-idx1-ubyte, found none"),
        ("t10k-*", "expected IDX files of the test images (t10k-images-idx* or test-images-idx*), found none"),
    ],
)
def test_missing_idx_file(tmp_path, removed, expected):
    write_idx(tmp_path, PICTURES)
    for path in tmp_path.glob(removed):
        path.unlink()
    assert read_error(tmp_path) == f"{tmp_path}: {expected}"
