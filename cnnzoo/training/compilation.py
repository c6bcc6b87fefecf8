"""Compiling ahead: which kernels a run calls, found without running any, and their compilation in several processes."""

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

import numpy as np

from cnnzoo.config import RunConfig
from cnnzoo.data import Augmentation, Batches
from cnnzoo.data.dataset import Split
from cnnzoo.graph.algorithms import NAMES
from cnnzoo.interrupts import interrupts_held_back
from cnnzoo.kernels.arena import sum_squares
from cnnzoo.kernels.compile import Compilation, Request, fulfill, record_requests
from cnnzoo.kernels.cross_entropy import cross_entropy
from cnnzoo.models import create_model
from cnnzoo.training.averaging import WeightAverage
from cnnzoo.training.optimizers import SGD, AdamW

# These take longest and are begun first.
_LONGEST = ("correlate", "correlate_tile_weights", "correlate_tiles", "correlate_weights")


def list_requests(config: RunConfig) -> list[Request]:
    """Return the kernels of a run's training step and test, for its network and its batches.

    Those of either optimizer and of an average of the weights are among them: each is small, and compiled once for all.
    With `tune`, so are those of all algorithms.
    """
    with record_requests() as requests:
        net = create_model(config.model, **config.network_settings)
        count = config.batch_size
        pictures = Split(images=np.zeros((count, *net.image_shape), np.uint8), labels=np.zeros(count, np.int64))
        ones = (1.0,) * net.image_shape[0]
        batches = Batches(
            pictures, config.batch_size, mean=ones, std=ones, augmentation=Augmentation(), dtype=config.dtype
        )
        images, labels = batches.extract_batch(0, 0)
        for algorithm in NAMES if config.tune else (config.algorithm,):
            net.prefer_algorithm(algorithm)
            logits = net.forward(images, training=True)
            net.backward(np.zeros_like(logits))
        cross_entropy(np.zeros_like(logits), labels)
        sum_squares(net.gradient_arena, np.empty(1))
        for optimizer in (SGD(net, lr=0.0), AdamW(net, lr=0.0)):
            optimizer.step()
        WeightAverage(net, decay=0.9).update(1)
        net.forward(images)
    return sorted(requests, key=lambda request: (request.name not in _LONGEST, request))


def list_missing(config: RunConfig) -> list[Request]:
    """Return those of `list_requests` that the cache lacks."""
    return [request for request in list_requests(config) if not request.mark.exists()]


def compile_ahead(requests: Iterable[Request], processes: int) -> Iterator[Compilation]:
    """Compile, or load, in so many processes, and yield what each compilation took as it ends.

    Ctrl-C reaches the caller alone. Where that, or anything else, ends the caller's loop early, the processes end; and
    so they do where the caller's process is killed.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process whose OpenMP has started cannot use it
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(processes, context, initializer=_end_with_parent)
    try:
        with interrupts_held_back():
            futures = [pool.submit(fulfill, request) for request in requests]
        for done in as_completed(futures):
            yield done.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - set(others):
            process.terminate()
        raise
    pool.shutdown()


def _end_with_parent() -> None:
    """Let this process end when the one that started it has ended, in the middle of a compilation too."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
