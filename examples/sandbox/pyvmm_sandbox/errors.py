"""The errors of sandboxes.  A command that fails is a value, and files raise what Python's own files raise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm import VmmError

if TYPE_CHECKING:
    from pyvmm_kata import Container
    from pyvmm_sandbox.code import Execution
    from pyvmm_sandbox.commands import Result


class SandboxError(VmmError):
    """A sandbox cannot do what was asked.  The others are kinds of it.

    :ivar hint: what to do about it, in the imperative
    """

    default_code = "sandbox"


class UsageError(SandboxError):
    """The caller's arguments do not fit together, or the sandbox is closed."""

    default_code = "sandbox-usage"


class SandboxNotFound(SandboxError):
    """No sandbox has this name."""

    default_code = "sandbox-none"


class SandboxGone(SandboxError):
    """The sandbox has ended: its time is over, its machine failed, or somebody has killed it."""

    default_code = "sandbox-gone"


class OutOfMemory(SandboxGone):
    """The sandbox has ended since its programs needed more memory than it has."""

    default_code = "sandbox-memory"


class TooManyCommands(SandboxError):
    """The sandbox runs as many commands at the same time as it can."""

    default_code = "sandbox-full"


class CommandTimeout(SandboxError, TimeoutError):
    """A command was killed since it did not end in time.

    :ivar result: what it has printed until then
    """

    default_code = "sandbox-timeout"

    def __init__(self, message: str, result: Result, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.result = result


class CodeTimeout(SandboxError, TimeoutError):
    """Code was interrupted since it did not end in time.  Its state stays, unless it ignores the interrupt.

    :ivar result: what it has shown until then
    """

    default_code = "sandbox-timeout"

    def __init__(self, message: str, result: Execution, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.result = result


class CommandFailed(SandboxError):
    """A command whose exit status was to be 0 had another.

    :ivar result: its status and what it has printed
    """

    default_code = "sandbox-command"

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


def error_of(container: Container, error: Exception) -> Exception:
    """What an operation's error means, if the sandbox has ended meanwhile."""
    try:
        runs = container.status in ("running", "paused")
    except VmmError:
        runs = False
    if runs and isinstance(error, VmmError) and error.code == "agent-full":
        return TooManyCommands(f"sandbox {container.id} has no room for another command", hint="wait for others to end")
    if runs:
        return error if isinstance(error, VmmError) else SandboxError(str(error))
    return gone(container.id)


def gone(name: str) -> SandboxGone:
    """The error of a sandbox that has ended."""
    return SandboxGone(f"sandbox {name} has ended", hint="its timeout= may be over")
