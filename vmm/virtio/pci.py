"""The virtio-pci transport (virtio 1.2, 4.1): a modern function with MSI-X, or one level-triggered line.

:mod:`~vmm.virtio.pci_layout` says what is where.  C answers reads of the common configuration from
:attr:`PciRegisters.page`, KVM answers notifications.

Interrupts: the configuration and each queue have a ``struct irq`` each, whose descriptor is the eventfd of the vector
that the driver has chosen. Without MSI-X all share one, which the loop converts to the level of the line.
"""

from __future__ import annotations

from vmm.bus import BusDevice
from vmm.events import EventFd
from vmm.native import ffi, lib
from vmm.pci import spec as pci
from vmm.pci.bus import Function
from vmm.pci.msix import Msix
from vmm.saveable import Schema, State, mismatch
from vmm.virtio import spec
from vmm.virtio.device import check_device
from vmm.virtio.driver_state import DriverState
from vmm.virtio.pci_layout import (
    BAR_SIZE,
    CONFIG,
    CONFIG_END,
    ISR,
    MSIX_PBA,
    MSIX_TABLE,
    NOTIFY,
    NOTIFY_END,
    NOTIFY_STRIDE,
    make_config,
    window_of,
)
from vmm.virtio.register_page import PagesAhead
from vmm.virtio.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.events import Loop
    from vmm.memory import GuestMemory
    from vmm.pci.msix import Vectors
    from vmm.virtio.device import VirtioDevice

_ISR_WORD = 0xFFC
"""In :attr:`PciRegisters.page`: where C sets the bits of the ISR status."""
_NO_FD = -1
_SCHEMA = Schema(
    "virtio-pci",
    1,
    {"interrupt_status": "u32", "generation": "u32", "config": "bytes", "vectors": ["u16"], "msix": "state"},
)


