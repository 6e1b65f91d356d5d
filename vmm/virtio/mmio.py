"""The virtio-mmio transport (virtio 1.2, 4.2), version 2: a page of registers.

**The guest reads from a page of memory**, :attr:`MmioRegisters.page`, without Python and often without an exit; every
register write updates the page for the next read. C shares one word of it: InterruptStatus, which workers set and
InterruptACK clears, is only changed atomically.

**The bit for used buffers is always set in InterruptStatus**, and KVM itself takes the driver's acknowledgement of it,
without an exit to this process: a driver looks at its queues at each interrupt anyway.

**The guest's writes** must be the aligned 32-bit word of the register, in a status in which the driver may write it
(:mod:`~vmm.virtio.driver_state`); everything else is ignored.
"""

from __future__ import annotations

from vmm.bus import BusDevice
from vmm.native import ffi, lib
from vmm.saveable import Schema, State
from vmm.virtio import spec
from vmm.virtio.device import check_device
from vmm.virtio.driver_state import DriverState
from vmm.virtio.register_page import PagesAhead
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
# Words of the page: one 32-bit store each, so that a guest that reads meanwhile sees old or new
_MAGIC, _DEVICE_FEATURES = spec.MMIO_MAGIC // 4, spec.MMIO_DEVICE_FEATURES // 4
_QUEUE_NUM_MAX, _QUEUE_READY = spec.MMIO_QUEUE_NUM_MAX // 4, spec.MMIO_QUEUE_READY // 4
_INTERRUPT_STATUS, _STATUS = spec.MMIO_INTERRUPT_STATUS // 4, spec.MMIO_STATUS // 4
_SHM_LEN, _SHM_BASE = spec.MMIO_SHM_LEN_LOW // 4, spec.MMIO_SHM_BASE_LOW // 4
_CONFIG_GENERATION = spec.MMIO_CONFIG_GENERATION // 4
_SCHEMA = Schema("virtio-mmio", 1, {"interrupt_status": "u32", "generation": "u32", "region": "u32"})


