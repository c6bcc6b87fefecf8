"""Batch norm over several replicas of a network: what each one's sums become when they are added up.

The vectors are short, and added up in float64; the passes over pixel matrices are those of one replica.
"""

from collections.abc import Callable

import numpy as np

from cnnzoo.kernels.blocks import block_count, block_rows


def merge_replicas(
    mean: np.ndarray, m2: np.ndarray, rows: int, add_up: Callable[[np.ndarray], None]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return mean, M2 and rows of all replicas together.

    Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979, for all
    replicas at once: mean = sum n_k mean_k / n, M2 = sum M2_k + n_k (mean_k - mean)^2.

    Parameters
    ----------
    mean, m2 : float64[channels]
        Of this replica's rows; they stay as they are.
    rows : int
    add_up : callable
        Replaces an array by the sum of all replicas' arrays.

    Returns
    -------
    mean, m2 : float64[channels]
    rows : int
    """
    sums = np.append(rows * mean, float(rows))
    add_up(sums)
    total = int(sums[-1])
    merged = sums[:-1] / total
    squares = m2 + rows * (mean - merged) ** 2
    add_up(squares)
    return merged, squares, total


def find_coefficients(
    partials: np.ndarray,
    rows: int,
    gamma: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    add_up: Callable[[np.ndarray], None],
) -> None:
    """Write a, b and c of dx = a dz + b x + c by the sums of all replicas: steps 4 to 6 of `kernels.batch_norm`.

    `partials` are those of `batch_norm_backward_sums`, of this replica's `rows` rows. The gradients of gamma and beta
    stay those of this replica, to be added up with all others.
    """
    channels = gamma.size
    blocks = block_count(rows, block_rows(channels))
    own = partials[: blocks * 2 * channels].reshape(blocks, 2 * channels)
    sums = np.append(own.sum(axis=0, dtype=np.float64), float(rows))
    add_up(sums)
    total = sums[-1]
    sum_dz, sum_dz_xhat = np.split(sums[:-1], 2)
    slope = gamma.astype(np.float64) * inv_std
    of_x = -slope * inv_std * sum_dz_xhat / total
    a[:], b[:], c[:] = slope, of_x, -slope * sum_dz / total - of_x * mean
