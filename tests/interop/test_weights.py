"""Safetensors files: round trips, types, damage, and how mismatches with a network are reported."""

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import cnnzoo
from cnnzoo.errors import WeightsError
from cnnzoo.interop import load_weights, save_hex_weights, save_weights


def make_file(header, data=b""):
    """Return the bytes of a safetensors file, written out by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def refused(path, *parts):
    """Check that loading ends in one line that names the file and has these parts."""
    with pytest.raises(WeightsError) as raised:
        load_weights(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (4, 3, 2, 1)])
def test_arrays_are_read_back(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    save_weights(tmp_path / "w", {"a.b": array, "transposed": array.T})
    loaded = load_weights(tmp_path / "w")
    assert {name: (a.dtype, a.shape) for name, a in loaded.items()} == {
        "a.b": (array.dtype, shape),
        "transposed": (array.dtype, shape[::-1]),
    }
    np.testing.assert_array_equal(loaded["a.b"], array)
    np.testing.assert_array_equal(loaded["transposed"], array.T)


def test_network_is_read_back(tmp_path):
    net = cnnzoo.create_model("resnet18", seed=1)
    save_weights(tmp_path / "w", net.state_dict())
    other = cnnzoo.create_model("resnet18", seed=2)
    other.load_state_dict(load_weights(tmp_path / "w"))
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array)


def test_bfloat16_becomes_float32_exactly(tmp_path):
    # 1, -2.5, the largest number, infinity: sign, 8 bits of exponent, 7 of mantissa.
    words = np.array([0x3F80, 0xC020, 0x7F7F, 0x7F80], "<u2")
    header = {"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}
    (tmp_path / "w").write_bytes(make_file(header, words.tobytes()))
    loaded = load_weights(tmp_path / "w")["w"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, np.array([[1, -2.5], [255 * 2.0**120, np.inf]], np.float32))


def test_types_that_weights_do_not_have(tmp_path):
    arrays = {"q": np.ones(2, np.int8), "mask": np.ones(2, bool), "w": np.ones(2, np.float32), "u": np.ones(1, "u4")}
    (tmp_path / "w").write_bytes(safetensors.numpy.save(arrays))
    refused(
        tmp_path / "w", "expected arrays of F64, F32, F16, BF16, I64, found ", "q of I8", "mask of BOOL", "u of U32"
    )
    header = {"w": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}
    (tmp_path / "w").write_bytes(make_file(header, b"\0"))
    refused(tmp_path / "w", "found w of F8_E4M3")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        b"12345678broken",
        make_file(b"{not json}"),
        make_file(b"[]"),
        make_file(b'{"w": 3}'),
        make_file({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234567"),
        make_file({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"123456789"),
        make_file({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"12345678"),
        make_file({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}}, b"12345678"),
        make_file({"w": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}, b"12345678"),
        make_file({"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, b"12345678"),
    ],
)
def test_damaged_header(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    refused(tmp_path / "w", "expected a safetensors file, found a damaged one or something else (")


@pytest.mark.parametrize("kept", [0, 7, 8, 40, -1])
def test_truncated_file(tmp_path, kept):
    save_weights(tmp_path / "w", cnnzoo.create_model("lenet5").state_dict())
    content = (tmp_path / "w").read_bytes()
    (tmp_path / "w").write_bytes(content[:kept])
    refused(tmp_path / "w", "expected a safetensors file, found a damaged one")


@given(position=st.integers(0, 150), byte=st.integers(0, 255))
def test_any_damage_is_a_weights_error_or_other_weights(tmp_path_factory, position, byte):
    path = tmp_path_factory.mktemp("weights") / "w"
    save_weights(path, {"conv1.weight": np.ones((2, 3), np.float32), "conv1.bias": np.ones(3)})
    content = bytearray(path.read_bytes())
    content[position] = byte
    path.write_bytes(content)
    try:
        loaded = load_weights(path)
    except WeightsError as error:
        message = str(error)
    else:
        message = str(path)
        assert all(isinstance(array, np.ndarray) for array in loaded.values())
    assert message.startswith(str(path))


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"\x80\x02"])
def test_pickle_is_named_as_what_it_is(tmp_path, magic):
    (tmp_path / "model.pth").write_bytes(magic + b"\0" * 100)
    refused(tmp_path / "model.pth", "found a pickle; in PyTorch, safetensors.torch.save_file")


def test_nothing_there(tmp_path):
    refused(tmp_path / "absent", "expected a safetensors file or a folder of hexadecimal weights, found nothing")


@pytest.mark.parametrize("save", [save_weights, save_hex_weights])
def test_mismatch_lists_everything_and_changes_nothing(tmp_path, save):
    net = cnnzoo.create_model("lenet5", seed=1)
    before = net.state_dict()
    state = net.state_dict()
    state["fc3.weight"] = np.ones((47, 84), np.float32)
    state["conv1.weight"] = np.ones((6, 1, 5, 5), np.float32)
    del state["fc1.bias"], state["conv2.weight"]
    state |= {"extra.weight": np.ones(1, np.float32), "bn.num_batches_tracked": np.array(3)}
    save(tmp_path / "w", state)
    with pytest.raises(WeightsError) as raised:
        net.load_state_dict(load_weights(tmp_path / "w"))
    assert str(raised.value) == (
        "weights do not fit lenet5: missing conv2.weight, fc1.bias; unexpected extra.weight; "
        "misshapen fc3.weight (47, 84) instead of (10, 84)"
    )
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
