"""Users of a sandbox by name: frameworks name them, and :meth:`~pyvmm_sandbox.Sandbox.run` expects numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm_sandbox.errors import UsageError

if TYPE_CHECKING:
    from pyvmm_sandbox.files import Files


def ids_of(files: Files, user: str) -> str:
    """The ``UID:GID`` of a user in the sandbox's ``/etc/passwd``; a number stays as it is.

    :raises UsageError: it has no user of this name
    """
    if user.isdecimal():
        return user
    for line in files.read("/etc/passwd").decode(errors="replace").splitlines():
        name, *fields = line.split(":")
        if name == user and len(fields) > 2:
            return f"{fields[1]}:{fields[2]}"
    raise UsageError(f"user {user[:80]!r} does not exist in the sandbox", hint="see its /etc/passwd")
