"""Single pictures: what is read, what is refused, and resizing as Pillow resizes."""

import builtins

import numpy as np
import pytest

from cnnzoo.data import pictures
from cnnzoo.data.pictures import fit_picture, read_picture
from cnnzoo.errors import DataError

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")


def _noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (5, 7, 1)])
def test_npy_of_a_gray_picture(tmp_path, shape):
    pixels = _noise(*shape)
    np.save(tmp_path / "a.npy", pixels)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.npy"), pixels.reshape(1, 5, 7), strict=True)


def test_npy_of_a_color_picture_either_way(tmp_path):
    pixels = _noise(3, 5, 7)
    np.save(tmp_path / "a.npy", pixels)
    np.save(tmp_path / "b.NPY", np.moveaxis(pixels, 0, 2))
    for name in ("a.npy", "b.NPY.npy"):
        np.testing.assert_array_equal(read_picture(tmp_path / name), pixels, strict=True)


def test_png_is_read_as_it_is(tmp_path):
    pixels = _noise(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), np.moveaxis(pixels, 2, 0), strict=True)
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "gray.png"), pixels[None, :, :, 0], strict=True)


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA"])
def test_png_of_other_modes(tmp_path, mode):
    Image.fromarray(_noise(5, 7, 3)).convert(mode).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.shape == ((1 if mode in ("1", "LA") else 3), 5, 7)


def test_jpeg_is_turned_as_its_exif_data_say(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255  # white on the left
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: white on top
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.shape == (3, 16, 8)
    assert picture[:, :7].min() > 200
    assert picture[:, 9:].max() < 50


def _write(name, content):
    def write(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _save(name, array):
    def save(folder):
        np.save(folder / name, array, allow_pickle=True)
        return folder / name

    return save


def _truncate(folder):
    Image.fromarray(_noise(64, 64, 3)).save(folder / "cut.png")
    content = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    return folder / "cut.png"


def _sixteen_bits(folder):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "deep.png")
    return folder / "deep.png"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent.png", "absent.png: expected a file, found nothing"),
        (lambda folder: folder, "expected a file, found a folder"),
        (_write("a.png", b"no picture"), "a.png: expected a picture that Pillow reads, found something else"),
        (_write("a.npy", b"no array"), "a.npy: expected a NumPy file of numbers, found none"),
        (_write("a.npy", b"PK\x03\x04broken"), "a.npy: expected a NumPy file of numbers, found none"),
        (_write("a.npy", b""), "a.npy: expected a NumPy file of numbers, found none"),
        (_save("a.npy", np.array([{}])), "a.npy: expected a NumPy file of numbers, found none"),
        (_save("a.npy", np.zeros((4, 4))), r"expected uint8.height, width., .* found float64\[4, 4\]"),
        (_save("a.npy", np.zeros((2, 4, 4), np.uint8)), r"found uint8\[2, 4, 4\]"),
        (_save("a.npy", np.zeros(4, np.uint8)), r"found uint8\[4\]"),
        (_save("a.npy", np.zeros((0, 4), np.uint8)), "expected a picture, found one without pixels"),
        (_truncate, "cut.png: expected a picture that Pillow reads, found something else"),
        (_sixteen_bits, "deep.png: expected eight bits a channel, found Pillow's mode I;16"),
    ],
)
def test_refused(tmp_path, make, message):
    with pytest.raises(DataError, match=message) as raised:
        read_picture(make(tmp_path))
    assert "\n" not in str(raised.value)


def test_huge_picture(tmp_path, monkeypatch):
    Image.fromarray(_noise(64, 64, 3)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="expected a picture of ordinary size"):
        read_picture(tmp_path / "a.png")


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    monkeypatch.setattr(builtins, "__import__", None)  # nothing is imported before the message
    with pytest.raises(DataError, match=r"expected Pillow .* pip install 'cnnzoo\[pictures\]'"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("source", [(640, 480), (20, 30), (31, 33), (1, 1), (100, 8)])
@pytest.mark.parametrize("target", [(32, 32), (28, 20)])
def test_resizes_as_pillow(source, target):
    pixels = _noise(*source, 3)
    expected = np.asarray(Image.fromarray(pixels).resize(target[::-1], Image.Resampling.BILINEAR)).astype(int)
    got = fit_picture(np.moveaxis(pixels, 2, 0), (3, *target))
    assert got.dtype == np.uint8
    assert abs(np.moveaxis(got, 0, 2) - expected).max() <= 1  # Pillow rounds between its two passes


def test_same_size_is_left_alone():
    pixels = _noise(3, 6, 5)
    np.testing.assert_array_equal(fit_picture(pixels, (3, 6, 5)), pixels, strict=True)


def test_color_to_gray_as_pillow_and_back():
    pixels = _noise(3, 40, 50)
    gray = fit_picture(pixels, (1, 40, 50))
    expected = np.asarray(Image.fromarray(np.moveaxis(pixels, 0, 2)).convert("L")).astype(int)
    assert abs(gray[0] - expected).max() <= 1
    color = fit_picture(gray, (3, 40, 50))
    assert color.shape == (3, 40, 50)
    assert np.all(color == gray)


def test_network_of_other_channels():
    with pytest.raises(DataError, match="expected a network for pictures of 1 or 3 channels, got one for 2"):
        fit_picture(_noise(3, 4, 4), (2, 4, 4))
