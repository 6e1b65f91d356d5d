"""Comma-separated lists of ``key=value`` and flags, as users type them for a device: one table parses and explains
them.

A device's configuration record has such a table, :class:`Syntax`, which provides its ``parse``, its ``--help`` and its
errors.
"""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.options.sizes import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Convert = Callable[[str, str], Any]
    """Makes a value of what was typed for an option, which is named; raises ConfigError, or ValueError."""


class Key:
    """One key of a list.

    :param name: as it is typed
    :param metavar: placeholder of its value; empty: it has none, and means True
    :param text: its effect, for the help
    :param field: field of the record; empty: the name, with ``_`` for ``-``
    :param convert: converts text to value; None: the text itself
    :param many: it may occur several times; the value is a list
    """

    __slots__ = ("convert", "field", "many", "metavar", "name", "text")

    def __init__(
        self, name: str, metavar: str, text: str, field: str = "", convert: Convert | None = None, *, many: bool = False
    ) -> None:
        self.name = name
        self.metavar = metavar
        self.text = text
        self.field = field or name.replace("-", "_")
        self.convert = convert
        self.many = many

    def shown(self) -> str:
        """As in a usage line: ``queues=N``."""
        return f"{self.name}={self.metavar}" if self.metavar else self.name


class Syntax:
    """The items of a list.

    :param code: prefix of error codes: ``disk`` makes them ``disk-syntax``
    :param text: what the whole list is, for the help
    :param keys: those that it has
    :param first: the first item, which has no key, ``FILE``; empty: there is none
    :param of: kind of *first*, for errors and for shell completion: ``file`` or ``directory``
    """

    __slots__ = ("_code", "first", "keys", "of", "text")

    def __init__(self, code: str, text: str, keys: tuple[Key, ...], first: str = "", of: str = "") -> None:
        self._code = f"{code}-syntax"
        self.text = text
        self.keys = keys
        self.first = first
        self.of = of

    def parse(self, text: str, flag: str) -> dict[str, Any]:
        """The values by field; the first item is ``first``. ``,,`` stands for a comma in a value.

        :raises ConfigError: an unknown option, or an invalid value
        """
        parts = [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]
        values: dict[str, Any] = {}
        if self.first:
            values["first"] = parts.pop(0)
            if not values["first"]:
                raise ConfigError(f"{flag} {text!r}: no {self.of} is named", code=self._code, hint=self.usage(flag))
        table = {key.name: key for key in self.keys}
        for part in parts:
            name, equals, value = part.partition("=")
            key = table.get(name)
            if key is None or bool(key.metavar) != bool(equals):
                raise self._unknown(text, flag, part)
            try:
                converted = key.convert(value, f"{flag} {name}") if key.convert else value if equals else True
            except ValueError:
                raise self._unknown(text, flag, part) from None
            if key.field in values and not key.many:
                raise ConfigError(f"{flag} {text!r}: {name} comes twice", code=self._code, hint=self.usage(flag))
            if key.many:
                values.setdefault(key.field, []).append(converted)
            else:
                values[key.field] = converted
        return values

    def _unknown(self, text: str, flag: str, part: str) -> ConfigError:
        comma = f"; a comma in the {self.of}'s name is written twice" if self.of else ""
        return ConfigError(
            f"{flag} {text!r}: option {part!r} is not known", code=self._code, hint=f"{self.usage(flag)}{comma}"
        )

    def _is_choice(self) -> bool:
        return not self.first and not any(key.metavar for key in self.keys)

    def usage(self, flag: str) -> str:
        """``--disk FILE[,ro][,serial=TEXT]...``"""
        if self._is_choice():
            return f"{flag} {'|'.join(key.name for key in self.keys)}"
        listed = "".join(f"[,{key.shown()}]{'...' if key.many else ''}" for key in self.keys)
        return f"{flag} {self.first}{listed}" if self.first else f"{flag} {listed.replace('[,', '[', 1)}"

    def help(self, flag: str) -> str:
        """For ``--help``: the usage, and a line for each key."""
        how = "one of" if self._is_choice() else "then with commas between" if self.first else "with commas between"
        lines = [f"{flag} {self.first}, {how}:" if self.first else f"{flag}, {how}:"]
        width = max(len(key.shown()) for key in self.keys) + 2
        lines += [f"  {key.shown():<{width}}{key.text}" for key in self.keys]
        return "\n".join(lines)


def number(text: str, _what: str) -> int:
    """Decimal digits, at most nine.

    :raises ValueError: anything else
    """
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(text)
    return int(text)


def word(text: str, _what: str) -> str:
    """Text, and not none.

    :raises ValueError: it is empty
    """
    if not text:
        raise ValueError(text)
    return text


def switch(text: str, _what: str) -> bool:
    """``on`` or ``off``.

    :raises ValueError: anything else
    """
    if text not in ("on", "off"):
        raise ValueError(text)
    return text == "on"


def size(text: str, what: str) -> int:
    """Bytes, as :func:`vmm.options.sizes.parse_size`."""
    return parse_size(text, what)
