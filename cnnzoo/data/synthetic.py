"""A built-in set of rendered pictures, so that every network can be trained where there is no data.

Ten classes of 32x32 color pictures: five shapes, each filled with stripes or with checks. A class is a shape *and* a
texture. Each leans to a color, as things in photographs do; place, size, tilt, the texture's scale and direction, the
background, clutter behind and in front, light and noise tell nothing of it. A linear classifier is right
two times in five, a small convolutional network three times in four.

Picture i of a split is a function of (seed, split, i). All arithmetic is integer operations and correctly rounded
float32 additions, multiplications, divisions and square roots, so the bytes are the same on any machine.
"""

from collections.abc import Callable

import numpy as np

from cnnzoo.data.dataset import Split
from cnnzoo.hashing import draw_bits, stream_key

NUM_TRAIN, NUM_TEST = 10_000, 2_000
SIZE = 32
SHAPES = ("disc", "square", "triangle", "star", "cross")
TEXTURES = ("striped", "checked")
CLASSES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)

# The color that each class leans to, in the order of `CLASSES`.
_LEANINGS = np.array(
    [
        *((0.9, 0.15, 0.15), (0.15, 0.9, 0.15), (0.15, 0.15, 0.9), (0.85, 0.85, 0.1), (0.85, 0.1, 0.85)),
        *((0.1, 0.85, 0.85), (0.9, 0.5, 0.1), (0.95, 0.95, 0.95), (0.05, 0.05, 0.05), (0.5, 0.1, 0.9)),
    ],
    dtype=np.float32,
)
_CHUNK = 500  # pictures rendered at once, so that the planes stay in cache
_TRAIN, _TEST = 1, 2

# An array that broadcasts over float32[pictures, SIZE, SIZE].
_Plane = np.ndarray


