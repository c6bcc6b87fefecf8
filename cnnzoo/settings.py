"""What a setting is: its type, its range, its default and its help, declared with the field that holds it."""

import dataclasses
import math
import numbers
import operator
import os
import types
import typing
from dataclasses import dataclass, field
from typing import Any


class _Unsaid:
    def __repr__(self) -> str:
        return "<by the recipe>"


UNSAID: Any = _Unsaid()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of a setting beside its name.

    Attributes
    ----------
    group : str
        Heading under which the commands list it.
    help : str
        One line.
    kind : type
        bool, int, float or str; of each element of a list.
    listed : bool
        The value is a tuple of numbers.
    optional : bool
        None is a value of it.
    default : object
        Where no recipe says otherwise.
    choices : tuple of str
        The only values; empty where there is no such list.
    minimum, below : float
        minimum <= value < below, for numbers.
    """

    group: str
    help: str
    kind: type
    listed: bool
    optional: bool
    default: Any
    choices: tuple[str, ...]
    minimum: float
    below: float

    @property
    def expected(self) -> str:
        """What a value has to be, in words."""
        if self.choices:
            words = f"one of {', '.join(self.choices)}"
        elif self.kind in (int, float):
            words = "a whole number" if self.kind is int else "a number"
            words += f" of {self.minimum:g} or more" if math.isfinite(self.minimum) else ""
            words += f" and below {self.below:g}" if self.below < 2**31 else ""
        else:
            words = {bool: "True or False", str: "a text"}[self.kind]
        if self.listed:
            words = f"a list, each {words}"
        return f"{words}, or None" if self.optional else words

    def convert(self, value: Any) -> Any:
        """Return the value as a plain Python one of this kind.

        Raises
        ------
        ValueError, TypeError
            It is not of this kind or out of its range.
        """
        if value is None and self.optional:
            return None
        if self.listed:
            if isinstance(value, str):
                raise TypeError
            return tuple(map(self._convert_one, value))
        return self._convert_one(value)

    def _convert_one(self, value: Any) -> Any:
        if isinstance(value, bool) != (self.kind is bool):
            raise TypeError
        if self.kind is str:
            value = os.fspath(value)
            if not isinstance(value, str) or not value or (self.choices and value not in self.choices):
                raise ValueError
        elif self.kind is int:
            value = operator.index(value)
            if abs(value) >= 2**63:
                raise ValueError
        elif self.kind is float:
            if not isinstance(value, numbers.Real):
                raise TypeError
            value = float(value)
        if self.kind in (int, float) and not (self.minimum <= value < self.below):
            raise ValueError
        return value


def declare(
    group: str,
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    choices: tuple[str, ...] = (),
    minimum: float = -math.inf,
    below: float = math.inf,
) -> Any:
    """Declare a field of a dataclass of settings; without a default it has to be said."""
    notes = {"group": group, "help": help, "default": default, "choices": choices, "minimum": minimum, "below": below}
    return field(default=default if default is dataclasses.MISSING else UNSAID, metadata=notes)


def describe_settings(cls: type) -> dict[str, Setting]:
    """Return what is known of each field of a dataclass that was declared with `declare`, in their order."""
    hints = typing.get_type_hints(cls)
    settings = {}
    for item in dataclasses.fields(cls):
        hint = hints[item.name]
        optional, listed = isinstance(hint, types.UnionType), typing.get_origin(hint) is tuple
        kind = typing.get_args(hint)[0] if optional or listed else hint
        settings[item.name] = Setting(kind=kind, listed=listed, optional=optional, **item.metadata)
    return settings
