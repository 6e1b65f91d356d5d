"""The same as :mod:`vmm.board.attach_mmio`, for devices behind virtio-pci."""

from __future__ import annotations

from vmm.board.slots import NOWHERE, Attached
from vmm.boot import layout
from vmm.devices.pci_hotplug import PciHotplug
from vmm.errors import ConfigError
from vmm.events import EventFd
from vmm.faststart.thread import allocate_lock
from vmm.kvm.routing import MsiRouter
from vmm.native import ffi, lib
from vmm.pci.bus import HostBridge, PciBus
from vmm.pci.config import WINDOW_BAR
from vmm.virtio.pci import PciRegisters
from vmm.virtio.pci_layout import BAR_SIZE, NOTIFY, NOTIFY_STRIDE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.board.slots import Board
    from vmm.bus import BusDevice
    from vmm.pci.bus import Function
    from vmm.saveable import Saveable
    from vmm.virtio.device import VirtioDevice


class PciSlots:
    """Devices behind virtio-pci, on bus 0.

    :param board: what they are connected to
    """

    numbers = range(0)
    """No virtio-mmio slots."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._core = core = board.core
        mmio, native = board.mmio, board.native
        self._kick_size = 0 if core.any_length else 2
        self._router = MsiRouter(core.vm)
        self._lines: dict[int, set[int]] = {}
        self._lines_lock = allocate_lock()
        self.attached: list[Attached] = []
        self.bus = PciBus((layout.PCI_WINDOW, layout.PCI_WINDOW_SIZE), self._map, self._unmap)
        self._ecam = ffi.new("struct ecam *")
        mmio.add(layout.PCI_ECAM, layout.PCI_ECAM_SIZE, self.bus)
        lib.bus_add_ecam(native, layout.PCI_ECAM, self._ecam)
        self._add(HostBridge(), 0)
        self._numbers: dict[int, Attached] = {}
        self._announcer = PciHotplug(core.irq_line(layout.PCI_HOTPLUG_GSI), self._on_gone)

    @property
    def hotplug(self) -> PciSlots:
        """Devices come and go."""
        return self

    @property
    def ports(self) -> tuple[tuple[int, int, BusDevice], ...]:
        """The registers of hot-plug notifications in both directions."""
        return ((layout.PCI_HOTPLUG, self._announcer.SIZE, self._announcer),)

    @property
    def saved(self) -> list[Saveable]:
        """Which BARs decode, and the pending hot-plug notifications."""
        return [self.bus, self._announcer]

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """First address and size of the window that the host bridge forwards to 64-bit BARs."""
        return tuple(self.bus.windows)

    def has_bar(self, device: VirtioDevice) -> bool:
        """The windows of *device* are BARs, which the guest may move."""
        return bool(device.regions) and not device.tells_regions

    def _add(self, function: Function, trap: int, window: int = 0) -> int:
        slot = self.bus.add(function, window)
        self._ecam.trap[slot] = trap
        self._ecam.page[slot] = ffi.from_buffer(function.config.page)
        return slot

    def attach(self, device: VirtioDevice) -> Attached:
        """Put *device* at the next free device number.

        :raises ConfigError: none is free
        """
        self.bus.check_room()
        board, owned = self._board, self._board.owned.branch()
        kicks = [owned.add(EventFd()) for _ in device.queue_sizes]
        registers = PciRegisters(
            device, board.memory, board.loop, kicks, self._router, packed=board.packed, pages=board.pages
        )
        attached = Attached(device, owned.add(registers.transport), kicks, owned)
        slot = self._add(registers, registers.trap, 0 if registers.window is None else registers.window.gpa)
        registers.on_line = self._line(slot)
        self._numbers[slot] = attached
        self.attached.append(attached)
        return attached

    def plug(self, device: VirtioDevice) -> Attached:
        """:meth:`attach`, and tell the running guest: see :class:`~vmm.board.slots.HotPlug`."""
        if device.regions or (device.shares_memory and self._board.memory.fd < 0):
            raise ConfigError(
                f"{device.name} cannot be plugged in: it has a window, or shares memory that this guest's RAM is not",
                code="hotplug",
                hint="attach it before the start; MemoryConfig(shared=True) makes RAM that can be shared",
            )
        attached = self.attach(device)
        self._announcer.announce(self._number(attached))
        return attached

    def ask_to_leave(self, attached: Attached) -> None:
        """Request that a running guest release the device; see :meth:`Attached.wait_gone`."""
        self._announcer.ask_to_leave(self._number(attached))

    def pull_out(self, attached: Attached) -> None:
        """Remove the device from the bus, even while the guest uses it; no effect if it was removed before."""
        for slot, each in list(self._numbers.items()):
            if each is attached:
                self._on_gone(slot)

    def _number(self, attached: Attached) -> int:
        for slot, each in self._numbers.items():
            if each is attached:
                return slot
        raise ConfigError(f"{attached.device.name} is not attached to this machine", code="not-attached")

    def _on_gone(self, slot: int) -> None:
        """The guest or the host removes device *slot*: stop it, and free all of it."""
        attached = self._numbers.pop(slot, None)
        if attached is None:
            return  # the slot is empty, or it is the host bridge, which stays
        self._ecam.page[slot] = ffi.NULL
        self.bus.remove(slot)
        # A vCPU that reads the page holds the C bus's lock, for which a thread that changes ranges waits
        lib.bus_remove(self._board.native, lib.BUS_MMIO, 1)
        self._announcer.forget(slot)
        self.attached.remove(attached)
        for region in attached.device.regions.values():
            # vCPUs ask it at every exit
            lib.bus_remove_window(self._board.native, region.native)
            if attached.device.tells_regions:
                self._core.unmap_window(region.gpa)
        attached.owned.close()  # the device with its transport
        for each in (attached.owned, attached.device):
            self._board.owned.discard(each)
        attached.set_gone()

    def _line(self, slot: int) -> Callable[[bool], None]:
        """Set the level of device *slot*; the pin is high while one of those that share it is."""
        gsi = layout.pci_gsi(slot)
        users = self._lines.setdefault(gsi, set())

        def set_level(level: bool) -> None:
            # Those that share the pin have locks of their own, and what is told last must be what is so
            with self._lines_lock:
                if level != (slot in users):
                    (users.add if level else users.discard)(slot)
                    if self._core.vm.fd >= 0:
                        self._core.vm.irq_line(gsi, int(bool(users)))

        return set_level

    # -- what decodes --------------------------------------------------------------------------------------------

    def _map(self, function: Function, number: int, address: int) -> None:
        assert isinstance(function, PciRegisters)
        if number == WINDOW_BAR:
            self._map_window(function, address)
            return
        self._board.mmio.add(address, BAR_SIZE, function)
        lib.bus_add_bar(self._board.native, address, BAR_SIZE, ffi.from_buffer(function.page))
        self._kicks(function, address, assign=True)

    def _unmap(self, function: Function, number: int, address: int) -> None:
        assert isinstance(function, PciRegisters)
        if number == WINDOW_BAR:
            self._unmap_window(function, address)
            return
        self._kicks(function, address, assign=False)
        lib.bus_remove(self._board.native, lib.BUS_MMIO, address)
        self._board.mmio.remove(function)

    def _map_window(self, function: PciRegisters, address: int) -> None:
        window = function.window
        assert window is not None
        self._core.map_window(address, window.size, window.host_address, window.read_only)
        lib.bus_move_window(self._board.native, window.native, address)

    def _unmap_window(self, function: PciRegisters, address: int) -> None:
        assert function.window is not None
        lib.bus_move_window(self._board.native, function.window.native, NOWHERE)
        self._core.unmap_window(address)

    def _kicks(self, function: PciRegisters, address: int, *, assign: bool) -> None:
        for index, kick in enumerate(function.kicks):
            where = address + NOTIFY + index * NOTIFY_STRIDE
            self._core.vm.ioeventfd(kick.fd, where, self._kick_size, None, assign=assign)

    def reset(self) -> None:
        """Reset all devices to the state after power-on: nothing decodes, no vector is connected. No vCPU runs, and the
        VM is still there."""
        for attached in self.attached:
            attached.transport.reset()
        self.bus.reset()
        self._announcer.reset()

    def follow(self) -> None:
        """The VM is a new one."""
        self._router.follow(self._core.vm)
        for users in self._lines.values():
            users.clear()

    def map_register_pages(self) -> None:
        """Nothing to map: a running driver reads no registers."""
