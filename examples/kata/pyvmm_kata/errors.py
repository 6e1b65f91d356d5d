"""The errors of this package: those of :mod:`vmm`, and who did not answer."""

from __future__ import annotations

from vmm import ConfigError, GuestError, HostError, VmmError

__all__ = ["AgentError", "AgentGone", "AgentTimeout", "ConfigError", "GuestError", "HostError", "VmmError"]


class AgentError(GuestError):
    """The agent answered a call with an error.

    :ivar status: the name of a gRPC status: ``NOT_FOUND``, ``UNIMPLEMENTED``, ...
    """

    default_code = "agent"

    def __init__(self, message: str, *, status: str = "UNKNOWN", code: str = "", hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.status = status


class AgentTimeout(GuestError):
    """The agent did not answer in time.  The message says which call, of which sandbox."""

    default_code = "agent-timeout"


class AgentGone(GuestError):
    """The connection to the agent is closed: the virtual machine has ended, or is being ended."""

    default_code = "agent-gone"
