"""Batch norm over several replicas of a network: what each one's sums become when they are added up.

The vectors are short, and added up in float64; the passes over pixel matrices are those of one replica.
"""

from collections.abc import Callable

import numpy as np


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
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told by the loss
        sums = np.append(rows * mean, float(rows))
        add_up(sums)
        total = int(sums[-1])
        merged = sums[:-1] / total
        squares = m2 + rows * (mean - merged) ** 2
    add_up(squares)
    return merged, squares, total


def add_up_sums(sums: np.ndarray, rows: int, add_up: Callable[[np.ndarray], None]) -> tuple[np.ndarray, int]:
    """Return the sums that a gradient depends on, and the rows, of all replicas together.

    Parameters
    ----------
    sums : ndarray of float64
        As `merge_gradient_sums` writes them.
    rows : int
    add_up : callable
        As in `merge_replicas`.
    """
    together = np.append(sums, rows)
    add_up(together)
    return together[:-1], int(together[-1])
