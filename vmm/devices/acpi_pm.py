"""Power-off and reset of hardware-reduced ACPI (ACPI 6.5, chapter 4: "Reset Register", "Sleep Control and Status").

A machine without the PM1 registers of a chip set has three 8-bit registers: SLEEP_CONTROL_REG, SLEEP_STATUS_REG, and
the RESET_REG of the FADT.
"""

from __future__ import annotations

from vmm.bus import BusDevice
from vmm.persist import Stateless

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
    """The three registers, one after the other.

    :param s5_type: what the guest writes as SLP_TYP for S5, soft off: what the DSDT says in ``_S5``
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
        """Power off on SLP_EN with the type of S5, reboot on the reset value; nothing else does anything."""
        # The registers are bytes: a wider access is one to each of them
        for index, byte in enumerate(value.to_bytes(8, "little")[:size], start=offset):
            if index == SLEEP_CONTROL and byte & SLP_EN and byte >> SLP_TYP_SHIFT & SLP_TYP_MASK == self._s5_type:
                self._on_event("poweroff")
            elif index == RESET and byte == self._reset_value:
                self._on_event("reboot")
