"""Training steps of one network in a process of their own, which another process has made one at a time."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for `benchmarks` and `tests`

from benchmarks import harness
from cnnzoo.command import run_command
from cnnzoo.errors import CnnzooError
from cnnzoo.memory import peak_memory_above, resident_memory

if TYPE_CHECKING:
    from cnnzoo.graph.ledger import Ledger

LR, MOMENTUM = 0.01, 0.9
MODES = ("nchw", "channels_last", "compile")


class Worker:
    """A process that makes a step whenever it is told to."""

    def __init__(self, name: str, model: str, batch_size: int, threads: int):
        self.name, self.model = name, model
        command = [sys.executable, __file__, name, model, str(batch_size), str(threads)]
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
    """Be a worker: one step at once, then one for each line "step" on standard input.

    At the end it tells all losses, and the peak of its resident memory above what stood after its imports. The peak is
    that of the steps after the first, which compiles.
    """
    harness.use_threads(threads)
    make = make_cnnzoo_step if name == "cnnzoo" else make_torch_step
    step, baseline = make(model, batch_size, threads, name)
    losses = []

    def timed() -> float:
        start = time.perf_counter()
        losses.append(step())
        return time.perf_counter() - start

    print(json.dumps({"seconds": timed()}), flush=True)
    _reset_peak()
    for line in sys.stdin:
        if line.strip() != "step":
            break
        print(json.dumps({"seconds": timed()}), flush=True)
    print(json.dumps({"losses": losses, "bytes": peak_memory_above(baseline)}), flush=True)


def _batch(batch_size: int, image_shape: tuple[int, ...]):
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch_size, *image_shape), dtype=np.float32)
    return images, rng.integers(0, 10, batch_size)


def make_cnnzoo_step(
    model: str, batch_size: int, threads: int, name: str, ledger: "Ledger | None" = None, **options: Any
) -> tuple[Callable[[], float], int | None]:
    """Return a function that makes a step and returns its loss, and the bytes resident after the imports.

    `options` are those of `create_model`.
    """
    from numba.core.registry import cpu_target

    from cnnzoo import SGD, create_model, cross_entropy

    cpu_target.target_context.refresh()  # Numba imports its own modules here, as late as at the first compilation
    baseline = resident_memory()
    net = create_model(model, seed=0, **options)
    net.ledger = ledger
    images, labels = _batch(batch_size, net.image_shape)
    optimizer = SGD(net, lr=LR, momentum=MOMENTUM)

    def step() -> float:
        loss, dlogits = cross_entropy(net.forward(images, training=True), labels)
        net.backward(dlogits)
        optimizer.step()
        return loss

    return step, baseline


def make_torch_step(model: str, batch_size: int, threads: int, name: str) -> tuple[Callable[[], float], int | None]:
    """Return the same of PyTorch, in the mode `name`."""
    import torch

    from cnnzoo.models.registry import get_model
    from tests.pytorch_models import make_pytorch_model

    if name == "compile":
        import torch._inductor.compile_fx

    torch.set_num_threads(threads)
    baseline = resident_memory()
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


def _reset_peak() -> None:
    """Let the peak of the resident memory begin anew, where Linux allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    program, network, images, cores = sys.argv[1:]
    raise SystemExit(run_command("benchmarks/steps.py", lambda: serve(program, network, int(images), int(cores))))
