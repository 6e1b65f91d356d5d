"""Inspecting a guest from outside: a stub for gdb, and drgn. Imported only when it is needed."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.debug.server import GdbServer as GdbServer
    from vmm.debug.server import GdbTarget as GdbTarget


def __getattr__(name: str) -> object:
    if name not in ("GdbServer", "GdbTarget"):
        raise AttributeError(f"module 'vmm.debug' has no attribute {name!r}")
    from vmm.debug import server

    value: object = getattr(server, name)
    return value
