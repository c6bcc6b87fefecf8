"""Vector code: runs and single vectors touch nothing but their elements; and all of it is right at every width."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import binding

from cnnzoo.kernels import simd
from cnnzoo.kernels.compile import kernel
from cnnzoo.kernels.vectors import VECTOR_BYTES, copy_run, zero_run
from tests.kernels.pixel_matrix import GUARD, seeds

DTYPES = [np.float32, np.float64]
WIDTHS = {
    "avx2": (32, "haswell", "+avx2,+avx,+fma,+bmi,+bmi2,+sse4.2,+popcnt,+f16c"),
    "sse4.2, no fused multiply-add": (16, "nehalem", "+sse4.2,+popcnt"),
}


@kernel("void(T[::1], i8, T[::1], i8, i8)")
def copy(source, source_at, destination, destination_at, count):
    copy_run(source, source_at, destination, destination_at, count)


@kernel("void(T[::1], i8, i8)")
def zero(destination, destination_at, count):
    zero_run(destination, destination_at, count)


@kernel("void(i8, T[::1], T[::1], T[::1], T[::1], i8, i8)")
def combine(operation, a, b, c, y, at, count):
    """y = an operation on single vectors of a, b and c, elements at .. at + count."""
    a, b, c, y = simd.pointer(a), simd.pointer(b), simd.pointer(c), simd.pointer(y)
    for i in range(0, count, simd.lanes(y)):
        n = count - i
        value, other = simd.load(a, at + i, n), simd.load(b, at + i, n)
        if operation == 0:
            value = simd.add(value, other)
        elif operation == 1:
            value = simd.subtract(value, other)
        elif operation == 2:
            value = simd.multiply_add(value, other, simd.load(c, at + i, n))
        elif operation == 3:
            value = simd.positive_part(value)
        else:
            value = simd.where_positive(value, other)
        simd.store(y, at + i, n, value)


@kernel("void(T[::1], T[::1], i8)")
def load_nothing(x, y, count):
    """y = a vector of `count` <= 0 elements far off x; and a vector of zeros behind it."""
    x, y = simd.pointer(x), simd.pointer(y)
    size = simd.lanes(y)
    simd.prefetch(x, 2**40)
    simd.store(y, 0, size, simd.load(x, 2**40, count))
    simd.store(y, size, size, simd.zeros(y))


OPERATIONS = (
    lambda a, b, c: a + b,
    lambda a, b, c: a - b,
    lambda a, b, c: a * b + c,
    lambda a, b, c: np.where(a <= 0, 0, a),
    lambda a, b, c: np.where(a > 0, b, 0),
)

places = st.integers(0, 9), st.integers(0, 9), st.integers(0, 70)


@pytest.mark.parametrize("dtype", DTYPES)
@given(places=st.tuples(*places), seed=seeds)
def test_runs(dtype, places, seed):
    source_at, at, count = places
    source = np.random.default_rng(seed).standard_normal(source_at + count).astype(dtype)
    expected = np.full(at + count + 40, GUARD, dtype)
    actual = expected.copy()
    expected[at : at + count] = source[source_at:]
    copy(source, source_at, actual, at, count)
    np.testing.assert_array_equal(actual, expected)
    expected[at : at + count // 2] = 0
    zero(actual, at, count // 2)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@given(operation=st.integers(0, len(OPERATIONS) - 1), places=st.tuples(*places[1:]), seed=seeds, in_place=st.booleans())
def test_operations_on_vectors(dtype, operation, places, seed, in_place):
    """Small integers: no rounding, and many zeros. A NaN comes out wherever the operation reads one."""
    at, count = places
    rng = np.random.default_rng(seed)
    a, b, c = rng.integers(-3, 4, (3, at + count)).astype(dtype)
    for operand in (a, b, c):
        operand[rng.random(at + count) < 0.1] = np.nan
    expected = np.full(at + count + 40, GUARD, dtype)
    expected[:at] = a[:at] if in_place else GUARD
    expected[at : at + count] = OPERATIONS[operation](a, b, c)[at:]
    y = np.full(at + count + 40, GUARD, dtype)
    if in_place:
        y[: at + count] = a
        a = y
    combine(operation, a, b, c, y, at, count)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, -1, -70])
def test_a_load_of_nothing_is_zeros_wherever_it_points(dtype, count):
    size = VECTOR_BYTES // np.dtype(dtype).itemsize
    y = np.full(2 * size + 40, GUARD, dtype)
    load_nothing(np.ones(3, dtype), y, count)
    np.testing.assert_array_equal(y[: 2 * size], 0)
    np.testing.assert_array_equal(y[2 * size :], GUARD)


@pytest.mark.parametrize("width", WIDTHS)
def test_products_and_convolutions_at_other_widths(width):
    """Numba compiles for a lesser processor, in a process of its own; kernels are cached for each one apart."""
    vector_bytes, name, features = WIDTHS[width]
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip(f"{width} runs on x86-64, not on {platform.machine()}")
    if not all(binding.get_host_cpu_features().get(feature[1:]) for feature in features.split(",")):
        pytest.skip(f"this processor has no {width}")
    if vector_bytes == VECTOR_BYTES:
        pytest.skip(f"{width} is what the other tests run on here")
    # Kernels of Winograd's algorithm take long to compile: those of one type are run.
    selection = "not networks and not other_widths and not (test_winograd and not (test_tails and float32))"
    files = [f"tests/kernels/test_{name}.py" for name in ("vectors", "gemm", "convolution", "depthwise", "winograd")]
    code = (
        f"import cnnzoo.kernels.vectors, pytest; assert cnnzoo.kernels.vectors.VECTOR_BYTES == {vector_bytes}; "
        f"raise SystemExit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', '-k', {selection!r}, *{files!r}]))"
    )
    environment = os.environ | {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
