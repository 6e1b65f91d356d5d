"""Running copies of a machine: its state, disks and RAM at one moment, and the machines made from them."""

from __future__ import annotations

import os
import posix

from vmm import report
from vmm.board.owned import Owned
from vmm.board.shell import Shell
from vmm.errors import ConfigError, VmmError
from vmm.faststart.record import replace
from vmm.faststart.thread import Task, allocate_lock
from vmm.memory import GuestMemory
from vmm.memory.layers import close_all
from vmm.saving import machine_state as state
from vmm.saving.disk_copies import DiskCopies
from vmm.saving.manifest import read_open_state
from vmm.saving.memory_base import Base, merge_layers, take_base
from vmm.saving.records import made, plain
from vmm.virtio.spec import ID_BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.board.kvm_vm import Core
    from vmm.board.pc import Platform
    from vmm.board.slots import Slots
    from vmm.config import MachineConfig, MemoryConfig
    from vmm.memory.on_demand import FirstTouched
    from vmm.saving.machine_state import MachineState
    from vmm.saving.memory_base import Ahead
    from vmm.virtio.blk import DiskConfig


_MASK64 = (1 << 64) - 1


class ForkPoint:
    """A machine at the moment of its fork. Made while it is paused; the machine may resume at once, and then
    :meth:`finish` follows.

    :param children: how many children will be made from it, one after the other
    :param ahead: the RAM that was copied before
    :param shells: the shells that children are put into, as far as there are any
    :raises ConfigError: it has a device that cannot be saved
    :raises HostError: the host has no space for a disk, or no memory
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
        shells: Shells | None = None,
    ) -> None:
        self._config = config
        self._memory = memory
        self._shells = shells
        self._left = children
        self._copies = DiskCopies()
        self._saved = state.save(core, slots, platform, own=True)
        self._cpuid_is_own = core.cpuid_is_own
        try:
            self._disks = self._copy_disks(slots)
            mapped = [each.device for each in slots.attached if each.device.shares_memory]
            alone = not config.memory.shared and all(each.takes_memory_on_demand for each in mapped)
            self._base = take_base(memory, children, ahead, alone=alone)
            if memory.on_demand:
                _bring_rings(slots, memory)
        except BaseException:
            self._copies.remove()
            raise

    def _copy_disks(self, slots: Slots) -> tuple[DiskConfig, ...]:
        blks: list[Any] = [each.device for each in slots.attached if each.device.device_id == ID_BLOCK]
        disks = []
        for disk, blk in zip(self._config.disk_configs(), blks, strict=True):
            if blk.overlay is not None:
                path = disk.path if _is_open(disk.path, blk) else self._copies.hold(blk.image_fd)
                disk = replace(disk, path=path, overlay=self._copies.make_overlay(blk, beside=disk.overlay or blk.path))
            elif not blk.read_only:
                # By what is open: a clone's disk has no name any more
                path = self._copies.make(f"/proc/self/fd/{blk.image_fd}", beside=blk.path, cow=disk.cow)
                disk = replace(disk, path=path)
            elif not _is_open(disk.path, blk):
                raise ConfigError(
                    f"disk {disk.path}: its path names another file than the machine has open", code="fork-disk"
                )
            disks.append(disk)
        return tuple(disks)

    def finish(self) -> None:
        """The steps that need no pause of the machine."""
        self._base.finish(self._memory)

    def child(self, changes: dict[str, Any]) -> Child:
        """The next child, still to be made.

        :param changes: the fields in which its configuration differs, see :meth:`MachineConfig.of_clone`
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
        saved = self._own_state() if self._left else self._saved
        return Child(config, saved, self._base, copies, self._shells, cpuid_is_own=self._cpuid_is_own)

    def _own_state(self) -> MachineState:
        """A child's private copy, which no other process can change."""
        saved = self._saved
        return replace(saved, platform=tuple(map(plain, saved.platform)), devices=tuple(map(plain, saved.devices)))

    def close(self) -> None:
        """Release what no child has taken.  A second call does nothing."""
        self._copies.remove()
        self._base.close()
        shells, self._shells = self._shells, None
        if shells is not None:
            shells.refill()


def _bring_rings(slots: Slots, memory: GuestMemory) -> None:
    """Fill the pages that workers read when they resume, in one call, instead of a fault and two switches for each
    page."""
    places: list[int] = []
    for attached in slots.attached:
        for queue in attached.transport.state.queues:
            if queue.ready:
                # Behind the used ring lies what asks for kicks (2.7.8)
                places += queue.driver, queue.device, (queue.device + 4 + 8 * queue.size) & _MASK64
    memory.fill.fill_places(memory.native, places)


def _is_open(path: str, blk: Any) -> bool:
    return os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(blk.image_fd))