class _Draws:
    """Uniform draws for a run of pictures, a new one for each at every call."""

    def __init__(self, seed: int, split: int, indices: np.ndarray) -> None:
        self._base = (seed, split)
        self._indices = indices
        self._calls = 0

    def bits(self, count: int = 1) -> np.ndarray:
        """Return uint64[pictures, count]."""
        self._calls += 1
        positions = self._indices[:, None] * count + np.arange(count)
        return draw_bits(stream_key(*self._base, self._calls), positions)

    def uniform(self, low: float, high: float, count: int = 1) -> np.ndarray:
        """Return float32[pictures, count, 1, 1], or float32[pictures, 1, 1] for a count of 1."""
        unit = (self.bits(count) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        values = np.float32(low) + unit * np.float32(high - low)
        return values.reshape((-1, 1, 1) if count == 1 else (-1, count, 1, 1))

    def tilt(self, reach: float) -> tuple[_Plane, _Plane]:
        """Return the cosine and sine of an angle around 0, the tangent of whose half is within `reach` of 0."""
        t = self.uniform(-reach, reach)
        scale = 1 / (1 + t * t)
        return (1 - t * t) * scale, 2 * t * scale

    def direction(self) -> tuple[_Plane, _Plane]:
        """Return the cosine and sine of an angle anywhere on the circle."""
        cosine, sine = self.tilt(1)
        half = np.where(self.uniform(0, 1) < 0.5, np.float32(1), np.float32(-1))
        return half * cosine, half * sine


def _disc(u: _Plane, v: _Plane) -> _Plane:
    return np.sqrt(u * u + v * v) - np.float32(0.9)


def _square(u: _Plane, v: _Plane) -> _Plane:
    return np.maximum(abs(u), abs(v)) - np.float32(0.8)


def _triangle(u: _Plane, v: _Plane) -> _Plane:
    """Equilateral: half-planes at distance 0.62 from the center, whose normals are 120 degrees apart."""
    slanted = abs(u) * np.float32(0.8660254) - v * np.float32(0.5)
    return np.maximum(slanted, v) - np.float32(0.62)


def _star(u: _Plane, v: _Plane) -> _Plane:
    """Five points: fold the plane into one tenth of it, where one edge is left."""
    cos36, sin36 = np.float32(0.80901699), np.float32(0.58778525)
    u = abs(u)
    for side in (1, -1):
        over = np.maximum(side * u * cos36 - v * sin36, 0)
        u, v = u - 2 * side * cos36 * over, v + 2 * sin36 * over
    u = abs(u)
    # The edge from the point (0, 1.15) inwards to the notch; its normal has length 1.
    return u * np.float32(0.88) + (v - np.float32(1.15)) * np.float32(0.475)


def _cross(u: _Plane, v: _Plane) -> _Plane:
    long, short = np.maximum(abs(u), abs(v)), np.minimum(abs(u), abs(v))
    return np.maximum(long - np.float32(1.0), short - np.float32(0.36))


_DISTANCES: tuple[Callable[[_Plane, _Plane], _Plane], ...] = (_disc, _square, _triangle, _star, _cross)


def _wave(x: _Plane) -> _Plane:
    """Triangle wave of period 1 between -1 and 1."""
    return abs(x - np.floor(x) - np.float32(0.5)) * 4 - 1


def _coverage(distance: _Plane) -> _Plane:
    """How much of a pixel lies inside of an edge that is `distance` pixels away, negative inside."""
    return np.clip(np.float32(0.5) - distance, 0, 1)


class _Canvas:
    """Pictures float32[n, 3, SIZE, SIZE] of 0..1 that layers are laid upon."""

    def __init__(self, draws: _Draws, n: int) -> None:
        self.draws = draws
        axis = np.arange(SIZE, dtype=np.float32) - np.float32((SIZE - 1) / 2)
        self.x, self.y = axis[None, None, :], axis[None, :, None]
        self.pixels = np.empty((n, 3, SIZE, SIZE), np.float32)

    def lay(self, coverage: _Plane, color: np.ndarray) -> None:
        self.pixels += coverage[:, None] * (color - self.pixels)

    def background(self) -> None:
        """A gradient between two colors in any direction, with faint stripes over it."""
        draws = self.draws
        (c, s), (first, second) = draws.direction(), (draws.uniform(0.25, 0.7, 3) for _ in range(2))
        blend = np.clip((c * self.x + s * self.y) * np.float32(1 / 40) + np.float32(0.5), 0, 1)
        np.add(first, blend[:, None] * (second - first), out=self.pixels)
        (c, s), period = draws.direction(), draws.uniform(4, 9)
        ripple = _wave((c * self.x + s * self.y) / period + draws.uniform(0, 1)) * draws.uniform(0, 0.08)
        self.pixels += ripple[:, None]

    def clutter(self) -> None:
        """One small disc or bar of any color."""
        draws = self.draws
        (c, s) = draws.direction()
        dx, dy = self.x - draws.uniform(-17, 17), self.y - draws.uniform(-17, 17)
        u, v = c * dx + s * dy, c * dy - s * dx
        bar = np.maximum(abs(u) - draws.uniform(4, 10), abs(v) - draws.uniform(0.6, 1.6))
        disc = np.sqrt(dx * dx + dy * dy) - draws.uniform(1.5, 4)
        distance = np.where(draws.uniform(0, 1) < 0.6, bar, disc)
        self.lay(_coverage(distance), draws.uniform(0, 1, 3))

    def subject(self, labels: np.ndarray) -> None:
        """The textured shape that the label names."""
        draws = self.draws
        radius, (c, s) = draws.uniform(8.5, 13), draws.tilt(0.2)
        dx, dy = self.x - draws.uniform(-4, 4), self.y - draws.uniform(-4, 4)
        u, v = (c * dx + s * dy) / radius, (c * dy - s * dx) / radius
        coverage = np.empty(u.shape, np.float32)
        for shape, distance in enumerate(_DISTANCES):
            chosen = labels // len(TEXTURES) == shape
            coverage[chosen] = _coverage(distance(u[chosen], v[chosen]) * radius[chosen])
        (c, s), period = draws.direction(), draws.uniform(5, 8)
        along = _wave((c * dx + s * dy) / period + draws.uniform(0, 1))
        across = _wave((c * dy - s * dx) / period + draws.uniform(0, 1))
        checked = (labels % len(TEXTURES) == 1)[:, None, None]
        texture = np.clip(np.where(checked, along * across, along) * 4 + np.float32(0.5), 0, 1)
        first = draws.uniform(0, 1, 3)
        first += draws.uniform(0.25, 0.95)[:, None] * (_LEANINGS[labels][:, :, None, None] - first)
        step = np.where(first < 0.5, np.float32(1), np.float32(-1)) * draws.uniform(0.25, 0.5, 3)
        self.lay(coverage, first + texture[:, None] * step)

    def finished(self) -> np.ndarray:
        """Return uint8[n, 3, SIZE, SIZE] after light and noise."""
        draws = self.draws
        light, haze = draws.uniform(0.7, 1.0), draws.uniform(0, 0.1)
        pixels = self.pixels * light[:, None] + haze[:, None]
        octets = draws.bits(pixels[0].size // 4).astype("<u8", copy=False).view(np.uint8)
        noise = octets.reshape(len(pixels), 2, 3, SIZE, SIZE).astype(np.float32)
        grain = noise[:, 0] - noise[:, 1]
        pixels = pixels * 255 + grain * draws.uniform(0.04, 0.2)[:, None]
        return np.clip(pixels + np.float32(0.5), 0, 255).astype(np.uint8)


def _labels(seed: int, split: int, n: int) -> np.ndarray:
    """Return int64[n]: every ten pictures in a row are the ten classes in some order."""
    groups = -(-n // len(CLASSES))
    bits = draw_bits(stream_key(seed, split), np.arange(groups * len(CLASSES)))
    return np.argsort(bits.reshape(groups, -1), axis=1, kind="stable").reshape(-1)[:n].astype(np.int64)


def _render_split(seed: int, split: int, n: int) -> Split:
    labels = _labels(seed, split, n)
    images = np.empty((n, 3, SIZE, SIZE), np.uint8)
    for start in range(0, n, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, n))
        indices = np.arange(chunk.start, chunk.stop)
        canvas = _Canvas(_Draws(seed, split, indices), len(indices))
        canvas.background()
        for _ in range(2):
            canvas.clutter()
        canvas.subject(labels[chunk])
        canvas.clutter()
        images[chunk] = canvas.finished()
    return Split(images=images, labels=labels)


def render_synthetic(num_train: int = NUM_TRAIN, num_test: int = NUM_TEST, *, seed: int = 0) -> tuple[Split, Split]:
    """Render the first pictures of both splits.

    Parameters
    ----------
    num_train, num_test : int
        1 or more.
    seed : int
        Another one gives other pictures of the same classes.

    Returns
    -------
    train, test : Split
        uint8[N, 3, 32, 32]; of any first 10 k pictures, k are of each class.
    """
    return _render_split(seed, _TRAIN, num_train), _render_split(seed, _TEST, num_test)
