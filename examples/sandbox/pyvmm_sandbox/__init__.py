"""Sandboxes for programs that nobody has checked: each is a virtual machine of its own.

>>> from pyvmm_sandbox import Sandbox
>>> with Sandbox("python:3.13-slim") as box:    # doctest: +SKIP
...     print(box.run("python3 -c 'print(6*7)'").stdout)
42
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm_sandbox.aio import AsyncSandbox, AsyncSandboxPool
    from pyvmm_sandbox.code import Bundle, CodeError, Context, Execution
    from pyvmm_sandbox.commands import Command, Event, Result
    from pyvmm_sandbox.egress.client import Refusal, Traffic
    from pyvmm_sandbox.egress.credentials import Secret
    from pyvmm_sandbox.egress.rules import Network
    from pyvmm_sandbox.errors import (
        CodeTimeout,
        CommandFailed,
        CommandTimeout,
        OutOfMemory,
        SandboxError,
        SandboxGone,
        SandboxNotFound,
        TooManyCommands,
        UsageError,
    )
    from pyvmm_sandbox.files import Change, Entry
    from pyvmm_sandbox.pool import SandboxPool
    from pyvmm_sandbox.ports import Forward
    from pyvmm_sandbox.records import SandboxInfo
    from pyvmm_sandbox.sandbox import Sandbox
    from pyvmm_sandbox.stats import Stats
    from pyvmm_sandbox.template import Template

__all__ = [
    "AsyncSandbox",
    "AsyncSandboxPool",
    "Bundle",
    "Change",
    "CodeError",
    "CodeTimeout",
    "Command",
    "CommandFailed",
    "CommandTimeout",
    "Context",
    "Entry",
    "Event",
    "Execution",
    "Forward",
    "Network",
    "OutOfMemory",
    "Refusal",
    "Result",
    "Sandbox",
    "SandboxError",
    "SandboxGone",
    "SandboxInfo",
    "SandboxNotFound",
    "SandboxPool",
    "Secret",
    "Stats",
    "Template",
    "TooManyCommands",
    "Traffic",
    "UsageError",
]
_MODULES = {
    "AsyncSandbox": "aio",
    "AsyncSandboxPool": "aio",
    "Bundle": "code",
    "Change": "files",
    "CodeError": "code",
    "Command": "commands",
    "Context": "code",
    "Entry": "files",
    "Event": "commands",
    "Execution": "code",
    "Forward": "ports",
    "Network": "egress.rules",
    "Refusal": "egress.client",
    "Result": "commands",
    "Sandbox": "sandbox",
    "SandboxInfo": "records",
    "Secret": "egress.credentials",
    "SandboxPool": "pool",
    "Stats": "stats",
    "Template": "template",
    "Traffic": "egress.client",
}


_EXTENSION = ("load_ipython_extension", "unload_ipython_extension")


def __getattr__(name: str) -> object:
    """Import a name when it is used first: the import of this package is part of each program's start."""
    if name not in (*__all__, *_EXTENSION):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = "magic" if name in _EXTENSION else _MODULES.get(name, "errors")
    return getattr(import_module(f"pyvmm_sandbox.{module}"), name)
