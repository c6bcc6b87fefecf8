"""Every algorithm in every pass of the networks' convolutions, beside PyTorch's and NumPy's.

The convolutions are those of the models' graphs, each distinct one once; fully connected layers are in
`benchmarks/gemm.py`. Operands are float32; the first layer has no input gradient. Before a pass is timed, the result of
each program is compared with float64. PyTorch runs one operator and one result at a time, with images in NCHW and in
channels_last order; the faster one counts. Rates are those of the direct method's operations, so that Winograd's
may exceed the measured peak.

With --json, each result goes into the file as it is there, and those of other passes stay: the whole can be measured in
parts, and --resume leaves out what the file has. Tables are of all that was asked for.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks` and `tests`

from benchmarks import harness
from cnnzoo.command import Parser, align, run_command
from cnnzoo.errors import CnnzooError, ConfigError

PEERS = ("torch", "numpy")
COMPARED_MODELS = {"vgg16", "resnet18"}  # whose 3x3 convolutions at stride 1 are listed at the end,
COMPARED_CHANNELS = 64  # those with so many channels or more


class Row:
    """What a measured task says of cnnzoo and of PyTorch; seconds, and None where nothing was measured."""

    def __init__(self, result: Mapping[str, Any], limits: Mapping[str, float], algorithms: Sequence[str]):
        self.result = result
        self.peak = limits["operations_per_second"]  # of the machine in the run that measured it
        self.medians = {name: program["median"] for name, program in result["programs"].items()}
        self.fastest = min((name for name in algorithms if name in self.medians), key=self.medians.__getitem__)
        self.best = self.medians[self.fastest]
        self.chosen = self.medians.get(result["chosen"])
        self.im2col = self.medians.get("im2col")
        self.torch = min((s for name, s in self.medians.items() if name.startswith("torch")), default=None)
        self.rate = result["operations"] / self.best
        self.products = 2 * result["multiply_adds"][self.fastest] / self.peak
        self.memory = result["bytes"] / limits["bytes_per_second"]

    @property
    def ratio(self) -> str:
        """PyTorch's seconds over ours."""
        return _ratio(self.torch, self.best)


def describe_rows(rows: Sequence[Row]) -> list[str]:
    """Return the table of all tasks."""
    programs = list(dict.fromkeys(name for row in rows for name in row.medians))
    columns = ["convolution", "pass", "best", "times", *(f"{name} ms" for name in programs)]
    table = [[*columns, "products ms", "memory ms", "GFLOP/s", "of peak", "ratio"]]
    for row in rows:
        chosen = row.result["chosen"]
        table.append([
            row.result["name"],
            row.result["pass"],
            row.fastest if row.fastest == chosen else f"{row.fastest} (chosen: {chosen})",
            str(sum(row.result["counts"].values())),
            *(_milliseconds(row.medians.get(name)) for name in programs),
            _milliseconds(row.products),
            _milliseconds(row.memory),
            f"{row.rate / 1e9:.0f}",
            f"{row.rate / row.peak:.0%}",
            row.ratio,
        ])  # fmt: skip
    return align(table, left=3)


def describe_models(rows: Sequence[Row], models: Sequence[str], passes: Sequence[str]) -> list[str]:
    """Return a line for each model and pass: its convolutions together, each as often as the model has it."""
    columns = ("products", "memory", "best", "chosen", "im2col", "torch")
    table = [["model", "pass", "convolutions", *(f"{column} ms" for column in columns), "ratio"]]
    for model in models:
        for direction in [*passes, "all"]:
            part = [r for r in rows if model in r.result["counts"] and direction in ("all", r.result["pass"])]
            if part:
                counts = [row.result["counts"][model] for row in part]
                sums = [_weighted_sum([getattr(row, column) for row in part], counts) for column in columns]
                table.append([model, direction, str(sum(counts)), *map(_milliseconds, sums), _ratio(sums[-1], sums[2])])
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


class Results:
    """Results by the keys of their tasks, and what they were measured with; in a file, where there is one.

    Parameters
    ----------
    path : str or None
        Of a file that this benchmark wrote, or a new one.
    """

    def __init__(self, path: str | None):
        self._path = path
        kept = {} if path is None else harness.read_results(path)
        self.tasks, self._runs = kept.get("tasks", {}), kept.get("runs", {})
        if not (isinstance(self.tasks, dict) and isinstance(self._runs, dict)):
            raise CnnzooError(f"{path}: expected results that this benchmark wrote, found another one's")

    def has(self, key: str, programs: Collection[str]) -> bool:
        """Tell whether a task's result is there, with all of these programs."""
        return key in self.tasks and self.tasks[key]["programs"].keys() >= set(programs)

    def begin(self, **description: Any) -> None:
        """Note what the results that follow are measured with."""
        self._run = str(len(self._runs) + 1)
        self._runs[self._run] = description

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        """Take the result of a task, and write it to the file."""
        self.tasks[key] = {**result, "run": self._run}
        if self._path is not None:
            harness.update_results(self._path, {"runs": self._runs, "tasks": self.tasks})

    def limits(self, key: str) -> dict[str, float]:
        """Return the operations and the bytes a second that the machine reached in the run that measured a task."""
        return self._runs[self.tasks[key]["run"]]["limits"]


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
        "--peer", type=harness.names, default="torch,numpy" if harness.has_torch() else "numpy", metavar="NAMES",
        help=f"beside: {', '.join(PEERS)}, all or none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="leave out what the --json file has of all the programs")
    parser.set_defaults(rounds=5)
    return parser


def run(arguments: Sequence[str] | None) -> None:
    """Print the tables that the arguments ask for."""
    parsed = make_parser().parse(arguments)
    harness.use_threads(parsed.threads)  # before numba is imported
    from benchmarks.contests import list_programs, list_tasks, measure, measure_compiling
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
    results = Results(parsed.json)
    programs = {task.key: list_programs(task.shape, algorithms, peers) for task in tasks}
    missing = [task for task in tasks if not (parsed.resume and results.has(task.key, programs[task.key]))]
    compiling = measure_compiling(missing, algorithms)
    results.begin(
        machine=harness.describe(parsed.threads),
        rounds=parsed.rounds,
        limits=asdict(measure_limits()),
        error_bound=BOUND,
        compile_seconds=compiling,
    )
    for task in tqdm(missing, file=sys.stderr, disable=not sys.stderr.isatty()):
        results.add(task.key, measure(task, algorithms, peers, parsed.rounds))
    rows = [Row(results.tasks[task.key], results.limits(task.key), algorithms) for task in tasks]
    models_table = describe_models(rows, models, passes)
    print(*describe_rows(rows), "", *models_table, "", *describe_compared(rows, passes), sep="\n")
    peaks = ", ".join(f"{peak / 1e9:.0f}" for peak in sorted({row.peak for row in rows}))
    print(f"peak, measured: {peaks} GFLOP/s; ratio: PyTorch's faster layout / cnnzoo's best algorithm")
    print("products: of the best algorithm, at the peak; memory: each array moved once, at the measured bandwidth")
    spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in compiling.items())
    print(f"seconds to compile, or to load from the cache, not in the above: {spent}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    return run_command("benchmarks/kernels.py", lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
