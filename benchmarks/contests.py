"""Which passes of which convolutions are measured, and the measurement of one: verified, then timed in turns."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks import harness
from benchmarks.convolutions import Entrant, Operands, enter_algorithm, enter_numpy, enter_torch, verify
from cnnzoo.graph.algorithms import choose_algorithms, list_candidates
from cnnzoo.kernels.convolution import ConvolutionShape
from cnnzoo.models import list_models
from tests.shapes import list_convolutions

SECONDS_A_TURN = 0.02
DIGITS = 4  # that are kept of a time and of an error
LAYOUTS = ("nchw", "channels_last")
IMAGE_CHANNELS = 3  # an input of so many channels or fewer is the images, whose gradient nobody needs


@dataclass(frozen=True)
class Task:
    """One pass of one convolution, and how often each of all models has it."""

    shape: ConvolutionShape
    direction: str
    counts: Counter[str]

    @property
    def key(self) -> str:
        """What files of results know it by."""
        return f"{self.shape.images} images {name_of(self.shape)} {self.direction}"

    @property
    def operations(self) -> int:
        """Multiplications and additions of the direct method."""
        return 2 * self.shape.multiply_adds


def name_of(s: ConvolutionShape) -> str:
    """Return what tables call a shape: "32x32 64-128 3x3/2"."""
    kind = " depthwise" if s.groups > 1 else ""
    padding = f" padding {s.padding}" if s.padding != s.kernel // 2 else ""
    return f"{s.height}x{s.width} {s.in_channels}-{s.out_channels} {s.kernel}x{s.kernel}/{s.stride}{padding}{kind}"


def list_tasks(
    models: Collection[str], images: int, passes: Sequence[str], algorithms: Sequence[str], parts: Iterable[str] = ("",)
) -> list[Task]:
    """Return the passes of the models' distinct convolutions that one of `algorithms` accepts.

    Parameters
    ----------
    parts : iterable of str
        A convolution's name has one of them in it.
    """
    return [
        Task(shape, direction, counts)
        for shape, counts in list_convolutions(list_models(), images).items()
        if not counts.keys().isdisjoint(models)
        and shape.height * shape.width > 1
        and any(part in name_of(shape) for part in parts)
        and not list_candidates(shape).keys().isdisjoint(algorithms)
        for direction in passes
        if direction != "input_gradient" or shape.in_channels > IMAGE_CHANNELS
    ]


def list_programs(shape: ConvolutionShape, algorithms: Sequence[str], peers: Sequence[str]) -> list[str]:
    """Return the names of the programs that compute a convolution's passes, those of cnnzoo first."""
    names = [name for name in list_candidates(shape) if name in algorithms]
    names += [f"torch {layout}" for layout in LAYOUTS if "torch" in peers]
    return names + ["numpy"] * ("numpy" in peers and shape.groups == 1)


def list_entrants(
    operands: Operands, direction: str, algorithms: Sequence[str], peers: Sequence[str] = ()
) -> dict[str, Entrant]:
    """Return the entrants of a pass, by the names of `list_programs`."""
    candidates = list_candidates(operands.shape)
    entrants = {}
    for name in list_programs(operands.shape, algorithms, peers):
        if name in candidates:
            entrants[name] = enter_algorithm(candidates[name], operands, direction)
        elif name == "numpy":
            entrants[name] = enter_numpy(operands, direction)
        else:
            entrants[name] = enter_torch(name.removeprefix("torch "), operands, direction)
    return entrants


def measure(task: Task, algorithms: Sequence[str], peers: Sequence[str], rounds: int) -> dict[str, Any]:
    """Verify all programs, then time them in turns; returns what the task is, and what each program took.

    Raises
    ------
    CnnzooError
        A program's result is wrong.
    """
    operands = Operands(task.shape)
    entrants = list_entrants(operands, task.direction, algorithms, peers)
    errors = verify(operands, task.direction, entrants)
    runs = {name: entrant.run for name, entrant in entrants.items()}
    calls = {name: harness.calls_for(run, SECONDS_A_TURN) for name, run in runs.items()}
    seconds = harness.in_turns(runs, rounds, calls)
    return {
        "name": name_of(task.shape),
        "pass": task.direction,
        "shape": asdict(task.shape),
        "counts": dict(task.counts),
        "operations": task.operations,
        "bytes": 4 * (operands.x.size + operands.w.size + operands.dy.size),
        "multiply_adds": {
            name: algorithm.multiply_adds(task.shape)[task.direction]
            for name, algorithm in list_candidates(task.shape).items()
        },
        "chosen": getattr(choose_algorithms(task.shape), task.direction),
        "programs": {name: _summarize(times, errors[name]) for name, times in seconds.items()},
    }


def _summarize(times: list[float], error: float) -> dict[str, Any]:
    median, error, *times = (float(f"{value:.{DIGITS}g}") for value in (harness.median(times), error, *times))
    return {"median": median, "error": error, "seconds": times}


def measure_compiling(tasks: Iterable[Task], algorithms: Sequence[str]) -> dict[str, float]:
    """Return what each algorithm's first calls take on one image: compiling, or loading what was compiled before."""
    seconds: dict[str, float] = {}
    done: set[tuple[str, str]] = set()
    for task in tasks:
        for name in list_candidates(task.shape):
            if name in algorithms and (name, task.direction) not in done:
                done.add((name, task.direction))
                operands = Operands(replace(task.shape, images=1))
                start = time.perf_counter()
                list_entrants(operands, task.direction, [name])[name].run()
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
    return seconds