def _copy_of(disk: DiskConfig, copies: DiskCopies) -> DiskConfig:
    if disk.overlay:
        return replace(disk, overlay=copies.make(disk.overlay, beside=disk.overlay))
    return replace(disk, path=copies.make(disk.path, beside=disk.path, cow=disk.cow))


class Child:
    """From a machine that was forked: the :class:`~vmm.board.bootstrap.Origin` of one that continues as it was."""

    event = "restored"
    restores = True
    own = True
    """This process has saved the state."""

    def __init__(
        self,
        config: MachineConfig,
        saved: MachineState,
        base: Base,
        copies: DiskCopies,
        shells: Shells | None = None,
        *,
        cpuid_is_own: bool = False,
    ) -> None:
        self.config = config
        self._saved = saved
        self._base = base
        self._copies = copies
        self._shells = shells
        self._shell: Shell | None = None
        self._threads = Owned()
        self._cpuid_is_own = cpuid_is_own
        self._same_cpuid = False

    def make_memory(self, ram: MemoryConfig, *, shared: bool, on_demand: bool, hotplug: int) -> GuestMemory:
        """RAM that is shared with the parent until it is written."""
        shell = None if self._shells is None else self._shells.take(self.config, shared=shared)
        empty = None if shell is None else shell.memory
        try:
            memory = self._base.open(
                huge_pages=ram.huge_pages,
                shared=shared,
                prefault=ram.prefault,
                on_demand=on_demand,
                empty=empty,
                hotplug=hotplug,
            )
        except BaseException:
            if shell is not None:
                shell.close()
            raise
        if shell is None:
            memory.fill.record_first()
        self._shell = shell
        return memory

    def take_shell(self) -> Shell | None:
        """The shell that the child is put into."""
        shell, self._shell = self._shell, None
        if shell is not None:
            self._threads = shell.threads
            # Its vCPUs were made as those of the source were
            self._same_cpuid = self._cpuid_is_own
        return shell

    def begin(self, memory: GuestMemory) -> None:
        """Nothing takes long."""
        self._memory = memory

    def finish(self, core: Core, slots: Slots, platform: Platform) -> None:
        """Everything as it was.

        :raises ConfigError: the machine has other devices
        """
        self._copies.remove()
        core.wait_for_memory()
        state.restore(
            self._saved,
            core,
            slots,
            platform,
            self._memory,
            advance_clock=False,
            own=self.own,
            same_cpuid=self._same_cpuid,
        )

    def go_on(self, slots: Slots) -> None:
        """Its devices."""
        state.go_on(slots)
        self._threads.close()

    def release(self, core: Core) -> None:
        """Its clocks continue from the moment of the fork."""
        core.continue_clocks(self._saved.vcpus, self._saved.vm)

    def close(self) -> None:
        """Remove what was made for the child.  A second call does nothing."""
        self._copies.remove()
        self._threads.close()
        if self._shell is not None:
            self._shell.close()


def _all_of(file: int) -> bytes:
    return posix.pread(file, posix.fstat(file).st_size, 0)


class GivenChild(Child):
    """The same for a machine in another process, which its guest may have taken over.

    :param about: :attr:`vmm.processes.jailed.Handed.about`
    :param fds: the descriptors of its files; closed with this
    :raises ConfigError: they do not describe such a machine
    """

    own = False

    def __init__(self, config: MachineConfig, about: dict[str, Any], fds: list[int]) -> None:
        copies = DiskCopies()
        copies.hold_until(fds)
        try:
            memory, saved, pages, *files = fds
            areas = about["areas"]
            below = -1 if areas is None else files.pop(0)
            found = list(config.disk_configs())
            for index, fd in zip(about["disks"], files, strict=True):
                path, disk = f"/proc/self/fd/{fd}", found[index]
                found[index] = replace(disk, overlay=path) if disk.has_overlay else replace(disk, path=path)
            plain_state = read_open_state(saved, config.all_memory(), "the fork")
            read: MachineState = made(plain_state, "MachineState", state.KINDS, "the fork")
            ranges = [(start, end) for start, end in areas or ()]
            base = Base.of_files(config.all_memory(), memory, below, ranges, _all_of(pages))
        except BaseException:
            copies.remove()
            raise
        super().__init__(config.with_disks(tuple(found)), read, base, copies)

    def make_memory(self, ram: MemoryConfig, *, shared: bool, on_demand: bool, hotplug: int) -> GuestMemory:
        """As :class:`Child`; no other machine is made from the base."""
        try:
            return super().make_memory(ram, shared=shared, on_demand=on_demand, hotplug=hotplug)
        finally:
            self._base.close()

    def close(self) -> None:
        """As that of :class:`Child`."""
        super().close()
        self._base.close()


