"""Compiling ahead: what a run needs is known without running it, compiled in other processes, and found by the run."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cnnzoo import warmup
from cnnzoo.config import RunConfig
from cnnzoo.kernels.compile import Request, record_requests
from cnnzoo.kernels.elementwise import add_forward
from cnnzoo.training.compilation import list_requests


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
    assert all(k["seconds"] > 0 and k["dtype"] == "float32" for k in kernels)
    step = subprocess.run([sys.executable, "-c", _RUN], capture_output=True, text=True, check=True, env=environment)
    used = dict(part.split(":") for part in step.stdout.split())
    assert used
    assert set(used) <= {k["name"] for k in kernels}
    assert set(used.values()) == {"True"}


def test_requests_follow_the_settings():
    config = RunConfig(model="lenet5", dtype="float64", batch_size=4)
    assert {request.dtype for request in list_requests(config) if request.name == "correlate"} == {"float64"}


def test_requests_are_for_each_optimizer_and_the_average():
    names = {request.name for request in list_requests(RunConfig(model="lenet5", batch_size=4))}
    assert names >= {"sgd_update", "adamw_update", "average_update"}


@pytest.mark.parametrize(
    ("arguments", "part"), [(["--model", "vgg17"], "vgg16"), (["--processes", "0"], "expected 1 or more, got 0")]
)
def test_bad_arguments(capsys, arguments, part):
    assert warmup.main(arguments) == 2
    assert part in capsys.readouterr().err
