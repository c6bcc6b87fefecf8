"""How kernels are compiled and kept: lazily, once a type, in a folder that is the user's own."""

import os
import stat

import numpy as np
import pytest

from cnnzoo.errors import ConfigError
from cnnzoo.kernels.compile import Kernel, cache_directory, kernel

find_cache_directory = cache_directory.__wrapped__  # without its memory of the first answer


@kernel("void(T[::1], T[::1])")
def double(x, y):
    """y = 2 x."""
    for i in range(x.size):
        y[i] = 2 * x[i]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_compilation_for_each_type(dtype):
    x = np.arange(5, dtype=dtype)
    y = np.zeros(5, dtype)
    double(x, y)
    np.testing.assert_array_equal(y, 2 * x)
    assert isinstance(double, Kernel)
    assert double.__doc__ == "y = 2 x."


def test_other_types_are_refused_and_not_compiled():
    x = np.arange(5.0)
    with pytest.raises(TypeError):
        double(x, np.zeros(5, np.float32))
    with pytest.raises(TypeError):
        double(x, np.zeros(10)[::2])
    x.flags.writeable = False
    with pytest.raises(TypeError):
        double(x, np.zeros(5))


def test_cache_lies_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNZOO_CACHE_DIR", str(tmp_path / "cache"))
    folder = find_cache_directory()
    assert folder.parent == tmp_path / "cache"
    assert folder.is_dir()
    assert folder == find_cache_directory()


def test_empty_variables_count_as_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("CNNZOO_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert find_cache_directory().is_relative_to(tmp_path / "home")


@pytest.mark.skipif(os.name == "nt", reason="permission bits are POSIX's")
def test_cache_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNZOO_CACHE_DIR", str(tmp_path))
    folder = find_cache_directory()
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="this user alone can write to"):
        find_cache_directory()


def test_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CNNZOO_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="kernel cache: expected a folder that can be made"):
        find_cache_directory()
