"""Weights as a folder of hexadecimal text: round trips, the format itself, damage, and nothing half-written."""

import os
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import cnnzoo
from cnnzoo.errors import WeightsError
from cnnzoo.interop import load_hex_weights, load_weights, save_hex_weights

WEIGHTS = {
    "features.0.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 7,
    "features.0.bias": np.array([0.8, -1.0], np.float64),
    "bn1.num_batches_tracked": np.array(7, np.int64),
}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (array.dtype.newbyteorder("="), array.shape)
        assert actual[name].flags.writeable
        np.testing.assert_array_equal(actual[name], array)


def refused(action, *parts):
    """Check that an action ends in one line of `WeightsError` that has these parts."""
    with pytest.raises(WeightsError) as raised:
        action()
    message = str(raised.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.fixture
def folder(tmp_path):
    save_hex_weights(tmp_path / "weights", WEIGHTS)
    return tmp_path / "weights"


SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0)


@given(array=arrays.arrays(st.sampled_from(["<f2", "<f4", ">f4", "<f8", ">f8", "<i8"]), SHAPES))
def test_any_array_is_read_back(tmp_path_factory, array):
    folder = tmp_path_factory.mktemp("hex") / "weights"
    save_hex_weights(folder, {"w": array})
    assert_same(load_hex_weights(folder), {"w": array})


def test_not_a_number_and_noncontiguous_arrays_keep_their_bytes(tmp_path):
    array = np.array([[np.nan, np.inf, -0.0], [5e-324, -np.inf, 1.0]]).T
    save_hex_weights(tmp_path / "weights", {"w": array})
    assert load_weights(tmp_path / "weights")["w"].tobytes() == array.tobytes()


def test_network_is_read_back(tmp_path):
    net = cnnzoo.create_model("lenet5", seed=1)
    save_hex_weights(tmp_path / "weights", net.state_dict())
    assert len(list((tmp_path / "weights").iterdir())) == len(net.state_dict())
    other = cnnzoo.create_model("lenet5", seed=2)
    other.load_state_dict(load_weights(tmp_path / "weights"))
    assert_same(other.state_dict(), net.state_dict())


def test_format(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.hex" for name in WEIGHTS)
    lines = (folder / "features.0.weight.hex").read_text("ascii").split("\n")
    assert lines[:3] == ["name features.0.weight", "dtype float32", "shape 2 3 2 2"]
    assert [len(line) for line in lines[3:]] == [64, 64, 64, 0]
    # 0, then 1/7 = 0x3e124925 with the lowest byte first.
    assert lines[3].startswith("000000002549123e")
    text = (folder / "features.0.bias.hex").read_text("ascii")
    assert text == "name features.0.bias\ndtype float64\nshape 2\n9a9999999999e93f000000000000f0bf\n"
    text = (folder / "bn1.num_batches_tracked.hex").read_text("ascii")
    assert text == "name bn1.num_batches_tracked\ndtype int64\nshape\n0700000000000000\n"


def test_other_ways_to_write_the_same_are_read(tmp_path):
    (tmp_path / "b.hex").write_bytes(b"name b\r\ndtype float32\r\nshape 2\r\n0000803F 0000\r\n0040\r\n\r\n")
    (tmp_path / "notes.txt").write_text("not weights")
    assert_same(load_hex_weights(tmp_path), {"b": np.array([1, 2], np.float32)})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text[:-2], "expected 32 hexadecimal digits for float64 of shape (2,), found 31"),
        (lambda text: text[:-3], "shape (2,), found 30"),
        (lambda text: text + "00\n", "shape (2,), found 34"),
        (lambda text: text[: text.index("9a99")], "shape (2,), found 0"),
        (lambda text: text.replace("f0bf", "g0bf"), ".hex, line 4: expected hexadecimal digits, found 'g'"),
        (lambda text: text.replace("f0bf", "f0b\0"), r"line 4: expected hexadecimal digits, found '\x00'"),
        (lambda text: text + "ü\n", "line 5: expected hexadecimal digits, found 'Ã'"),
        (lambda text: text.replace("shape 2", "shape 3"), "expected 48 hexadecimal digits for float64 of shape (3,)"),
        (lambda text: text.replace("shape 2", "shape 2 -1"), "expected a shape of whole numbers"),
        (lambda text: text.replace("shape 2", "shape 2x1"), "found '2x1'"),
        (lambda text: text.replace("shape 2", f"shape {10**30}"), "expected a shape of whole numbers"),
        (lambda text: text.replace("shape 2", f"shape {10**17}"), "hexadecimal digits for float64 of shape (1000"),
        (lambda text: text.replace("float64", "float32"), "expected 16 hexadecimal digits for float32 of shape (2,)"),
        (lambda text: text.replace("float64", "bool"), "expected a dtype of float16, float32, float64, int64"),
        (lambda text: text.replace("name features.0.bias", "name features.1.bias"), "found 'features.1.bias'"),
        (lambda text: text.replace("shape 2\n", ""), "expected a file that begins with lines of name, dtype and shape"),
        (lambda text: "", "expected a file that begins with lines of name, dtype and shape"),
    ],
)
def test_damaged_file(folder, change, expected):
    path = folder / "features.0.bias.hex"
    path.write_text(change(path.read_text("ascii")), "utf-8")
    refused(lambda: load_hex_weights(folder), str(path), expected)


