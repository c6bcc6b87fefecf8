"""Cores shared among ranks, and arenas cut into messages."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.training.mpi import cut_buckets, share_cores


@pytest.mark.parametrize(
    ("cores", "threads"),
    [
        ([[0, 1]], [2]),
        ([[0, 1], [0, 1]], [1, 1]),
        ([[0, 1], [0, 1], [0, 1]], [1, 1, 1]),
        ([list(range(8))] * 3, [2, 2, 2]),
        ([[0, 1, 2, 3], [4, 5, 6, 7]], [4, 4]),  # bound by the launcher
        ([[0, 1, 2, 3], [0, 1, 2, 3], [4, 5]], [2, 2, 2]),
    ],
)
def test_ranks_on_a_host_have_no_more_threads_than_cores(cores, threads):
    assert [share_cores(cores, number) for number in range(len(cores))] == threads


@given(elements=st.integers(1, 10**7), largest=st.integers(1, 10**6), least=st.integers(1, 10**5))
def test_buckets_cover_the_arena_in_order(elements, largest, least):
    least = min(least, largest)
    if elements / least > 10**4:
        elements = least * 10**4
    bounds = cut_buckets(elements, largest, least)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == elements
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(bounds))
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) <= largest
    assert min(sizes[:-1], default=least) >= least


def test_last_bucket_is_short():
    """ResNet-18's 44.7 MB in float32: what leaves last is at most 2 MB."""
    bounds = cut_buckets(11_173_962, 25_000_000 // 4, 2**20 // 4)
    assert [round((stop - start) * 4 / 1e6, 1) for start, stop in bounds] == [22.3, 11.2, 5.6, 2.8, 1.4, 1.0, 0.3]
