"""Seconds from the start of a process to the end of its first training step, with nothing compiled and with all of it.

A process does what `cnnzoo train` does, on rendered pictures, until its first step is done. The first has a cache of
its own that is empty, and compiles what the network calls, in as many processes as there are threads; the others load
that. Python, NumPy and Numba are in the system's memory when they start.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks`

from benchmarks import harness
from cnnzoo.command import Parser, align, run_command
from cnnzoo.errors import CnnzooError


def serve(model: str, batch_size: int, threads: int, folder: str) -> None:
    """Be such a process: print when the first step was done, and what was compiled for it."""
    harness.use_threads(threads)
    from cnnzoo.config import RunConfig
    from cnnzoo.kernels.compile import Compilation, before_compiling
    from cnnzoo.training.compilation import compile_ahead, list_missing
    from cnnzoo.training.metrics import Tally
    from cnnzoo.training.observer import Observer
    from cnnzoo.training.trainer import Trainer

    compilations: list[Compilation] = []
    done = []

    class FirstStep(Observer):
        def step_done(self, tally: Tally) -> None:
            done.append(time.time())
            trainer.stop()

    config = RunConfig(
        model=model, dataset="synthetic", batch_size=batch_size, limit_train=2 * batch_size, limit_test=1, validation=0,
        epochs=1, output_dir=folder,
    )  # fmt: skip
    trainer = Trainer(config, FirstStep())
    with before_compiling(lambda: compilations.extend(compile_ahead(list_missing(config), threads))):
        trainer.fit()
    print(json.dumps({"done": done[0], "kernels": [dataclasses.asdict(c) for c in compilations]}))


def start(model: str, batch_size: int, threads: int, folder: str) -> tuple[float, list[dict[str, Any]]]:
    """Run such a process with its cache and its runs in a folder; return its seconds, and what it compiled."""
    command = [sys.executable, __file__, "--serve", model, str(batch_size), str(threads), folder]
    began = time.time()
    process = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ | {"CNNZOO_CACHE_DIR": folder}
    )
    if process.returncode != 0:
        raise CnnzooError(f"{model}: the process ended with code {process.returncode}")
    answer = json.loads(process.stdout)
    return answer["done"] - began, answer["kernels"]


def measure(model: str, batch_size: int, threads: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of a cold start, what it compiled, and the seconds of so many warm ones."""
    with TemporaryDirectory() as folder:
        cold, kernels = start(model, batch_size, threads, folder)
        warm = [start(model, batch_size, threads, folder) for _ in range(rounds)]
    if any(compiled for _, compiled in warm):
        raise CnnzooError(f"{model}: expected a second start to find all kernels, it compiled some again")
    kernels.sort(key=lambda kernel: -kernel["seconds"])
    seconds = [seconds for seconds, _ in warm]
    return {"cold_seconds": cold, "warm_seconds": seconds, "warm_median": harness.median(seconds), "kernels": kernels}


def describe(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of what `measure` found for some models."""
    table = [["model", "longest to compile", "cold s", "warm s", "kernels", "compiling s"]]
    for model, found in results.items():
        kernels = found["kernels"]
        longest = ", ".join(f"{kernel['name']} {kernel['seconds']:.1f}" for kernel in kernels[:3])
        compiling = sum(kernel["seconds"] for kernel in kernels)
        times = [f"{found['cold_seconds']:.1f}", f"{found['warm_median']:.2f}"]
        table.append([model, longest, *times, str(len(kernels)), f"{compiling:.1f}"])
    notes = "cold, warm: from the start of the process to the end of its first step; compiling: by all processes"
    return [*align(table, left=2), notes]


def make_parser() -> Parser:
    """Return the parser of the arguments."""
    parser = harness.parser(__doc__.splitlines()[0], "python benchmarks/first_step.py --models vgg16,densenet121")
    parser.add_argument("--models", type=harness.names, default="all", metavar="NAMES", help="networks (default: all)")
    parser.set_defaults(rounds=3)
    return parser


def run(arguments: Sequence[str] | None) -> None:
    """Print the table that the arguments ask for."""
    parsed = make_parser().parse(arguments)
    from cnnzoo.models import list_models

    models = harness.choose("--models", parsed.models, list_models())
    setting = parsed.batch_size, parsed.threads, parsed.rounds
    results = {model: measure(model, *setting) for model in tqdm(models, disable=not sys.stderr.isatty())}
    if parsed.json:
        harness.write_json(parsed.json, harness.describe(parsed.threads), results)
    print(*describe(results), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    return run_command("benchmarks/first_step.py", lambda: run(arguments))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        served, images, cores, cache = sys.argv[2:]
        raise SystemExit(run_command("benchmarks/first_step.py", lambda: serve(served, int(images), int(cores), cache)))
    raise SystemExit(main())
