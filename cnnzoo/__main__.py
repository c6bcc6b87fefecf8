"""``cnnzoo VERB …`` and ``python -m cnnzoo VERB …``."""

import sys
from collections.abc import Sequence
from importlib import import_module

from cnnzoo.command import Parser, run_command
from cnnzoo.errors import ConfigError, suggest

VERBS = {
    "train": "train a network",
    "evaluate": "test a trained network",
    "predict": "say what pictures show",
    "export": "write a trained network's weights for other programs",
    "data": "get data sets, check them, convert them",
    "warmup": "compile ahead",
    "doctor": "what this machine gives, and what is off",
    "summary": "layers, parameters, multiply-adds and memory of a network",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand over to the verb's module, ``cnnzoo.VERB``, and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in VERBS:
        name = "cnnzoo.data.__main__" if given[0] == "data" else f"cnnzoo.{given[0]}"
        return import_module(name).main(given[1:])
    return run_command("cnnzoo", lambda: _refuse(given))


def _refuse(given: list[str]) -> None:
    """Print the help where that is asked for, else say what was expected."""
    rows = "\n".join(f"  {verb:10} {does}" for verb, does in VERBS.items())
    parser = Parser(
        prog="cnnzoo",
        usage="cnnzoo VERB ...",
        description="Train the classic convolutional networks on a CPU.",
        epilog=f"verbs, each with a --help of its own:\n{rows}",
    )
    parser.add_argument("verb", nargs="?")
    verb = parser.parse(given).verb
    got = f"{verb!r}{suggest(verb, VERBS)}" if verb else "none"
    raise ConfigError(f"expected a verb ({', '.join(VERBS)}), got {got}")


if __name__ == "__main__":
    sys.exit(main())
