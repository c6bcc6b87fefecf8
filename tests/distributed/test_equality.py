"""Several ranks are one process: the same steps, whatever each rank's share of the images is."""

import dataclasses
import json

import numpy as np
import pytest

from cnnzoo.training.engine import Engine
from tests.distributed.ranks import needs_mpi, run_ranks
from tests.distributed.steps import Task, describe, make_batches, make_network, take_steps

pytestmark = needs_mpi


@pytest.fixture
def take_on_ranks(tmp_path):
    """Return a function that takes a task's steps on so many ranks and returns what `describe` does."""

    def take(task, ranks):
        output = tmp_path / "found.npz"
        values = {**dataclasses.asdict(task), "engine": "mpi", "output": str(output)}
        code, _, errors = run_ranks(ranks, "-m", "tests.distributed.steps", json.dumps(values))
        assert code == 0, errors
        with np.load(output) as found:
            return dict(found)

    return take


def _assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        scale = np.abs(array).max()
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("model", ["vgg16", "resnet18"])
def test_two_ranks_equal_one_process_after_twenty_steps(take_on_ranks, model):
    task = Task(model=model, steps=20, images_per_batch=4)
    _assert_close(take_on_ranks(task, 2), describe(*take_steps(task, Engine())), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vgg16", "resnet18"])
def test_two_ranks_of_64_equal_one_process_of_128_after_twenty_steps(take_on_ranks, model):
    task = Task(model=model, steps=20, images_per_batch=128, images=2560, bucket_bytes=25_000_000)
    _assert_close(take_on_ranks(task, 2), describe(*take_steps(task, Engine())), 1e-9)


def test_uneven_batches_are_averaged_by_images_and_repeat_bit_for_bit(take_on_ranks):
    """Three ranks share 8 images as 2, 3 and 3, and the last 6 of an epoch; two batches make a step."""
    task = Task(model="lenet5", steps=8, images_per_batch=8, images=46, accumulation=2, bucket_bytes=100_000)
    found = take_on_ranks(task, 3)
    _assert_close(found, describe(*take_steps(task, Engine())), 1e-12)
    again = take_on_ranks(task, 3)
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in found.items()
    }


def test_local_running_statistics_are_averaged_by_images(take_on_ranks):
    task = Task(model="mobilenetv1", steps=1, images_per_batch=7, sync=False)
    found = take_on_ranks(task, 2)
    expected = dict.fromkeys(make_network(task).buffers, 0.0)
    for rank, share in enumerate((3 / 7, 4 / 7)):
        net = make_network(task)
        net.forward(make_batches(task, net, (rank, 2)).extract_batch(0, 0)[0], training=True)
        for name, buffer in net.buffers.items():
            expected[name] += share * buffer
    for name, buffer in expected.items():
        np.testing.assert_allclose(found[name], buffer, rtol=1e-12, atol=1e-14, err_msg=name)
