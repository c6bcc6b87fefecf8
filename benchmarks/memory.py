"""Training steps with each choice of what is kept for backward: the memory it takes, and the seconds, in turns.

All choices of one network run in one process, on the same images. With `lean`, the losses of all steps are those of
`fast`, bit for bit; with activations stored in two bytes, that of the first step is. Both are checked before the times
are told.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks`

from benchmarks import harness
from benchmarks.steps import make_cnnzoo_step
from cnnzoo.command import Parser, align, run_command
from cnnzoo.errors import CnnzooError

CHOICES: dict[str, dict[str, Any]] = {
    "fast": {},
    "lean": {"memory": "lean"},
    "fast, bfloat16": {"storage": "bfloat16"},
}
MODELS = ("resnet18", "densenet121")
WARM_STEPS = 2


def measure(model: str, batch_size: int, threads: int, rounds: int) -> dict[str, Any]:
    """Return the bytes and the seconds of a step with each choice."""
    from cnnzoo import create_model

    steps, losses = {}, {}
    for name, options in CHOICES.items():
        steps[name], _ = make_cnnzoo_step(model, batch_size, threads, name, **options)
        losses[name] = [steps[name]() for _ in range(WARM_STEPS)]
    check(model, losses)
    times = harness.in_turns(steps, rounds)
    return {
        name: {
            "bytes": create_model(model, **options).arena_bytes(batch_size, training=True),
            "median_seconds": harness.median(times[name]),
            "seconds": times[name],
        }
        for name, options in CHOICES.items()
    }


def check(model: str, losses: Mapping[str, Sequence[float]]) -> None:
    """Raise `CnnzooError` unless the losses are equal as far as they have to be."""
    for name, found in losses.items():
        count = len(found) if "storage" not in CHOICES[name] else 1
        if list(found[:count]) != list(losses["fast"][:count]):
            raise CnnzooError(f"{model}, {name}: expected the losses of fast, {losses['fast'][:count]}, got {found}")


def describe(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return the lines of a table of what `measure` found for some models."""
    table = [["model", *(f"{name}: MB, s" for name in CHOICES)]]
    for model, found in results.items():
        cells = [f"{of['bytes'] / 1e6:,.0f}, {of['median_seconds']:.3f}" for of in found.values()]
        table.append([model, *cells])
    return [*align(table, left=1), "MB: activations, their gradients and scratch; s: a step, medians of steps in turns"]


def make_parser() -> Parser:
    """Return the parser of the arguments."""
    parser = harness.parser(__doc__.splitlines()[0], "python benchmarks/memory.py --models resnet18")
    parser.add_argument(
        "--models",
        type=harness.names,
        default=",".join(MODELS),
        metavar="NAMES",
        help="networks (default: %(default)s)",
    )
    return parser


def run(arguments: Sequence[str] | None) -> None:
    """Print the table that the arguments ask for."""
    parsed = make_parser().parse(arguments)
    harness.use_threads(parsed.threads)  # before numba is imported
    from tqdm import tqdm

    from cnnzoo.models import list_models

    models = harness.choose("--models", parsed.models, list_models())
    setting = parsed.batch_size, parsed.threads, parsed.rounds
    results = {
        model: measure(model, *setting) for model in tqdm(models, file=sys.stderr, disable=not sys.stderr.isatty())
    }
    print(*describe(results), sep="\n")
    if parsed.json:
        harness.write_json(parsed.json, harness.describe(parsed.threads), results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    return run_command("benchmarks/memory.py", lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
