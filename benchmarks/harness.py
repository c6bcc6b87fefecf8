"""What all benchmarks share: arguments, turns, medians, the machine's description, results on disk."""

import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnnzoo.atomic import write_atomically
from cnnzoo.command import Parser
from cnnzoo.errors import CnnzooError, ConfigError, suggest
from cnnzoo.threads import count_cores

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAUSE_SECONDS = 0.02
OPENBLAS_SPIN = 20  # its idle threads spin for 2 to the power of this cycles, 0.4 ms; by default for some 100 ms


def use_threads(count: int) -> None:
    """Give every library that may be imported later `count` threads, which take no core while another one computes."""
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)
    os.environ["OPENBLAS_THREAD_TIMEOUT"] = str(OPENBLAS_SPIN)


def in_turns(
    functions: Mapping[str, Callable[[], Any]], rounds: int, calls: Mapping[str, int] | None = None
) -> dict[str, list[float]]:
    """Time functions in turns (A B A B ...), so that a machine that slows down slows all of them.

    Before each turn comes a pause, in which the idle threads of the one before stop spinning: they would take a core
    from it. A turn of several `calls` begins with an unmeasured one, so that a function finds its own data in cache and
    its own threads awake; without `calls`, a turn is a single one.

    Returns
    -------
    dict of str to list of float
        Seconds a call, for each round.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            time.sleep(PAUSE_SECONDS)
            count = 1 if calls is None else calls[name]
            if count > 1:
                function()
            start = time.perf_counter()
            for _ in range(count):
                function()
            times[name].append((time.perf_counter() - start) / count)
    return times


def calls_for(function: Callable[[], Any], seconds: float) -> int:
    """Return how many calls take about `seconds`, at least one; calls once where that takes as long, else twice."""
    for _ in range(2):
        start = time.perf_counter()
        function()
        count = round(seconds / max(time.perf_counter() - start, 1e-7))
        if count <= 1:
            break
    return max(1, count)


def median(times: list[float]) -> float:
    """Return the median."""
    return statistics.median(times)


def describe(threads: int) -> dict[str, Any]:
    """Return what a result has to say of where, when and with what it was measured."""
    from cnnzoo.machine import describe_machine

    return describe_machine() | {
        "threads": threads,
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def _commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def parser(description: str, example: str, json_default: str = "nowhere") -> Parser:
    """Return a parser with the arguments that all benchmarks take; `json_default` is for the help."""
    result = Parser(description=description, epilog=f"example:\n  {example}")
    result.add_argument("--batch-size", type=positive, default=128, metavar="N", help="images (default: %(default)s)")
    result.add_argument("--rounds", type=positive, default=7, metavar="N", help="turns of each (default: %(default)s)")
    result.add_argument(
        "--threads", type=positive, default=count_cores(), metavar="N", help="threads of each (default: %(default)s)"
    )
    result.add_argument(
        "--json", type=new_file, metavar="FILE",
        help=f"write the results, and the machine's description, here (default: {json_default})",
    )  # fmt: skip
    return result


def positive(text: str) -> int:
    """Read a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


def whole(flag: str, text: str) -> int:
    """Return a whole number of 0 or more."""
    if not text.isdecimal():
        raise ConfigError(f"{flag}: expected whole numbers of 0 or more, got {text!r}")
    return int(text)


def names(text: str) -> list[str]:
    """Read names with commas between them."""
    return text.split(",")


def choose(flag: str, asked: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return which of the `known` names an argument asks for, in their order; "all" asks for all.

    Raises
    ------
    ConfigError
        One of them is not known.
    """
    for name in asked:
        if name not in (*known, "all"):
            expected = ", ".join(known)
            raise ConfigError(f"{flag}: expected all, or names among {expected}, got {name!r}{suggest(name, known)}")
    return [name for name in known if name in asked or "all" in asked]


def has_torch() -> bool:
    """Tell whether PyTorch is installed."""
    return find_spec("torch") is not None


def require_torch() -> None:
    """Raise `ConfigError` unless PyTorch is installed."""
    if not has_torch():
        raise ConfigError("--peer torch: expected PyTorch to be installed, found none; `pip install cnnzoo[peer]`")


def new_file(text: str) -> str:
    """Read the path of a file that can be made."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise ArgumentTypeError(f"expected a file in a folder that is there, got {text!r}")
    return text


def aligned(shape: tuple[int, ...]) -> Any:
    """Return an array of float32 that begins with a cache line, as all arrays of a network do."""
    import numpy as np

    size, line = math.prod(shape), 64 // 4
    memory = np.empty(size + line, np.float32)
    start = -memory.ctypes.data // 4 % line
    return memory[start : start + size].reshape(shape)


def write_json(path: str | Path, machine: dict[str, Any], results: Any) -> None:
    """Write a benchmark's results, all of one machine and one run."""
    write_content(path, {"machine": machine, "results": results})


def read_results(path: str | Path) -> dict[str, dict[str, Any]]:
    """Return the results that a file holds by their keys; none where there is no file.

    Raises
    ------
    CnnzooError
        It is no file of results by their keys.
    """
    if not Path(path).exists():
        return {}
    try:
        return dict(json.loads(Path(path).read_text())["results"])
    except (ValueError, KeyError, TypeError):
        raise CnnzooError(f"{path}: expected results that this benchmark wrote, found something else") from None


def update_results(path: str | Path, found: Mapping[str, Any]) -> None:
    """Put results into a file by their keys, and keep what it holds under others.

    Each of them has to say by itself where, when and with what it was measured, for they may differ in that.
    """
    results = read_results(path) | dict(found)
    write_content(path, {"results": dict(sorted(results.items()))})


def write_content(path: str | Path, content: dict[str, Any]) -> None:
    """Write JSON with a line for each value, and for each list of plain values one."""
    text = json.dumps(content, indent=1)
    text = re.sub(r"\[\n\s*([^][{}]*?)\n\s*\]", lambda found: "[" + re.sub(r",\n\s*", ", ", found[1]) + "]", text)
    write_atomically(path, text.encode() + b"\n")
