"""The guest's side of virtio-pci: a real bus with one function on it, found and driven through configuration space.

:class:`PciGuest` takes the register names of virtio-mmio, so that what is written for the one transport runs on the
other.
"""

from __future__ import annotations

import select
from typing import NamedTuple

from tests.driver import TIMEOUT, Guest
from vmm.bus import Bus
from vmm.memory import GuestMemory
from vmm.pci import spec as pci
from vmm.pci.bus import Function, HostBridge, PciBus
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice
from vmm.virtio.pci import PciRegisters
from vmm.virtio.pci_layout import BAR_SIZE

ECAM = 0xE000_0000
WINDOW = (0xC000_0000, 0x1000_0000)
MESSAGE = 0xFEE0_0000

_REGISTERS = {
    spec.MMIO_DEVICE_FEATURES: (spec.PCI_COMMON_DF, 4),
    spec.MMIO_DEVICE_FEATURES_SEL: (spec.PCI_COMMON_DFSELECT, 4),
    spec.MMIO_DRIVER_FEATURES: (spec.PCI_COMMON_GF, 4),
    spec.MMIO_DRIVER_FEATURES_SEL: (spec.PCI_COMMON_GFSELECT, 4),
    spec.MMIO_QUEUE_SEL: (spec.PCI_COMMON_Q_SELECT, 2),
    spec.MMIO_QUEUE_NUM_MAX: (spec.PCI_COMMON_Q_SIZE, 2),
    spec.MMIO_QUEUE_NUM: (spec.PCI_COMMON_Q_SIZE, 2),
    spec.MMIO_QUEUE_READY: (spec.PCI_COMMON_Q_ENABLE, 2),
    spec.MMIO_STATUS: (spec.PCI_COMMON_STATUS, 1),
    spec.MMIO_QUEUE_DESC_LOW: (spec.PCI_COMMON_Q_DESCLO, 4),
    spec.MMIO_QUEUE_DESC_HIGH: (spec.PCI_COMMON_Q_DESCHI, 4),
    spec.MMIO_QUEUE_DRIVER_LOW: (spec.PCI_COMMON_Q_AVAILLO, 4),
    spec.MMIO_QUEUE_DRIVER_HIGH: (spec.PCI_COMMON_Q_AVAILHI, 4),
    spec.MMIO_QUEUE_DEVICE_LOW: (spec.PCI_COMMON_Q_USEDLO, 4),
    spec.MMIO_QUEUE_DEVICE_HIGH: (spec.PCI_COMMON_Q_USEDHI, 4),
    spec.MMIO_CONFIG_GENERATION: (spec.PCI_COMMON_CFGGENERATION, 1),
}


class Wires:
    """In KVM's place: which vectors are connected, and to what message."""

    def __init__(self) -> None:
        self.connected: dict[int, tuple[int, int]] = {}
        self.level = False

    def connect(self, fd: int, address: int, data: int) -> int | None:
        assert fd not in self.connected
        if address >> 20 != MESSAGE >> 20:
            return None
        self.connected[fd] = (address, data)
        return fd

    def disconnect(self, fd: int, handle: int) -> None:
        assert handle == fd
        del self.connected[fd]

    def release(self, fd: int) -> None:
        self.connected.pop(fd, None)

    def set_level(self, level: bool) -> None:
        self.level = level


class Capability(NamedTuple):
    """A virtio capability: where it lies, and what it says."""

    at: int
    offset: int
    length: int