class MmioRegisters(BusDevice):
    """*device* behind a register page.  They live as long as the machine; any thread may call any method.

    :param irq: interrupts the guest
    :param kicks: one for each of the device's queues: the kick
    :param packed: offer packed virtqueues
    :param pages: the pool of pages, if there is one already
    :param restored: a state will be restored before anybody reads the page: until then it shows no state
    :ivar page: the register page (4096 bytes, page-aligned, writable); it stays valid after :meth:`close`
    :ivar transport: the device and its driver
    :raises ConfigError: the device's class is malformed
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
        pages: PagesAhead | None = None,
        restored: bool = False,
    ) -> None:
        check_device(device, kicks)
        self.name = device.name
        self._device = device
        self._generation = 0
        self._config_size = 0
        self._region = 0
        pages = pages or PagesAhead()
        self._registers = pages.take(spec.MMIO_INTERRUPT_STATUS, shared=device.shares_memory)
        self.page = self._registers.page
        self._words = self._registers.words
        self.config_irq: Any = ffi.new("struct irq *", {"fd": irq.fd, "status": self._registers.status})
        self.queue_irqs = [self.config_irq] * len(kicks)
        self.status_place = self._registers.status_place
        self.sizes = (0,) * len(kicks)
        words = self._words
        words[_MAGIC] = spec.MMIO_MAGIC_VALUE
        words[_MAGIC + 1] = spec.MMIO_VERSION_VALUE
        words[_MAGIC + 2] = device.device_id
        words[_MAGIC + 3] = VENDOR_ID
        try:
            self.transport = Transport(device, memory, loop, kicks, self, packed=packed)
        except BaseException:
            self._registers.close()
            raise
        self._state = self.transport.state
        if not restored:
            self._select_region(0)
            self.forget()
            self.show()
            self.show_config()

    # -- the guest's side ------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read from the page; C answers reads itself, so this is for buses in Python."""
        return int.from_bytes(self.page[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """One write by the driver. What is not allowed in this status, or in this form, is ignored."""
        with self.transport.lock:
            if self.transport.closed:
                return
            if offset >= spec.MMIO_CONFIG:
                self._write_config(offset - spec.MMIO_CONFIG, size, value)
            elif size != 4:
                return
            elif offset in _STATE_REGISTERS:
                _STATE_REGISTERS[offset](self._state, value & _MASK32)
                self.show()
            elif offset in _REGISTERS:
                _REGISTERS[offset](self, value & _MASK32)

    def _write_status(self, value: int) -> None:
        self.transport.write_status(value)

    def _select_region(self, value: int) -> None:
        self._region = value
        region = self._device.regions.get(value)
        # 4.2.2: no region has a length of all ones
        length, base = (-1, -1) if region is None else (region.size, region.gpa)
        words = self._words
        words[_SHM_LEN] = length & _MASK32
        words[_SHM_LEN + 1] = length >> 32 & _MASK32
        words[_SHM_BASE] = base & _MASK32
        words[_SHM_BASE + 1] = base >> 32 & _MASK32

    def _notify(self, value: int) -> None:
        # Only without an ioeventfd
        self.transport.runner.kick(value)

    def _acknowledge(self, value: int) -> None:
        lib.irq_ack(self.config_irq, value & ~lib.IRQ_VRING)

    def _write_config(self, offset: int, size: int, value: int) -> None:
        # 4.2.2.2: a field is written by its own width, aligned, and wide ones in halves
        if size <= 4 and offset % size == 0 and offset + size <= self._config_size:
            self.transport.write_config(offset, (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little"))

    # -- what the transport has them show --------------------------------------------------------------------

    def _set_interrupts(self, bits: int) -> None:
        self._words[_INTERRUPT_STATUS] = bits | lib.IRQ_VRING

    def forget(self) -> None:
        self._set_interrupts(0)

    def raised(self) -> int:
        return int(self.config_irq.raised)

    def show(self) -> None:
        state, words = self._state, self._words
        queue = state.selected()
        words[_DEVICE_FEATURES] = state.selected_features()
        words[_QUEUE_NUM_MAX] = 0 if queue is None else self._device.queue_sizes[state.queue_sel]
        words[_QUEUE_READY] = 0 if queue is None else int(queue.ready)
        words[_CONFIG_GENERATION] = self._generation
        words[_STATUS] = state.status

    def show_config(self) -> bool:
        """A driver that reads a field in two halves reads the generation before and after (2.5.1). So it changes before
        the first byte does, and again together with the bytes.
        """
        config = self._device.read_config()[: spec.MMIO_SIZE - spec.MMIO_CONFIG]
        self._config_size = len(config)
        if self.page[spec.MMIO_CONFIG : spec.MMIO_CONFIG + len(config)] == config:
            return False
        self._words[_CONFIG_GENERATION] = self._generation + 1 & _MASK32
        self._generation = self._generation + 2 & _MASK32
        start, end = spec.MMIO_CONFIG_GENERATION, spec.MMIO_CONFIG + len(config)
        self.page[start:end] = self._generation.to_bytes(4, "little") + config
        return True

    # -- the host's side -------------------------------------------------------------------------------------

    saving = _SCHEMA

    def save(self) -> State:
        return _SCHEMA.make(
            interrupt_status=self._words[_INTERRUPT_STATUS] & ~lib.IRQ_VRING,
            generation=self._generation,
            region=self._region,
        )

    def restore(self, state: State) -> None:
        payload = _SCHEMA.read(state, self.name)
        # Further than it was: what the driver has read of the configuration may be old by now
        self._generation = payload["generation"] + 1 & _MASK32
        self._set_interrupts(payload["interrupt_status"])
        self._select_region(payload["region"])

    def close(self) -> None:
        self._registers.close()


def _address(area: str, shift: int) -> Callable[[DriverState, int], None]:
    return lambda state, value: state.write_queue_address(area, shift, value)


_STATE_REGISTERS: dict[int, Callable[[DriverState, int], None]] = {
    spec.MMIO_DEVICE_FEATURES_SEL: DriverState.select_device_features,
    spec.MMIO_DRIVER_FEATURES_SEL: DriverState.select_driver_features,
    spec.MMIO_DRIVER_FEATURES: DriverState.write_driver_features,
    spec.MMIO_QUEUE_SEL: DriverState.select_queue,
    spec.MMIO_QUEUE_NUM: DriverState.write_queue_size,
    spec.MMIO_QUEUE_READY: DriverState.write_queue_ready,
    spec.MMIO_QUEUE_DESC_LOW: _address("desc", 0),
    spec.MMIO_QUEUE_DESC_HIGH: _address("desc", 32),
    spec.MMIO_QUEUE_DRIVER_LOW: _address("driver", 0),
    spec.MMIO_QUEUE_DRIVER_HIGH: _address("driver", 32),
    spec.MMIO_QUEUE_DEVICE_LOW: _address("device", 0),
    spec.MMIO_QUEUE_DEVICE_HIGH: _address("device", 32),
}
_REGISTERS: dict[int, Callable[[MmioRegisters, int], None]] = {
    spec.MMIO_QUEUE_NOTIFY: MmioRegisters._notify,
    spec.MMIO_INTERRUPT_ACK: MmioRegisters._acknowledge,
    spec.MMIO_SHM_SEL: MmioRegisters._select_region,
    spec.MMIO_STATUS: MmioRegisters._write_status,
}
"""With those before, every register that can be written.  QueueReset is not here, RING_RESET is not offered."""
