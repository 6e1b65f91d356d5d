"""The keyboard controller, as far as it resets the machine."""

from __future__ import annotations

from vmm.bus import BusDevice
from vmm.persist import Stateless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PULSE = 0xF0
"""Commands 0xF0 to 0xFF pulse output lines: those whose bits are 0."""
RESET_LINE = 0x01
"""The output line that is wired to the CPU's reset."""


class I8042(BusDevice):
    """The command and status port (0x64 of a PC) of a controller without a keyboard.

    Status always reads 0: neither data to read nor a command in progress, so a guest that waits before it writes the
    reset command (Linux with ``reboot=k``, or without ACPI) writes it at once.
    """

    name = "i8042"
    saving = Stateless()
    SIZE = 1

    def __init__(self, on_event: Callable[[str], None]) -> None:
        self._on_event = on_event

    def read(self, offset: int, size: int) -> int:
        """The status register."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """A command.  One that pulses the reset line (0xFE, as a rule) reboots; others do nothing."""
        if value & PULSE == PULSE and not value & RESET_LINE:
            self._on_event("reboot")
