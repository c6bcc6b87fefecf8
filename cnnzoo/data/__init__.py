"""Data sets: file formats, the synthetic set, normalization, augmentation and batches."""

from typing import TYPE_CHECKING, Any

from cnnzoo.data.augmentation import Augmentation
from cnnzoo.data.cifar10 import find_cifar10
from cnnzoo.data.dataset import Dataset, Split
from cnnzoo.data.loading import DATASETS, choose_dataset, default_data_dir, load_dataset
from cnnzoo.data.normalization import NORMALIZATIONS, get_normalization

if TYPE_CHECKING:
    from cnnzoo.data.batches import Batches

__all__ = [
    "DATASETS",
    "NORMALIZATIONS",
    "Augmentation",
    "Batches",
    "Dataset",
    "Split",
    "choose_dataset",
    "default_data_dir",
    "find_cifar10",
    "get_normalization",
    "load_dataset",
]


def __getattr__(name: str) -> Any:
    """Import batches when they are first asked for: they need numba, reading and checking files does not."""
    if name == "Batches":
        from cnnzoo.data.batches import Batches

        return Batches
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
