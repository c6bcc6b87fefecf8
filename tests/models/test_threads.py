"""Same seed, same bits at any number of threads: whole networks, each number in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Two steps with dropout, the second one on a smaller batch, then inference; batches large enough to be split.
SCRIPT = """
import json, sys
import cnnzoo
if sys.argv[1:]:
    cnnzoo.set_num_threads(int(sys.argv[1]))
from cnnzoo.threads import get_num_threads
from tests.graph.steps import digest, make_batch, run_step

results = {"threads": get_num_threads()}
for name in ("vgg16", "vgg16_bn", "resnet18"):
    net = cnnzoo.create_model(name, seed=3)
    optimizer = cnnzoo.SGD(net, lr=0.01, momentum=0.9, weight_decay=5e-4)
    for images in (9, 5):
        loss, logits = run_step(net, *make_batch(net, images), label_smoothing=0.1)
        optimizer.step()
    inference = net.forward(make_batch(net, 6)[0])
    results[name] = digest(net.state_dict() | {"logits": logits, "inference": inference}), loss
print(json.dumps(results))
"""


def run(*arguments, **environment):
    """Run the script in a fresh Python and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def expected():
    return run(NUMBA_NUM_THREADS="1")


def test_one_thread(expected):
    assert expected["threads"] == 1
    assert len({expected[name][0] for name in ("vgg16", "vgg16_bn", "resnet18")}) == 3


@pytest.mark.parametrize("threads", [2, 4])
def test_same_bits_with_more_threads(expected, threads):
    assert run(NUMBA_NUM_THREADS=str(threads)) == {**expected, "threads": threads}


def test_same_bits_with_fewer_threads_than_there_could_be(expected):
    assert run("3", NUMBA_NUM_THREADS="4") == {**expected, "threads": 3}
