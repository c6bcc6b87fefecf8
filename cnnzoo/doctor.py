"""What this machine gives, and what is off: ``python -m cnnzoo.doctor``."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnzoo.command import Parser, add_setting, run_command, told_once
from cnnzoo.memory import free_memory
from cnnzoo.threads import get_num_threads, get_threading_layer, set_num_threads

_DESCRIPTION = """Show what the processor, its memory, the compiled kernels and their cache are like, and how to mend
what is off. Measures for a few seconds; what else computes meanwhile counts against the machine.

example:
  cnnzoo doctor --json
  mpiexec -n 2 cnnzoo doctor --distributed mpi"""
_LITTLE_MEMORY = 2e9  # a training step of most networks with batches of 128 takes less than this
_SLOW_DENORMALS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str or None
        None: the process's.
    """
    return run_command("cnnzoo doctor", lambda: doctor(arguments))


def doctor(arguments: Sequence[str] | None) -> None:
    """Examine the machine and print what was found; see `main`."""
    parser = Parser(prog="cnnzoo doctor", description=_DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    add_setting(parser, "distributed")
    parsed = parser.parse(arguments)
    from cnnzoo.training.engine import make_engine

    engine = make_engine(getattr(parsed, "distributed", "none"))
    with told_once("cnnzoo doctor", engine):
        if engine.threads is not None:
            set_num_threads(engine.threads)
        found = examine(engine.members)
        found["findings"] = list_findings(found)
    if engine.is_root:
        print(json.dumps(found) if parsed.json else "\n".join(_describe(found)))


def examine(ranks: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return what there is and what was measured, as plain values; of several `ranks`, by all at once."""
    cache = _examine_cache()  # first: measuring fills it
    from cnnzoo.machine import describe_machine, measure_denormal_slowdown, measure_limits

    limits = measure_limits()
    return describe_machine() | {
        "threads": get_num_threads(),
        "ranks": [dict(rank) for rank in ranks],
        "threading_layer": get_threading_layer(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "operations_per_second": limits.operations_per_second,
        "bytes_per_second": limits.bytes_per_second,
        "free_memory": free_memory(),
        "denormal_slowdown": measure_denormal_slowdown(),
        "cache": cache,
    }


def _examine_cache() -> dict[str, Any]:
    from cnnzoo.kernels.compile import cache_directory

    folder = cache_directory()
    others = [path for path in folder.parent.glob("kernels-*") if path != folder]
    return {
        "folder": str(folder),
        "bytes": _size(folder),
        "compiled": sorted({path.name.partition("-")[0].partition(".")[2] for path in folder.rglob("*.nbc")}),
        "old_folders": len(others),
        "old_bytes": sum(map(_size, others)),
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def list_findings(found: dict[str, Any]) -> list[str]:
    """Return what is off and how to mend it, a line each."""
    cores, threads, cache = found["cores"], found["threads"], found["cache"]
    fewer, more = f"set NUMBA_NUM_THREADS or --threads to {cores}", f"set --threads to {cores}"
    if found["ranks"]:  # all on this host together; each is given its share of the cores
        neighbors = [rank for rank in found["ranks"] if rank["host"] == found["ranks"][0]["host"]]
        threads, cores = sum(rank["threads"] for rank in neighbors), neighbors[0]["host_cores"]
        fewer = f"start a number of ranks on this host that divides {cores}, not {len(neighbors)}"
        more = f"start {cores} ranks on this host at most, not {len(neighbors)}"
    as_they_are, flushed = found["denormal_slowdown"]["as they are"], found["denormal_slowdown"]["flushed"]
    checks = [
        (threads < cores, f"{threads} of {cores} cores are used: {fewer}"),
        (threads > cores, f"{threads} threads on {cores} cores wait for each other: {more}"),
        (
            found["threading_layer"] == "workqueue",
            "Numba starts its threads by its slowest way, workqueue: install OpenMP (libgomp) or the package tbb",
        ),
        (
            found["system"].endswith("x86_64") and found["vector_bytes"] < 32,
            "the processor has no AVX, or a virtual machine hides it: expect a quarter of the usual speed",
        ),
        (
            found["load"] is not None and found["load"] > cores / 2 + threads,
            f"other programs compute (load {found['load']:.1f}): the speeds above are what they leave",
        ),
        (
            found["free_memory"] is not None and found["free_memory"] < _LITTLE_MEMORY,
            "little memory is free: cnnzoo summary --model NAME --batch-size N shows what a step takes",
        ),
        (
            flushed > _SLOW_DENORMALS,
            f"denormal numbers make kernels {flushed:.0f} times slower (elsewhere {as_they_are:.0f}): "
            "this processor's mode that takes them as zero is not known; weight decay keeps weights from fading",
        ),
        (not cache["compiled"], "nothing is compiled yet: cnnzoo warmup does so ahead of the first step"),
        (
            cache["old_folders"] > 0,
            f"{cache['old_bytes'] / 1e6:.0f} MB of kernels of other versions or sources lie in "
            f"{Path(cache['folder']).parent}: the folders other than {Path(cache['folder']).name} may be deleted",
        ),
    ]
    return [finding for applies, finding in checks if applies]


def _describe(found: dict[str, Any]) -> list[str]:
    cache, slowdown = found["cache"], found["denormal_slowdown"]
    free = "unknown" if found["free_memory"] is None else f"{found['free_memory'] / 1e9:.1f} GB"
    lines = [
        f"processor: {found['cpu']}, {found['cores']} cores, compiled for {found['compiled_for']}",
        f"vectors: {found['vector_bytes'] * 8} bits",
        f"threads: {found['threads']}, by {found['threading_layer']}",
        *(
            f"rank {rank['rank']}: {rank['host']}, {rank['threads']} of {rank['cores']} cores"
            for rank in found["ranks"]
        ),
        f"products: {found['operations_per_second'] / 1e9:.0f} GFLOP/s in float32",
        f"memory: {found['bytes_per_second'] / 1e9:.1f} GB/s, {free} free",
        f"denormal numbers: {slowdown['flushed']:.1f} times slower in kernels, {slowdown['as they are']:.1f} elsewhere",
        f"compiled kernels: {len(cache['compiled'])}, {cache['bytes'] / 1e6:.1f} MB in {cache['folder']}",
        "versions: " + ", ".join(f"{name} {number}" for name, number in found["versions"].items()),
    ]
    return [*lines, "", *(found["findings"] or ["nothing is off"])]


if __name__ == "__main__":
    sys.exit(main())
