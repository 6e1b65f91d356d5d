"""Where virtio devices are put: the transport of each, and what KVM and the buses are told of it."""

from __future__ import annotations

from _thread import allocate_lock

from vmm.boot import layout
from vmm.errors import ConfigError
from vmm.events import EventFd
from vmm.machine.kvm_vm import PAGE
from vmm.native import ffi, lib
from vmm.virtio.mmio import MmioTransport
from vmm.virtio.spec import MMIO_INTERRUPT_ACK, MMIO_QUEUE_NOTIFY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.bus import Bus
    from vmm.events import Loop
    from vmm.machine.kvm_vm import Core
    from vmm.memory import GuestMemory
    from vmm.virtio.blk.config import DiskConfig
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.transport import Transport


NOWHERE = (1 << 64) - 1
"""Where a window lies that the guest cannot reach, as the C bus has it."""


class Attached:
    """A virtio device in its slot: the transport and what KVM bound to it."""

    def __init__(self, device: VirtioDevice, transport: Transport, kicks: list[EventFd]) -> None:
        self.device = device
        self.transport = transport
        self.kicks = kicks
        # Held until the guest has let the device go
        self._there = allocate_lock()
        self._there.acquire()

    def wait_gone(self, timeout: float) -> bool:
        """Wait until the device was unplugged, at most *timeout* seconds; False: it is still there."""
        if not self._there.acquire(timeout=timeout):
            return False
        self._there.release()
        return True

    def set_gone(self) -> None:
        """The device was unplugged, and everything of it is closed."""
        self._there.release()


def _only_on_pci() -> ConfigError:
    hint = 'make the machine with transport="pci"'
    return ConfigError("devices come and go only on PCI", code="hotplug", hint=hint)


class Native:
    """A cdata object that is freed when the machine closes."""

    def __init__(self, cdata: Any, free: Any) -> None:
        self._cdata = cdata
        self._free = free

    def close(self) -> None:
        self._free(self._cdata)


class MmioSlots:
    """Devices behind virtio-mmio.

    :param native: the C bus (cdata ``struct bus *``)
    :param closers: of the machine: gets what has to be closed, in the order of its making
    :param packed: offer packed virtqueues
    """

    def __init__(
        self,
        core: Core,
        memory: GuestMemory,
        loop: Loop,
        mmio: Bus,
        native: Any,
        closers: list[Any],
        *,
        packed: bool = False,
    ) -> None:
        self._packed = packed
        self._core = core
        self._memory = memory
        self._loop = loop
        self._mmio = mmio
        self._native = native
        self._closers = closers
        self._pages: list[Any] = []
        self.attached: list[Attached] = []

    windows: tuple[tuple[int, int], ...] = ()
    """No BARs."""

    @property
    def numbers(self) -> range:
        """Of the slots that are taken, for the DSDT."""
        return range(len(self.attached))

    def has_bar(self, device: VirtioDevice) -> bool:
        """Windows are where the machine puts them."""
        return False

    def attach(self, device: VirtioDevice) -> Attached:
        """Put *device* into the next slot.

        :raises ConfigError: no slot is free
        """
        slot = len(self.attached)
        if slot == layout.MMIO_SLOTS:
            raise ConfigError(f"all {layout.MMIO_SLOTS} virtio slots are taken", code="virtio-slots")
        base = layout.mmio_base(slot)
        irq = self._core.irq_line(layout.mmio_gsi(slot))
        kicks = [EventFd() for _ in device.queue_sizes]
        transport = MmioTransport(device, self._memory, self._loop, irq, kicks, packed=self._packed)
        self._closers += [*kicks, transport]
        for index, kick in enumerate(kicks):
            self._core.kick_line(kick.fd, base + MMIO_QUEUE_NOTIFY, 4, index)
        self._mmio.add(base, PAGE, transport)
        page = ffi.from_buffer(transport.page)
        self._closers.append(Native(page, ffi.release))
        lib.bus_add_regpage(self._native, base, PAGE, page, device.used_bit_stays)
        if device.used_bit_stays:
            # Acknowledging it changes nothing: KVM takes the write, and nobody looks at the eventfd
            acks = EventFd()
            self._closers.append(acks)
            self._core.kick_line(acks.fd, base + MMIO_INTERRUPT_ACK, 4, lib.IRQ_VRING)
        attached = Attached(device, transport, kicks)
        self.attached.append(attached)
        self._pages.append(transport.page)
        return attached

    def plug(self, device: VirtioDevice | DiskConfig, cpus: int) -> Attached:
        """
        :raises ConfigError: always: nobody would tell the guest
        """
        raise _only_on_pci()

    def ask_to_leave(self, attached: Attached) -> None:
        """
        :raises ConfigError: always
        """
        raise _only_on_pci()

    def pull_out(self, attached: Attached) -> None:
        """
        :raises ConfigError: always
        """
        raise _only_on_pci()

    def reset(self) -> None:
        """All devices as after power-on.  No vCPU runs, and the VM is still there."""
        for attached in self.attached:
            attached.transport.reset()

    def follow(self) -> None:
        """The VM is a new one."""

    def map_register_pages(self) -> None:
        """Let the guest read registers as memory, without an exit; writes still come as MMIO.

        Done while the guest runs already: until then C answers the reads.
        """
        for slot, page in enumerate(self._pages):
            address = int(ffi.cast("uintptr_t", ffi.from_buffer(page)))
            self._core.map_page(slot, layout.mmio_base(slot), address)
