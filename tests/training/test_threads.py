"""The number of threads, in a fresh Python each: numba fixes the largest when it is imported."""

import subprocess
import sys

import pytest

from cnnzoo.errors import ConfigError
from cnnzoo.threads import set_num_threads


def _run(code, **environment):
    code = f"import cnnzoo\nfrom cnnzoo.threads import get_num_threads\n{code}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    return run.stdout.strip(), run.stderr.strip()


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_may_exceed_the_cores(threads):
    assert _run(f"cnnzoo.set_num_threads({threads}); print(get_num_threads())") == (str(threads), "")


def test_can_be_changed_up_to_the_largest_so_far():
    code = "for n in (7, 1, 3, 7): cnnzoo.set_num_threads(n); print(get_num_threads(), end=' ')"
    assert _run(code) == ("7 1 3 7", "")


def test_a_small_number_first_leaves_room_for_the_cores():
    code = "cnnzoo.set_num_threads(1)\nimport numba; print(numba.config.NUMBA_NUM_THREADS, numba.get_num_threads())"
    assert _run(code, NUMBA_NUM_THREADS="4") == ("4 1", "")


def test_too_many_once_numba_is_there():
    _, error = _run("import numba; cnnzoo.set_num_threads(9)", NUMBA_NUM_THREADS="2")
    assert error.splitlines()[-1] == (
        "cnnzoo.errors.ConfigError: threads: expected at most 2, with which numba started, got 9; "
        "call set_num_threads before networks are made, or start Python with NUMBA_NUM_THREADS=9"
    )


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", None])
def test_no_number(threads):
    with pytest.raises(ConfigError, match=r"^threads: expected a whole number from 1 to 1024, got"):
        set_num_threads(threads)
