"""What numerical tests share: central differences, the adjoint identity, and bounds on rounding errors."""

import numpy as np


def numerical_gradient(loss, x, step=1e-5):
    """Return the gradient of the scalar `loss()` with respect to the float64 array x, by central differences.

    x is changed in place, an element at a time, and restored. The error is loss''' step^2 / 6 from the cut series and
    about loss * 1e-16 / step from rounding: for losses of order 1, 1e-10 and 1e-11.
    """
    gradient = np.empty_like(x)
    for place in np.ndindex(x.shape):
        original = x[place]
        x[place] = original + step
        above = loss()
        x[place] = original - step
        below = loss()
        x[place] = original
        gradient[place] = (above - below) / (2 * step)
    return gradient


def assert_adjoint(lx, y, x, ly):
    """Assert <Lx, y> = <x, L'y> for float64 arrays, to 1e-12 of the sizes of the vectors multiplied."""
    left, right = np.vdot(lx, y), np.vdot(x, ly)
    size = np.linalg.norm(lx) * np.linalg.norm(y) + np.linalg.norm(x) * np.linalg.norm(ly)
    assert abs(left - right) <= 1e-12 * size, f"<Lx, y> = {left!r}, <x, L'y> = {right!r}"


def rounding(operations, dtype):
    """Return gamma_k = k u / (1 - k u) for k roundings in `dtype` with unit roundoff u.

    A sum of n products, in any order, is within gamma_n sum |a_i b_i| of the exact one (Higham, "Accuracy and
    Stability of Numerical Algorithms", second edition, section 3.1).
    """
    unit = np.finfo(dtype).eps / 2
    return operations * unit / (1 - operations * unit)


def assert_within(actual, expected, bound):
    """Assert |actual - expected| <= bound, element by element."""
    excess = np.abs(np.asarray(actual, dtype=np.float64) - expected) - bound
    assert np.all(excess <= 0), f"{np.count_nonzero(~(excess <= 0))} elements beyond their bound, by {np.max(excess)}"
