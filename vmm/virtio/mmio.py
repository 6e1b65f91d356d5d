"""The virtio-mmio transport (virtio 1.2, 4.2), version 2: a page of registers.

**What the guest reads comes from a page of memory**, :attr:`MmioTransport.page`, without Python and often
without an exit; every register write leaves the page as the next read must find it.  One word of it belongs
to C as well: InterruptStatus, which workers set and InterruptACK clears, is only ever changed atomically.

**What the guest writes** must be the aligned 32-bit word that the register is, in a status in which the driver
may write it (:mod:`~vmm.virtio.driver_state`); everything else is ignored.
"""

from __future__ import annotations

import mmap
import posix

from vmm.native import ffi, lib
from vmm.virtio import spec
from vmm.virtio.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.events import EventFd, Loop
    from vmm.memory import GuestMemory
    from vmm.virtio.device import VirtioDevice

VENDOR_ID = 0x4D56_5950
"""Reads as "PYVM"."""
_MASK32 = 0xFFFF_FFFF


class MmioTransport(Transport):
    """*device* behind a register page.  Lives as long as the machine; any thread may call any method.

    :ivar page: the register page (4096 bytes, page-aligned, writable); it stays valid after :meth:`close`
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        loop: Loop,
        irq: EventFd,
        kicks: list[EventFd],
        *,
        packed: bool = False,
    ) -> None:
        super().__init__(device, memory, loop, irq, kicks, packed=packed)
        self._page_fd = -1
        if device.shares_memory:
            self._page_fd = posix.memfd_create("registers", posix.MFD_CLOEXEC)
            posix.ftruncate(self._page_fd, spec.MMIO_SIZE)
            self._status_place = (self._page_fd, spec.MMIO_INTERRUPT_STATUS)
        self.page = mmap.mmap(self._page_fd, spec.MMIO_SIZE)
        self._words = memoryview(self.page).cast("I")
        self._kept = lib.IRQ_VRING if device.used_bit_stays else 0
        self._pin: Any = ffi.from_buffer(self.page)
        status = ffi.cast("uint32_t *", self._pin + spec.MMIO_INTERRUPT_STATUS)
        self.native_irq: Any = ffi.new("struct irq *", {"fd": irq.fd, "status": status})
        self._set(spec.MMIO_MAGIC, spec.MMIO_MAGIC_VALUE)
        self._set(spec.MMIO_VERSION, spec.MMIO_VERSION_VALUE)
        self._set(spec.MMIO_DEVICE_ID, device.device_id)
        self._set(spec.MMIO_VENDOR_ID, VENDOR_ID)
        self._select_region(0)
        self._set_interrupts(0)
        self._show()
        self._show_config()

    # -- the guest's side ------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """From the page; C answers reads itself, so this is for buses in Python."""
        return int.from_bytes(self.page[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """One write by the driver.  What it must not do in this status, or not in this way, is ignored."""
        with self._lock:
            if self._closed:
                return
            if offset >= spec.MMIO_CONFIG:
                self._write_config(offset - spec.MMIO_CONFIG, size, value)
            elif size == 4 and offset in _REGISTERS:
                _REGISTERS[offset](self, value & _MASK32)

    def _select_region(self, value: int) -> None:
        region = self.device.regions.get(value)
        # 4.2.2: no region has a length of all ones
        length, base = (-1, -1) if region is None else (region.size, region.gpa)
        self._set(spec.MMIO_SHM_LEN_LOW, length & _MASK32)
        self._set(spec.MMIO_SHM_LEN_HIGH, length >> 32 & _MASK32)
        self._set(spec.MMIO_SHM_BASE_LOW, base & _MASK32)
        self._set(spec.MMIO_SHM_BASE_HIGH, base >> 32 & _MASK32)

    def _notify(self, value: int) -> None:
        # Only without an ioeventfd
        if self._context is not None and value in self._context.queues:
            self._kicks[value].signal()

    def _acknowledge(self, value: int) -> None:
        lib.irq_ack(self.native_irq, value & ~self._kept)

    def _write_config(self, offset: int, size: int, value: int) -> None:
        # 4.2.2.2: a field is written by its own width, aligned, and wide ones in halves
        if size <= 4 and offset % size == 0 and offset + size <= self._config_size:
            self._write_device_config(offset, (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little"))

    def close(self) -> None:
        super().close()
        if self._page_fd >= 0:
            posix.close(self._page_fd)
            self._page_fd = -1

    # -- the page --------------------------------------------------------------------------------------------

    def _set(self, register: int, value: int) -> None:
        self._words[register // 4] = value  # one 32-bit store: a guest that reads meanwhile sees old or new

    def _get_interrupts(self) -> int:
        return self._words[spec.MMIO_INTERRUPT_STATUS // 4] & ~self._kept

    def _set_interrupts(self, bits: int) -> None:
        self._set(spec.MMIO_INTERRUPT_STATUS, bits | self._kept)

    def _show(self) -> None:
        self._set(spec.MMIO_DEVICE_FEATURES, self._selected_features())
        queue = self._selected()
        self._set(spec.MMIO_QUEUE_NUM_MAX, 0 if queue is None else self.device.queue_sizes[self._queue_sel])
        self._set(spec.MMIO_QUEUE_READY, 0 if queue is None else int(queue.ready))
        self._set(spec.MMIO_CONFIG_GENERATION, self._generation)
        self._set(spec.MMIO_STATUS, self._status)

    def _show_config(self) -> bool:
        """A driver that reads a field in two halves takes the generation before and after (2.5.1).  So it
        changes before the first byte does, and again in the same copy as the bytes.
        """
        config = self.device.read_config()[: spec.MMIO_SIZE - spec.MMIO_CONFIG]
        self._config_size = len(config)
        if self.page[spec.MMIO_CONFIG : spec.MMIO_CONFIG + len(config)] == config:
            return False
        self._set(spec.MMIO_CONFIG_GENERATION, self._generation + 1 & _MASK32)
        self._generation = self._generation + 2 & _MASK32
        start, end = spec.MMIO_CONFIG_GENERATION, spec.MMIO_CONFIG + len(config)
        self.page[start:end] = self._generation.to_bytes(4, "little") + config
        return True


def _address(area: str, shift: int) -> Callable[[MmioTransport, int], None]:
    return lambda transport, value: transport._write_queue_address(area, shift, value)


_REGISTERS: dict[int, Callable[[MmioTransport, int], None]] = {
    spec.MMIO_DEVICE_FEATURES_SEL: MmioTransport._select_device_features,
    spec.MMIO_DRIVER_FEATURES_SEL: MmioTransport._select_driver_features,
    spec.MMIO_DRIVER_FEATURES: MmioTransport._write_driver_features,
    spec.MMIO_QUEUE_SEL: MmioTransport._select_queue,
    spec.MMIO_QUEUE_NUM: MmioTransport._write_queue_size,
    spec.MMIO_QUEUE_READY: MmioTransport._write_queue_ready,
    spec.MMIO_QUEUE_DESC_LOW: _address("desc", 0),
    spec.MMIO_QUEUE_DESC_HIGH: _address("desc", 32),
    spec.MMIO_QUEUE_DRIVER_LOW: _address("driver", 0),
    spec.MMIO_QUEUE_DRIVER_HIGH: _address("driver", 32),
    spec.MMIO_QUEUE_DEVICE_LOW: _address("device", 0),
    spec.MMIO_QUEUE_DEVICE_HIGH: _address("device", 32),
    spec.MMIO_QUEUE_NOTIFY: MmioTransport._notify,
    spec.MMIO_INTERRUPT_ACK: MmioTransport._acknowledge,
    spec.MMIO_SHM_SEL: MmioTransport._select_region,
    spec.MMIO_STATUS: MmioTransport._write_status,
}
"""Every register that can be written.  QueueReset is not here, RING_RESET is not offered."""
