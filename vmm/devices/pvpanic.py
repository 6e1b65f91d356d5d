"""By which a guest's kernel says that it panicked (ACPI device QEMU0001; ``uapi/misc/pvpanic.h`` of Linux)."""

from __future__ import annotations

from vmm.bus import BusDevice
from vmm.persist import Stateless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PANICKED = 1 << 0
"""The kernel panicked and does nothing more."""
CRASH_LOADED = 1 << 1
"""The kernel panicked and goes on with its crash kernel."""


class PvPanic(BusDevice):
    """One port: reading tells which events are heard, writing reports one."""

    name = "pvpanic"
    saving = Stateless()
    SIZE = 1

    def __init__(self, on_event: Callable[[str], None]) -> None:
        self._on_event = on_event

    def read(self, offset: int, size: int) -> int:
        """The events that are heard."""
        return PANICKED | CRASH_LOADED

    def write(self, offset: int, size: int, value: int) -> None:
        """A panic ends the run.  One with a crash kernel does not: that kernel is to save its dump and reboots."""
        if value & PANICKED:
            self._on_event("panic")
