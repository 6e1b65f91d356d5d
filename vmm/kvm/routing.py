"""GSI routing: MSI messages beside the pins of the I/O APIC (``KVM_SET_GSI_ROUTING``)."""

from __future__ import annotations

import struct

from vmm.faststart.ctype import u8
from vmm.faststart.thread import allocate_lock
from vmm.kvm import ioctl as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.kvm.vm import Vm

_HEADER = struct.Struct("<II")
_IRQCHIP = struct.Struct("<IIIIII24x")
_MSI = struct.Struct("<IIIIIIII16x")
"""struct kvm_irq_routing_entry: gsi, type, flags, pad, and what the type says; 48 bytes."""
_TYPE_IRQCHIP, _TYPE_MSI = 1, 2
_CHIP_IOAPIC = 2
IOAPIC_PINS = 24
MSI_BASE = 0xFEE0_0000
"""Messages to the megabyte from here on go to local APICs (Intel SDM vol. 3, 11.11)."""
_MSI_MASK = ~0xF_FFFF


class MsiRouter:
    """Binds eventfds to messages; the :class:`~vmm.pci.msix.Vectors` of a VM.  Any thread may call any method.

    An eventfd keeps its GSI and route when it is disconnected, so that masking and unmasking change no routes.
    """

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._lock = allocate_lock()
        self._gsis: dict[int, int] = {}
        self._messages: dict[int, tuple[int, int]] = {}

    def follow(self, vm: Vm) -> None:
        """Serve *vm*, a new one, from now on.  Nothing is connected."""
        with self._lock:
            self._vm = vm
            self._messages.clear()

    def connect(self, fd: int, address: int, data: int) -> int | None:
        """A signal of *fd* sends the message from now on; one that came before is sent now.

        :returns: the GSI; None if no local APIC is at *address*: then the message goes nowhere
        """
        if address & _MSI_MASK != MSI_BASE:
            return None
        with self._lock:
            gsi = self._gsis.get(fd) or self._new_gsi(fd)
            if self._messages.get(gsi) != (address, data):
                self._messages[gsi] = (address, data)
                self._set_routes()
            self._vm.irqfd(fd, gsi)
            return gsi

    def disconnect(self, fd: int, handle: int) -> None:
        """Signals of *fd* have no effect any more."""
        with self._lock:
            self._vm.irqfd(fd, handle, assign=False)

    def release(self, fd: int) -> None:
        """*fd* is about to be closed: KVM disconnects it then, and its GSI is free."""
        with self._lock:
            self._messages.pop(self._gsis.pop(fd, 0), None)

    def _new_gsi(self, fd: int) -> int:
        taken = set(self._gsis.values())
        gsi = IOAPIC_PINS
        while gsi in taken:
            gsi += 1
        self._gsis[fd] = gsi
        return gsi

    def _set_routes(self) -> None:
        entries = [_IRQCHIP.pack(pin, _TYPE_IRQCHIP, 0, 0, _CHIP_IOAPIC, pin) for pin in range(IOAPIC_PINS)]
        for gsi, (address, data) in self._messages.items():
            entries.append(_MSI.pack(gsi, _TYPE_MSI, 0, 0, address & 0xFFFF_FFFF, address >> 32, data, 0))
        table = _HEADER.pack(len(entries), 0) + b"".join(entries)
        argument = (u8 * len(table)).from_buffer_copy(table)
        k.ioctl(self._vm.fd, k.KVM_SET_GSI_ROUTING, argument, f"KVM_SET_GSI_ROUTING of {len(entries)} routes")
