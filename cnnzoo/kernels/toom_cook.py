"""The matrices of Winograd's minimal filtering algorithms, derived exactly from interpolation points.

F(m, r) gives m outputs of a correlation with r taps by n = m + r - 1 multiplications::

    y = A' [(G g) * (B' d)]         d: n inputs, g: r taps, y: m outputs

It is the transpose of the Toom-Cook product of two polynomials, which evaluates both at n - 1 points a_j and at
infinity, multiplies the values and interpolates (Winograd, "Arithmetic Complexity of Computations", SIAM 1980; Lavin
and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016). In two dimensions the algorithm is nested
with itself: Y = A' [(G g G') * (B' d B)] A.

Points that differ in their sign alone give rows, or columns, of the same absolute values: they share most of the work.

At stride 2, three taps fall into two on the inputs of even places, which is F(m, 2), and one on those of odd places,
which takes m multiplications: 2 m + 1 instead of 3 m. So do they in the gradient of the inputs, of which those of odd
places have two taps on the gradients of the outputs, and those of even places one.

Two outputs of three taps depend on four inputs; where two of these are padding, three multiplications serve.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

POINTS = (0, 1, -1, 2, -2)
"""Interpolation points, the first of which are used: the smallest integers, for small rounding errors."""

RationalMatrix = tuple[tuple[Fraction, ...], ...]


class Matrices(NamedTuple):
    """The three transforms of an algorithm with n multiplications, each as it multiplies a column.

    A' [outputs][n], G [at most n][taps], B' [n][inputs]. Where G has fewer rows, all products from its last row's on
    take that one.
    """

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


def derive_strided(m: int) -> Matrices:
    """Return the matrices of m outputs of a correlation with 3 taps at stride 2, from 2 m + 1 inputs."""
    pair = derive(m, 2)
    return Matrices(
        output=_beside(pair.output, _unit_rows(m, m)),
        weights=_spread(pair.weights, 3, (0, 2)) + _unit_rows(1, 3, first=1),
        input=_spread(pair.input, 2 * m + 1, range(0, 2 * m + 1, 2)) + _unit_rows(m, 2 * m + 1, first=1, step=2),
    )


def derive_strided_gradient(m: int) -> Matrices:
    """Return the matrices of the adjoint of 3 taps at stride 2 and padding 1: 2 m outputs from m + 1 inputs.

    The taps are those of `derive_strided` in reversed order. Output 2 k + 1 is tap 0 on input k and tap 2 on input
    k + 1; output 2 k is tap 1 on input k.
    """
    pair = derive(m, 2)
    n = len(pair.input)
    output = [row for odd, even in zip(pair.output, _unit_rows(m, m), strict=True)
              for row in ((Fraction(0),) * n + even, odd + (Fraction(0),) * m)]  # fmt: skip
    return Matrices(
        output=_frozen(output),
        weights=derive_strided(m).weights,
        input=pair.input + _unit_rows(m, m + 1),
    )


def derive_pair() -> Matrices:
    """Return the matrices of both outputs of a correlation with 3 taps, at padding 1, with no more than 2 inputs.

    A product of a 2x2 Toeplitz matrix takes 3 multiplications, the center's tap with the sum of both inputs among them
    (Karatsuba and Ofman, "Multiplication of Multidigit Numbers on Automata", Soviet Physics Doklady 7, 1963).
    """
    return Matrices(
        output=_rational(((0, 1, 1), (1, 1, 0))),
        weights=_rational(((1, -1, 0), (0, 1, 0), (0, -1, 1))),
        input=_rational(((1, 0), (1, 1), (0, 1))),
    )


def _rational(rows) -> RationalMatrix:
    return _frozen([Fraction(c) for c in row] for row in rows)


def _unit_rows(count: int, columns: int, first: int = 0, step: int = 1) -> RationalMatrix:
    """Return rows of zeros with a single 1: row i has it in column first + i * step."""
    return _frozen([Fraction(j == first + i * step) for j in range(columns)] for i in range(count))


def _spread(matrix: RationalMatrix, columns: int, places: Sequence[int]) -> RationalMatrix:
    """Return the matrix with its columns at `places` among `columns`, zeros between them."""
    return _frozen([row[places.index(j)] if j in places else Fraction(0) for j in range(columns)] for row in matrix)


def _beside(a: RationalMatrix, b: RationalMatrix) -> RationalMatrix:
    return tuple(x + y for x, y in zip(a, b, strict=True))


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
