"""Command lines in runc's syntax, which is Go's: ``-bundle``, ``--bundle`` and ``--bundle=DIR`` are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm_kata.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FLAG, VALUE, NUMBER, LIST = "flag", "value", "number", "list"


def parse(
    arguments: Sequence[str], options: Mapping[str, str], aliases: Mapping[str, str], command: str
) -> tuple[dict[str, Any], list[str]]:
    """Options up to ``--`` or the first word that is not an option; and the other words.

    :param options: the type of each, by name; without the option, its value is False, empty, 0 or an empty tuple
    :param aliases: names of options by further names
    :raises ConfigError: an option is unknown, or has no value
    """
    blank: dict[str, Any] = {FLAG: False, VALUE: "", NUMBER: 0, LIST: ()}
    found: dict[str, Any] = {name: blank[kind] for name, kind in options.items()}
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        given, equals, value = word.lstrip("-").partition("=")
        name = aliases.get(given, given)
        kind = options.get(name)
        if kind is None:
            raise ConfigError(
                f"{command}: option {word} is not known",
                code="oci-usage",
                hint=f"there are {', '.join(f'--{known}' for known in options) or 'none'}",
            )
        if kind == FLAG:
            found[name] = value.lower() not in ("false", "0") if equals else True
            continue
        if not equals:
            if not rest:
                raise ConfigError(f"{command}: option {word} needs a value", code="oci-usage")
            value = rest.pop(0)
        found[name] = _convert(kind, value, found[name], f"{command}: option {word}")
    return found, rest


def _convert(kind: str, value: str, before: Any, what: str) -> Any:
    if kind == LIST:
        return (*before, value)
    if kind == VALUE:
        return value
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"{what}: {value!r} is not a number", code="oci-usage") from None


def one_id(rest: Sequence[str], command: str, most: int = 1) -> str:
    """The container's id among the arguments of a command.

    :raises ConfigError: it is missing, or there are more arguments than *most*
    """
    from pyvmm_kata.bundle.checks import check_id

    if not rest:
        raise ConfigError(f"{command}: the container's id is missing", code="oci-usage")
    if len(rest) > most:
        raise ConfigError(f"{command}: {rest[most]!r} is one argument too many", code="oci-usage")
    return check_id(rest[0])
