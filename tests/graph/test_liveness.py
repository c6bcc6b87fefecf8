"""Lifetimes to offsets: values that live at once never share a byte."""

import itertools
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.graph.liveness import ALIGNMENT, ORDERS, Value, place


@st.composite
def values(draw):
    first = draw(st.integers(0, 12))
    return Value(size=draw(st.integers(0, 1000)), first=first, last=first + draw(st.integers(0, 8)))


def aligned(size):
    return -(-size // ALIGNMENT) * ALIGNMENT


def find_overlaps(values):
    """Return the pairs that live at once and have a byte in common."""
    return [
        (a, b)
        for a, b in itertools.combinations(values, 2)
        if max(a.first, b.first) <= min(a.last, b.last)
        and max(a.offset, b.offset) < min(a.offset + a.size, b.offset + b.size)
    ]


def find_lower_bound(values):
    """Return the most bytes that live at one step, each value rounded up to whole cache lines."""
    steps = range(max((v.last for v in values), default=-1) + 1)
    return max((sum(aligned(v.size) for v in values if v.first <= step <= v.last) for step in steps), default=0)


@given(values=st.lists(values(), max_size=25))
def test_places(values):
    total = place(values)
    assert find_overlaps(values) == []
    assert all(v.offset >= 0 and v.offset % ALIGNMENT == 0 and v.offset + v.size <= total for v in values)
    assert find_lower_bound(values) <= total <= sum(aligned(v.size) for v in values)


@given(values=st.lists(values(), max_size=25))
def test_each_takes_the_lowest_free_place(values):
    with mock.patch("cnnzoo.graph.liveness.ORDERS", ORDERS[:1]):
        place(values)
    placed = []
    for v in sorted(values, key=ORDERS[0]):
        others = [o for o in placed if max(o.first, v.first) <= min(o.last, v.last)]
        ends = sorted({0, *(o.offset + aligned(o.size) for o in others)})
        free = (
            end
            for end in ends
            if all(end + aligned(v.size) <= o.offset or o.offset + aligned(o.size) <= end for o in others)
        )
        assert v.offset == next(free)
        placed.append(v)


@given(values=st.lists(values(), max_size=25))
def test_the_better_order_counts(values):
    sizes = []
    for order in ORDERS:
        with mock.patch("cnnzoo.graph.liveness.ORDERS", (order,)):
            sizes.append(place(values))
    assert place(values) == min(sizes)
    assert find_overlaps(values) == []


@given(values=st.lists(values(), max_size=12))
def test_places_repeat(values):
    offsets = []
    for _ in range(2):
        place(values)
        offsets.append([v.offset for v in values])
    assert offsets[0] == offsets[1]


def test_lives_one_after_the_other_share_a_place():
    values = [Value(640, step, step) for step in range(5)]
    assert place(values) == 640
    assert {v.offset for v in values} == {0}


def test_a_chain_takes_two_places():
    """Each step reads one value and writes the next."""
    values = [Value(640, step, step + 1) for step in range(6)]
    assert place(values) == 2 * 640


def test_gap_between_values_is_used():
    long, early, late, small = Value(1000, 0, 9), Value(640, 0, 3), Value(320, 4, 9), Value(320, 4, 9)
    assert place([long, early, late, small]) == aligned(1000) + 640
    assert sorted([late.offset, small.offset]) == [1024, 1344]


def test_reading_prolongs_a_life_and_never_shortens_it():
    value = Value(1, 2, 5)
    value.read_at(3)
    assert value.last == 5
    value.read_at(7)
    assert (value.first, value.last) == (2, 7)


def test_nothing():
    assert place([]) == 0
    assert place([Value(0, 0, 3)]) == 0
