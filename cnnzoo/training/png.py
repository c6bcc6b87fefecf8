"""Small pictures as PNG files (ISO/IEC 15948)."""

import struct
import zlib

import numpy as np

_COLOR_TYPES = {1: 0, 3: 2}  # gray, and red, green and blue


def encode_png(picture: np.ndarray) -> bytes:
    """Return the PNG file of a picture.

    Parameters
    ----------
    picture : uint8[1 or 3, height, width]
        Gray, or red, green and blue.
    """
    channels, height, width = picture.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter: 0, none
    rows[:, 1:] = np.moveaxis(picture, 0, 2).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
