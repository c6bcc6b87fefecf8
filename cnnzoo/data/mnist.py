"""MNIST (LeCun, Bottou, Bengio and Haffner 1998): 28x28 gray digits in IDX files."""

from pathlib import Path

from cnnzoo.data.dataset import Split
from cnnzoo.data.files import folders_to_search, naming
from cnnzoo.data.idx import GRAY, IdxFolder, find_idx, read_idx_split

CLASSES = tuple("0123456789")
IMAGE_SHAPE = (1, 28, 28)


def find_mnist(folder: Path) -> IdxFolder | None:
    """Look for IDX files of gray images in a folder, then in the folders in it.

    Raises
    ------
    DataError
        `folder` is no folder, or cannot be read.
    """
    for place in folders_to_search(folder):
        with naming(place):
            found = find_idx(place)
        if found is not None and found.dimensions == GRAY:
            return found
    return None


def read_mnist(
    found: IdxFolder, *, limit_train: int | None = None, limit_test: int | None = None
) -> tuple[Split, Split]:
    """Read and check every file, then keep the first images: uint8[N, 1, 28, 28]. Errors as `read_idx_split`."""
    train = read_idx_split(found, "train", IMAGE_SHAPE, len(CLASSES), limit_train)
    return train, read_idx_split(found, "test", IMAGE_SHAPE, len(CLASSES), limit_test)
