"""Loops cut out of kernels: each task runs once, alone or shared, with denormal numbers taken as zero."""

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba import get_thread_id, prange, types
from numba.extending import intrinsic

from cnnzoo import set_num_threads
from cnnzoo.kernels.compile import kernel
from cnnzoo.kernels.vectors import data_pointer
from cnnzoo.threads import get_num_threads

DTYPES = [np.float32, np.float64]
FLUSHES = platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")


@kernel("void(i8, T[::1], T[::1], T[::1], T[::1])", parallel=True)
def two_loops(count, x, visits, shares, y):
    """The second loop reads what the first wrote, and a value from before both."""
    factor = 2 * count
    for task in prange(count):
        value = x[task]
        visits[task] += 1
        shares[task] = get_thread_id()
        y[task] = factor * value
    for task in prange(count):
        value = y[task] + 1
        y[task] = value


@kernel("void(T[::1], T[::1])", parallel=True)
def sum_over_a_loop(x, y):
    total = x[0]
    for task in prange(x.size):
        total += x[task]
    y[0] = total


@kernel("void(T[::1], T[::1])", parallel=True)
def loop_that_ends_early(x, y):
    for task in prange(x.size):
        if x[task] > 0:
            break
        y[task] = 1


@kernel("void(T[::1], f8, T[::1])", parallel=True)
def scale(x, factor, y):
    real = x.dtype.type(factor)
    for task in prange(x.size):
        y[task] = x[task] * real


@intrinsic
def atomic_add(typingctx, x, at, value):
    """Add to x[at], which other threads may look at, and return what was there."""

    def codegen(context, builder, signature, arguments):
        x, at, value = arguments
        place = builder.gep(data_pointer(context, builder, signature.args[0], x), [at])
        return builder.atomic_rmw("add", place, value, "monotonic")

    return types.int64(x, types.int64, types.int64), codegen


@kernel("void(i8[::1], i8[::1], i8[::1])", parallel=True)
def wait_for_the_last_of_a_share(visits, shares, seen):
    """Task 0 waits until the last task of the first half has run; seen[1] tells whether it saw that."""
    for task in prange(visits.size):
        visits[task] += 1
        shares[task] = get_thread_id()
        if task == visits.size // 2 - 1:
            atomic_add(seen, 0, 1)
        if task == 0:
            rounds = 0
            while atomic_add(seen, 0, 0) == 0 and rounds < 2_000_000_000:
                rounds += 1
            seen[1] = atomic_add(seen, 0, 0)


@kernel("void(i8, i8[::1], i8[::1])", parallel=True)
def count_by_share(count, visits, own):
    """Count each task, and those of each share by an addition that two threads at a time would spoil."""
    for task in prange(count):
        visits[task] += 1
        own[get_thread_id()] += 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_each_task_runs_once(dtype, count):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(count + 1).astype(dtype)
    visits, shares, y = (np.zeros(count + 1, dtype) for _ in range(3))
    two_loops(count, x, visits, shares, y)
    assert visits.tolist() == [1] * count + [0]
    np.testing.assert_array_equal(y[:count], 2 * count * x[:count] + 1)
    assert set(shares) <= set(range(os.cpu_count()))


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threads_take_tasks_from_each_other(layer):
    """The first task waits for the last one of its own thread's share, which only another thread can do meanwhile."""
    code = (
        "import numpy as np; from tests.kernels.test_tasks import wait_for_the_last_of_a_share as wait\n"
        "visits, shares, seen = (np.zeros(n, np.int64) for n in (64, 64, 2)); wait(visits, shares, seen)\n"
        "assert seen[1] == 1, seen; assert visits.tolist() == [1] * 64; assert set(shares[:32]) == {0, 1}"
    )
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": layer, "OMP_WAIT_POLICY": "active"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=300)


def test_many_launches_by_several_threads_of_python():
    """One thread after the other: each task runs once, and no two threads have one share at a time."""
    rng = np.random.default_rng(0)
    most = get_num_threads()
    for _ in range(3):
        with ThreadPoolExecutor(1) as pool:  # whose thread has a number of threads of its own
            for _ in range(200):
                count, threads = int(rng.integers(0, 300)), int(rng.integers(1, most + 1))
                visits, own = np.zeros(count + 1, np.int64), np.zeros(most, np.int64)
                pool.submit(set_num_threads, threads).result()
                pool.submit(count_by_share, count, visits, own).result()
                assert visits.tolist() == [1] * count + [0]
                assert own.sum() == count
                assert np.count_nonzero(own) <= threads


def test_a_sum_over_a_loop_is_refused():
    with pytest.raises(
        SyntaxError, match=r"sum_over_a_loop: expected .* names of its own, got one that sets \['total'\]"
    ):
        sum_over_a_loop(np.ones(5), np.ones(1))


@pytest.mark.skipif(not FLUSHES, reason="denormal numbers are flushed on x86-64 and 64-bit ARM alone")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 100])
def test_denormal_numbers_are_zero_in_tasks_and_nowhere_else(dtype, count):
    smallest = np.finfo(dtype).tiny  # the smallest normal number
    y = np.ones(count, dtype)
    scale(np.full(count, smallest / 2, dtype), 1.0, y)
    assert not y.any(), "denormal operands count as zero"
    scale(np.full(count, smallest, dtype), 0.5, y)
    assert not y.any(), "denormal results are zero"
    scale(np.full(count, smallest, dtype), 2.0, y)
    np.testing.assert_array_equal(y, np.full(count, 2 * smallest, dtype))
    after = np.full(count, smallest, dtype) * dtype(0.5)
    assert np.all(after > 0), "the caller's thread goes on as before"


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threading_layers_agree(layer):
    """Four threads of each kind of Numba's give the bits of one."""
    code = """
import sys, numpy as np, numba, cnnzoo
def step():
    net = cnnzoo.create_model("lenet5", seed=0)
    images = np.random.default_rng(0).standard_normal((8, 1, 28, 28), dtype=np.float32)
    loss, dlogits = cnnzoo.cross_entropy(net.forward(images, training=True), np.arange(8))
    net.backward(dlogits)
    return [loss, *(g.tobytes() for g in net.gradients().values())]
shared = step()
cnnzoo.set_num_threads(1)
assert shared == step()
print(numba.threading_layer())
"""
    environment = os.environ | {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "4"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    if "No threading layer could be loaded" in run.stderr:
        pytest.skip(f"Numba has no layer {layer} here")
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [layer]


def test_a_loop_does_not_end_early():
    """Where it did, the threads' shares would say what was done."""
    with pytest.raises(SyntaxError, match="loop_that_ends_early: expected a prange loop without else, return"):
        loop_that_ends_early(np.zeros(3), np.zeros(3))
