"""What comes from a process that a guest may have taken over: read as plain values, and checked."""

from __future__ import annotations

import json

from vmm.errors import ConfigError, ForbiddenCallError, GuestError, HostError, VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TEXT_MAX = 512


def nonsense() -> HostError:
    return HostError("the machine's process sends invalid answers: end it", code="control-answer")


def parsed(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        raise nonsense() from None
    if not isinstance(answer, dict):
        raise nonsense()
    return answer


def text(value: object, most: int = _TEXT_MAX) -> str:
    """Text that is safe to print to a terminal."""
    if not isinstance(value, str):
        raise nonsense()
    return "".join(each if each.isprintable() else "?" for each in value[:most])


def number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise nonsense()
    return value


def lines(value: object) -> str:
    """The same of several lines."""
    if not isinstance(value, str):
        raise nonsense()
    return "\n".join(text(line, 4096) for line in value.split("\n")[:64])


_ERRORS: dict[str, type[VmmError]] = {
    each.default_code: each for each in (ConfigError, HostError, ForbiddenCallError, GuestError)
}


def describe(error: BaseException | None) -> dict[str, Any] | None:
    """An error as plain values; see :func:`error_of`."""
    if error is None:
        return None
    kind = next((name for name, each in _ERRORS.items() if type(error) is each), HostError.default_code)
    message = str(error) if isinstance(error, VmmError) else f"{type(error).__name__}: {error}"
    return {"kind": kind, "error": message, "code": getattr(error, "code", ""), "hint": getattr(error, "hint", "")}


def error_of(told: object) -> VmmError | None:
    if told is None:
        return None
    if not isinstance(told, dict):
        raise nonsense()
    kind = _ERRORS.get(text(told.get("kind")), HostError)
    return kind(lines(told.get("error")), code=text(told.get("code")), hint=text(told.get("hint")))
