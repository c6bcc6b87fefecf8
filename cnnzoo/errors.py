"""The errors that cnnzoo raises on purpose: one line each, naming the thing, what was expected and what came."""

import difflib
import re
from collections.abc import Iterable, Sequence


class CnnzooError(Exception):
    """The root of cnnzoo's own errors; commands print it as one line and exit with 1."""


class ConfigError(CnnzooError, ValueError):
    """A setting or an argument is out of its range, or does not fit another one; commands exit with 2."""


class ModelError(CnnzooError, ValueError):
    """A model's name, its options, or the shape of what it is given does not fit; commands exit with 2."""


class DataError(CnnzooError, ValueError):
    """A data set is missing, incomplete or malformed."""


class WeightsError(CnnzooError, ValueError):
    """Weights cannot be read or written, or do not fit the network."""


class WeightsMismatchError(WeightsError):
    """Weights do not fit the network; the message names all that is wrong.

    Parameters
    ----------
    network : str
    missing, unexpected : sequence of str
        Names that the weights have not, and names that the network has not.
    misshapen : dict of str to (tuple of int, tuple of int)
        Names with the shape found and the shape expected.
    mistyped : dict of str to str
        Names with their type, which is not one of real numbers.

    Attributes
    ----------
    missing, unexpected, misshapen, mistyped
        The parameters.
    """

    def __init__(
        self,
        network: str,
        missing: Sequence[str],
        unexpected: Sequence[str],
        misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
        mistyped: dict[str, str],
    ) -> None:
        super().__init__(network, missing, unexpected, misshapen, mistyped)
        self.missing, self.unexpected, self.misshapen, self.mistyped = missing, unexpected, misshapen, mistyped

    def __str__(self) -> str:
        notes = {name: f"{found} instead of {expected}" for name, (found, expected) in self.misshapen.items()}
        kinds = {
            "missing": list_names(self.missing),
            "unexpected": list_names(self.unexpected),
            "misshapen": list_names(list(notes), notes),
            "not of real numbers": list_names(list(self.mistyped), self.mistyped),
        }
        wrong = [f"{kind} {names}" for kind, names in kinds.items() if names]
        return f"weights do not fit {self.args[0]}: {'; '.join(wrong)}"


class CheckpointError(CnnzooError, ValueError):
    """A run cannot be resumed: no checkpoint is there, it does not fit the data, or another process has the run."""


class DivergenceError(CnnzooError, ArithmeticError):
    """The loss, a gradient or a weight is no longer finite."""


class DistributedError(CnnzooError, RuntimeError):
    """The ranks of a run do not have the same data, or cannot work together."""


class FinishedError(CnnzooError):
    """The run that was to be resumed has done all its epochs; the command says so and exits with 0.

    Parameters
    ----------
    message : str
    folder : str
        The run's.
    """

    def __init__(self, message: str, folder: str) -> None:
        super().__init__(message, folder)
        self.folder = folder

    def __str__(self) -> str:
        return self.args[0]


class StateError(CnnzooError, RuntimeError, ValueError):
    """A call came in the wrong order, such as a backward pass with no forward pass before it."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean NAME?)" for the nearest of the known names, or nothing where none is near."""
    near = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


MOST_NAMES = 8
"""So many names are listed one by one."""


def list_names(names: Sequence[str], notes: dict[str, str] | None = None) -> str:
    """Return names for a message: one by one where they are few, else how many they are, and all of them folded.

    Parameters
    ----------
    names : sequence of str
        Of parameters, as "layer1.0.bn1.weight".
    notes : dict of str to str, optional
        What to say of each name, behind it; of many, of the first one.
    """
    noted = [f"{name} {notes[name]}" if notes else name for name in names]
    if len(names) <= MOST_NAMES:
        return ", ".join(noted)
    example = f" (as {noted[0]})" if notes else ""
    return f"{len(names)}{example}: {fold_names(names)}"


def fold_names(names: Iterable[str]) -> str:
    """Return names with dots as a shell's braces abbreviate them: "conv.{weight,bias}, layer{1..3}.weight"."""
    tree: dict[str, dict] = {}
    for name in names:
        node = tree
        for part in name.split("."):
            node = node.setdefault(part, {})
        node[""] = {}  # a name ends here
    return ", ".join(_fold(tree))


def _fold(tree: dict[str, dict]) -> list[str]:
    """Return one text for all branches that go on alike."""
    branches: dict[str, list[str]] = {}
    for part, below in tree.items():
        if part:
            branches.setdefault(_fold_rest(below), []).append(part)
    return [_brace(parts) + rest for rest, parts in branches.items()]


def _fold_rest(tree: dict[str, dict]) -> str:
    longer = _fold(tree)
    if not longer:
        return ""
    rest = f".{_brace(longer)}"
    return f"{{,{rest}}}" if "" in tree else rest


def _brace(texts: list[str]) -> str:
    if len(texts) == 1:
        return texts[0]
    if len(texts) > 2 and (numbered := re.fullmatch(r"(.*?)(\d+)", texts[0])):
        word, first = numbered.groups()
        last = int(first) + len(texts) - 1
        if texts == [f"{word}{number}" for number in range(int(first), last + 1)]:
            return f"{word}{{{first}..{last}}}"
    return f"{{{','.join(texts)}}}"
