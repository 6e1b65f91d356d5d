"""Frozen records as plain values (dictionaries, lists, numbers, text, bytes), and back, with each type checked.

A record becomes a dictionary with its class's name under :data:`KIND`. The reverse follows the annotations of the
class, so a file cannot introduce a value of another type, an unknown field or an unlisted class.
"""

from __future__ import annotations

from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Kinds = Mapping[str, type]

KIND = "record"
_SIMPLE: dict[str, type] = {"str": str, "int": int, "bool": bool, "float": float, "bytes": bytes}


def plain(value: Any) -> Any:
    """*value*, a record or a part of one, as plain values."""
    names = getattr(value, "__record_names__", None)
    if names is not None:
        return {KIND: type(value).__name__, **{name: plain(getattr(value, name)) for name in names}}
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if value is None or isinstance(value, (str, int, float, bytes)):
        return value
    raise TypeError(f"{type(value).__name__} has no plain form")


def made(value: Any, annotation: str, kinds: Kinds, where: str) -> Any:
    """What :func:`plain` was given.

    :param annotation: the wanted type, as an annotation names it
    :param kinds: the permitted records, by their names
    :param where: what an error names
    :raises ConfigError: it is something else
    """
    simple = _SIMPLE.get(annotation)
    if simple is not None and type(value) is simple:
        return value
    options = _split(annotation, "|")
    if len(options) > 1:
        return _one_of(value, options, kinds, where)
    if annotation == "Any":
        return value
    if annotation == "None":
        if value is None:
            return None
    elif annotation in _SIMPLE:
        wanted = _SIMPLE[annotation]
        # True is an int to Python, and no number to a file
        if isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool):
            return value
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
    elif annotation.startswith("tuple[") and annotation.endswith(", ...]"):
        if isinstance(value, list):
            inner = annotation[len("tuple[") : -len(", ...]")]
            if inner in _SIMPLE and all(type(each) is _SIMPLE[inner] for each in value):
                return tuple(value)
            return tuple(made(each, inner, kinds, f"{where}[{index}]") for index, each in enumerate(value))
    elif annotation.startswith("tuple["):
        each = _split(annotation[len("tuple[") : -1], ",")
        if isinstance(value, list) and len(value) == len(each):
            return tuple(
                made(part, kind, kinds, f"{where}[{n}]") for n, (part, kind) in enumerate(zip(value, each, strict=True))
            )
    elif annotation.startswith("dict["):
        if isinstance(value, dict):
            key, inner = _split(annotation[len("dict[") : -1], ",")
            if key in _SIMPLE and inner in _SIMPLE:
                first, second = _SIMPLE[key], _SIMPLE[inner]
                if all(type(k) is first and type(v) is second for k, v in value.items()):
                    return dict(value)
            return {made(k, key, kinds, where): made(v, inner, kinds, f"{where}[{k!r:.40}]") for k, v in value.items()}
    elif annotation in kinds:
        return _record(value, annotation, kinds, where)
    else:
        raise TypeError(f"{where}: no rule for {annotation}")
    raise _wrong(value, annotation, where)


def _one_of(value: Any, options: list[str], kinds: Kinds, where: str) -> Any:
    if value is None and "None" in options:
        return None
    rest = [option for option in options if option != "None"]
    if isinstance(value, dict) and isinstance(value.get(KIND), str):
        kind = kinds.get(value[KIND], object)
        rest = [option for option in rest if option in kinds and issubclass(kind, kinds[option])]
    for option in rest:
        if len(rest) == 1:
            return made(value, option, kinds, where)
        try:
            return made(value, option, kinds, where)
        except ConfigError:
            continue
    raise _wrong(value, " | ".join(options), where)


def _record(value: Any, name: str, kinds: Kinds, where: str) -> Any:
    given = value.get(KIND) if isinstance(value, dict) else None
    if not isinstance(given, str) or given not in kinds or not issubclass(kinds[given], kinds[name]):
        raise _wrong(value, name, where)
    name = given
    types: dict[str, str] = kinds[name].__record_types__  # type: ignore[attr-defined]
    unknown = [key for key in value if key not in types and key != KIND]
    if unknown:
        raise ConfigError(f"{where}: {name} has no field {unknown[0]!r:.60}", code="snapshot-format")
    fields = {key: made(value[key], types[key], kinds, f"{where}.{key}") for key in types if key in value}
    try:
        return kinds[name](**fields)
    except TypeError as error:  # a field without a default is missing
        raise ConfigError(f"{where}: {error}", code="snapshot-format") from error


def _wrong(value: Any, annotation: str, where: str) -> ConfigError:
    return ConfigError(f"{where}: {type(value).__name__} where {annotation} is wanted", code="snapshot-format")


_split_before: dict[tuple[str, str], list[str]] = {}
"""Annotations are few, and the same for all clones."""


def _split(text: str, sign: str) -> list[str]:
    """Split *text* at each *sign* outside brackets, and strip blanks."""
    if sign not in text:
        return [text.strip()]
    if (found := _split_before.get((text, sign))) is not None:
        return found
    parts: list[str] = []
    depth, start = 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == sign and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
    return _split_before.setdefault((text, sign), [*parts, text[start:].strip()])