CHANGES = [b"", b"\n", b" ", b"z", b"0", b"\xff", b"9" * 40, b"name x\n"]


@given(position=st.integers(0, 85), change=st.sampled_from(CHANGES))
def test_any_damage_is_a_weights_error_or_another_array(tmp_path_factory, position, change):
    folder = tmp_path_factory.mktemp("hex") / "weights"
    save_hex_weights(folder, {"features.0.bias": WEIGHTS["features.0.bias"]})
    path = folder / "features.0.bias.hex"
    content = path.read_bytes()
    path.write_bytes(content[:position] + change + content[position + 1 :])
    try:
        loaded = load_hex_weights(folder)
    except WeightsError as error:
        message = str(error)
    else:
        message = str(path)
        assert loaded["features.0.bias"].dtype in (np.float64, np.float32, np.int64, np.float16)
    assert message.startswith(str(path))


def test_folder_without_weights(tmp_path):
    refused(lambda: load_hex_weights(tmp_path), str(tmp_path), "expected weights, a file *.hex for each parameter")
    refused(lambda: load_hex_weights(tmp_path / "absent"), "absent: No such file or directory")
    (tmp_path / "w.hex").mkdir()
    refused(lambda: load_hex_weights(tmp_path), "w.hex: Is a directory")


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../w", "a\nb", "ä", "a b"])
def test_names_that_are_no_file_s(tmp_path, name):
    refused(lambda: save_hex_weights(tmp_path / "weights", {name: np.ones(1)}), repr(name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "uint8", "U3"])
def test_types_that_the_format_has_not(tmp_path, dtype):
    refused(lambda: save_hex_weights(tmp_path / "weights", {"w": np.zeros(1, dtype)}), "expected w of float16")
    assert list(tmp_path.iterdir()) == []


def test_no_weights(tmp_path):
    refused(lambda: save_hex_weights(tmp_path / "weights", {}), "expected weights to write, got none")


def test_what_is_there_is_never_replaced(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused(lambda: save_hex_weights(folder, {"w": np.ones(1)}), "found a folder with something in it")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    file = folder / "features.0.bias.hex"
    refused(lambda: save_hex_weights(file, {"w": np.ones(1)}), "found a file")
    assert file.read_bytes() == before[file.name]
    assert os.listdir(folder.parent) == [folder.name]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "weights").mkdir()
    save_hex_weights(tmp_path / "weights", WEIGHTS)
    assert_same(load_hex_weights(tmp_path / "weights"), WEIGHTS)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt("stop")])
@pytest.mark.parametrize("files", [0, 2, len(WEIGHTS)])
def test_nothing_is_left_of_a_write_that_fails(tmp_path, monkeypatch, files, error):
    """Fail after so many whole files; until the last of them the folder is not there."""
    target, calls = tmp_path / "weights", []
    fsync = os.fsync

    def fail(descriptor):
        assert not target.exists()
        calls.append(descriptor)
        if len(calls) > files:
            raise error
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error), match=re.escape(str(error))):
        save_hex_weights(target, WEIGHTS)
    assert len(calls) == files + 1
    assert list(tmp_path.iterdir()) == []


def test_missing_parent_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_hex_weights(tmp_path / "absent" / "weights", WEIGHTS)
    assert list(tmp_path.iterdir()) == []
