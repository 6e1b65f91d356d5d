"""The registers by which ACPI's methods learn which PCI devices come and go; they are ours, as the DSDT is."""

from __future__ import annotations

from vmm.bus import BusDevice
from vmm.faststart.thread import allocate_lock
from vmm.saveable import Schema, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.events import EventFd

CAME, LEAVE, GONE = 0, 4, 8
"""Offsets: bits of device numbers that are new, and that should go (reading clears them); writing a bit to the last
takes the device off the bus."""
_SCHEMA = Schema("pci-hotplug", 1, {"came": "u32", "leave": "u32"})


class PciHotplug(BusDevice):
    """Three registers of 32 bits, one bit for each device number.  Any thread may call any method.

    :param irq: interrupts the guest, which then reads the registers
    :param on_gone: called with the number of a device that the guest has released, on the thread of the vCPU that wrote
    """

    name = "pci-hotplug"
    saving = _SCHEMA
    SIZE = 12

    def __init__(self, irq: EventFd, on_gone: Callable[[int], None]) -> None:
        self._irq = irq
        self._on_gone = on_gone
        self._lock = allocate_lock()
        self._bits = {CAME: 0, LEAVE: 0}

    def announce(self, slot: int) -> None:
        """A device now exists at *slot*."""
        self._set(CAME, slot)

    def ask_to_leave(self, slot: int) -> None:
        """Request that the guest release the device at *slot*."""
        self._set(LEAVE, slot)

    def _set(self, register: int, slot: int) -> None:
        with self._lock:
            self._bits[register] |= 1 << slot
        self._irq.signal()

    def forget(self, slot: int) -> None:
        """Withdraw all pending notifications about *slot*."""
        with self._lock:
            for register in self._bits:
                self._bits[register] &= ~(1 << slot)

    def reset(self) -> None:
        """A guest that restarts finds the existing devices by itself."""
        with self._lock:
            self._bits = dict.fromkeys(self._bits, 0)

    def save(self) -> State:
        """The notifications that the guest has not read yet."""
        with self._lock:
            return _SCHEMA.make(came=self._bits[CAME], leave=self._bits[LEAVE])

    def restore(self, state: State) -> None:
        payload = _SCHEMA.read(state, self.name)
        with self._lock:
            self._bits = {CAME: payload["came"], LEAVE: payload["leave"]}
        if payload["came"] or payload["leave"]:
            self._irq.signal()  # it may have been told and not looked yet

    def read(self, offset: int, size: int) -> int:
        if size != 4 or offset not in self._bits:
            return 0
        with self._lock:
            bits, self._bits[offset] = self._bits[offset], 0
            return bits

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == GONE and size == 4:
            for slot in range(32):
                if value >> slot & 1:
                    self._on_gone(slot)
