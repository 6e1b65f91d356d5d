"""Runs static Linux programs on a guest kernel of this project's own, the Sentry."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm_sentry.events import Event
    from pyvmm_sentry.forks import Fork, Template
    from pyvmm_sentry.sandbox import Process, Result, SentrySandbox, Until
    from pyvmm_sentry.streams import ProgramError, ProgramTimeout

_HOMES = {
    "Event": "events",
    "Fork": "forks",
    "Process": "sandbox",
    "ProgramError": "streams",
    "ProgramTimeout": "streams",
    "Result": "sandbox",
    "SentrySandbox": "sandbox",
    "Template": "forks",
    "Until": "sandbox",
}
__all__ = ["Event", "Fork", "Process", "ProgramError", "ProgramTimeout", "Result", "SentrySandbox", "Template", "Until"]


def __getattr__(name: str) -> object:
    """Import what is used: the command starts without it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"pyvmm_sentry.{_HOMES[name]}"), name)
