"""Finding and loading a data set by name. Nothing is ever fetched from a network here."""

import os
from pathlib import Path
from typing import NamedTuple

from cnnzoo.data import cifar10, emnist, mnist, synthetic
from cnnzoo.data.dataset import Dataset, Split
from cnnzoo.data.idx import IdxFolder
from cnnzoo.data.normalization import NORMALIZATIONS, Normalization, get_normalization
from cnnzoo.errors import ConfigError, DataError, suggest

DATASETS = ("cifar10", "mnist", "emnist", "synthetic")
EMNIST_SPLITS = tuple(emnist.CLASSES)

_CIFAR10_HELP = (
    "download it by `python -m cnnzoo.data fetch cifar10 --data-dir {folder}`, or unpack cifar-10-binary.tar.gz or "
    "cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html into {folder}"
)
_MNIST_HELP = (
    "download it by `python -m cnnzoo.data fetch mnist --data-dir {folder}`, or put train-images-idx3-ubyte.gz, "
    "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz into {folder}"
)
_EMNIST_HELP = (
    "download it by `python -m cnnzoo.data fetch emnist --data-dir {folder}`, or unpack emnist-{split}-* of gzip.zip "
    "of https://www.nist.gov/itl/products-and-services/emnist-dataset into {folder}"
)
_HELP = {"cifar10": _CIFAR10_HELP, "mnist": _MNIST_HELP, "emnist": _EMNIST_HELP}


class _Content(NamedTuple):
    """What a data set's files hold, where they are from, and its own statistics."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    origin: str
    normalization: Normalization


def default_data_dir() -> Path:
    """Return the folder searched when none is given: the environment's CNNZOO_DATA_DIR, else `data`."""
    return Path(os.environ.get("CNNZOO_DATA_DIR") or "data")


def choose_dataset(name: str | None = None, data_dir: str | os.PathLike | None = None) -> tuple[str, Path | None]:
    """Decide which data a command uses.

    Parameters
    ----------
    name : str or None
        One of `DATASETS`. None: what lies in `data_dir`; with no `data_dir`, CIFAR-10 where it lies in the default
        place, else the synthetic set.
    data_dir : path or None
        None: `default_data_dir()`.

    Returns
    -------
    name : str
    data_dir : Path or None
        As `load_dataset` takes them. None for the synthetic set, which has no files.

    Raises
    ------
    ConfigError
        Unknown name.
    DataError
        No name, and `data_dir` is no folder or holds no known data set.
    """
    if name is not None:
        _check_name(name)
        return name, None if name == "synthetic" else _folder(data_dir)
    folder = _folder(data_dir)
    if data_dir is None:
        return ("cifar10", folder) if _holds_cifar10(folder) else ("synthetic", None)
    if cifar10.find_cifar10(folder):
        return "cifar10", folder
    if mnist.find_mnist(folder):
        return "mnist", folder
    if emnist.list_emnist(folder):
        return "emnist", folder
    raise DataError(
        f"{folder}: expected CIFAR-10 (cifar-10-batches-bin, cifar-10-batches-py or IDX files), MNIST or EMNIST, "
        f"found none; for CIFAR-10, {_CIFAR10_HELP.format(folder=folder)}"
    )


def _holds_cifar10(folder: Path) -> bool:
    """Tell whether CIFAR-10 is found in the default place, which may be anything's: trouble in looking is a no."""
    try:
        return folder.is_dir() and cifar10.find_cifar10(folder) is not None
    except (DataError, OSError):
        return False


def find_folder(name: str, data_dir: str | os.PathLike, emnist_split: str = "balanced") -> Path | None:
    """Return the folder in which the files of a data set lie; None where there are none.

    Raises
    ------
    DataError
        `data_dir` is no folder, or cannot be read.
    """
    folder = Path(data_dir)
    if name == "cifar10":
        found: cifar10.Layout | IdxFolder | None = cifar10.find_cifar10(folder)
    else:
        found = mnist.find_mnist(folder) if name == "mnist" else emnist.find_emnist(folder, emnist_split)
    return None if found is None else found.folder


