"""Every algorithm in every pass of the networks' convolutions, beside PyTorch's and NumPy's.

The convolutions are those of the models' graphs, each distinct one once; fully connected layers are in
`benchmarks/gemm.py`. Operands are float32; the first layer has no input gradient. Before a pass is timed, the result of
each program is compared with float64. PyTorch runs one operator and one result at a time, with images in NCHW and in
channels_last order; the faster one counts. Rates are those of the direct method's operations, so that Winograd's
may exceed the measured peak.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks` and `tests`

from benchmarks import harness
from cnnzoo.command import Parser, align, run_command
from cnnzoo.errors import ConfigError

PEERS = ("torch", "numpy")
COMPARED_MODELS = {"vgg16", "resnet18"}  # whose 3x3 convolutions at stride 1 are listed at the end,
COMPARED_CHANNELS = 64  # those with so many channels or more


class Row:
    """What a measured task says of cnnzoo and of PyTorch; seconds, and None where nothing was measured."""

    def __init__(self, result: Mapping[str, Any], algorithms: Sequence[str]):
        self.result = result
        self.medians = {name: program["median"] for name, program in result["programs"].items()}
        self.best = min((name for name in algorithms if name in self.medians), key=self.medians.__getitem__)
        self.seconds = self.medians[self.best]
        self.chosen = self.medians.get(result["chosen"])
        self.im2col = self.medians.get("im2col")
        self.torch = min((s for name, s in self.medians.items() if name.startswith("torch")), default=None)
        self.rate = result["operations"] / self.seconds

    @property
    def ratio(self) -> str:
        """PyTorch's seconds over ours."""
        return _ratio(self.torch, self.seconds)


def describe_rows(rows: Sequence[Row], peak: float) -> list[str]:
    """Return the table of all tasks."""
    programs = list(dict.fromkeys(name for row in rows for name in row.medians))
    columns = ["convolution", "pass", "best", "times", *(f"{name} ms" for name in programs)]
    table = [[*columns, "GFLOP/s", "of peak", "ratio"]]
    for row in rows:
        chosen = row.result["chosen"]
        table.append([
            row.result["name"],
            row.result["pass"],
            row.best if row.best == chosen else f"{row.best} (chosen: {chosen})",
            str(sum(row.result["counts"].values())),
            *(_milliseconds(row.medians.get(name)) for name in programs),
            f"{row.rate / 1e9:.0f}",
            f"{row.rate / peak:.0%}",
            row.ratio,
        ])  # fmt: skip
    return align(table, left=3)


def describe_models(rows: Sequence[Row], models: Sequence[str], passes: Sequence[str]) -> list[str]:
    """Return a line for each model and pass: its convolutions together, each as often as the model has it."""
    columns = ("seconds", "chosen", "im2col", "torch")
    table = [["model", "pass", "convolutions", "best ms", "chosen ms", "im2col ms", "torch ms", "ratio"]]
    for model in models:
        for direction in [*passes, "all"]:
            part = [r for r in rows if model in r.result["counts"] and direction in ("all", r.result["pass"])]
            if part:
                counts = [row.result["counts"][model] for row in part]
                sums = [_weighted_sum([getattr(row, column) for row in part], counts) for column in columns]
                table.append([model, direction, str(sum(counts)), *map(_milliseconds, sums), _ratio(sums[-1], sums[0])])
    return align(table, left=2)


def describe_compared(rows: Sequence[Row], passes: Sequence[str]) -> list[str]:
    """Return a line for each 3x3 convolution at stride 1 that is compared with PyTorch's, with its ratios."""
    compared: dict[str, dict[str, str]] = {}
    for row in rows:
        shape = row.result["shape"]
        if (
            (shape["kernel"], shape["stride"], shape["groups"]) == (3, 1, 1)
            and min(shape["in_channels"], shape["out_channels"]) >= COMPARED_CHANNELS
            and row.result["counts"].keys() & COMPARED_MODELS
        ):
            compared.setdefault(row.result["name"], {})[row.result["pass"]] = row.ratio
    table = [["ratio", *passes]]
    table += [[name, *(ratios.get(direction, "-") for direction in passes)] for name, ratios in compared.items()]
    return [*align(table, left=1), ""] if compared else []


def _weighted_sum(values: Sequence[float | None], counts: Sequence[int]) -> float | None:
    known = [value * count for value, count in zip(values, counts, strict=True) if value is not None]
    return sum(known) if len(known) == len(values) else None


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f}"


def _ratio(theirs: float | None, ours: float | None) -> str:
    return "-" if theirs is None or ours is None else f"{theirs / ours:.2f}"


def make_parser() -> Parser:
    """Return the parser of the arguments."""
    parser = harness.parser(
        __doc__.splitlines()[0], "python benchmarks/kernels.py --models vgg16,resnet18 --shapes 3x3/1 --peer torch"
    )
    for name, help_text in (("models", "of these networks"), ("passes", "passes"), ("algorithms", "cnnzoo's")):
        parser.add_argument(
            f"--{name}", type=harness.names, default="all", metavar="NAMES", help=f"{help_text} (default: all)"
        )
    parser.add_argument(
        "--shapes", type=harness.names, default="", metavar="TEXTS",
        help='convolutions whose names, such as "32x32 64-128 3x3/2", have one of these in them (default: all)',
    )  # fmt: skip
    parser.add_argument(
        "--peer", type=harness.names, default="torch" if harness.has_torch() else "none", metavar="NAMES",
        help=f"beside: {', '.join(PEERS)}, all or none (default: %(default)s)",
    )  # fmt: skip
    return parser


def run(arguments: Sequence[str] | None) -> None:
    """Print the tables that the arguments ask for."""
    parsed = make_parser().parse(arguments)
    harness.use_threads(parsed.threads)  # before numba is imported
    from benchmarks.contests import list_tasks, measure, measure_compiling
    from benchmarks.convolutions import BOUND
    from cnnzoo.graph.algorithms import NAMES, Passes
    from cnnzoo.machine import measure_limits
    from cnnzoo.models import list_models

    models = harness.choose("--models", parsed.models, list_models())
    passes = harness.choose("--passes", parsed.passes, Passes._fields)
    algorithms = harness.choose("--algorithms", parsed.algorithms, NAMES)
    peers = [] if parsed.peer == ["none"] else harness.choose("--peer", parsed.peer, PEERS)
    if "torch" in peers:
        harness.require_torch()
    tasks = list_tasks(models, parsed.batch_size, passes, algorithms, parsed.shapes)
    if not tasks:
        raise ConfigError(f"--shapes: expected part of a convolution's name, got {','.join(parsed.shapes)!r}")
    compiling = measure_compiling(tasks, algorithms)
    peak = measure_limits().operations_per_second
    progress = tqdm(tasks, file=sys.stderr, disable=not sys.stderr.isatty())
    results = [measure(task, algorithms, peers, parsed.rounds) for task in progress]
    rows = [Row(result, algorithms) for result in results]
    models_table = describe_models(rows, models, passes)
    print(*describe_rows(rows, peak), "", *models_table, "", *describe_compared(rows, passes), sep="\n")
    print(f"peak, measured: {peak / 1e9:.0f} GFLOP/s; ratio: PyTorch's faster layout / cnnzoo's best algorithm")
    spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in compiling.items())
    print(f"seconds to compile, or to load from the cache, not in the above: {spent}")
    if parsed.json:
        found = {"peak_operations_per_second": peak, "error_bound": BOUND, "compile_seconds": compiling}
        harness.write_json(parsed.json, harness.describe(parsed.threads), found | {"tasks": results})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    return run_command("benchmarks/kernels.py", lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
