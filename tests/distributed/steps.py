"""Takes training steps as one of several ranks, or alone, and writes down what the network is then.

Started with a JSON object: `Task`'s fields, ``engine`` and ``output``.
"""

import json
import sys
from dataclasses import dataclass

import numpy as np

from cnnzoo.data.dataset import Split
from cnnzoo.threads import set_num_threads
from cnnzoo.training.engine import Engine, make_engine


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained and how: `images_per_batch` are those of all ranks together."""

    model: str
    steps: int
    images_per_batch: int
    images: int = 64
    sync: bool = True
    accumulation: int = 1
    bucket_bytes: int = 1_000_000


def make_batches(task, net, share):
    from cnnzoo.data import Batches

    rng = np.random.default_rng(0)
    channels = net.image_shape[0]
    images = rng.integers(0, 256, (task.images, *net.image_shape), dtype=np.uint8)
    split = Split(images=images, labels=rng.integers(0, 10, task.images))
    statistics = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    return Batches(split, task.images_per_batch, **statistics, share=share, dtype="float64")


def make_network(task):
    from cnnzoo.models import create_model

    return create_model(task.model, dtype="float64", dropout=0.0 if task.model == "vgg16" else None)


def take_steps(task, engine):
    """Return the network, the norms of its gradients, and what was counted, after the steps of a task."""
    from cnnzoo.training.metrics import Tally
    from cnnzoo.training.optimizers import SGD
    from cnnzoo.training.replicas import unite_replicas
    from cnnzoo.training.step import Stepper

    net = make_network(task)
    unite_replicas(engine, net, task.sync)
    batches = make_batches(task, net, (engine.rank, engine.size))
    stepper = Stepper(net, SGD(net, lr=0.01, momentum=0.9), engine=engine, bucket_bytes=task.bucket_bytes)
    tally, norms, size = Tally(10), [], task.accumulation
    for step in range(task.steps):
        epoch, group = divmod(step, batches.num_batches // size)
        first = group * size
        images = min((first + size) * task.images_per_batch, batches.num_images) - first * task.images_per_batch
        loaded = (batches.extract_batch(epoch, index) for index in range(first, first + size))
        norms.append(stepper.take(loaded, images, tally, size))
    return net, norms, tally


def describe(net, norms, tally):
    """Return all that has to agree, as arrays by name."""
    return {**net.state_dict(), "norms": np.array(norms), "tally": tally.sums}


def main():
    values = json.loads(sys.argv[1])
    name, output = values.pop("engine"), values.pop("output")
    engine: Engine = make_engine(name)
    if engine.threads is not None:
        set_num_threads(engine.threads)
    found = describe(*take_steps(Task(**values), engine))
    replicas = engine.collect({key: array.tobytes() for key, array in found.items()})
    assert all(replica == replicas[0] for replica in replicas), "the ranks' networks differ"
    if engine.is_root:
        np.savez(output, **found)


if __name__ == "__main__":
    main()
