"""The errors that the package raises.

Every error has a stable :attr:`~VmmError.code` (a short kebab-case word that a program may compare), a message that
names the file, flag or number concerned, and, where there is one, a :attr:`~VmmError.hint` that says what to do.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class VmmError(Exception):
    """The base of all errors of this package."""

    default_code = "error"

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class ConfigError(VmmError):
    """The user's request is impossible: a file, a flag, a number. Raised before anything was changed."""

    default_code = "config"


class HostError(VmmError):
    """The host refused: no usable KVM, out of memory, an ioctl that failed.

    :ivar errno: the errno of the failed call, or 0
    """

    default_code = "host"

    def __init__(self, message: str, *, code: str = "", hint: str = "", errno: int = 0) -> None:
        super().__init__(message, code=code, hint=hint)
        self.errno = errno


class ForbiddenCallError(HostError):
    """A thread of the VMM tried a system call that is not on its list: an attacker has taken it over. Ends the
    machine."""

    default_code = "forbidden-call"


class GuestError(VmmError):
    """The guest broke a rule: a corrupt ring, an entry that KVM refuses. It never ends the VMM itself."""

    default_code = "guest"


def as_answer(error: VmmError) -> dict[str, Any]:
    """The answer to a request that failed with *error*; docs/reference/control.md describes it."""
    return {"error": str(error), "code": error.code, "hint": error.hint, "config": isinstance(error, ConfigError)}


def as_fault(command: str, error: Exception) -> dict[str, Any]:
    """The same if *error* is none of the package's: a fault in its code."""
    text = f"{command}: {type(error).__name__}: {error}"
    return {"error": text, "code": "control-failed", "hint": "it is a fault of pyvmm: report it", "config": False}


def _plain(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is no text")
    return value


def from_answer(answer: dict[str, Any], text: Callable[[object], str] = _plain) -> VmmError:
    """The error of an answer by :func:`as_answer`.

    :param text: makes text of a value, or raises an error if it is none
    :raises TypeError: it is not such an answer
    """
    kind = ConfigError if answer.get("config") is True else HostError
    return kind(text(answer.get("error")), code=text(answer.get("code")), hint=text(answer.get("hint")))
