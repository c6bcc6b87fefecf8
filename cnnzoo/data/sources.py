"""Where the data sets are published, and what their files are known to be.

The digests are those that widely used loaders check: of CIFAR-10 TensorFlow's Keras and TensorFlow Datasets, of MNIST
and EMNIST TensorFlow Datasets. Sizes are in bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cnnzoo.data.emnist import CLASSES as EMNIST_CLASSES


@dataclass(frozen=True, kw_only=True)
class Download:
    """A published file: its name, its size in bytes and its SHA-256 in lower case."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set's published files.

    Attributes
    ----------
    site : str
        URL of the folder that they lie in.
    folder : str
        Name of the folder that their content is put into.
    downloads : tuple of Download
    members : mapping from str to str
        Files of the archive that the one download is, by their paths in it, and what they are called in `folder`.
        Empty: the downloads themselves are the files.
    """

    site: str
    folder: str
    downloads: tuple[Download, ...]
    members: Mapping[str, str] = field(default_factory=dict)


def _members(folder: str, names: tuple[str, ...]) -> dict[str, str]:
    return {f"{folder}/{name}": name for name in names}


_CIFAR10_SITE = "https://www.cs.toronto.edu/~kriz"
_CIFAR10_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_CIFAR10_BINARY = Source(
    site=_CIFAR10_SITE,
    folder="cifar-10-batches-bin",
    downloads=(
        Download(
            name="cifar-10-binary.tar.gz",
            size=170_052_171,
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
    members=_members("cifar-10-batches-bin", (*(f"{name}.bin" for name in _CIFAR10_BATCHES), "batches.meta.txt")),
)
_CIFAR10_PYTHON = Source(
    site=_CIFAR10_SITE,
    folder="cifar-10-batches-py",
    downloads=(
        Download(
            name="cifar-10-python.tar.gz",
            size=170_498_071,
            sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
    ),
    members=_members("cifar-10-batches-py", (*_CIFAR10_BATCHES, "batches.meta")),
)
_MNIST = Source(
    site="https://ossci-datasets.s3.amazonaws.com/mnist",
    folder="mnist",
    downloads=(
        Download(
            name="train-images-idx3-ubyte.gz",
            size=9_912_422,
            sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        Download(
            name="train-labels-idx1-ubyte.gz",
            size=28_881,
            sha256="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        Download(
            name="t10k-images-idx3-ubyte.gz",
            size=1_648_877,
            sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        Download(
            name="t10k-labels-idx1-ubyte.gz",
            size=4_542,
            sha256="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
)
_EMNIST = Source(
    site="https://biometrics.nist.gov/cs_links/EMNIST",
    folder="emnist",
    downloads=(
        Download(
            name="gzip.zip",
            size=561_753_746,
            sha256="fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
        ),
    ),
    members=_members(
        "gzip",
        tuple(
            f"emnist-{split}-{part}-{content}-ubyte.gz"
            for split in EMNIST_CLASSES
            for part in ("train", "test")
            for content in ("images-idx3", "labels-idx1")
        ),
    ),
)

SOURCES: dict[str, tuple[Source, ...]] = {
    "cifar10": (_CIFAR10_BINARY, _CIFAR10_PYTHON),
    "mnist": (_MNIST,),
    "emnist": (_EMNIST,),
}
"""The forms in which each data set is published: the first is fetched, files of the others are taken where given."""
