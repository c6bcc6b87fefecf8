"""Safetensors files with a checksum: the same bytes for the same content, readable elsewhere, and no damage unseen."""

import json

import numpy as np
import pytest
import safetensors.numpy

from cnnzoo.errors import WeightsError
from cnnzoo.interop.tensor_file import read_metadata, read_tensors, write_tensors

ARRAYS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([2**40, -1]),
    "half": np.ones(3, np.float16),
    "none": np.empty((0, 4)),
    "single": np.float64(0.1),
}
METADATA = {"model": "lenet5", "text": 'quotes " and ü', "zeros": "0" * 64}


@pytest.fixture
def path(tmp_path):
    write_tensors(tmp_path / "w", ARRAYS, METADATA)
    return tmp_path / "w"


def test_read_back(path):
    arrays, metadata = read_tensors(path)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)
    assert metadata == METADATA
    assert {name: read_metadata(path)[name] for name in METADATA} == METADATA


def test_readable_by_safetensors(path):
    arrays = safetensors.numpy.load_file(path)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata().items() >= METADATA.items()


def test_same_content_gives_the_same_bytes_in_any_order(path, tmp_path):
    write_tensors(tmp_path / "other", dict(reversed(ARRAYS.items())), METADATA)
    assert (tmp_path / "other").read_bytes() == path.read_bytes()


def test_every_flipped_bit_is_seen(path):
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(WeightsError) as raised:
            read_tensors(path)
        assert str(raised.value).startswith(f"{path}: expected ")
        assert "\n" not in str(raised.value)


def test_every_cut_is_seen(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError):
            read_tensors(path)


def test_file_of_another_program_is_not_checked(tmp_path):
    safetensors.numpy.save_file({"w": np.ones(2)}, tmp_path / "w")
    arrays, metadata = read_tensors(tmp_path / "w")
    np.testing.assert_array_equal(arrays["w"], np.ones(2))
    assert metadata == {}
    assert read_metadata(tmp_path / "w") == {}


CONTENTS = [b"", b"\x08", b"\x02\0\0\0\0\0\0\0[]", (2**62).to_bytes(8, "little"), b"hello, world"]


@pytest.mark.parametrize("content", CONTENTS)
def test_metadata_of_no_such_file(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(WeightsError, match="w: expected a safetensors file, found "):
        read_metadata(tmp_path / "w")


def test_metadata_of_nothing(tmp_path):
    with pytest.raises(WeightsError, match="absent: No such file"):
        read_metadata(tmp_path / "absent")


def test_types_that_are_not_written(tmp_path):
    with pytest.raises(WeightsError, match="expected arrays of F64, F32, F16, I64, got mask of bool"):
        write_tensors(tmp_path / "w", {"mask": np.ones(2, bool)})
    assert not list(tmp_path.iterdir())


def test_big_endian_arrays_are_written_little_endian(tmp_path):
    write_tensors(tmp_path / "w", {"w": np.arange(3, dtype=">f4")})
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "w")["w"], np.arange(3, dtype=np.float32))


def test_wrong_checksum_of_another_program(tmp_path):
    """A header with another program's idea of a checksum is refused, not trusted."""
    text = json.dumps(
        {
            "__metadata__": {"checksum": "sha256", "sha256": "a"},
            "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        }
    )
    (tmp_path / "w").write_bytes(len(text).to_bytes(8, "little") + text.encode() + bytes(4))
    with pytest.raises(WeightsError, match="expected the SHA-256 that its header tells"):
        read_tensors(tmp_path / "w")
