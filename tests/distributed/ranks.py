"""Starts ranks on this machine for the tests of training on several."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 240  # seconds; a kernel cache may be cold


def find_mpiexec():
    """Return the launcher that lies beside this Python, or any on the path; None where there is none."""
    return shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")


needs_mpi = pytest.mark.skipif(
    find_spec("mpi4py") is None or find_mpiexec() is None,
    reason="needs mpi4py and mpiexec: pip install 'cnnzoo[mpi]'",
)


def start_ranks(count, *arguments, **options):
    """Start Python as so many ranks; the arguments are Python's."""
    command = [find_mpiexec(), "-n", str(count), sys.executable, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        **options,
    )


def run_ranks(count, *arguments):
    """Run Python as so many ranks to its end: (exit code, output, errors)."""
    with start_ranks(count, *arguments) as process:
        try:
            output, errors = process.communicate(timeout=TIMEOUT)
        except BaseException:
            process.terminate()
            raise
    return process.returncode, output, errors
