"""The matrices of Winograd's minimal filtering algorithms, derived exactly from interpolation points.

F(m, r) gives m outputs of a correlation with r taps by n = m + r - 1 multiplications::

    y = A' [(G g) * (B' d)]         d: n inputs, g: r taps, y: m outputs

It is the transpose of the Toom-Cook product of two polynomials, which evaluates both at n - 1 points a_j and at
infinity, multiplies the values and interpolates (Winograd, "Arithmetic Complexity of Computations", SIAM 1980; Lavin
and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016). In two dimensions the algorithm is nested
with itself: Y = A' [(G g G') * (B' d B)] A.

Points that differ in their sign alone give rows, or columns, of the same absolute values: they share most of the work.
"""

from fractions import Fraction
from typing import NamedTuple

POINTS = (0, 1, -1, 2, -2)
"""Interpolation points, the first of which are used: the smallest integers, for small rounding errors."""

RationalMatrix = tuple[tuple[Fraction, ...], ...]


class Matrices(NamedTuple):
    """The three transforms of F(m, r), each as it multiplies a column: A' [m][n], G [n][r], B' [n][n]."""

    output: RationalMatrix
    weights: RationalMatrix
    input: RationalMatrix


def derive(m: int, r: int) -> Matrices:
    """Return the matrices of F(m, r), for n = m + r - 1 up to one more than there are points.

    The row of point a_j holds in A the powers of a_j, in G those powers over prod (a_j - a_l), and in B' the
    coefficients of the polynomial prod (x - a_l), both products over l != j; the last row, that of infinity, holds the
    highest power alone, and in B' the product over all points.
    """
    n = m + r - 1
    points = [Fraction(a) for a in POINTS[: n - 1]]
    if len(points) < n - 1:
        raise ValueError(f"F({m}, {r}): expected at most {len(POINTS) + 1} multiplications, got {n}")
    a, g, b = [], [], []
    for j, point in enumerate(points):
        others = points[:j] + points[j + 1 :]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        a.append([point**i for i in range(m)])
        g.append([point**k / scale for k in range(r)])
        b.append([*_polynomial(others), Fraction(0)])
    a.append([Fraction(i == m - 1) for i in range(m)])
    g.append([Fraction(k == r - 1) for k in range(r)])
    b.append(_polynomial(points))
    return Matrices(transpose(a), _frozen(g), _frozen(b))


def transpose(matrix) -> RationalMatrix:
    """Return the transpose of a matrix given by its rows."""
    return _frozen(zip(*matrix, strict=True))


def _frozen(rows) -> RationalMatrix:
    return tuple(tuple(r) for r in rows)


def _polynomial(roots: list[Fraction]) -> list[Fraction]:
    """Return the coefficients of prod (x - root), the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [s - root * c for s, c in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients
