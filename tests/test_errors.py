"""Names in messages: what a shell makes of their braces are the names again."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnzoo.errors import fold_names, list_names


def expand(text):
    """Return the words that a shell's brace expansion makes of a word."""
    depth, start = 0, text.find("{")
    if start < 0:
        return [text]
    commas = [start]
    for end, character in enumerate(text[start:], start):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 1:
            commas.append(end)
        if depth == 0:
            break
    inside = [text[a + 1 : b] for a, b in zip(commas, [*commas[1:], end], strict=True)]
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", inside[0]):
        inside = [str(number) for number in range(int(numbers[1]), int(numbers[2]) + 1)]
    return [
        text[:start] + middle + rest for part in inside for middle in expand(part) for rest in expand(text[end + 1 :])
    ]


def split_words(text):
    """Return the words between which ", " stands."""
    return text.split(", ")


PARTS = st.sampled_from(["a", "b", "weight", "bias", *(f"{word}{n}" for word in ("", "bn", "0") for n in range(12))])


@given(st.sets(st.lists(PARTS, min_size=1, max_size=4).map(".".join), min_size=1, max_size=60))
def test_folded_names_expand_to_the_names(names):
    expanded = [name for word in split_words(fold_names(sorted(names))) for name in expand(word)]
    assert sorted(expanded) == sorted(names)


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["fc.weight"], "fc.weight"),
        (["fc.weight", "fc.bias"], "fc.{weight,bias}"),
        (["fc.weight", "conv.weight", "x"], "{fc,conv}.weight, x"),
        (["conv1.w", "conv2.w", "conv3.w", "conv1.b", "conv2.b", "conv3.b"], "conv{1..3}.{w,b}"),
        (["a.0.w", "a.2.w", "a.4.w"], "a.{0,2,4}.w"),
        (["a", "a.b"], "a{,.b}"),
    ],
)
def test_fold(names, folded):
    assert fold_names(names) == folded


def test_many_names_are_counted_and_folded():
    names = [f"layer{n}.weight" for n in range(9)]
    assert list_names(names[:8]) == ", ".join(names[:8])
    assert list_names(names) == "9: layer{0..8}.weight"
    assert list_names(names, dict.fromkeys(names, "of I8")) == "9 (as layer0.weight of I8): layer{0..8}.weight"
    assert list_names([]) == ""
