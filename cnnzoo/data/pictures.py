"""Single pictures: PNG, JPEG and what else Pillow reads, and NumPy's .npy files; resizing."""

import os
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from cnnzoo.data.files import file_size, naming
from cnnzoo.errors import DataError

# Of Pillow, those with eight bits or fewer a channel.
_GRAY_MODES = ("1", "L", "LA")
_COLOR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
_LUMA = (299, 587, 114)  # thousandths of red, green and blue (ITU-R BT.601)


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture.

    Parameters
    ----------
    path : path
        `.npy`: uint8[height, width], [height, width, channels] or [channels, height, width], of one or three channels.
        Any other: what Pillow reads, turned upright as its EXIF data say, transparency left out.

    Returns
    -------
    uint8[1, height, width] or uint8[3, height, width]

    Raises
    ------
    DataError
        There is no such file, it is damaged or of another kind, or Pillow, which it needs, is not installed.
    """
    path = Path(path)
    file_size(path)
    picture = _read_npy(path) if path.suffix.lower() == ".npy" else _read_with_pillow(path)
    if 0 in picture.shape:
        raise DataError(f"{path}: expected a picture, found one without pixels")
    return np.ascontiguousarray(picture)


def fit_picture(picture: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Return a picture with the channels and the size that a network takes.

    Color becomes gray by its luma, gray becomes color with three channels alike. Height and width are scaled each by
    itself, so that nothing is cut off, by linear interpolation over as many pixels as become one (a triangle filter,
    as Pillow's BILINEAR).

    Parameters
    ----------
    picture : uint8[1 or 3, height, width]
    image_shape : tuple of int
        (channels, height, width).

    Returns
    -------
    uint8 of shape `image_shape`

    Raises
    ------
    DataError
        Another number of channels is asked for.
    """
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise DataError(f"expected a network for pictures of 1 or 3 channels, got one for {channels}")
    if len(picture) != channels:
        gray = picture[0] if len(picture) == 1 else _gray(picture)
        picture = np.broadcast_to(gray, (channels, *gray.shape))
    if picture.shape[1:] != (height, width):
        rows, columns = _triangle_filter(picture.shape[1], height), _triangle_filter(picture.shape[2], width)
        picture = np.rint(rows @ picture.astype(np.float64) @ columns.T).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(picture)


def _gray(picture: np.ndarray) -> np.ndarray:
    return ((np.tensordot(_LUMA, picture.astype(np.int64), axes=1) + 500) // 1000).astype(np.uint8)


def _triangle_filter(source: int, target: int) -> np.ndarray:
    """Return the weights of `source` pixels in each of `target`, float64[target, source]; rows add up to 1."""
    scale = source / target
    centers = (np.arange(target) + 0.5) * scale - 0.5
    distances = abs(np.arange(source) - centers[:, None]) / max(scale, 1.0)
    weights = np.maximum(0.0, 1.0 - distances)
    return weights / weights.sum(axis=1, keepdims=True)


def _read_npy(path: Path) -> np.ndarray:
    with naming(path):
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, BadZipFile) as error:
            raise DataError(f"{path}: expected a NumPy file of numbers, found none ({error})") from error
    expected = "uint8[height, width], with 1 or 3 channels before or behind"
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim not in (2, 3):
        found = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else "an archive"
        raise DataError(f"{path}: expected {expected}, found {found}")
    if array.ndim == 2:
        return array[None]
    if array.shape[2] in (1, 3):
        return np.moveaxis(array, 2, 0)
    if array.shape[0] in (1, 3):
        return array
    raise DataError(f"{path}: expected {expected}, found {array.dtype}{list(array.shape)}")


def _read_with_pillow(path: Path) -> np.ndarray:
    if find_spec("PIL") is None:
        raise DataError(
            f"{path}: expected Pillow to read it with, found none installed; pip install 'cnnzoo[pictures]'"
        )
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode in _GRAY_MODES:
                return np.asarray(upright.convert("L"))[None]
            if upright.mode in _COLOR_MODES:
                return np.moveaxis(np.asarray(upright.convert("RGB")), 2, 0)
            mode = upright.mode
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: expected a picture of ordinary size, found a huge one ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:  # what decoders raise where a file is damaged
        reason = "" if str(path) in str(error) else f" ({error})"
        raise DataError(f"{path}: expected a picture that Pillow reads, found something else{reason}") from error
    raise DataError(f"{path}: expected eight bits a channel, found Pillow's mode {mode}")
