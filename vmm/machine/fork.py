"""Running copies of a machine: its state, disks and RAM at one moment, and the machines that are made of it."""

from __future__ import annotations

import os

from vmm.errors import ConfigError
from vmm.faststart.record import replace
from vmm.machine import state
from vmm.snapshot.files import DiskCopies
from vmm.snapshot.memory_base import take_base
from vmm.snapshot.records import plain
from vmm.virtio.spec import ID_BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.machine.config import MachineConfig, MemoryConfig
    from vmm.machine.kvm_vm import Core
    from vmm.machine.pc import Platform
    from vmm.machine.slots import Slots
    from vmm.machine.state import MachineState
    from vmm.memory import GuestMemory
    from vmm.snapshot.memory_base import Ahead, Base
    from vmm.virtio.blk import DiskConfig


class ForkPoint:
    """A machine at the moment of its fork.  Made while it is paused; it may go on at once.

    :param children: how many will be made of it, one after the other
    :param ahead: what was copied of its RAM before
    :raises ConfigError: it has a device that cannot be saved
    :raises HostError: the host has no room for a disk, or for memory
    """

    def __init__(
        self,
        config: MachineConfig,
        core: Core,
        slots: Slots,
        platform: Platform,
        memory: GuestMemory,
        children: int,
        ahead: Ahead | None = None,
    ) -> None:
        self._config = config
        self._left = children
        self._copies = DiskCopies()
        self._saved = state.save(core, slots, platform)
        try:
            self._disks = self._copy_disks(slots)
            mapped = [each.device for each in slots.attached if each.device.shares_memory]
            alone = not config.memory.shared and all(each.takes_memory_on_demand for each in mapped)
            self._base = take_base(memory, children, ahead, alone=alone)
        except BaseException:
            self._copies.remove()
            raise

    def _copy_disks(self, slots: Slots) -> tuple[DiskConfig, ...]:
        blks: list[Any] = [each.device for each in slots.attached if each.device.device_id == ID_BLOCK]
        disks = []
        for disk, blk in zip(self._config.disk_configs(), blks, strict=True):
            if not blk.read_only:
                # By what is open: a clone's disk has no name any more
                path = self._copies.make(f"/proc/self/fd/{blk.image_fd}", beside=blk.path)
                disk = replace(disk, path=path)
            elif not os.path.exists(disk.path) or not os.path.samestat(os.stat(disk.path), os.fstat(blk.image_fd)):
                raise ConfigError(f"disk {disk.path}: it is another file than the machine has open", code="fork-disk")
            disks.append(disk)
        return tuple(disks)

    def child(self, changes: dict[str, Any]) -> Child:
        """The next child, still to be made.

        :param changes: what its configuration has of its own, see :meth:`MachineConfig.of_clone`
        :raises ConfigError: it cannot have that
        :raises HostError: the host has no room for a disk
        """
        self._left -= 1
        if self._left:
            copies = DiskCopies()
            try:
                disks = tuple(disk if disk.read_only else _copy_of(disk, copies) for disk in self._disks)
            except BaseException:
                copies.remove()
                raise
        else:
            copies, self._copies, disks = self._copies, DiskCopies(), self._disks
        try:
            config = self._config.with_disks(disks).of_clone(changes)
        except BaseException:
            copies.remove()
            raise
        return Child(config, self._own_state(), self._base, copies)

    def _own_state(self) -> MachineState:
        """A child's: what may change in it is nobody else's."""
        saved = self._saved
        return replace(saved, platform=tuple(map(plain, saved.platform)), devices=tuple(map(plain, saved.devices)))

    def close(self) -> None:
        """Release what no child has taken.  A second call does nothing."""
        self._copies.remove()
        self._base.close()


def _copy_of(disk: DiskConfig, copies: DiskCopies) -> DiskConfig:
    return replace(disk, path=copies.make(disk.path, beside=disk.path))


class Child:
    """From a machine that was forked: the :class:`~vmm.machine.bootstrap.Origin` of another that goes on as it was."""

    event = "restored"

    def __init__(self, config: MachineConfig, saved: MachineState, base: Base, copies: DiskCopies) -> None:
        self.config = config
        self._saved = saved
        self._base = base
        self._copies = copies

    def make_memory(self, ram: MemoryConfig, *, shared: bool, on_demand: bool) -> GuestMemory:
        """RAM that is the other's until it is written."""
        return self._base.open(huge_pages=ram.huge_pages, shared=shared, prefault=ram.prefault, on_demand=on_demand)

    def begin(self, memory: GuestMemory) -> None:
        """Nothing takes long."""
        self._memory = memory

    def finish(self, core: Core, slots: Slots, platform: Platform) -> None:
        """Everything as it was.

        :raises ConfigError: the machine has other devices
        """
        self._copies.remove()
        core.wait_for_memory()
        state.restore(self._saved, core, slots, platform, self._memory, advance_clock=False)

    def go_on(self, core: Core, slots: Slots) -> None:
        """Its devices."""
        state.go_on(core, slots)

    def close(self) -> None:
        """Remove what was made for the child.  A second call does nothing."""
        self._copies.remove()
