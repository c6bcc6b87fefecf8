"""The errors that cnnzoo raises on purpose: one line each, naming the thing, what was expected and what came."""

import difflib
from collections.abc import Iterable


class CnnzooError(Exception):
    """The root of cnnzoo's own errors; commands print it as one line and exit with 1."""


class ConfigError(CnnzooError, ValueError):
    """A setting or an argument is out of its range, or does not fit another one; commands exit with 2."""


class ModelError(CnnzooError, ValueError):
    """A model's name, its options, or the shape of what it is given does not fit; commands exit with 2."""


class DataError(CnnzooError, ValueError):
    """A data set is missing, incomplete or malformed."""


class WeightsError(CnnzooError, ValueError):
    """Weights do not fit the network: missing, unexpected or misshapen names."""


class CheckpointError(CnnzooError, ValueError):
    """A run cannot be resumed: no checkpoint is there, it does not fit the data, or another process has the run."""


class DivergenceError(CnnzooError, ArithmeticError):
    """The loss, a gradient or a weight is no longer finite."""


class FinishedError(CnnzooError):
    """The run that was to be resumed has done all its epochs; the command says so and exits with 0.

    Parameters
    ----------
    message : str
    folder : str
        The run's.
    """

    def __init__(self, message: str, folder: str) -> None:
        super().__init__(message)
        self.folder = folder


class StateError(CnnzooError, RuntimeError, ValueError):
    """A call came in the wrong order, such as a backward pass with no forward pass before it."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean NAME?)" for the nearest of the known names, or nothing where none is near."""
    near = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
