"""The errors of this package: those of :mod:`vmm`, and those of an agent that does not answer."""

from __future__ import annotations

from vmm import ConfigError, GuestError, HostError, VmmError

__all__ = ["AgentError", "AgentGone", "AgentTimeout", "ConfigError", "GuestError", "HostError", "VmmError", "bad"]

_LONGEST = 1000
"""Characters of an error: what is quoted may be a path of any length."""


def bad(where: str, problem: str, hint: str = "", source: str = "config.json") -> ConfigError:
    """The error for a field of config.json, named as its path: ``process.args``."""
    text = f"{source}: {where}: {problem}" if where else f"{source}: {problem}"
    if not text.isprintable():  # what it quotes may have line feeds, or half of a surrogate pair
        text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"
    return ConfigError(text, code="oci-config", hint=hint)


class AgentError(GuestError):
    """The agent answered a call with an error.

    :ivar status: the name of a gRPC status: ``NOT_FOUND``, ``UNIMPLEMENTED``, ...
    """

    default_code = "agent"

    def __init__(self, message: str, *, status: str = "UNKNOWN", code: str = "", hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.status = status


class AgentTimeout(GuestError):
    """The agent did not answer in time. The message names the call and the sandbox."""

    default_code = "agent-timeout"


class AgentGone(GuestError):
    """The connection to the agent is closed: the virtual machine has ended, or is ending."""

    default_code = "agent-gone"
