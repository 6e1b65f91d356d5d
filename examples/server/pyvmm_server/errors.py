"""Errors that a client sees: a status and a sentence."""

from __future__ import annotations

import errno
import logging

from starlette.requests import ClientDisconnect

from pyvmm_sandbox import SandboxGone, SandboxNotFound, TooManyCommands, UsageError
from vmm import VmmError

log = logging.getLogger("pyvmm_server")
CODES = {
    "canceled": 499,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "unauthenticated": 401,
    "not_found": 404,
    "already_exists": 409,
    "resource_exhausted": 429,
    "unimplemented": 501,
    "unavailable": 503,
    "deadline_exceeded": 504,
}
"""Codes of the Connect protocol, and their statuses."""
_FILES = {
    errno.ENOENT: (404, "not_found"),
    errno.ENOSPC: (507, "resource_exhausted"),
    errno.EDQUOT: (507, "resource_exhausted"),
    errno.EEXIST: (409, "already_exists"),
}


class ClientError(Exception):
    """The answer is an error.

    :ivar status: of HTTP
    :ivar message: a sentence
    :ivar code: of the Connect protocol
    """

    def __init__(self, status: int, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code or next((name for name, each in CODES.items() if each == status), "unavailable")


def not_there(what: str) -> ClientError:
    """A feature that this server does not have."""
    return ClientError(501, f"{what} is not available on this server")


class Unreachable(ClientError):
    """The node of a sandbox does not answer, for now."""

    def __init__(self, why: object) -> None:
        super().__init__(503, f"the node of the sandbox does not answer: {why}")


class Unstored(ClientError):
    """The database does not answer, for now."""

    def __init__(self, why: object) -> None:
        words = " ".join(str(why).split())[:200]
        super().__init__(503, f"the database does not answer, and what was asked for may be half done: {words}")


def lost(sandbox_id: str, node: str, status: int = 404) -> ClientError:
    """A sandbox whose node is gone."""
    return ClientError(status, f"Sandbox {sandbox_id} was not found: it is lost with its node {node[:16]}")


def gone(sandbox_id: str) -> ClientError:
    """What E2B's proxy reports for a sandbox that has ended; clients look for these words."""
    return ClientError(502, f"The sandbox {sandbox_id[:80]} was not found", code="unavailable")


def describe(error: BaseException) -> ClientError:
    """What a client sees of any error.  One that nobody has thought of is in the log."""
    try:
        if isinstance(error, Exception):
            return translate(error)
    except Exception:
        log.error("unexpected error", exc_info=error)
        return ClientError(503, "the server has failed to answer; its log has the reason")
    raise error


def translate(error: Exception) -> ClientError:
    """What a client sees of an error of the sandbox library.

    :raises Exception: *error* is none of those
    """
    if isinstance(error, ClientError):
        return error
    if isinstance(error, SandboxGone | SandboxNotFound):
        return ClientError(502, f"{error}: the sandbox was not found", code="unavailable")
    if isinstance(error, ClientDisconnect):
        return ClientError(499, "the client has left", code="canceled")
    if isinstance(error, UsageError | UnicodeError):
        return ClientError(400, str(error))
    if isinstance(error, TooManyCommands):
        return ClientError(429, str(error))
    if isinstance(error, VmmError):
        return ClientError(503, str(error))
    if isinstance(error, OSError):
        status, code = _FILES.get(error.errno or 0, (400, "invalid_argument"))
        return ClientError(status, f"{error.filename or 'the server'}: {error.strerror or error}", code=code)
    raise error
