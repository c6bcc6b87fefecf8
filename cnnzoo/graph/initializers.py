"""Initial weights, from a seed, the same on any machine.

He, Zhang, Ren and Sun, "Delving Deep into Rectifiers", ICCV 2015; Glorot and Bengio, "Understanding the Difficulty of
Training Deep Feedforward Neural Networks", AISTATS 2010. Every parameter draws from its own stream, named by its
name, so that one layer's weights do not depend on the layers before it. Draws are float64 whatever the network's type.
"""

import math
import zlib
from collections.abc import Callable

import numpy as np

from cnnzoo.hashing import draw_bits, stream_key

# Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution", Applied Statistics 37, 1988: rational
# approximations to 16 digits, highest power first, for the middle, the tails, and the far tails.
_MIDDLE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)  # fmt: skip
_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
     3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0),
)  # fmt: skip
_FAR_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
     2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
     1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0),
)  # fmt: skip

_BLOCK = 8192  # numbers drawn at a time: what is computed of them stays in a core's cache


class Stream:
    """Random numbers for one parameter: nothing but additions, multiplications, divisions and square roots of float64,
    which every machine rounds alike, on random bits that are a function of `key` and position."""

    def __init__(self, key: int):
        self._key = key

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return float64 numbers uniform in (0, 1), multiples of 2**-53 off by half of one."""
        return self._draw(shape, lambda p: p)

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return normal float64 numbers of mean 0 and variance 1."""
        return self._draw(shape, _normal_quantile)

    def _draw(self, shape: tuple[int, ...], transform: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        values = np.empty(math.prod(shape))
        for first in range(0, values.size, _BLOCK):
            last = min(first + _BLOCK, values.size)
            bits = draw_bits(self._key, np.arange(first, last))
            values[first:last] = transform(((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)
        return values.reshape(shape)


def _normal_quantile(p: np.ndarray) -> np.ndarray:
    """Return the numbers below which a normal variable of mean 0 and variance 1 is with probabilities `p`."""
    q = p - 0.5
    r = 0.180625 - q * q
    x = q * _ratio(_MIDDLE, r)
    tails = np.flatnonzero(r < 0)
    root = np.sqrt(-_log(np.minimum(p[tails], 1 - p[tails])))
    magnitude = np.where(root <= 5, _ratio(_TAIL, root - 1.6), _ratio(_FAR_TAIL, root - 5))
    x[tails] = np.where(q[tails] < 0, -magnitude, magnitude)
    return x


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: np.ndarray) -> np.ndarray:
    """Return the quotient of two polynomials by Horner's rule."""
    above, below = (np.full_like(x, polynomial[0]) for polynomial in coefficients)
    for a, b in zip(coefficients[0][1:], coefficients[1][1:], strict=True):
        above = above * x + a
        below = below * x + b
    return above / below


def _log(x: np.ndarray) -> np.ndarray:
    """Return the logarithm: e log 2 + 2 artanh((m - 1) / (m + 1)) for x = m 2**e, by its series to 16 digits."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa, exponent = np.where(low, 2 * mantissa, mantissa), exponent - low
    s = (mantissa - 1) / (mantissa + 1)
    square = s * s
    series = np.zeros_like(s)
    for n in range(21, -1, -2):
        series = series * square + 1 / n
    return exponent * 0.6931471805599453 + 2 * s * series


Initializer = Callable[[Stream, tuple[int, ...]], np.ndarray]


def stream(seed: int, name: str) -> Stream:
    """Return the random numbers of the parameter `name`."""
    return Stream(stream_key(seed, zlib.crc32(name.encode())))


def random_key(seed: int, step: int, name: str) -> int:
    """Return 64 random bits for what the operator `name` draws in the pass `step`."""
    return stream_key(seed, step, zlib.crc32(name.encode()))


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return fan in and fan out of a weight [out, in, ...], the receptive field counted in both."""
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def _normal(generator: Stream, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    return generator.standard_normal(shape) * deviation


def _uniform(generator: Stream, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    bound = math.sqrt(3) * deviation
    return generator.random(shape) * (2 * bound) - bound


def he_normal(generator: Stream, shape: tuple[int, ...]) -> np.ndarray:
    """Normal, variance 2 / fan in."""
    return _normal(generator, shape, math.sqrt(2 / fans(shape)[0]))


def he_uniform(generator: Stream, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform, variance 2 / fan in: bound sqrt(6 / fan in)."""
    return _uniform(generator, shape, math.sqrt(2 / fans(shape)[0]))


def xavier_normal(generator: Stream, shape: tuple[int, ...]) -> np.ndarray:
    """Normal, variance 2 / (fan in + fan out)."""
    return _normal(generator, shape, math.sqrt(2 / sum(fans(shape))))


def xavier_uniform(generator: Stream, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform, variance 2 / (fan in + fan out): bound sqrt(6 / (fan in + fan out))."""
    return _uniform(generator, shape, math.sqrt(2 / sum(fans(shape))))


def zeros(generator: Stream, shape: tuple[int, ...]) -> np.ndarray:
    """All 0: biases, and batch norm's beta."""
    return np.zeros(shape)


def ones(generator: Stream, shape: tuple[int, ...]) -> np.ndarray:
    """All 1: batch norm's gamma."""
    return np.ones(shape)
