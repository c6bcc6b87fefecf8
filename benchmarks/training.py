"""Whole training steps (forward, loss, backward, update) of cnnzoo and of PyTorch, in turns, a process each.

PyTorch runs eagerly with images in NCHW and in channels_last order, and compiled. Each mode has its turns with cnnzoo
alone, for two networks fit in memory more often than four; the mode with the smallest ratio counts. Each process also
tells the peak of its resident memory, in the steps after the first, above what stood after its imports.
"""

import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks` and `tests`

from benchmarks import harness
from benchmarks.steps import MODES, Worker, make_cnnzoo_step
from cnnzoo.command import Parser, align, run_command
from cnnzoo.errors import CnnzooError, ConfigError

TRAINING_RESULTS = harness.RESULTS / "training.json"


def profile(model: str, batch_size: int, threads: int, rounds: int) -> dict[str, Any]:
    """Print the ledger of a network's step, medians of `rounds` steps after two others, and return it."""
    from cnnzoo.graph.ledger import Ledger
    from cnnzoo.profiling import describe_ledger, ledger_to_plain

    ledger = Ledger()
    step, _ = make_cnnzoo_step(model, batch_size, threads, "cnnzoo", ledger)
    for _ in range(2):
        step()
    ledger.clear()
    seconds = harness.in_turns({model: step}, rounds)[model]
    print(f"{model}, batches of {batch_size}, {threads} threads: {harness.median(seconds):.3f} s a step")
    print(*describe_ledger(ledger), sep="\n", end="\n\n")
    return {"seconds": seconds} | ledger_to_plain(ledger)


def compare(model: str, names: list[str], batch_size: int, threads: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Time the steps of one network in turns, after two unmeasured steps of each."""
    workers = {name: Worker(name, model, batch_size, threads) for name in names}
    for worker in workers.values():
        worker.step()
    times = harness.in_turns({name: worker.step for name, worker in workers.items()}, rounds)
    results = {}
    for name, worker in workers.items():
        end = worker.close()
        if not all(map(math.isfinite, end["losses"])):
            raise CnnzooError(f"{model}, {name}: expected finite losses, got {end['losses']}")
        results[name] = {
            "first_seconds": worker.first_seconds,
            "median_seconds": harness.median(times[name]),
            "seconds": times[name],
            **end,
        }
    return results


def measure(model: str, modes: list[str], batch_size: int, threads: int, rounds: int) -> dict[str, Any]:
    """Return what `compare` finds for each of PyTorch's modes, and the mode with the smallest ratio; or for none."""
    Worker("cnnzoo", model, batch_size, threads).close()  # compiles, whose memory is not that of a step
    if not modes:
        return {"alone": compare(model, ["cnnzoo"], batch_size, threads, rounds)}
    pairs = {mode: compare(model, ["cnnzoo", mode], batch_size, threads, rounds) for mode in modes}
    ratios = {mode: pair[mode]["median_seconds"] / pair["cnnzoo"]["median_seconds"] for mode, pair in pairs.items()}
    return pairs | {"ratios": ratios, "best": min(ratios, key=ratios.__getitem__)}


def describe(results: Mapping[str, dict[str, Any]], modes: Sequence[str]) -> list[str]:
    """Return the lines of a table of what `measure` found for some models."""
    header = ["model", "cnnzoo s", "cnnzoo MB", *(f"{mode} s (ratio)" for mode in modes)]
    table = [[*header, "PyTorch MB", "ratio"] if modes else header]
    for model, found in results.items():
        best = found.get("best", "alone")
        ours, theirs = found[best]["cnnzoo"], found[best].get(best)
        row = [model, f"{ours['median_seconds']:.3f}", f"{ours['bytes'] / 1e6:,.0f}"]
        row += [f"{found[mode][mode]['median_seconds']:.3f} ({found['ratios'][mode]:.2f})" for mode in modes]
        table.append([*row, f"{theirs['bytes'] / 1e6:,.0f}", f"{found['ratios'][best]:.2f}"] if theirs else row)
    notes = "seconds a step, medians; MB: peak above what stood after the imports"
    if modes:
        notes += "; cnnzoo and PyTorch MB beside PyTorch's best mode; ratio: PyTorch's seconds / cnnzoo's"
    return [*align(table, left=1), notes]


def make_parser() -> Parser:
    """Return the parser of the arguments."""
    parser = harness.parser(
        __doc__.splitlines()[0],
        "python benchmarks/training.py --models vgg16,resnet18 --batch-size 128 --peer torch",
        json_default="benchmarks/results/training.json with --peer, where models that were not run keep their results",
    )
    parser.add_argument("--models", type=harness.names, default="all", metavar="NAMES", help="networks (default: all)")
    parser.add_argument("--peer", choices=("torch",), help="what cnnzoo is compared with (default: nothing)")
    parser.add_argument(
        "--modes", type=harness.names, default="all", metavar="NAMES",
        help=f"PyTorch's: {', '.join(MODES)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--profile", action="store_true",
        help="where a step's time goes, layer by layer, of cnnzoo alone; --json writes all rows",
    )  # fmt: skip
    return parser


def choose_modes(peer: str | None, asked: Sequence[str]) -> list[str]:
    """Return the modes of PyTorch to run; none without that peer.

    Raises
    ------
    ConfigError
        An unknown mode, PyTorch is not installed, or there is no compiler for its "compile".
    """
    modes = harness.choose("--modes", asked, MODES)
    if peer is None:
        return []
    harness.require_torch()
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if "compile" in modes and shutil.which(compiler) is None:
        raise ConfigError(f"--modes compile: expected a C++ compiler for torch.compile, found no {compiler}")
    return modes


def run(arguments: Sequence[str] | None) -> None:
    """Print the table that the arguments ask for."""
    parsed = make_parser().parse(arguments)
    harness.use_threads(parsed.threads)  # before numba is imported
    from cnnzoo.models import list_models

    models = harness.choose("--models", parsed.models, list_models())
    modes = choose_modes(parsed.peer, parsed.modes)
    setting = parsed.batch_size, parsed.threads, parsed.rounds
    if parsed.profile:
        results = {name: profile(name, *setting) for name in models}
        if parsed.json:
            harness.write_json(parsed.json, harness.describe(parsed.threads), results)
        return
    path = parsed.json or (TRAINING_RESULTS if modes else None)
    if path:
        harness.read_results(path)  # that they can be read is better known before than after
    results = {}
    for model in tqdm(models, file=sys.stderr, disable=not sys.stderr.isatty()):
        results[model] = measure(model, modes, *setting)
        if path:
            machine = {"batch_size": parsed.batch_size, "machine": harness.describe(parsed.threads)}
            harness.update_results(path, {model: results[model] | machine})
    print(*describe(results, modes), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    return run_command("benchmarks/training.py", lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
