"""The benchmark of memory choices: what it measures of a small network, its table, and losses that it refuses."""

import pytest

from benchmarks import memory
from cnnzoo import create_model
from cnnzoo.errors import CnnzooError


def test_a_small_network():
    found = memory.measure("lenet5", 2, 1, rounds=3)
    assert list(found) == list(memory.CHOICES)
    assert found["fast"]["bytes"] == create_model("lenet5").arena_bytes(2, training=True)
    assert all(sorted(of["seconds"])[1] == of["median_seconds"] for of in found.values())


def test_table():
    found = {name: {"bytes": 12_345_678, "median_seconds": 0.5, "seconds": [0.5]} for name in memory.CHOICES}
    _, row, _ = memory.describe({"lenet5": found})
    assert row.split() == ["lenet5", *["12,", "0.500"] * 3]


@pytest.mark.parametrize(
    ("lean", "half", "refused"),
    [
        ([2.0, 1.0], [2.0, 1.5], None),  # rounded activations may change the second step
        ([2.0, 1.5], [2.0, 1.0], "lean"),
        ([2.0, 1.0], [2.5, 1.0], "fast, bfloat16"),
    ],
)
def test_losses_have_to_be_those_of_fast(lean, half, refused):
    losses = {"fast": [2.0, 1.0], "lean": lean, "fast, bfloat16": half}
    if refused is None:
        memory.check("lenet5", losses)
        return
    with pytest.raises(CnnzooError, match=f"lenet5, {refused}: expected the losses of fast"):
        memory.check("lenet5", losses)
