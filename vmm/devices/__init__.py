"""The non-virtio devices of a PC: a serial port, and the registers that end a run.

There is no RTC: a guest takes its time from kvmclock, and a minimal kernel built for this machine has no CMOS driver.
"""

from __future__ import annotations

from vmm.devices.power import I8042, AcpiPm, PvPanic, power_devices
from vmm.devices.serial import Serial

__all__ = ["I8042", "AcpiPm", "PvPanic", "Serial", "power_devices"]
