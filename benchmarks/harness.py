"""What all benchmarks share: turns, medians, the machine's description, results on disk."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PAUSE_SECONDS = 0.1
PACKAGES = ("cnnzoo", "numpy", "numba", "llvmlite", "torch")


def use_threads(count: int) -> None:
    """Give every library that may be imported later `count` threads."""
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)


def in_turns(functions: Mapping[str, Callable[[], Any]], rounds: int, calls: int = 1) -> dict[str, list[float]]:
    """Time functions in turns (A B A B ...), so that a machine that slows down slows all of them.

    Before each turn comes a pause, for a library's idle threads go on spinning for a while (OpenBLAS's for some 25 ms)
    and would take a core from the next one; then an unmeasured call, so that a function finds its own data in cache
    and its own threads awake.

    Returns
    -------
    dict of str to list of float
        Seconds a call, for each round.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            time.sleep(PAUSE_SECONDS)
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


def describe_machine(threads: int) -> dict[str, Any]:
    """Return what a result has to say of where it was measured."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["python", Path(sys.argv[0]).parent.name + "/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks take."""
    result = argparse.ArgumentParser(
        description=description, epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--batch-size", type=int, default=128, metavar="N", help="images (default: %(default)s)")
    result.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each (default: %(default)s)")
    result.add_argument(
        "--threads", type=int, default=os.cpu_count(), metavar="N", help="threads of each (default: %(default)s)"
    )
    result.add_argument("--json", metavar="FILE", help="write the results, and the machine's description, here")
    return result


def write_json(path: str, machine: dict[str, Any], results: Any) -> None:
    """Write a benchmark's results."""
    Path(path).write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


def table(rows: list[list[str]], left: int = 1) -> str:
    """Return rows as aligned text, the first `left` columns to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
