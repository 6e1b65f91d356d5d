"""Runs static Linux programs on a guest kernel of this project's own, the Sentry."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm_sentry.events import Event
    from pyvmm_sentry.sandbox import Process, Result, SentrySandbox

__all__ = ["Event", "Process", "Result", "SentrySandbox"]


def __getattr__(name: str) -> object:
    """Import what is used: the command starts without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module("pyvmm_sentry.events" if name == "Event" else "pyvmm_sentry.sandbox")
    return getattr(module, name)
