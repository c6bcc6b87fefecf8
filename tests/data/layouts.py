"""Write small data sets in the published layouts, by nothing of the package's own."""

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


@dataclass
class Pictures:
    """Six batches of the same number of pictures, five to train and one to test."""

    images: list[np.ndarray]
    labels: list[np.ndarray]

    @property
    def train_images(self) -> np.ndarray:
        return np.concatenate(self.images[:5])

    @property
    def train_labels(self) -> np.ndarray:
        return np.concatenate(self.labels[:5])


def draw_pictures(batch=4, shape=(3, 32, 32), seed=0) -> Pictures:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (batch, *shape), dtype=np.uint8) for _ in BATCHES]
    return Pictures(images, [rng.integers(0, 10, batch, dtype=np.uint8) for _ in BATCHES])


def write_binary(folder: Path, pictures: Pictures) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, x, y in zip(BATCHES, pictures.images, pictures.labels, strict=True):
        records = b"".join(bytes([label]) + image.tobytes() for image, label in zip(x, y, strict=True))
        (folder / f"{name}.bin").write_bytes(records)
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")


def pickle_python2(value) -> bytes:
    """Pickle as Python 2 with NumPy 1 did at protocol 2: byte strings by opcode, arrays by `numpy.core`."""
    return b"\x80\x02" + _emit(value) + b"."


def _emit(value) -> bytes:
    match value:
        case None:
            code = b"N"
        case int():
            code = b"J" + struct.pack("<i", value)
        case bytes():
            short = len(value) < 256
            code = (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value
        case list():
            code = b"](" + b"".join(map(_emit, value)) + b"e"
        case tuple():
            code = b"(" + b"".join(map(_emit, value)) + b"t"
        case dict():
            code = b"}(" + b"".join(_emit(key) + _emit(item) for key, item in value.items()) + b"u"
        case np.ndarray():
            code = _emit_array(value)
    return code


def _emit_array(value: np.ndarray) -> bytes:
    dtype = b"cnumpy\ndtype\n" + _emit((value.dtype.str[1:].encode(), 0, 1)) + b"R"
    dtype += _emit((3, value.dtype.str[:1].encode(), None, None, None, -1, -1, 0)) + b"b"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _emit((0,)) + _emit(b"b") + b"tR"
    return array + b"(" + _emit(1) + _emit(value.shape) + dtype + b"\x89" + _emit(value.tobytes()) + b"tb"


def write_python(folder: Path, pictures: Pictures, pickled=pickle_python2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, x, y in zip(BATCHES, pictures.images, pictures.labels, strict=True):
        batch = {b"batch_label": name.encode(), b"labels": y.tolist(), b"data": x.reshape(len(x), -1)}
        (folder / name).write_bytes(pickled(batch | {b"filenames": [b"%d.png" % i for i in range(len(y))]}))
    meta = {b"num_cases_per_batch": len(pictures.labels[0]), b"label_names": [name.encode() for name in NAMES]}
    (folder / "batches.meta").write_bytes(pickled(meta))


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, pictures: Pictures, compressed=False, test="t10k") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    splits = (("train", pictures.train_images, pictures.train_labels), (test, pictures.images[5], pictures.labels[5]))
    for split, images, y in splits:
        x = images[:, 0] if images.shape[1] == 1 else images
        for name, array in ((f"{split}-images-idx{x.ndim}-ubyte", x), (f"{split}-labels-idx1-ubyte", y)):
            content = idx_bytes(array)
            path = folder / (f"{name}.gz" if compressed else name)
            path.write_bytes(gzip.compress(content) if compressed else content)