MOST_SHELLS = 64
_RECENT = 4
"""How many children's records are read again for the next shell."""
_SOON = 512
"""Pages of a record that count as touched soon after a fork, on hosts of any speed: a first output takes 430."""
_MOST_TOUCHED = 2048
"""Pages that are filled and mapped ahead in each shell."""
_PAUSE = 0.05
"""Seconds before some are made: children that were made just now begin to run meanwhile."""


class Shells:
    """The shells of a machine, as many as were requested. Any thread may call any method.

    :param core: of the machine
    :param slots: its devices
    :param memory: its RAM, which is prepared for the next fork too
    """

    def __init__(self, core: Core, slots: Slots, memory: GuestMemory) -> None:
        self._core = core
        self._slots = slots
        self._memory = memory
        self._lock = allocate_lock()
        self._ready: list[Shell] = []
        self._kind: tuple[MachineConfig, bool] | None = None
        self._wanted = 0
        self._making: Task | None = None
        self._taken: list[FirstTouched] = []
        self._touched: set[int] = set()
        """Pages that children have touched soon after their forks."""
        self._closed = False
        # Held until then
        self._open = allocate_lock()
        self._open.acquire()

    def keep(self, n: int, config: MachineConfig, *, shared: bool) -> None:
        """Keep *n* of them ready from now on, for machines with the configuration *config*."""
        with self._lock:
            self._wanted, self._kind = n, (config, shared)
            spare = self._ready[n:]
            del self._ready[n:]
        for shell in spare:
            shell.close()
        self.refill()

    @property
    def ready(self) -> int:
        """How many there are."""
        return len(self._ready)

    def take(self, config: MachineConfig, *, shared: bool) -> Shell | None:
        """Take one that fits *config*, owned by the caller from now on; None if there is none."""
        with self._lock:
            for shell in self._ready:
                if shell.fits(config, shared=shared):
                    self._ready.remove(shell)
                    self._taken.append(shell.first)
                    return shell
        return None

    def refill(self) -> None:
        """Make the missing ones, on a thread, and merge the files that the machine's RAM is filled from."""
        with self._lock:
            if (
                self._making is None
                and not self._closed
                and (len(self._ready) < self._wanted or self._memory.forks.are_many)
            ):
                try:
                    self._making = Task(self._make, "shells")
                except RuntimeError:
                    pass  # the host has no thread left

    def _make(self) -> None:
        if self._open.acquire(timeout=_PAUSE):
            return  # it was closed
        try:
            merge_layers(self._memory, soon=True)
        except OSError as error:
            report.debug(__name__, f"memory of forks could not be put together ahead: {error}")
        self._learn()
        try:
            self._fill_ready()
            while (kind := self._missing()) is not None:
                attached = tuple(self._slots.attached)
                shell = Shell(kind[0], self._core, attached, shared=kind[1], exactly=not self._touched)
                self._fill_and_put(shell)
        except (VmmError, OSError, RuntimeError) as error:
            # Children do without, and report what the host still refuses
            report.debug(__name__, f"no machine for a fork could be made ahead: {error}")
            with self._lock:
                self._making = None

    def _fill_ready(self) -> None:
        """Fill those that were made before it was known which pages children touch."""
        for shell in tuple(self._ready):
            with self._lock:
                if shell.filled or not self._touched or shell not in self._ready:
                    continue
                self._ready.remove(shell)
            self._fill_and_put(shell)

    def _fill_and_put(self, shell: Shell) -> None:
        """Fill *shell* and add it to the ready ones, or close it if there are enough."""
        try:
            layers = self._memory.forks.copies() if self._touched else []
            try:
                if layers:
                    shell.fill_early(layers, self._touched)
            finally:
                close_all(layers)
        except BaseException:
            shell.close()
            raise
        with self._lock:
            wanted = len(self._ready) < self._wanted
            if wanted:
                self._ready.append(shell)
        if not wanted:
            shell.close()

    def _learn(self) -> None:
        """Record the pages that children touched first: later shells are filled with them.

        On a slow or loaded host a child has run little by now, so that the records of the last children are read again.
        """
        with self._lock:
            taken, self._taken = self._taken, self._taken[-_RECENT:]
        for first in taken:
            for page in first.pages()[:_SOON]:
                if len(self._touched) == _MOST_TOUCHED:
                    return
                self._touched.add(page)

    def _missing(self) -> tuple[MachineConfig, bool] | None:
        """The configuration for one more; None: there are enough, and the thread ends."""
        with self._lock:
            if not self._closed and len(self._ready) < self._wanted:
                return self._kind
            self._making = None
            return None

    def close(self) -> None:
        """Wait for the thread, and close the unused ones. A second call does nothing."""
        with self._lock:
            making = self._making
            if not self._closed:
                self._closed = True
                self._open.release()
        if making is not None:
            making.close()
        while self._ready:
            self._ready.pop().close()
