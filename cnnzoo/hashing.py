"""Random bits as a pure function of integers: the draw for image 7 of epoch 3 needs no draw before it.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) used
by position. Being a few integer operations it gives the same bits on any machine and under any version of NumPy, whose
own generators may change their streams between releases.
"""

from operator import index

import numpy as np

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _mix_int(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def stream_key(*parts: int) -> int:
    """Hash integers, in order, into the key of a stream of 64-bit draws.

    Parameters
    ----------
    *parts : int
        Such as a seed, an epoch and a constant for the purpose; taken modulo 2**64.

    Returns
    -------
    int
        0 <= key < 2**64.
    """
    key = 0
    for part in parts:
        key = _mix_int(((key ^ (index(part) & _MASK)) + _GAMMA) & _MASK)
    return key


def draw_bits(key: int, positions: np.ndarray) -> np.ndarray:
    """Return the draws of a stream at the given positions.

    Parameters
    ----------
    key : int
        From `stream_key`.
    positions : integer array, any shape
        Not negative.

    Returns
    -------
    uint64 array of the same shape
        Position i holds draw i + 1 of SplitMix64 started at `key`.
    """
    z = positions.astype(np.uint64)
    z += np.uint64(1)
    z *= np.uint64(_GAMMA)
    z += np.uint64(key)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def permutation(key: int, n: int) -> np.ndarray:
    """Return a random order of 0..n-1 as int64[n]: the positions of a stream sorted by their draws."""
    return np.argsort(draw_bits(key, np.arange(n)), kind="stable").astype(np.int64, copy=False)
