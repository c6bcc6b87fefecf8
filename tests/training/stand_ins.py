"""What trainer tests use instead of real networks and downloads: small, and with no kernels to compile."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from cnnzoo.training.observer import Observer

_ROOT = Path(__file__).parents[2]

_LINEAR_COMMAND = """
import sys
from cnnzoo import train
from cnnzoo.training import trainer
from cnnzoo.training.progress import Progress
from tests.training.stand_ins import compile_none, make_linear_network
trainer.create_model = make_linear_network
Progress.compile_missing = compile_none
sys.exit(train.main(sys.argv[1:]))
"""


class LinearNetwork:
    """Softmax regression in NumPy, with the face of `cnnzoo.graph.network.Network` that training uses."""

    def __init__(self, num_classes, image_shape, dtype="float32", seed=0):
        self.image_shape, self.num_classes = image_shape, num_classes
        features = int(np.prod(image_shape))
        rng = np.random.default_rng(seed)
        self.parameter_arena = (0.01 * rng.standard_normal(num_classes * (features + 1))).astype(dtype)
        self.gradient_arena = np.zeros_like(self.parameter_arena)
        self.training_flags = []
        self.random_step = 0
        self.buffers = {}
        self.pinned = {}

    storage = None
    num_parameters = property(lambda self: self.parameter_arena.size)

    def _split(self, arena):
        w, b = np.split(arena, [arena.size - self.num_classes])
        return w.reshape(self.num_classes, -1), b

    def forward(self, images, training=False):
        self.training_flags.append(training)
        self._x = images.reshape(len(images), -1)
        w, b = self._split(self.parameter_arena)
        with np.errstate(over="ignore", invalid="ignore"):  # as real networks, silent when they diverge
            return self._x @ w.T + b

    def backward(self, dlogits, accumulate=False, on_gradient=None):
        dw, db = self._split(self.gradient_arena)
        dw[:] = dlogits.T @ self._x + accumulate * dw
        db[:] = dlogits.sum(axis=0) + accumulate * db
        if on_gradient is not None:
            on_gradient(self.gradient_arena.size)

    def arena_bytes(self, images, training, memory=None):
        return 1000 * images * (1 + training)

    def find_not_finite(self, images):
        return "fc"

    def parameter_segments(self):
        weights, size = self.parameter_arena.size - self.num_classes, self.parameter_arena.size
        return [("fc.weight", 0, weights, 2), ("fc.bias", weights, size, 1)]

    def unpack(self, arena):
        w, b = self._split(arena)
        return {"fc.weight": w.copy(), "fc.bias": b.copy()}

    def pack(self, mapping, arena):
        w, b = self._split(arena)
        w[:], b[:] = mapping["fc.weight"], mapping["fc.bias"]

    def state_dict(self):
        return self.unpack(self.parameter_arena)

    def load_state_dict(self, weights):
        self.pack(weights, self.parameter_arena)

    def algorithms(self):
        return dict(self.pinned)

    def pin_algorithms(self, chosen):
        self.pinned |= chosen


class StopAfter(Observer):
    """Stops a run after some of its steps, or of its batches of evaluation."""

    def __init__(self, steps=None, evaluation_batches=None, act=None):
        self._left = {"steps": steps, "evaluation": evaluation_batches}
        self._act = act

    def run_started(self, trainer, history):
        self._trainer = trainer

    def step_done(self, tally):
        self._count("steps")

    def evaluation_batch_done(self, tally):
        self._count("evaluation")

    def _count(self, kind):
        if self._left[kind] is not None:
            self._left[kind] -= 1
            if self._left[kind] == 0:
                (self._act or self._trainer.stop)()


def make_linear_network(model, num_classes=10, seed=0, image_shape=None, dtype="float32", **options):
    """Stand in for `create_model`, whose other options it does without."""
    return LinearNetwork(num_classes, image_shape, dtype, seed)


def compile_none(progress, config):
    """Stand in for `Progress.compile_missing`, which knows real networks alone."""


def write_cifar10(folder, images_a_file=20, seed=0):
    """Write small files in CIFAR-10's binary layout, noisy copies of a picture for each class; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    templates = rng.integers(0, 200, (10, 3072), dtype=np.uint8)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        labels = rng.integers(0, 10, (images_a_file, 1), dtype=np.uint8)
        pixels = templates[labels[:, 0]] + rng.integers(0, 56, (images_a_file, 3072), dtype=np.uint8)
        np.concatenate([labels, pixels], axis=1).tofile(folder / f"{name}.bin")
    return folder


def start_linear_command(*arguments, stderr=subprocess.PIPE):
    """Start the train command in a process of its own, with softmax regression in the network's place."""
    command = [sys.executable, "-u", "-c", _LINEAR_COMMAND, "--model", "linear", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=_ROOT)


def write_mnist(folder, train=1000, test=200, seed=0):
    """Write small files in MNIST's layout, noisy copies of a picture for each class; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    templates = rng.integers(0, 200, (10, 784), dtype=np.uint8)
    for split, images in (("train", train), ("t10k", test)):
        labels = rng.integers(0, 10, images, dtype=np.uint8)
        pixels = templates[labels] + rng.integers(0, 56, (images, 784), dtype=np.uint8)
        header = np.array([2051, images, 28, 28], ">u4").tobytes()
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = np.array([2049, images], ">u4").tobytes()
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return folder
