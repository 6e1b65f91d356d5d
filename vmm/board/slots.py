"""Slots of virtio devices: the common part of mmio and PCI, and PCI's extensions."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.thread import allocate_lock
from vmm.virtio.register_page import PagesAhead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from vmm.board.kvm_vm import Core
    from vmm.board.owned import Owned
    from vmm.bus import Bus, BusDevice
    from vmm.events import EventFd, Loop
    from vmm.memory import GuestMemory
    from vmm.saveable import Saveable
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.transport import Transport

    class HotPlug(Protocol):
        """Hot-plug: devices come and go while the guest runs."""

        def plug(self, device: VirtioDevice) -> Attached:
            """Attach a device, and notify the guest.

            :raises ConfigError: no slot is free; or the device supports only attachment before the start
            """

        def ask_to_leave(self, attached: Attached) -> None:
            """Request that the guest release the device; see :meth:`Attached.wait_gone`."""

        def pull_out(self, attached: Attached) -> None:
            """Remove the device, even while the guest uses it; no effect if it was removed before."""

    class Slots(Protocol):
        """Where virtio devices are put.

        :ivar attached: in the order of attachment
        :ivar hotplug: its hot-plug; None: it has none
        """

        attached: list[Attached]

        @property
        def hotplug(self) -> HotPlug | None: ...

        @property
        def ports(self) -> tuple[tuple[int, int, BusDevice], ...]:
            """Address, size and device of the ports of the slots themselves."""

        @property
        def saved(self) -> list[Saveable]:
            """The state of the slots themselves in a snapshot; restored after the devices in them."""

        @property
        def numbers(self) -> range:
            """The virtio-mmio slots that are in use, for the DSDT."""

        @property
        def windows(self) -> tuple[tuple[int, int], ...]:
            """First address and size of the window that the host bridge forwards to 64-bit BARs."""

        def has_bar(self, device: VirtioDevice) -> bool:
            """The windows of *device* are BARs, which the guest may move."""

        def attach(self, device: VirtioDevice) -> Attached:
            """Put *device* into the next slot.

            :raises ConfigError: no slot is free
            """

        def reset(self) -> None:
            """All devices as after power-on.  No vCPU runs, and the VM is still there."""

        def follow(self) -> None:
            """The VM is a new one."""

        def map_register_pages(self) -> None:
            """Map registers as memory that the guest reads, where possible; done while it runs."""


NOWHERE = (1 << 64) - 1
"""Where a window lies that the guest cannot reach, as the C bus has it."""


class Board:
    """What slots are wired to.

    :ivar native: the C bus (cdata ``struct bus *``)
    :ivar owned: of the machine
    :ivar packed: offer packed virtqueues
    :ivar pages: register pages that exist already
    :ivar restored: the states of all devices will be restored
    """

    __slots__ = ("core", "loop", "memory", "mmio", "native", "owned", "packed", "pages", "restored")

    def __init__(
        self,
        core: Core,
        memory: GuestMemory,
        loop: Loop,
        mmio: Bus,
        native: Any,
        owned: Owned,
        *,
        packed: bool = False,
        pages: PagesAhead | None = None,
        restored: bool = False,
    ) -> None:
        self.core = core
        self.memory = memory
        self.loop = loop
        self.mmio = mmio
        self.native = native
        self.owned = owned
        self.packed = packed
        self.pages = pages or PagesAhead()
        self.restored = restored


class Attached:
    """A virtio device in its slot: the transport, and its bindings in KVM.

    :ivar owned: closed when the device is unplugged: transport, kicks, and the device
    """

    def __init__(self, device: VirtioDevice, transport: Transport, kicks: list[EventFd], owned: Owned) -> None:
        self.device = device
        self.transport = transport
        self.kicks = kicks
        self.owned = owned
        # Held until the guest has released the device
        self._there = allocate_lock()
        self._there.acquire()

    def wait_gone(self, timeout: float) -> bool:
        """Wait until the device was unplugged, at most *timeout* seconds; False if it is still attached."""
        if not self._there.acquire(timeout=timeout):
            return False
        self._there.release()
        return True

    def resize(self) -> None:
        """Of a disk: read the size of its file again and tell the guest."""
        disk: Any = self.device
        disk.resize()

    def set_gone(self) -> None:
        """The device was unplugged, and all of it is closed."""
        self._there.release()


def no_hotplug() -> ConfigError:
    """The error for a machine without hot-plug."""
    return ConfigError("devices come and go only on PCI", code="hotplug", hint='make the machine with transport="pci"')
