"""Get data sets, check them, convert them: ``python -m cnnzoo.data fetch cifar10``."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cnnzoo.command import Parser, run_command
from cnnzoo.errors import ConfigError, DataError

if TYPE_CHECKING:
    import argparse

    from cnnzoo.data.sources import Download

_FETCHABLE = ("cifar10", "mnist", "emnist")
_DESCRIPTION = """Get data sets from where they are published, check them, convert them.

examples:
  cnnzoo data fetch cifar10 --data-dir data
  cnnzoo data fetch cifar10 --from-file ~/Downloads/cifar-10-python.tar.gz
  cnnzoo data verify cifar10
  cnnzoo data convert cifar10 --output data/cifar10-idx

A download that breaks off, or is interrupted, goes on where it was when the command is given again. Nothing is used
before its SHA-256 is the published one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str or None
        None: the process's.
    """
    return run_command("cnnzoo data", lambda: data(arguments))


def data(arguments: Sequence[str] | None) -> None:
    """Do what the arguments say; see `main`."""
    parsed = _make_parser().parse(arguments)
    result, words = parsed.run(parsed)
    print(json.dumps(result) if parsed.json else words)


def _make_parser() -> Parser:
    parser = Parser(prog="cnnzoo data", description=_DESCRIPTION)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    fetch = _add_verb(verbs, "fetch", _fetch, "download a data set, and unpack it into the data folder")
    fetch.add_argument(
        "--mirror", metavar="URL", help="folder to download from, with the published names (default: the publisher's)"
    )
    fetch.add_argument(
        "--from-file", metavar="PATH", type=Path, help="the published file, or for MNIST a folder with the four of them"
    )
    _add_verb(verbs, "verify", _verify, "check a data set: digests where it was fetched, and every file's structure")
    convert = _add_verb(
        verbs, "convert", _convert, "write CIFAR-10 as IDX files, color images with magic number 2052", ("cifar10",)
    )
    convert.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder to make")
    return parser


def _add_verb(
    verbs: "argparse._SubParsersAction[Parser]",
    name: str,
    run: Callable[["argparse.Namespace"], tuple[dict[str, Any], str]],
    does: str,
    choices: tuple[str, ...] = _FETCHABLE,
) -> Parser:
    parser = verbs.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
    parser.add_argument("dataset", choices=choices, help="data set")
    parser.add_argument(
        "--data-dir", metavar="DIR", type=Path, help="data folder (default: CNNZOO_DATA_DIR, else data)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)
    return parser


def _data_dir(parsed: "argparse.Namespace") -> Path:
    from cnnzoo.data.loading import default_data_dir

    return parsed.data_dir or default_data_dir()


def _fetch(parsed: "argparse.Namespace") -> tuple[dict[str, Any], str]:
    from cnnzoo.data.fetching import fetch
    from cnnzoo.data.sources import SOURCES

    if parsed.mirror is not None:
        if parsed.from_file is not None:
            raise ConfigError("expected --mirror or --from-file, got both")
        if not _is_usable(parsed.mirror):
            raise ConfigError(f"mirror: expected a URL that begins with http:// or https://, got {parsed.mirror!r}")
    with _Bars() as bars:
        try:
            done = fetch(
                SOURCES[parsed.dataset],
                _data_dir(parsed),
                mirror=parsed.mirror,
                from_file=parsed.from_file,
                on_progress=bars.update,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command goes on where it was") from None
    result = {"dataset": parsed.dataset, "folder": str(done.folder), "was_there": done.was_there}
    return result, f"{parsed.dataset}: {'already there' if done.was_there else 'fetched'}, in {done.folder}"


def _is_usable(url: str) -> bool:
    """Tell whether a URL is one of HTTP, with a host, and nothing in it that has to be quoted."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return known and url.isascii() and url.isprintable() and " " not in url


def _verify(parsed: "argparse.Namespace") -> tuple[dict[str, Any], str]:
    from cnnzoo.data.fetching import CHECKSUMS, check_sums
    from cnnzoo.data.loading import EMNIST_SPLITS, find_folder, load_dataset

    data_dir = _data_dir(parsed)
    folder = find_folder(parsed.dataset, data_dir)
    if folder is None:
        raise DataError(f"{data_dir}: expected {parsed.dataset}, found none of its files")
    files = check_sums(folder) if (folder / CHECKSUMS).is_file() else 0
    sources = []
    for split in EMNIST_SPLITS if parsed.dataset == "emnist" else ("",):
        found = find_folder(parsed.dataset, data_dir, split) if split else folder
        if found is not None:
            sources.append(load_dataset(parsed.dataset, data_dir, emnist_split=split or "balanced").source)
    sums = f"{files} files have the SHA-256 that they were fetched with" if files else f"no {CHECKSUMS} to check by"
    result = {"dataset": parsed.dataset, "folder": str(folder), "files_with_right_digest": files, "sources": sources}
    return result, "\n".join([f"{parsed.dataset}: {sums}", *(f"whole: {source}" for source in sources)])


def _convert(parsed: "argparse.Namespace") -> tuple[dict[str, Any], str]:
    from cnnzoo.atomic import write_folder_atomically
    from cnnzoo.data.idx import encode_idx
    from cnnzoo.data.loading import load_dataset

    output = parsed.output
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise DataError(f"{output}: expected a new or an empty folder, found something")
    dataset = load_dataset(parsed.dataset, _data_dir(parsed))
    arrays = {
        "train-images-idx4-ubyte": dataset.train.images,
        "train-labels-idx1-ubyte": dataset.train.labels.astype("u1"),
        "t10k-images-idx4-ubyte": dataset.test.images,
        "t10k-labels-idx1-ubyte": dataset.test.labels.astype("u1"),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_folder_atomically(output, ((name, encode_idx(array)) for name, array in arrays.items()))
    result = {"dataset": parsed.dataset, "source": dataset.source, "folder": str(output), "files": list(arrays)}
    return result, f"{dataset.source}\nwritten as IDX files to {output}"


class _Bars:
    """A bar for each file that is downloaded, on a terminal alone."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._file: Download | None = None

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, file: "Download", size: int) -> None:
        """Show that `size` bytes of a file are there."""
        from tqdm import tqdm

        if file is not self._file:
            self.__exit__()
            self._file = file
            self._bar = tqdm(
                desc=file.name,
                total=file.size,
                initial=size,
                unit="B",
                unit_scale=True,
                disable=not sys.stderr.isatty(),
                leave=False,
                dynamic_ncols=True,
            )
        self._bar.update(size - self._bar.n)


if __name__ == "__main__":
    sys.exit(main())
