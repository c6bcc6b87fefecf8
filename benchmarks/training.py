"""Whole training steps (forward, loss, backward, update) of cnnzoo and of PyTorch, in turns, a process each.

PyTorch runs eagerly with images in NCHW and in channels_last order and, where asked for, compiled; its fastest counts.
Each process also tells the resident memory that its steps took above what stood after its imports.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout, for `benchmarks` and `tests`

from benchmarks import harness  # noqa: E402

LR, MOMENTUM = 0.01, 0.9
MODES = ("nchw", "channels_last", "compile")


class Worker:
    """A process that makes a step whenever it is told to."""

    def __init__(self, name: str, model: str, batch_size: int, threads: int):
        command = [sys.executable, __file__, "--worker", name, model, str(batch_size), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
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
            raise SystemExit("a worker ended early; its message is above")
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
    print(json.dumps({"losses": losses, "bytes": _peak_bytes() - baseline}), flush=True)


def _batch(batch_size: int, image_shape: tuple[int, ...]):
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch_size, *image_shape), dtype=np.float32)
    return images, rng.integers(0, 10, batch_size)


def make_cnnzoo_step(model, batch_size, threads, name):
    """Return a function that makes a step and returns its loss, and the bytes resident after the imports."""
    import cnnzoo
    from cnnzoo.training.optimizers import SGD

    cnnzoo.set_num_threads(threads)
    import cnnzoo.models

    baseline = _peak_bytes()
    net = cnnzoo.create_model(model, seed=0)
    images, labels = _batch(batch_size, net.image_shape)
    optimizer = SGD(net, lr=LR, momentum=MOMENTUM)

    def step() -> float:
        loss, dlogits = cnnzoo.cross_entropy(net.forward(images, training=True), labels)
        net.backward(dlogits)
        optimizer.step()
        return loss

    return step, baseline


def make_torch_step(model, batch_size, threads, name):
    """The same for PyTorch, in the mode `name`."""
    import torch

    from tests.pytorch_models import make_pytorch_model

    torch.set_num_threads(threads)
    baseline = _peak_bytes()
    torch.manual_seed(0)
    net = make_pytorch_model(model)
    image_shape = (1, 28, 28) if model == "lenet5" else (3, 32, 32)
    images, labels = (torch.from_numpy(array) for array in _batch(batch_size, image_shape))
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


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare(model: str, names: list[str], batch_size: int, threads: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Time the steps of one network in turns, after two unmeasured steps of each."""
    workers = {name: Worker(name, model, batch_size, threads) for name in names}
    for worker in workers.values():
        worker.step()
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, worker in workers.items():
            time.sleep(harness.PAUSE_SECONDS)
            times[name].append(worker.step())
    results = {}
    for name, worker in workers.items():
        end = worker.close()
        if not end["losses"][-1] < end["losses"][0]:
            raise SystemExit(f"{model}, {name}: the loss of the repeated batch did not fall: {end['losses']}")
        results[name] = {
            "first_seconds": worker.first_seconds,
            "median_seconds": harness.median(times[name]),
            "seconds": times[name],
            "bytes": end["bytes"],
        }
    return results


def main() -> None:
    """Run the benchmark."""
    parser = harness.parser(
        __doc__.splitlines()[0], "python benchmarks/training.py --models resnet18 --peer torch --json resnet18.json"
    )
    parser.add_argument("--models", default="all", metavar="NAMES", help="networks, or all (default: %(default)s)")
    parser.add_argument("--peer", default="torch", choices=("torch", "none"), help="beside (default: %(default)s)")
    parser.add_argument(
        "--modes", default="nchw,channels_last", metavar="NAMES", help=f"PyTorch's, of {MODES} (default: %(default)s)"
    )
    arguments = parser.parse_args()
    from tqdm import tqdm

    from cnnzoo.models import list_models

    models = list_models() if arguments.models == "all" else arguments.models.split(",")
    modes = arguments.modes.split(",") if arguments.peer == "torch" else []
    rows = [["model", *(f"{name} s" for name in ("cnnzoo", *modes)), "ratio", "cnnzoo MB", "PyTorch MB"]]
    results = {}
    for model in tqdm(models, file=sys.stderr, disable=not sys.stderr.isatty()):
        found = results[model] = compare(
            model, ["cnnzoo", *modes], arguments.batch_size, arguments.threads, arguments.rounds
        )
        best = min(modes, key=lambda name: found[name]["median_seconds"], default=None)
        rows.append(
            [
                model,
                *(f"{found[name]['median_seconds']:.3f}" for name in ("cnnzoo", *modes)),
                f"{found[best]['median_seconds'] / found['cnnzoo']['median_seconds']:.2f}" if best else "-",
                f"{found['cnnzoo']['bytes'] / 1e6:,.0f}",
                f"{found[best]['bytes'] / 1e6:,.0f}" if best else "-",
            ]
        )
    print(harness.table(rows))
    print("seconds a step, medians; ratio: PyTorch's fastest / cnnzoo; MB: peak above the imports")
    if arguments.json:
        harness.write_json(arguments.json, harness.describe_machine(arguments.threads), results)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        os.chdir(ROOT)
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
