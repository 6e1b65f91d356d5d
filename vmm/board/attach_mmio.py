"""The slots of virtio devices: the transport of each, and its registration with KVM and the buses."""

from __future__ import annotations

from vmm.board.kvm_vm import PAGE
from vmm.board.owned import Native
from vmm.board.slots import Attached
from vmm.boot import layout
from vmm.errors import ConfigError
from vmm.native import ffi, lib
from vmm.virtio.mmio import MmioRegisters
from vmm.virtio.spec import MMIO_INTERRUPT_ACK, MMIO_QUEUE_NOTIFY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.board.slots import Board
    from vmm.saveable import Saveable
    from vmm.virtio.device import VirtioDevice


class MmioSlots:
    """Devices behind virtio-mmio.

    :param board: what they are connected to
    """

    hotplug = None
    """The guest would not be told."""
    ports = ()

    def __init__(self, board: Board) -> None:
        self._board = board
        self.saved: list[Saveable] = []
        self._pages: list[Any] = []
        self.attached: list[Attached] = []

    windows: tuple[tuple[int, int], ...] = ()
    """No BARs."""

    @property
    def numbers(self) -> range:
        """The slots that are in use, for the DSDT."""
        return range(len(self.attached))

    def has_bar(self, device: VirtioDevice) -> bool:
        """The machine assigns the addresses of windows."""
        return False

    def attach(self, device: VirtioDevice) -> Attached:
        """Put *device* into the next slot.

        :raises ConfigError: no slot is free
        """
        slot = len(self.attached)
        if slot == layout.MMIO_SLOTS:
            raise ConfigError(f"all {layout.MMIO_SLOTS} virtio slots are taken", code="virtio-slots")
        board, owned = self._board, self._board.owned.branch()
        base = layout.mmio_base(slot)
        irq = board.core.irq_line(layout.mmio_gsi(slot))
        notify, ack = base + MMIO_QUEUE_NOTIFY, base + MMIO_INTERRUPT_ACK
        kicks = [owned.add(board.core.new_kick(notify, 4, index)) for index in range(len(device.queue_sizes))]
        registers = MmioRegisters(
            device,
            board.memory,
            board.loop,
            irq,
            kicks,
            packed=board.packed,
            pages=board.pages,
            restored=board.restored,
        )
        owned.add(registers.transport)
        for index, kick in enumerate(kicks):
            board.core.kick_line(kick.fd, notify, 4, index)
        board.mmio.add(base, PAGE, registers)
        page = ffi.from_buffer(registers.page)
        owned.add(Native(page, ffi.release))
        lib.bus_add_regpage(board.native, base, PAGE, page)
        # Acknowledging this bit changes nothing: KVM takes the write, and the eventfd is not read
        acks = owned.add(board.core.new_kick(ack, 4, lib.IRQ_VRING))
        board.core.kick_line(acks.fd, ack, 4, lib.IRQ_VRING)
        attached = Attached(device, registers.transport, kicks, owned)
        self.attached.append(attached)
        self._pages.append(registers.page)
        return attached

    def reset(self) -> None:
        """All devices as after power-on.  No vCPU runs, and the VM is still there."""
        for attached in self.attached:
            attached.transport.reset()

    def follow(self) -> None:
        """The VM is a new one."""

    def map_register_pages(self) -> None:
        """Map registers as memory that the guest reads without an exit; writes still come as MMIO.

        Done while the guest runs; until then C answers the reads.
        """
        for slot, page in enumerate(self._pages):
            address = int(ffi.cast("uintptr_t", ffi.from_buffer(page)))
            self._board.core.map_page(slot, layout.mmio_base(slot), address)