def load_dataset(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    limit_train: int | None = None,
    limit_test: int | None = None,
    seed: int = 0,
    normalization: str | None = None,
    emnist_split: str = "balanced",
) -> Dataset:
    """Load a data set, checking every file of it first.

    Parameters
    ----------
    name : str
        One of `DATASETS`.
    data_dir : path or None
        The folder with the data set's files, or with a folder that has them. None: `default_data_dir()`. The synthetic
        set does not use it.
    limit_train, limit_test : int or None
        Keep the first so many images of the split, or all where there are fewer. All files are checked regardless.
    seed : int
        Of the synthetic pictures; the others do not use it. Runs that are to be compared should leave it as it is.
    normalization : str or None
        A key of `cnnzoo.data.NORMALIZATIONS`. None: the data set's own; those of EMNIST are measured.
    emnist_split : str
        One of `EMNIST_SPLITS`; the other data sets do not use it.

    Returns
    -------
    Dataset

    Raises
    ------
    ConfigError
        Unknown name or split, a limit below 1, or a normalization that does not fit.
    DataError
        The data set is not there (the message says how to get it), incomplete or malformed.
    """
    _check_name(name)
    for option, limit in (("limit_train", limit_train), ("limit_test", limit_test)):
        if limit is not None and limit < 1:
            raise ConfigError(f"{option}: expected 1 or more images, got {limit}")
    if emnist_split not in EMNIST_SPLITS:
        hint = suggest(emnist_split, EMNIST_SPLITS)
        raise ConfigError(f"emnist_split: expected one of {', '.join(EMNIST_SPLITS)}, got {emnist_split!r}{hint}")
    channels = 1 if name in ("mnist", "emnist") else 3
    asked = None if normalization is None else get_normalization(normalization, channels)
    if name == "synthetic":
        content = _render(limit_train, limit_test, seed)
        note = f"For CIFAR-10, {_CIFAR10_HELP.format(folder=default_data_dir())}."
    else:
        content = _read(name, _folder(data_dir), limit_train, limit_test, emnist_split)
        note = ""
    statistics = asked or content.normalization
    counts = f"{len(content.train):,} training and {len(content.test):,} test images"
    return Dataset(
        name=name,
        train=content.train,
        test=content.test,
        classes=content.classes,
        mean=statistics.mean,
        std=statistics.std,
        source=f"{content.origin}: {counts}",
        note=note,
    )


def _render(limit_train: int | None, limit_test: int | None, seed: int) -> _Content:
    splits = synthetic.render_synthetic(
        min(limit_train or synthetic.NUM_TRAIN, synthetic.NUM_TRAIN),
        min(limit_test or synthetic.NUM_TEST, synthetic.NUM_TEST),
        seed=seed,
    )
    origin = f"synthetic pictures rendered from seed {seed}, not CIFAR-10"
    return _Content(*splits, synthetic.CLASSES, origin, NORMALIZATIONS["synthetic"])


def _read(name: str, folder: Path, limit_train: int | None, limit_test: int | None, emnist_split: str) -> _Content:
    """Find and read a data set that has files."""
    limits = {"limit_train": limit_train, "limit_test": limit_test}
    how = f"to get it, {_HELP[name].format(folder=folder, split=emnist_split)}"
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "nothing"
        raise DataError(f"{folder}: expected a folder with {name}, found {found}; {how}")
    if name == "cifar10" and (layout := cifar10.find_cifar10(folder)):
        origin = f"CIFAR-10 ({layout.kind} files) from {layout.folder}"
        return _Content(*cifar10.read_cifar10(layout, **limits), origin, NORMALIZATIONS[name])
    if name == "mnist" and (files := mnist.find_mnist(folder)):
        origin = f"MNIST from {files.folder}"
        return _Content(*mnist.read_mnist(files, **limits), mnist.CLASSES, origin, NORMALIZATIONS[name])
    if name == "emnist" and (files := emnist.find_emnist(folder, emnist_split)):
        train, test, measured = emnist.read_emnist(files, emnist_split, **limits)
        origin = f"EMNIST {emnist_split} from {files.folder}"
        return _Content(train, test, emnist.CLASSES[emnist_split], origin, measured)
    if name == "emnist" and (others := emnist.list_emnist(folder)):
        raise DataError(f"{folder}: expected the {emnist_split} split of EMNIST, found {', '.join(others)}; {how}")
    raise DataError(f"{folder}: expected {name}, found none of its files; {how}")


def _folder(data_dir: str | os.PathLike | None) -> Path:
    return default_data_dir() if data_dir is None else Path(data_dir)


def _check_name(name: str) -> None:
    if name not in DATASETS:
        raise ConfigError(f"dataset: expected one of {', '.join(DATASETS)}, got {name!r}{suggest(name, DATASETS)}")
