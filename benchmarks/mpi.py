"""Training steps of two ranks of one thread beside those of one process of two threads, in turns, on one machine.

Both take the same batches. The ranks take steps as they are, steps in which no gradients are added up, and add up
gradients with nothing else to do: what the first take longer than the second is what communication costs, and the rest
of the third's time is hidden behind backward.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks`

from benchmarks import harness
from cnnzoo.command import align, run_command, told_once
from cnnzoo.errors import CnnzooError

if TYPE_CHECKING:
    from cnnzoo.training.engine import Engine

RESULTS = harness.RESULTS / "mpi.json"
RANKS = 2
KINDS = ("together", "apart", "sums")
IMAGES = 1024


class Worker:
    """Processes that take a step of a kind whenever they are told to."""

    def __init__(self, *command: str) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=harness.ROOT)
        self.take("together")

    def take(self, kind: str) -> dict[str, float]:
        """Take a step; return its seconds, and those of adding up alongside backward and after it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(kind + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise CnnzooError(f"benchmarks/mpi.py: a process ended early, with code {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End the processes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(name: str, model: str, batch_size: int) -> None:
    """Be a rank, or the one process: take a step for each line on rank 0's standard input."""
    from cnnzoo.threads import set_num_threads
    from cnnzoo.training.engine import make_engine

    engine = make_engine(name)
    with told_once("benchmarks/mpi.py", engine):
        set_num_threads(engine.threads or RANKS)
        steps = _make_steps(engine, model, batch_size)
        while (kind := _next_kind(engine)) in steps:
            engine.any(False)  # all begin at once
            answer = steps[kind]()
            if engine.is_root:
                print(json.dumps(answer), flush=True)


def _next_kind(engine: "Engine") -> str:
    """Return what rank 0 reads; the others wait without taking a core, which a blocking call of MPI would do."""
    if engine.size == 1:
        return sys.stdin.readline().strip()
    from mpi4py import MPI

    if engine.is_root:
        kind = sys.stdin.readline().strip()
        for rank in range(1, engine.size):
            MPI.COMM_WORLD.send(kind, rank)
        return kind
    while not MPI.COMM_WORLD.iprobe(source=0):
        time.sleep(0.001)
    return MPI.COMM_WORLD.recv(source=0)


def _make_steps(engine: "Engine", model: str, batch_size: int) -> dict[str, Callable[[], dict[str, float]]]:
    """Return what takes a step of each kind."""
    import numpy as np

    from cnnzoo import SGD, create_model
    from cnnzoo.data import Batches
    from cnnzoo.data.dataset import Split
    from cnnzoo.training.engine import Engine, GradientSum
    from cnnzoo.training.metrics import Tally
    from cnnzoo.training.step import Stepper

    net = create_model(model, seed=0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, *net.image_shape), dtype=np.uint8)
    ones = (1.0,) * net.image_shape[0]
    split = Split(images=images, labels=rng.integers(0, net.num_classes, IMAGES))
    batches = Batches(split, batch_size, mean=ones, std=ones, share=(engine.rank, engine.size))
    optimizer = SGD(net, lr=0.001, momentum=0.9)
    stepper, alone = Stepper(net, optimizer, engine=engine), Stepper(net, optimizer, engine=Engine())
    summed = stepper.gradient_sum

    def timed(act: Callable[[], object], sums: GradientSum) -> dict[str, float]:
        start, alongside, waited = time.perf_counter(), sums.alongside, sums.waited
        act()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "alongside": sums.alongside - alongside, "waited": sums.waited - waited}

    def together() -> None:
        stepper.take([batches.extract_batch(0, 0)], batch_size, Tally(net.num_classes))

    def apart() -> None:
        alone.take([batches.extract_batch(0, 0)], batch_size, Tally(net.num_classes))

    return {
        "together": lambda: timed(together, summed),
        "apart": lambda: timed(apart, alone.gradient_sum),
        "sums": lambda: timed(summed.finish, summed),
    }


def compare(model: str, batch_size: int, rounds: int) -> dict[str, Any]:
    """Take the steps in turns, after two unmeasured ones of each."""
    program = (sys.executable, __file__, "--serve")
    mpiexec = str(Path(sys.executable).with_name("mpiexec"))
    one = Worker(*program, "none", model, str(batch_size))
    ranks = Worker(mpiexec, "-n", str(RANKS), *program, "mpi", model, str(batch_size))
    one.take("together")
    ranks.take("together")
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in ("one", *KINDS)}
    for _ in range(rounds):
        for name, found in taken.items():
            time.sleep(harness.PAUSE_SECONDS)
            found.append(one.take("together") if name == "one" else ranks.take(name))
    one.close()
    ranks.close()
    seconds = {name: [step["seconds"] for step in steps] for name, steps in taken.items()}
    medians = {name: harness.median(times) for name, times in seconds.items()}
    inside = {key: harness.median([step[key] for step in taken["together"]]) for key in ("alongside", "waited")}
    ratios = [a / b for a, b in zip(seconds["one"], seconds["together"], strict=True)]
    costs = [a - b for a, b in zip(seconds["together"], seconds["apart"], strict=True)]
    hidden = 1 - harness.median(costs) / medians["sums"]
    return {
        "median_seconds": medians,
        "seconds": seconds,
        "images_per_second": {name: batch_size / medians[name] for name in ("one", "together")},
        "ratio": harness.median(ratios),
        "alongside_seconds": inside["alongside"],
        "waited_seconds": inside["waited"],
        "hidden_share": min(1.0, max(0.0, hidden)),
    }


def main() -> None:
    """Compare, print and write."""
    parser = harness.parser(
        "Two ranks of one thread beside one process of two threads, in turns.",
        "python benchmarks/mpi.py --rounds 15",
        str(RESULTS.relative_to(harness.ROOT)),
    )
    parser.add_argument("--model", default="resnet18", help="network (default: %(default)s)")
    parsed = parser.parse(None)
    os.environ["OMP_WAIT_POLICY"] = "passive"  # idle threads of the one leave the cores to the other
    found = compare(parsed.model, parsed.batch_size, parsed.rounds)
    rows = [["", "seconds a step", "images/s"]]
    rows += [
        [words, f"{found['median_seconds'][name]:.3f}", f"{parsed.batch_size / found['median_seconds'][name]:.1f}"]
        for name, words in (("one", "one process, two threads"), ("together", "two ranks of one thread"))
    ]
    print(*align(rows, left=1), sep="\n")
    print(
        f"{parsed.model}, batches of {parsed.batch_size}: two ranks reach {found['ratio']:.1%} of one process; "
        f"gradients take {found['median_seconds']['sums'] * 1e3:.1f} ms alone, {found['hidden_share']:.0%} of it hidden"
    )
    result = {"machine": harness.describe(parsed.threads), **found}
    if parsed.json:
        harness.write_content(parsed.json, {"results": {parsed.model: result}})
    else:
        harness.update_results(RESULTS, {parsed.model: result})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        engine_name, network, images = sys.argv[2:]
        raise SystemExit(run_command("benchmarks/mpi.py", lambda: serve(engine_name, network, int(images))))
    raise SystemExit(run_command("benchmarks/mpi.py", main))
