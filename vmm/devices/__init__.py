"""What a PC has that is no virtio device: a serial port, and the registers that end a run.

There is no RTC: a guest takes its time from kvmclock, and a minimal kernel built for this machine has no CMOS driver.
"""

from __future__ import annotations

from vmm.devices.acpi_pm import AcpiPm
from vmm.devices.i8042 import I8042
from vmm.devices.pvpanic import PvPanic
from vmm.devices.serial import Serial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.bus import BusDevice

__all__ = ["I8042", "AcpiPm", "PvPanic", "Serial", "power_devices"]


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
