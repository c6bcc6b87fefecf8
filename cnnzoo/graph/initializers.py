"""Initial weights, from a seed, the same on any machine.

He, Zhang, Ren and Sun, "Delving Deep into Rectifiers", ICCV 2015; Glorot and Bengio, "Understanding the Difficulty of
Training Deep Feedforward Neural Networks", AISTATS 2010. Every parameter draws from its own stream, named by its
name, so that one layer's weights do not depend on the layers before it. Draws are float64 whatever the network's type.
"""

import math
import zlib
from collections.abc import Callable

import numpy as np

Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the generator of the parameter `name`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))


def random_key(seed: int, step: int, name: str) -> int:
    """Return 64 random bits for what the operator `name` draws in the pass `step`."""
    sequence = np.random.SeedSequence([seed, step, zlib.crc32(name.encode())])
    return int(sequence.generate_state(1, np.uint64)[0])


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return fan in and fan out of a weight [out, in, ...], the receptive field counted in both."""
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def _normal(generator: np.random.Generator, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    return generator.standard_normal(shape) * deviation


def _uniform(generator: np.random.Generator, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    bound = math.sqrt(3) * deviation
    return generator.random(shape) * (2 * bound) - bound


def he_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal, variance 2 / fan in."""
    return _normal(generator, shape, math.sqrt(2 / fans(shape)[0]))


def he_uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform, variance 2 / fan in: bound sqrt(6 / fan in)."""
    return _uniform(generator, shape, math.sqrt(2 / fans(shape)[0]))


def xavier_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal, variance 2 / (fan in + fan out)."""
    return _normal(generator, shape, math.sqrt(2 / sum(fans(shape))))


def xavier_uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform, variance 2 / (fan in + fan out): bound sqrt(6 / (fan in + fan out))."""
    return _uniform(generator, shape, math.sqrt(2 / sum(fans(shape))))


def zeros(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All 0: biases, and batch norm's beta."""
    return np.zeros(shape)


def ones(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All 1: batch norm's gamma."""
    return np.ones(shape)
