"""Data sets into a data folder: from a server, from files, out of archives; checked later; converted; the command."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from cnnzoo.__main__ import main as cnnzoo
from cnnzoo.data import fetching, load_dataset, sources
from cnnzoo.data.__main__ import main
from cnnzoo.data.archives import read_members
from cnnzoo.data.fetching import CHECKSUMS, check_sums, fetch
from cnnzoo.data.idx import encode_idx, read_idx
from cnnzoo.data.sources import SOURCES, Download, Source
from cnnzoo.errors import DataError
from tests.data.flaky_server import FlakyServer, drop_after, drop_at_once
from tests.training.stand_ins import write_cifar10


def _make_tar(files, links=()):
    """Return a compressed tar file of names and contents, with links and a file that wants to go elsewhere."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {"../outside": b"stray", "/etc/stray": b"stray", **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    return buffer.getvalue()


def _make_zip(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {"../outside": b"stray", **files}.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _download(name, content):
    return Download(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def cifar10(tmp_path):
    """A small CIFAR-10 as it is published: (its source, the archive, the files in it)."""
    folder = write_cifar10(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    archive = _make_tar({f"cifar-10-batches-bin/{name}": content for name, content in files.items()})
    source = Source(
        site="http://127.0.0.1:1",
        folder="cifar-10-batches-bin",
        downloads=(_download("cifar-10-binary.tar.gz", archive),),
        members={f"cifar-10-batches-bin/{name}": name for name in files},
    )
    return source, archive, files


@pytest.fixture
def mnist():
    """A small MNIST as it is published: (its source, its files)."""
    rng = np.random.default_rng(0)
    files = {}
    for split, images in (("train", 20), ("t10k", 10)):
        pixels, labels = rng.integers(0, 256, (images, 28, 28), dtype=np.uint8), rng.integers(0, 10, images, np.uint8)
        files |= {f"{split}-images-idx3-ubyte": encode_idx(pixels), f"{split}-labels-idx1-ubyte": encode_idx(labels)}
    downloads = tuple(_download(name, content) for name, content in files.items())
    return Source(site="http://127.0.0.1:1", folder="mnist", downloads=downloads), files


@pytest.fixture
def server(cifar10, mnist):
    files = {f"/sets/{name}": content for name, content in mnist[1].items()}
    with FlakyServer(files | {"/sets/cifar-10-binary.tar.gz": cifar10[1]}).running() as server:
        yield server


def test_archive_is_fetched_and_unpacked(cifar10, server, tmp_path):
    source, _, files = cifar10
    server.behaviors.extend([drop_after(1000), drop_at_once])
    done = fetch((source,), tmp_path / "data", mirror=f"{server.url}/sets/", pause=0.0)
    assert (done.folder, done.was_there) == (tmp_path / "data/cifar-10-batches-bin", False)
    assert {path.name for path in done.folder.iterdir()} == {*files, CHECKSUMS}
    for name, content in files.items():
        assert (done.folder / name).read_bytes() == content
    # Neither a file from outside of the archive's folder nor the archive is left anywhere.
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-batches-bin"]
    assert not list(tmp_path.rglob("*stray*"))
    assert not (tmp_path / "outside").exists()
    assert len(load_dataset("cifar10", tmp_path / "data").train) == 100


def test_what_a_killed_process_left_is_neither_read_nor_kept(cifar10, tmp_path):
    source, archive, files = cifar10
    (tmp_path / "a.tar.gz").write_bytes(archive)
    data = tmp_path / "data"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leftovers = [data / f".cifar-10-batches-bin.{number}.tmp" for number in (ended.pid, os.getpid(), os.getppid())]
    for folder in (*leftovers, data / ".downloads"):
        folder.mkdir(parents=True)
        (folder / "data_batch_1.bin").write_bytes(files["data_batch_1.bin"][:-1])
    with pytest.raises(DataError, match="expected cifar10, found none of its files"):
        load_dataset("cifar10", data)
    fetch((source,), data, from_file=tmp_path / "a.tar.gz")
    assert len(load_dataset("cifar10", data).train) == 100
    assert [folder.exists() for folder in leftovers] == [False, False, True]  # the last one's process lives


def test_files_are_fetched_one_by_one(mnist, server, tmp_path):
    source, files = mnist
    told = []
    server.behaviors.extend([drop_after(100), drop_at_once])
    options = {"on_progress": lambda file, size: told.append((file.name, size)), "pause": 0.0}
    fetch((source,), tmp_path, mirror=f"{server.url}/sets", **options)
    assert told[-1] == ("t10k-labels-idx1-ubyte", len(files["t10k-labels-idx1-ubyte"]))
    assert len(load_dataset("mnist", tmp_path).test) == 10
    assert check_sums(tmp_path / "mnist") == 4


def test_files_that_came_before_an_interrupt_are_kept(mnist, server, tmp_path):
    source, files = mnist

    def interrupt(file, size):
        if file.name == "t10k-labels-idx1-ubyte":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch((source,), tmp_path, mirror=f"{server.url}/sets", on_progress=interrupt)
    assert not (tmp_path / "mnist").exists()
    del server.requests[:]
    fetch((source,), tmp_path, mirror=f"{server.url}/sets")
    assert server.requests == []  # what was interrupted had come whole
    assert check_sums(tmp_path / "mnist") == len(files)


def test_set_that_is_there_is_checked_and_left(cifar10, tmp_path):
    source, archive, _ = cifar10
    (tmp_path / "a.tar.gz").write_bytes(archive)
    first = fetch((source,), tmp_path, from_file=tmp_path / "a.tar.gz")
    assert not first.was_there
    assert fetch((source,), tmp_path).was_there  # no server is asked
    path = first.folder / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"test_batch\.bin: expected SHA-256 .* remove .* and fetch it again"):
        fetch((source,), tmp_path)


def test_set_from_elsewhere_is_not_replaced(cifar10, tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    with pytest.raises(DataError, match=f"expected {CHECKSUMS} beside the data, found none"):
        fetch((cifar10[0],), tmp_path)


def test_file_of_another_form_is_recognized(cifar10, mnist, tmp_path):
    source, archive, _ = cifar10
    other = Source(site="", folder="other", downloads=(_download("other.tar.gz", b"other"),), members={"a": "a"})
    (tmp_path / "whatever.tar.gz").write_bytes(archive)
    done = fetch((other, source), tmp_path / "data", from_file=tmp_path / "whatever.tar.gz")
    assert done.folder.name == "cifar-10-batches-bin"
    assert (tmp_path / "whatever.tar.gz").exists()


def test_folder_with_the_published_files(mnist, tmp_path):
    source, files = mnist
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert fetch((source,), tmp_path / "data", from_file=tmp_path).folder == tmp_path / "data/mnist"
    with pytest.raises(DataError, match="expected a folder with train-images-idx3-ubyte, "):
        fetch((source,), tmp_path / "more", from_file=tmp_path / "train-images-idx3-ubyte")
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: expected a file, found nothing"):
        fetch((source,), tmp_path / "more", from_file=tmp_path)


def test_file_that_is_not_the_published_one(cifar10, tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(cifar10[1] + b"!")
    with pytest.raises(DataError, match=r"a\.tar\.gz: expected cifar-10-binary\.tar\.gz with SHA-256 .*, found "):
        fetch((cifar10[0],), tmp_path / "data", from_file=tmp_path / "a.tar.gz")
    with pytest.raises(DataError, match=r"absent: expected a file or a folder, found nothing"):
        fetch((cifar10[0],), tmp_path / "data", from_file=tmp_path / "absent")
    assert not (tmp_path / "data").exists()


def test_nothing_is_left_where_the_archive_lacks_a_file(cifar10, tmp_path):
    source, _, files = cifar10
    del files["data_batch_3.bin"]
    archive = _make_tar({f"cifar-10-batches-bin/{name}": content for name, content in files.items()})
    (tmp_path / "a.tar.gz").write_bytes(archive)
    source = Source(site="", folder="x", downloads=(_download("a.tar.gz", archive),), members=source.members)
    with pytest.raises(DataError, match=r"a\.tar\.gz: expected a file cifar-10-batches-bin/data_batch_3\.bin in it"):
        fetch((source,), tmp_path / "data", from_file=tmp_path / "a.tar.gz")
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(("name", "make"), [("a.tar.gz", _make_tar), ("a.zip", _make_zip)])
def test_members_are_taken_by_name(tmp_path, name, make):
    path = tmp_path / name
    path.write_bytes(make({"x/one": b"1", "x/two": b"2", "three": b"3"}))
    assert dict(read_members(path, {"x/one": "first", "three": "third"})) == {"first": b"1", "third": b"3"}
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="expected a whole archive, found a damaged one"):
        list(read_members(path, {"x/one": "first", "x/absent": "absent"}))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="expected a whole archive"):
        list(read_members(path, {"x/one": "first"}))


def test_link_is_no_file(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(_make_tar({}, links=["x/one"]))
    with pytest.raises(DataError, match="expected a file x/one in it, found none"):
        list(read_members(tmp_path / "a.tar.gz", {"x/one": "first"}))


@pytest.mark.parametrize(
    "line", ["no digest  a", f"{'0' * 64}  ../a", f"{'0' * 64}  /etc/passwd", "0" * 64, f"{'0' * 63}  a"]
)
def test_sums_that_are_none(tmp_path, line):
    (tmp_path / CHECKSUMS).write_text(f"{line}\n")
    with pytest.raises(DataError, match=f"{CHECKSUMS}, line 1: expected a digest and a name, found "):
        check_sums(tmp_path)


def test_published_facts():
    for forms in SOURCES.values():
        for source in forms:
            assert source.site.startswith("https://")
            assert len({file.name for file in source.downloads}) == len(source.downloads)
            for file in source.downloads:
                assert len(bytes.fromhex(file.sha256)) == 32
                assert file.sha256 == file.sha256.lower()
                assert file.size > 1000
            assert not source.members or len(source.downloads) == 1
    assert len(SOURCES["emnist"][0].members) == 24
    assert len(SOURCES["cifar10"][0].members) == len(SOURCES["cifar10"][1].members) == 7


@pytest.fixture
def published(cifar10, mnist, monkeypatch):
    """Let the command know the small sets."""
    monkeypatch.setitem(sources.SOURCES, "cifar10", (cifar10[0],))
    monkeypatch.setitem(sources.SOURCES, "mnist", (mnist[0],))


@pytest.mark.usefixtures("published")
def test_command_fetches_verifies_and_converts(server, tmp_path, capsys):
    where = ("--data-dir", str(tmp_path / "data"))
    assert main(["fetch", "cifar10", *where, "--mirror", f"{server.url}/sets"]) == 0
    folder = tmp_path / "data/cifar-10-batches-bin"
    assert capsys.readouterr() == (f"cifar10: fetched, in {folder}\n", "")
    assert cnnzoo(["data", "fetch", "cifar10", *where, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {"dataset": "cifar10", "folder": str(folder), "was_there": True}
    assert main(["verify", "cifar10", *where]) == 0
    assert capsys.readouterr().out == (
        "cifar10: 6 files have the SHA-256 that they were fetched with\n"
        f"whole: CIFAR-10 (binary files) from {folder}: 100 training and 20 test images\n"
    )
    assert main(["convert", "cifar10", *where, "--output", str(tmp_path / "new/idx")]) == 0
    images = read_idx(tmp_path / "new/idx/train-images-idx4-ubyte", 4)
    original, converted = (load_dataset("cifar10", path) for path in (folder, tmp_path / "new"))
    np.testing.assert_array_equal(images, original.train.images)
    for split in ("train", "test"):
        for content in ("images", "labels"):
            arrays = (getattr(getattr(dataset, split), content) for dataset in (original, converted))
            np.testing.assert_array_equal(*arrays, strict=True)
    assert main(["convert", "cifar10", *where, "--output", str(tmp_path / "new/idx")]) == 1
    assert "expected a new or an empty folder" in capsys.readouterr().err


@pytest.mark.usefixtures("published")
def test_command_verifies_what_it_did_not_fetch(tmp_path, capsys):
    folder = write_cifar10(tmp_path / "data")
    assert main(["verify", "cifar10", "--data-dir", str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.startswith(f"cifar10: no {CHECKSUMS} to check by\nwhole: CIFAR-10 (binary files)")
    (folder / "data_batch_2.bin").write_bytes(b"")
    assert main(["verify", "cifar10", "--data-dir", str(tmp_path / "data")]) == 1
    assert "data_batch_2.bin: expected " in capsys.readouterr().err
    assert main(["verify", "mnist", "--data-dir", str(tmp_path / "data")]) == 1
    assert f"{tmp_path / 'data'}: expected mnist, found none of its files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "the following arguments are required: VERB"),
        (["fetch", "imagenet"], 2, "invalid choice: 'imagenet'"),
        (["fetch", "mnist", "--mirror", "ftp://host/x"], 2, "mirror: expected a URL that begins with http"),
        (["fetch", "mnist", "--mirror", "http://[::1"], 2, "mirror: expected a URL that begins with http"),
        (["fetch", "mnist", "--mirror", "http://h:port/x"], 2, "mirror: expected a URL that begins with http"),
        (["fetch", "mnist", "--mirror", "http://h/\u00e4"], 2, "mirror: expected a URL that begins with http"),
        (["fetch", "mnist", "--mirror", "http://h/a b"], 2, "mirror: expected a URL that begins with http"),
        (["fetch", "mnist", "--mirror", "http://h/x", "--from-file", "y"], 2, "expected --mirror or --from-file"),
        (["fetch", "mnist", "--from-file", "absent"], 1, "absent: expected a file or a folder, found nothing"),
        (["verify", "mnist", "--data-dir", "absent"], 1, "absent: expected a data folder, found nothing"),
        (["convert", "mnist", "--output", "x"], 2, "invalid choice: 'mnist'"),
    ],
)
def test_command_refuses(arguments, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("cnnzoo data: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_interrupt_says_that_it_goes_on(capsys, monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "fetch", interrupt)
    assert main(["fetch", "mnist", "--data-dir", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "cnnzoo data: interrupted; the same command goes on where it was\n"


def test_module_can_be_run():
    run = subprocess.run([sys.executable, "-m", "cnnzoo.data", "--help"], capture_output=True, text=True, check=True)
    assert "cnnzoo data fetch cifar10 --data-dir data" in run.stdout
