"""The registers by which a guest ends its run: ACPI's, the keyboard controller's, and that of a panic."""

from __future__ import annotations

from vmm.bus import BusDevice
from vmm.saveable import Stateless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SLEEP_CONTROL, SLEEP_STATUS, RESET = 0, 1, 2
"""Offsets of the registers."""
SLP_EN = 1 << 5
"""SLEEP_CONTROL_REG: enter the sleep state."""
SLP_TYP_SHIFT = 2
"""SLEEP_CONTROL_REG: three bits, which state."""
SLP_TYP_MASK = 7


class AcpiPm(BusDevice):
    """The three 8-bit registers of hardware-reduced ACPI (6.5, 4: "Reset Register", "Sleep Control and Status"),
    one after the other: SLEEP_CONTROL_REG, SLEEP_STATUS_REG, and the RESET_REG of the FADT.

    :param s5_type: the SLP_TYP that the guest writes for S5, soft off, from ``_S5`` in the DSDT
    :param reset_value: what the guest writes to RESET_REG: RESET_VALUE of the FADT
    """

    name = "acpi-pm"
    saving = Stateless()
    SIZE = 3

    def __init__(self, on_event: Callable[[str], None], *, s5_type: int = 5, reset_value: int = 1) -> None:
        self._on_event = on_event
        self._s5_type = s5_type
        self._reset_value = reset_value

    def read(self, offset: int, size: int) -> int:
        """All read 0: SLP_EN and RESET_REG are write-only, and WAK_STS is never set, as nothing ever wakes up."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Power off on SLP_EN with the type of S5, reboot on the reset value; ignore everything else."""
        # The registers are bytes: a wider access is one to each of them
        for index, byte in enumerate(value.to_bytes(8, "little")[:size], start=offset):
            if index == SLEEP_CONTROL and byte & SLP_EN and byte >> SLP_TYP_SHIFT & SLP_TYP_MASK == self._s5_type:
                self._on_event("poweroff")
            elif index == RESET and byte == self._reset_value:
                self._on_event("reboot")


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
        """A command. A pulse of the reset line (0xFE, as a rule) reboots; other commands do nothing."""
        if value & PULSE == PULSE and not value & RESET_LINE:
            self._on_event("reboot")


PANICKED = 1 << 0
"""The kernel panicked and does nothing more."""
CRASH_LOADED = 1 << 1
"""The kernel panicked and starts its crash kernel."""


class PvPanic(BusDevice):
    """The port that reports a kernel's panic (ACPI device QEMU0001; ``uapi/misc/pvpanic.h`` of Linux): reading returns
    the supported events, writing reports one."""

    name = "pvpanic"
    saving = Stateless()
    SIZE = 1

    def __init__(self, on_event: Callable[[str], None]) -> None:
        self._on_event = on_event

    def read(self, offset: int, size: int) -> int:
        """The events that are heard."""
        return PANICKED | CRASH_LOADED

    def write(self, offset: int, size: int, value: int) -> None:
        """A panic ends the run. A guest with a crash kernel does not: that kernel saves its dump and then reboots."""
        if value & PANICKED:
            self._on_event("panic")


def power_devices(
    on_event: Callable[[str], None], *, i8042: int = 0x64, acpi_pm: int = 0x600, pvpanic: int = 0x505
) -> tuple[tuple[int, int, BusDevice], ...]:
    """The devices by which a guest ends its run, as ``(port, number of ports, device)`` for the PIO bus.

    :param on_event: called with ``poweroff``, ``reboot`` or ``panic``, on the thread of the vCPU that wrote
    :param i8042: the command port of the keyboard controller
    :param acpi_pm: the first of the ports that :class:`AcpiPm` describes
    :param pvpanic: the port of :class:`PvPanic`
    """
    return (
        (i8042, I8042.SIZE, I8042(on_event)),
        (acpi_pm, AcpiPm.SIZE, AcpiPm(on_event)),
        (pvpanic, PvPanic.SIZE, PvPanic(on_event)),
    )
