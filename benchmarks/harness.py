"""What all benchmarks share: arguments, turns, medians, the machine's description, results on disk."""

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cnnzoo.command import Parser
from cnnzoo.threads import count_cores

ROOT = Path(__file__).resolve().parent.parent
PAUSE_SECONDS = 0.1


def use_threads(count: int) -> None:
    """Give every library that may be imported later `count` threads."""
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)


def in_turns(
    functions: Mapping[str, Callable[[], Any]], rounds: int, calls: int = 1, warm_up: bool = True
) -> dict[str, list[float]]:
    """Time functions in turns (A B A B ...), so that a machine that slows down slows all of them.

    Before each turn comes a pause, for a library's idle threads go on spinning for a while (OpenBLAS's for some 25 ms)
    and would take a core from the next one; then, where `warm_up` is said, an unmeasured call, so that a function finds
    its own data in cache and its own threads awake.

    Returns
    -------
    dict of str to list of float
        Seconds a call, for each round.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            time.sleep(PAUSE_SECONDS)
            if warm_up:
                function()
            start = time.perf_counter()
            for _ in range(calls):
                function()
            times[name].append((time.perf_counter() - start) / calls)
    return times


def calls_for(function: Callable[[], Any], seconds: float) -> int:
    """Return how many calls take about `seconds`, at least one."""
    function()
    start = time.perf_counter()
    function()
    return max(1, round(seconds / max(time.perf_counter() - start, 1e-7)))


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


def parser(description: str, example: str) -> Parser:
    """Return a parser with the arguments that all benchmarks take."""
    result = Parser(description=description, epilog=f"example:\n  {example}")
    result.add_argument("--batch-size", type=positive, default=128, metavar="N", help="images (default: %(default)s)")
    result.add_argument("--rounds", type=positive, default=7, metavar="N", help="turns of each (default: %(default)s)")
    result.add_argument(
        "--threads", type=positive, default=count_cores(), metavar="N", help="threads of each (default: %(default)s)"
    )
    result.add_argument("--json", metavar="FILE", help="write the results, and the machine's description, here")
    return result


def positive(text: str) -> int:
    """Read a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


def one_of(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what reads names with commas between them, each one of `choices`."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in choices:
                raise ArgumentTypeError(f"expected names among {', '.join(choices)}, got {name!r}")
        return names

    return read


def write_json(path: str, machine: dict[str, Any], results: Any) -> None:
    """Write a benchmark's results."""
    Path(path).write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