class PciRegisters(BusDevice, Function):
    """*device* as a PCI function.  They live until it is unplugged; any thread may call any method.

    :param kicks: one for each of the device's queues: the kick
    :param vectors: where MSI-X messages go
    :param packed: offer packed virtqueues
    :param pages: the pool of pages, if there is one already
    :ivar on_line: sets the level of the function's interrupt line
    :ivar page: the page from which C answers reads of the BAR's first page (4096 bytes, page-aligned)
    :ivar window: the shared memory of BAR 2, or None; devices have at most one
    :ivar kicks: of each queue: the eventfd that a write to its place from :data:`NOTIFY` on signals
    :ivar transport: the device and its driver
    :raises ConfigError: the device's class is malformed
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        loop: Loop,
        kicks: list[EventFd],
        vectors: Vectors,
        *,
        packed: bool = False,
        pages: PagesAhead | None = None,
    ) -> None:
        check_device(device, kicks)
        self.name = device.name
        self.kicks = kicks
        self._device = device
        self._loop = loop
        self._generation = 0
        self._config = b""
        pages = pages or PagesAhead()
        self._registers = pages.take(_ISR_WORD, shared=device.shares_memory)
        self.page = self._registers.page
        self._words = self._registers.words
        _, self.window = window_of(device)
        self.on_line: Callable[[bool], None] = _no_line
        try:
            self.msix = Msix(len(kicks) + 1, vectors)
        except BaseException:
            self._registers.close()
            raise
        status = self._registers.status
        self._irqs = [ffi.new("struct irq *", {"fd": _NO_FD, "status": status}) for _ in range(len(kicks) + 1)]
        self.config_irq: Any = self._irqs[-1]
        self.queue_irqs: list[Any] = self._irqs[:-1]
        self.status_place = self._registers.status_place
        self.sizes = device.queue_sizes  # 4.1.4.3.1: until the driver wants less
        self._vectors = [spec.MSI_NO_VECTOR] * len(self._irqs)
        """The vector of each queue, and last that of the configuration."""
        self.config, self._msix_at, self._window_at = make_config(device, self.msix)
        try:
            self._wire = EventFd()
            try:
                self.transport = Transport(device, memory, loop, kicks, self, packed=packed)
            except BaseException:
                self._wire.close()
                raise
        except BaseException:
            self.msix.close()
            self._registers.close()
            raise
        self._state = self.transport.state
        self.show_config()
        self.show()
        self._update_interrupts()
        loop.add(self._wire.fd, self._on_wire)

    # -- configuration space ---------------------------------------------------------------------------------

    @property
    def trap(self) -> int:
        """The four bytes of the configuration space whose reads have effects."""
        return self._window_at + spec.PCI_CFG_DATA

    def config_read(self, register: int, size: int) -> int:
        with self.transport.lock:
            if register < self.trap + 4 and self.trap < register + size and not self.transport.closed:
                offset, length = self._window()
                if length:
                    self.config.put(self.trap, self._read(offset, length).to_bytes(4, "little"))
            return super().config_read(register, size)

    def config_write(self, register: int, size: int, value: int) -> None:
        with self.transport.lock:
            if self.transport.closed:
                return
            super().config_write(register, size, value)
            if register < self.trap + 4 and self.trap < register + size:
                offset, length = self._window()
                if length:
                    data = self.config.long(self.trap) & (1 << 8 * length) - 1
                    self._write(offset, length, data)
            self._update_interrupts()

    def _window(self) -> tuple[int, int]:
        """Offset and length of the access through the PCI configuration access capability; length 0: none."""
        at = self._window_at
        offset, length = self.config.long(at + spec.PCI_CFG_OFFSET), self.config.long(at + spec.PCI_CFG_LENGTH)
        bad = length not in (1, 2, 4) or offset % length or offset + length > BAR_SIZE
        return (0, 0) if bad or self.config.page[at + spec.PCI_CFG_BAR] else (offset, length)

    # -- the BAR ---------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """The guest's read at *offset* of the BAR."""
        with self.transport.lock:
            return self._read(offset, size)

    def _read(self, offset: int, size: int) -> int:
        if self.transport.closed:
            return (1 << 8 * size) - 1
        if offset < CONFIG:
            return int.from_bytes(self.page[offset : min(offset + size, CONFIG)], "little")
        if offset < ISR:
            return int.from_bytes(self._config[offset - CONFIG : offset - CONFIG + size], "little")
        if offset == ISR:
            # 4.1.4.5: reading takes the bits and lowers the line
            bits = self._words[_ISR_WORD // 4]
            lib.irq_ack(self.config_irq, bits)
            self.on_line(False)
            return bits & 0xFF
        if MSIX_TABLE <= offset < MSIX_PBA:
            return self.msix.read_table(offset - MSIX_TABLE, size)
        if offset >= MSIX_PBA:
            return self.msix.read_pba(offset - MSIX_PBA, size)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """One write by the driver. What is not allowed in this status, or in this form, is ignored."""
        with self.transport.lock:
            if not self.transport.closed:
                self._write(offset, size, value)

    def _write(self, offset: int, size: int, value: int) -> None:
        if offset < CONFIG:
            if (offset, size) in _STATE_REGISTERS:
                _STATE_REGISTERS[offset, size](self._state, value)
                self.show()
            elif (offset, size) in _REGISTERS:
                _REGISTERS[offset, size](self, value)
                self.show()
        elif offset < CONFIG_END:
            at = offset - CONFIG
            # 4.1.3.1: a field is written by its own width, aligned, and wide ones in halves
            if size <= 4 and at % size == 0 and at + size <= len(self._config):
                self.transport.write_config(at, value.to_bytes(size, "little"))
        elif NOTIFY <= offset < NOTIFY_END:
            self.transport.runner.kick((offset - NOTIFY) // NOTIFY_STRIDE)
        elif MSIX_TABLE <= offset < MSIX_PBA:
            self.msix.write_table(offset - MSIX_TABLE, size, value)

    def _write_status(self, value: int) -> None:
        self.transport.write_status(value)

    def _write_config_vector(self, value: int) -> None:
        self._vectors[-1] = value if value < self.msix.count else spec.MSI_NO_VECTOR
        self._update_interrupts()

    def _write_queue_vector(self, value: int) -> None:
        if self._state.selected() is not None:
            self._vectors[self._state.queue_sel] = value if value < self.msix.count else spec.MSI_NO_VECTOR
            self._update_interrupts()

    # -- interrupts ------------------------------------------------------------------------------------------

    def _update_interrupts(self) -> None:
        """Connect every irq to the eventfd of its vector, or to the line's. Workers may be raising meanwhile: they use
        either one."""
        self.msix.set_control(self.config.word(self._msix_at + pci.MSIX_FLAGS))
        before = [irq.fd for irq in self._irqs]
        for irq, vector in zip(self._irqs, self._vectors, strict=True):
            if not self.msix.enabled:
                irq.fd = self._wire.fd
            else:
                irq.fd = _NO_FD if vector == spec.MSI_NO_VECTOR else self.msix.events[vector].fd
        if before != [irq.fd for irq in self._irqs]:
            self.transport.runner.irqs_moved()
        if self.msix.enabled or self.config.command & pci.COMMAND_INTX_DISABLE:
            self.on_line(False)

    def _on_wire(self, _events: int) -> None:
        self._wire.clear()
        with self.transport.lock:
            if self._device.kernel_signals:
                # The device that signalled it leaves this bit to us
                self._words[_ISR_WORD // 4] |= lib.IRQ_VRING
            masked = self.transport.closed or self.msix.enabled or self.config.command & pci.COMMAND_INTX_DISABLE
            if not masked and self._words[_ISR_WORD // 4]:
                self.on_line(True)

    # -- what the transport has them show --------------------------------------------------------------------

    def _set_interrupts(self, bits: int) -> None:
        self._words[_ISR_WORD // 4] = bits
        if not bits:
            self.on_line(False)

    def forget(self) -> None:
        self._vectors[:] = [spec.MSI_NO_VECTOR] * len(self._vectors)
        self._set_interrupts(0)
        self._update_interrupts()

    def raised(self) -> int:
        return sum([int(irq.raised) for irq in self._irqs])

    def show(self) -> None:
        state = self._state
        queue, index = state.selected(), state.queue_sel
        features, half = state.driver_features, state.driver_features_sel
        fields: tuple[int, ...] = (
            state.device_features_sel,
            state.selected_features(),
            state.driver_features_sel,
            features >> 32 * half & 0xFFFF_FFFF if half < 2 else 0,
            self._vectors[-1] | len(state.queues) << 16,
            # A saved index may be one of virtio-mmio's, of 32 bits
            state.status | (self._generation & 0xFF) << 8 | (index & 0xFFFF) << 16,
        )
        if queue is None:
            fields += (spec.MSI_NO_VECTOR << 16, *(0,) * 7)
        else:
            fields = (
                *fields[:6],
                queue.size | self._vectors[index] << 16,
                int(queue.ready) | index << 16,
                *(queue.desc & 0xFFFF_FFFF, queue.desc >> 32),
                *(queue.driver & 0xFFFF_FFFF, queue.driver >> 32),
                *(queue.device & 0xFFFF_FFFF, queue.device >> 32),
            )
        for at, word in enumerate(fields):
            self._words[at] = word  # one 32-bit store: a guest that reads meanwhile sees old or new

    def show_config(self) -> bool:
        """Reads of the space wait for the lock, so the generation and the bytes change together (2.5.1)."""
        config = self._device.read_config()[: CONFIG_END - CONFIG]
        if config == self._config:
            return False
        self._config = config
        self._generation = self._generation + 1 & 0xFFFF_FFFF
        self.show()
        return True

    # -- the host's side -------------------------------------------------------------------------------------

    def reset(self) -> None:
        """The bus is reset."""
        with self.transport.lock:
            self.config_write(self._msix_at + pci.MSIX_FLAGS, 2, 0)
            self.msix.reset()
            self._update_interrupts()

    saving = _SCHEMA

    def save(self) -> State:
        return _SCHEMA.make(
            interrupt_status=self._words[_ISR_WORD // 4],
            generation=self._generation,
            config=self.config.save(),
            vectors=list(self._vectors),
            msix=self.msix.save().plain(),
        )

    def restore(self, state: State) -> None:
        """The bus maps the BAR at the next :meth:`~vmm.pci.bus.PciBus.look_again`."""
        payload = _SCHEMA.read(state, self.name)
        if len(payload["vectors"]) != len(self._vectors) or not self.config.is_like(payload["config"]):
            raise mismatch(self.name, "it is not of such a PCI function")
        self.msix.restore(state.part("msix", self.name), self.name)
        # Further than it was: what the driver has read of the configuration may be old by now
        self._generation = payload["generation"] + 1 & 0xFFFF_FFFF
        self._set_interrupts(payload["interrupt_status"])
        self.config.put(0, payload["config"])
        self._vectors[:] = [v if v < self.msix.count else spec.MSI_NO_VECTOR for v in payload["vectors"]]
        self._update_interrupts()

    def close(self) -> None:
        self.on_line(False)
        self._loop.remove(self._wire.fd)
        for irq in self._irqs:
            irq.fd = _NO_FD
        self.msix.close()
        self._wire.close()
        self._registers.close()


def _no_line(_level: bool) -> None:
    """Of a function that is on no bus."""


def _address(area: str, shift: int) -> Callable[[DriverState, int], None]:
    return lambda state, value: state.write_queue_address(area, shift, value)


def _enable(state: DriverState, value: int) -> None:
    if value == 1:  # 4.1.4.3.2: nothing else may be written
        state.write_queue_ready(1)


_STATE_REGISTERS: dict[tuple[int, int], Callable[[DriverState, int], None]] = {
    # (offset, width): 4.1.3.1 has each field written by its own width, 64-bit ones in halves
    (spec.PCI_COMMON_DFSELECT, 4): DriverState.select_device_features,
    (spec.PCI_COMMON_GFSELECT, 4): DriverState.select_driver_features,
    (spec.PCI_COMMON_GF, 4): DriverState.write_driver_features,
    (spec.PCI_COMMON_Q_SELECT, 2): DriverState.select_queue,
    (spec.PCI_COMMON_Q_SIZE, 2): DriverState.write_queue_size,
    (spec.PCI_COMMON_Q_ENABLE, 2): _enable,
    (spec.PCI_COMMON_Q_DESCLO, 4): _address("desc", 0),
    (spec.PCI_COMMON_Q_DESCHI, 4): _address("desc", 32),
    (spec.PCI_COMMON_Q_AVAILLO, 4): _address("driver", 0),
    (spec.PCI_COMMON_Q_AVAILHI, 4): _address("driver", 32),
    (spec.PCI_COMMON_Q_USEDLO, 4): _address("device", 0),
    (spec.PCI_COMMON_Q_USEDHI, 4): _address("device", 32),
}
_REGISTERS: dict[tuple[int, int], Callable[[PciRegisters, int], None]] = {
    (spec.PCI_COMMON_MSIX, 2): PciRegisters._write_config_vector,
    (spec.PCI_COMMON_STATUS, 1): PciRegisters._write_status,
    (spec.PCI_COMMON_Q_MSIX, 2): PciRegisters._write_queue_vector,
}
"""With those before, every register that can be written; queue_reset is not here, RING_RESET is not offered."""
