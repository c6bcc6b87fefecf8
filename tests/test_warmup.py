"""Compiling ahead: what a run needs is known without running it, compiled in other processes, and found by the run."""

import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from cnnzoo import warmup
from cnnzoo.config import RunConfig
from cnnzoo.kernels.compile import Request, record_requests
from cnnzoo.kernels.elementwise import add_forward
from cnnzoo.training import progress
from cnnzoo.training.compilation import compile_ahead, list_requests


def test_nothing_runs_while_requests_are_recorded():
    x, y = np.ones(4, np.float64), np.zeros(4, np.float64)
    with record_requests() as requests:
        add_forward(x, 4, x, 4, y, 4, 1, 4)
    assert requests == {Request("cnnzoo.kernels.elementwise", "add_forward", "float64")}
    assert not y.any()
    add_forward(x, 4, x, 4, y, 4, 1, 4)
    assert y.tolist() == [2.0] * 4


_RUN = """
import numpy as np, cnnzoo
from cnnzoo.kernels import compile
made = []
compile_one = compile.Kernel.compile
compile.Kernel.compile = lambda self, dtype: made.append(compile_one(self, dtype)) or made[-1]
net = cnnzoo.create_model("lenet5", seed=0)
logits = net.forward(np.ones((4, 1, 28, 28), np.float32), training=True)
loss, dlogits = cnnzoo.cross_entropy(logits, np.arange(4))
net.backward(dlogits)
cnnzoo.SGD(net, lr=0.1).step()
print(*(f"{c.name}:{c.loaded}" for c in made))
"""


def test_what_was_compiled_ahead_is_all_that_a_step_needs(tmp_path):
    environment = os.environ | {"CNNZOO_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "cnnzoo.warmup", "--model", "lenet5", "--batch-size", "4", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    kernels = json.loads(run.stdout)["kernels"]
    assert {k["name"] for k in kernels} >= {"correlate", "correlate_weights", "max_pool_forward", "sgd_update"}
    assert not any(k["loaded"] for k in kernels)
    assert all((k["dtype"], k["networks"]) == ("float32", ["lenet5"]) and k["seconds"] > 0 for k in kernels)
    step = subprocess.run([sys.executable, "-c", _RUN], capture_output=True, text=True, check=True, env=environment)
    used = dict(part.split(":") for part in step.stdout.split())
    assert used
    assert set(used) <= {k["name"] for k in kernels}
    assert set(used.values()) == {"True"}


_PREPARE = """
import numpy as np
from cnnzoo.kernels.compile import Request, before_compiling
from cnnzoo.kernels.elementwise import add_forward, copy_rows
x = np.ones(4, np.float32)
request = Request(add_forward.__module__, "add_forward", "float32")
with before_compiling(lambda: print("prepared", request.mark.exists())):
    add_forward(x, 4, x, 4, x, 4, 1, 4)
    copy_rows(x, 4, np.ones(4, np.float32), 4, 1, 4, True)
print(x[0])
"""


def test_the_first_kernel_that_is_not_cached_is_prepared_for_once(tmp_path):
    environment = os.environ | {"CNNZOO_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", _PREPARE]
    for expected in ("prepared False\n2.0\n", "2.0\n"):
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert run.stdout == expected


def test_processes_end_with_the_loop_that_waits_for_them():
    request = Request("cnnzoo.kernels.elementwise", "add_forward", "float32")
    compilations = compile_ahead([request] * 40, processes=2)
    assert next(compilations).name == "add_forward"
    started = multiprocessing.active_children()
    assert started
    compilations.close()
    deadline = time.monotonic() + 30
    while set(multiprocessing.active_children()) & set(started) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(multiprocessing.active_children()) & set(started)


_WAIT = """
import time
from cnnzoo.kernels.compile import Request
from cnnzoo.training.compilation import compile_ahead
for compilation in compile_ahead([Request("cnnzoo.kernels.elementwise", "add_forward", "float32")] * 3, processes=2):
    print(compilation.name, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_processes_end_with_the_one_that_started_them():
    """They have its standard output: its end comes when all of them have ended."""
    with subprocess.Popen([sys.executable, "-c", _WAIT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "add_forward\n"
        process.kill()
        assert process.communicate(timeout=60)[0] == ""


def test_what_is_missing_is_compiled_with_a_word(monkeypatch):
    requests = [Request("module", name, "float32") for name in ("one", "two")]
    monkeypatch.setattr(progress, "list_missing", lambda config: requests)
    monkeypatch.setattr(progress, "compile_ahead", lambda requests, processes: iter(requests))
    output = io.StringIO()
    progress.Progress(output, io.StringIO()).compile_missing(RunConfig(model="lenet5"))
    first, second = output.getvalue().splitlines()
    assert first == "kernels: 2 to compile for this processor; they are kept for later runs"
    assert re.fullmatch(r"kernels: compiled in 0\.\d s", second)


@pytest.mark.parametrize("part", ["list_missing", "compile_ahead"])
def test_run_goes_on_where_nothing_can_be_compiled_ahead(monkeypatch, part):
    def fail(*arguments):
        raise OSError("no semaphores")

    monkeypatch.setattr(progress, "list_missing", lambda config: [Request("module", "one", "float32")])
    monkeypatch.setattr(progress, part, fail)
    output = io.StringIO()
    progress.Progress(output, io.StringIO()).compile_missing(RunConfig(model="lenet5"))
    assert output.getvalue().endswith("kernels: no semaphores; each is compiled when it is called first\n")


def test_requests_follow_the_settings():
    config = RunConfig(model="lenet5", dtype="float64", batch_size=4)
    assert {request.dtype for request in list_requests(config) if request.name == "correlate"} == {"float64"}


def test_requests_of_a_run_that_tunes_are_for_all_algorithms():
    algorithms = {"correlate", "correlate_weights", "correlate_tiles", "correlate_tile_weights"}
    algorithms |= {"correlate_positions", "correlate_position_weights"}
    config = RunConfig(model="lenet5", batch_size=4, algorithm="im2col")
    assert {request.name for request in list_requests(config)} & algorithms == {"correlate", "correlate_weights"}
    tuned = {request.name for request in list_requests(config.replace(algorithm=None, tune=True))}
    assert tuned >= algorithms


def test_requests_are_for_each_optimizer_and_the_average():
    names = {request.name for request in list_requests(RunConfig(model="lenet5", batch_size=4))}
    assert names >= {"sgd_update", "adamw_update", "average_update"}


@pytest.mark.parametrize(
    ("arguments", "part"), [(["--model", "vgg17"], "vgg16"), (["--processes", "0"], "expected 1 or more, got 0")]
)
def test_bad_arguments(capsys, arguments, part):
    assert warmup.main(arguments) == 2
    assert part in capsys.readouterr().err