class PciGuest(Guest):
    """A driver with its device behind virtio-pci, with a vector for each queue and one for the configuration."""

    registers: PciRegisters
    window: int | None = None
    """Where the device's shared memory is now."""

    def __init__(self, device: VirtioDevice, *, memory: GuestMemory | None = None, msix: bool = True) -> None:
        self.wires = Wires()
        self.mmio = Bus("mmio")
        self.use_msix = msix
        super().__init__(device, memory=memory)

    def make_registers(self) -> PciRegisters:
        self.bus = PciBus(WINDOW, self._map, self._unmap)
        self.mmio.add(ECAM, 1 << 20, self.bus)
        self.bus.add(HostBridge())
        registers = PciRegisters(self.device, self.memory, self.loop, self.kicks, self.wires, packed=self.packed)
        registers.on_line = self.wires.set_level
        self.slot = self.bus.add(registers, 0 if registers.window is None else registers.window.gpa)
        self.registers = registers
        self.find()
        return registers

    def _map(self, function: Function, number: int, address: int) -> None:
        assert isinstance(function, PciRegisters)
        if number:
            self.window = address
        else:
            self.mmio.add(address, BAR_SIZE, function)

    def _unmap(self, function: Function, number: int, address: int) -> None:
        assert isinstance(function, PciRegisters)
        if number:
            assert self.window == address
            self.window = None
        else:
            self.mmio.remove(function)

    # -- configuration space ---------------------------------------------------------------------------------

    def config_address(self, register: int) -> int:
        return ECAM + (self.slot << pci.ECAM_SHIFT) + register

    def config_read(self, register: int, size: int) -> int:
        return self.mmio.read(self.config_address(register), size)

    def config_write(self, register: int, size: int, value: int) -> None:
        self.mmio.write(self.config_address(register), size, value)

    def find(self) -> None:
        """Enable the function and walk its capabilities."""
        self.config_write(pci.COMMAND, 2, pci.COMMAND_MEMORY | pci.COMMAND_MASTER)
        self.bar = self.config_read(pci.BASE_ADDRESS_0, 4)
        self.virtio: dict[int, Capability] = {}
        self.msix_at = 0
        at = self.config_read(pci.CAPABILITY_LIST, 1)
        while at:
            kind = self.config_read(at, 1)
            if kind == pci.CAP_ID_MSIX:
                self.msix_at = at
            elif kind == pci.CAP_ID_VNDR:
                cfg_type = self.config_read(at + 3, 1)
                place = self.config_read(at + 8, 4), self.config_read(at + 12, 4)
                self.virtio[cfg_type] = Capability(at, *place)
            at = self.config_read(at + 1, 1)

    def set_msix(self, flags: int) -> None:
        self.config_write(self.msix_at + pci.MSIX_FLAGS, 2, flags)

    @property
    def table(self) -> int:
        return self.config_read(self.msix_at + pci.MSIX_TABLE, 4)

    @property
    def pba(self) -> int:
        return self.config_read(self.msix_at + pci.MSIX_PBA, 4)

    def bar_read(self, offset: int, size: int) -> int:
        return self.mmio.read(self.bar + offset, size)

    def bar_write(self, offset: int, size: int, value: int) -> None:
        self.mmio.write(self.bar + offset, size, value)

    def write_vector(self, vector: int, *, data: int = 0, mask: bool = False, address: int = MESSAGE) -> None:
        """As Linux does it: masked, the message, then the mask."""
        at = self.table + 16 * vector
        self.bar_write(at + 12, 4, 1)
        for offset, value in ((0, address & 0xFFFF_FFFF), (4, address >> 32), (8, data), (12, int(mask))):
            self.bar_write(at + offset, 4, value)

    # -- the registers of virtio-mmio ------------------------------------------------------------------------

    def read(self, register: int, size: int = 4) -> int:
        if register >= spec.MMIO_CONFIG:
            return self.bar_read(self.virtio[spec.PCI_CAP_DEVICE_CFG].offset + register - spec.MMIO_CONFIG, size)
        offset, size = _REGISTERS[register]
        return self.bar_read(self.virtio[spec.PCI_CAP_COMMON_CFG].offset + offset, size)

    def write(self, register: int, value: int, size: int = 4) -> None:
        if register >= spec.MMIO_CONFIG:
            at = self.virtio[spec.PCI_CAP_DEVICE_CFG].offset + register - spec.MMIO_CONFIG
            self.bar_write(at, size, value)
        elif register == spec.MMIO_QUEUE_NOTIFY:
            self.bar_write(self.virtio[spec.PCI_CAP_NOTIFY_CFG].offset + 4 * value, 2, value)
        else:
            offset, size = _REGISTERS[register]
            self.bar_write(self.virtio[spec.PCI_CAP_COMMON_CFG].offset + offset, size, value & (1 << 8 * size) - 1)

    def common(self, offset: int, size: int, value: int) -> int:
        """Write a register of the common configuration; returns what it reads as then."""
        self.bar_write(offset, size, value)
        return self.bar_read(offset, size)

    def reset(self) -> None:
        super().reset()
        for event in self.registers.msix.events:
            event.clear()
        self.bar_read(self.virtio[spec.PCI_CAP_ISR_CFG].offset, 1)
        if self.use_msix:
            self.set_msix(pci.MSIX_FLAGS_ENABLE)
            for vector in range(len(self.kicks) + 1):
                self.write_vector(vector, data=0x40 + vector)
            self.common(spec.PCI_COMMON_MSIX, 2, 0)
            for index in range(len(self.kicks)):
                self.common(spec.PCI_COMMON_Q_SELECT, 2, index)
                assert self.common(spec.PCI_COMMON_Q_MSIX, 2, 1 + index) == 1 + index

    # -- interrupts ------------------------------------------------------------------------------------------

    def wait_irq(self, timeout: float = TIMEOUT) -> int:
        """Wait for a vector, or for the line to rise; returns what it means, as InterruptStatus has it."""
        if not self.use_msix:
            self.wait_for("the line", lambda: self.wires.level)
            return self.bar_read(self.virtio[spec.PCI_CAP_ISR_CFG].offset, 1)
        poll = select.poll()
        events = self.registers.msix.events
        for event in events:
            if event.fd in self.wires.connected:
                poll.register(event.fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(timeout * 1000)}
        if not ready:
            raise TimeoutError(f"no interrupt in {timeout} s; status {self.status:#x}") from self.error
        bits = 0
        for vector, event in enumerate(events):
            if event.fd in ready:
                event.clear()
                bits |= spec.INT_VRING if vector else spec.INT_CONFIG
        return bits

    def expect_no_irq(self) -> None:
        self.turn_loop()
        assert not any(event.clear() for event in self.registers.msix.events)
        assert not self.wires.level
