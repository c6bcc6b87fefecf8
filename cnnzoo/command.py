"""What the commands share: arguments, one-line errors and exit codes."""

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from cnnzoo.config import list_settings
from cnnzoo.errors import CnnzooError, ConfigError, ModelError, suggest
from cnnzoo.interrupts import Interrupt
from cnnzoo.settings import Setting

if TYPE_CHECKING:
    from cnnzoo.training.engine import Engine


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `ConfigError`, so that a wrong argument is reported as any other error is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise ConfigError(message)

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Return the arguments, by default the process's; one that is unknown is refused with the nearest known."""
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            flag = unknown[0].partition("=")[0]
            raise ConfigError(f"{flag}: no such argument{suggest(flag, self._option_string_actions)}")
        return parsed


_METAVARS: dict[Any, str] = {
    int: "N",
    float: "X",
    str: "NAME",
    "init_from": "PATH",
    "data_dir": "DIR",
    "output_dir": "DIR",
}


def add_setting(parser: argparse._ActionsContainer, name: str, default: str | None = None) -> None:
    """Add the flag of a field of `RunConfig`; one that is not said leaves no attribute in what is parsed.

    `default` says in the help what holds then, where it is not the field's own.
    """
    setting = list_settings()[name]
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": _help(setting, default)}
    if setting.kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["type"] = _reader(setting)
        options["metavar"] = (
            "|".join(setting.choices) or _METAVARS.get(name) or _METAVARS[setting.kind] + ",N..." * setting.listed
        )
    parser.add_argument(flag(name), **options)


def flag(name: str) -> str:
    """Return the flag of a setting."""
    return f"--{name.replace('_', '-')}"


def _help(setting: Setting, said_default: str | None) -> str:
    if said_default is not None:
        return f"{setting.help.partition(';')[0]} (default: {said_default})".replace("%", "%%")
    if setting.default is dataclasses.MISSING:
        return setting.help
    default = setting.default
    if default in (None, ()):
        default = "none"
    elif setting.kind is bool:
        default = "yes" if default else "no"
    return f"{setting.help} (default: {default})".replace("%", "%%")


def _reader(setting: Setting) -> Callable[[str], Any]:
    """Return what turns a flag's text into a value; "none" is None, or no element, where a setting may be that."""

    def read(text: str) -> Any:
        if text == "none" and (setting.optional or setting.listed):
            return () if setting.listed else None
        return tuple(map(setting.kind, text.split(","))) if setting.listed else setting.kind(text)

    read.__name__ = setting.kind.__name__  # argparse says "invalid int value"
    return read


def align(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return a line for each row; the first `left` columns to the left, the others, which are numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def run_command(name: str, command: Callable[[], None]) -> int:
    """Call a command and return its exit code, after one line on standard error for what went wrong.

    Parameters
    ----------
    name : str
        What the line begins with.
    command : callable

    Returns
    -------
    int
        0: done. 2: wrong arguments or settings. 1: anything that went wrong while running, bad data included.
        128 and a signal's number: ended by it, 130 by Ctrl-C.
    """
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:
        _drop(sys.stdout)
        return 1
    except REPORTED as error:
        try:
            print(f"{name}: {describe_error(error)}", file=sys.stderr)
        except OSError:
            _drop(sys.stderr)
        return exit_code(error)
    return 0


REPORTED = (CnnzooError, OSError, MemoryError, KeyboardInterrupt)
"""Errors that a command tells of in a line; others are mistakes of this package."""


@contextlib.contextmanager
def told_once(name: str, engine: "Engine") -> Iterator[None]:
    """Have an error within this context told in one line: by rank 0 where all ranks meet one, else by the rank itself.

    `name` is as of `run_command`, within which this stands.
    """

    def describe(error: BaseException) -> tuple[str, int] | None:
        if not isinstance(error, REPORTED):
            return None
        return f"{name}: {engine.place}: {describe_error(error)}", exit_code(error)

    try:
        with engine.together(describe):
            yield
    except REPORTED as error:
        if engine.is_root:
            raise
        raise SystemExit(exit_code(error)) from None


def describe_error(error: BaseException) -> str:
    """Return one line that tells what went wrong."""
    return " ".join(_describe(error).split())


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command that ends by an error; see `run_command`."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + (error.number if isinstance(error, Interrupt) else signal.SIGINT)
    return 2 if isinstance(error, ConfigError | ModelError) else 1


def _drop(stream: TextIO) -> None:
    """Let a stream go nowhere, for its reader has gone: Python's own flush at exit must not complain about that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _describe(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory: {str(error) or 'a smaller batch takes less'}"
    return str(error) or "interrupted"
