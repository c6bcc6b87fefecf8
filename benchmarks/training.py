"""Whole training steps (forward, loss, backward, update) of cnnzoo and of PyTorch, in turns, a process each.

PyTorch runs eagerly with images in NCHW and in channels_last order and, where asked for, compiled. Each mode has its
turns with cnnzoo alone, for two networks fit in memory more often than four; the mode with the smallest ratio counts.
Each process also tells the resident memory that its steps took above what stood after its imports: for cnnzoo that of
compiling too, the first time it runs a network.
"""

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks` and `tests`

from benchmarks import harness
from cnnzoo.command import align, run_command
from cnnzoo.errors import CnnzooError

if TYPE_CHECKING:
    from cnnzoo.graph.ledger import Ledger

LR, MOMENTUM = 0.01, 0.9
MODES = ("nchw", "channels_last", "compile")


class Worker:
    """A process that makes a step whenever it is told to."""

    def __init__(self, name: str, model: str, batch_size: int, threads: int):
        self.name, self.model = name, model
        command = [sys.executable, __file__, "--worker", name, model, str(batch_size), str(threads)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=harness.ROOT)
        self.first_seconds = self._answer()["seconds"]

    def step(self) -> float:
        """Make a step and return its seconds."""
        self._tell("step")
        return self._answer()["seconds"]

    def close(self) -> dict[str, Any]:
        """End the process; returns its losses and the bytes that its steps took."""
        self._tell("end")
        answer = self._answer()
        self._process.wait()
        return answer

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CnnzooError(f"{self.model}, {self.name}: the process ended early, with code {self._process.wait()}")
        return json.loads(line)


def serve(name: str, model: str, batch_size: int, threads: int) -> None:
    """Be a worker: one step at once, then one for each line "step" on standard input."""
    harness.use_threads(threads)
    make = make_cnnzoo_step if name == "cnnzoo" else make_torch_step
    step, baseline = make(model, batch_size, threads, name)
    losses = []

    def timed() -> float:
        start = time.perf_counter()
        losses.append(step())
        return time.perf_counter() - start

    print(json.dumps({"seconds": timed()}), flush=True)
    for line in sys.stdin:
        if line.strip() != "step":
            break
        print(json.dumps({"seconds": timed()}), flush=True)
    print(json.dumps({"losses": losses, "bytes": _resident_bytes(peak=True) - baseline}), flush=True)


def _batch(batch_size: int, image_shape: tuple[int, ...]):
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch_size, *image_shape), dtype=np.float32)
    return images, rng.integers(0, 10, batch_size)


def make_cnnzoo_step(
    model: str, batch_size: int, threads: int, name: str, ledger: "Ledger | None" = None
) -> tuple[Callable[[], float], int]:
    """Return a function that makes a step and returns its loss, and the bytes resident after the imports."""
    from cnnzoo import SGD, create_model, cross_entropy

    baseline = _resident_bytes()
    net = create_model(model, seed=0)
    net.ledger = ledger
    images, labels = _batch(batch_size, net.image_shape)
    optimizer = SGD(net, lr=LR, momentum=MOMENTUM)

    def step() -> float:
        loss, dlogits = cross_entropy(net.forward(images, training=True), labels)
        net.backward(dlogits)
        optimizer.step()
        return loss

    return step, baseline


def make_torch_step(model: str, batch_size: int, threads: int, name: str) -> tuple[Callable[[], float], int]:
    """Return the same of PyTorch, in the mode `name`."""
    import torch

    from cnnzoo.models.registry import get_model
    from tests.pytorch_models import make_pytorch_model

    torch.set_num_threads(threads)
    baseline = _resident_bytes()
    torch.manual_seed(0)
    net = make_pytorch_model(model)
    images, labels = (torch.from_numpy(array) for array in _batch(batch_size, get_model(model).image_shape))
    if name == "channels_last":
        net, images = net.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM)
    run = torch.compile(net) if name == "compile" else net

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(run(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, baseline


def profile(model: str, batch_size: int, threads: int, rounds: int) -> dict[str, Any]:
    """Print the ledger of a network's step, medians of `rounds` steps after two others, and return it."""
    from cnnzoo.graph.ledger import Ledger
    from cnnzoo.profiling import describe_ledger, ledger_to_plain

    ledger = Ledger()
    step, _ = make_cnnzoo_step(model, batch_size, threads, "cnnzoo", ledger)
    for _ in range(2):
        step()
    ledger.clear()
    seconds = harness.in_turns({model: step}, rounds, warm_up=False)[model]
    print(f"{model}, batches of {batch_size}, {threads} threads: {harness.median(seconds):.3f} s a step")
    print(*describe_ledger(ledger), sep="\n", end="\n\n")
    return {"seconds": seconds} | ledger_to_plain(ledger)


def _resident_bytes(peak: bool = False) -> int:
    """Return the resident memory of this process, now or at its peak; where Linux does not tell, always at its peak."""
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM" if peak else "VmRSS"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare(model: str, names: list[str], batch_size: int, threads: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Time the steps of one network in turns, after two unmeasured steps of each."""
    workers = {name: Worker(name, model, batch_size, threads) for name in names}
    for worker in workers.values():
        worker.step()
    times = harness.in_turns({name: worker.step for name, worker in workers.items()}, rounds, warm_up=False)
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
    if not modes:
        return {"alone": compare(model, ["cnnzoo"], batch_size, threads, rounds)}
    found: dict[str, Any] = {mode: compare(model, ["cnnzoo", mode], batch_size, threads, rounds) for mode in modes}
    ratios = {mode: pair[mode]["median_seconds"] / pair["cnnzoo"]["median_seconds"] for mode, pair in found.items()}
    best = min(ratios, key=ratios.__getitem__)
    return found | {"ratios": ratios, "best": best}


def _row(model: str, modes: list[str], found: dict[str, Any]) -> list[str]:
    if not modes:
        ours = found["alone"]["cnnzoo"]
        return [model, f"{ours['median_seconds']:.3f}", f"{ours['bytes'] / 1e6:,.0f}"]
    pair = found[found["best"]]
    return [
        model,
        f"{pair['cnnzoo']['median_seconds']:.3f}",
        f"{pair['cnnzoo']['bytes'] / 1e6:,.0f}",
        *(f"{found[mode][mode]['median_seconds']:.3f} ({found['ratios'][mode]:.2f})" for mode in modes),
        f"{pair[found['best']]['bytes'] / 1e6:,.0f}",
        f"{found['ratios'][found['best']]:.2f}",
    ]


def run(arguments: Sequence[str] | None) -> None:
    """Print the table that the arguments ask for."""
    from cnnzoo.models import list_models

    parser = harness.parser(
        __doc__.splitlines()[0], "python benchmarks/training.py --models resnet18 --peer torch --json resnet18.json"
    )
    parser.add_argument(
        "--models", type=harness.one_of(["all", *list_models()]), default=["all"], metavar="NAMES",
        help="networks (default: all)",
    )  # fmt: skip
    parser.add_argument("--peer", default="torch", choices=("torch", "none"), help="beside (default: %(default)s)")
    parser.add_argument(
        "--modes", type=harness.one_of(MODES), default=list(MODES[:2]), metavar="NAMES",
        help=f"PyTorch's: {', '.join(MODES)} (default: {','.join(MODES[:2])})",
    )  # fmt: skip
    parser.add_argument(
        "--profile", action="store_true",
        help="where a step's time goes, layer by layer, of cnnzoo alone; --json writes all rows",
    )  # fmt: skip
    parsed = parser.parse(arguments)
    models = list_models() if "all" in parsed.models else parsed.models
    if parsed.profile:
        harness.use_threads(parsed.threads)
        results = {name: profile(name, parsed.batch_size, parsed.threads, parsed.rounds) for name in models}
        if parsed.json:
            harness.write_json(parsed.json, harness.describe(parsed.threads), results)
        return
    from tqdm import tqdm

    modes = parsed.modes if parsed.peer == "torch" else []
    columns = [
        "cnnzoo s",
        "cnnzoo MB",
        *(f"{mode} s (ratio)" for mode in modes),
        *["PyTorch MB", "ratio"][: len(modes) * 2],
    ]
    rows, results = [["model", *columns]], {}
    for model in tqdm(models, file=sys.stderr, disable=not sys.stderr.isatty()):
        results[model] = measure(model, modes, parsed.batch_size, parsed.threads, parsed.rounds)
        rows.append(_row(model, modes, results[model]))
    print(*align(rows, left=1), sep="\n")
    print("seconds a step, medians; ratio: PyTorch's / cnnzoo's; MB: peak above the imports; both beside the best mode")
    if parsed.json:
        harness.write_json(parsed.json, harness.describe(parsed.threads), results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    return run_command("benchmarks/training.py", lambda: run(arguments))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        raise SystemExit(main())
