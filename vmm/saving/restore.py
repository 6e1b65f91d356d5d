"""A machine that starts from a snapshot."""

from __future__ import annotations

import os

from vmm.config import MachineConfig, config_kinds
from vmm.errors import ConfigError
from vmm.faststart.record import replace
from vmm.saving import machine_state as state
from vmm.saving import memory_file, working_set
from vmm.saving import verify as whole
from vmm.saving.disk_copies import DiskCopies
from vmm.saving.machine_state import KINDS, STATE_VERSION, MachineState
from vmm.saving.manifest import Layers, file_state, memory_files, read_state
from vmm.saving.records import made
from vmm.saving.regular_files import MANIFEST
from vmm.saving.snapshot import processor
from vmm.saving.working_set import Prefetch
from vmm.virtio.blk import COW_MODES, DiskConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.board.kvm_vm import Core
    from vmm.board.pc import Platform
    from vmm.board.slots import Slots
    from vmm.config import MemoryConfig
    from vmm.memory import GuestMemory
    from vmm.saving.manifest import Disk, Manifest

RESUME, HOST = "resume", "host"
CLOCKS = (RESUME, HOST)


class Restored:
    """From a snapshot: the :class:`~vmm.board.bootstrap.Origin` of a clone.

    :param folder: of the snapshot
    :param changes: the fields in which the clone's configuration differs, see :meth:`MachineConfig.of_clone`
    :param clock: ``host``: kvm-clock includes the time since the snapshot; ``resume``: it continues where it was
    :param prefetch: see :meth:`vmm.machine.machine.Machine.restore`
    :param cow: see :meth:`vmm.machine.machine.Machine.restore`
    :param force: restore although the processor, or a disk's image, has changed
    :param verify: read the whole snapshot first, and compare checksums
    :ivar config: of the machine
    :raises ConfigError: it cannot be restored here; the message names what is missing or different
    """

    event = "restored"
    restores = True

    def __init__(
        self,
        folder: str,
        changes: dict[str, Any],
        *,
        clock: str = HOST,
        force: bool = False,
        prefetch: bool = False,
        cow: str = "",
        verify: bool = False,
    ) -> None:
        if clock not in CLOCKS:
            raise ConfigError(f"clock {clock!r}: not one of {', '.join(CLOCKS)}", code="snapshot-clock")
        if cow and cow not in COW_MODES:
            raise ConfigError(f"cow {cow!r}: not one of {', '.join(COW_MODES)}", code="disk-cow")
        self._folder = folder
        self._advance = clock == HOST
        self._force = force
        self._wants_prefetch = prefetch
        self._prefetch: Prefetch | None = None
        self._cow = cow
        self._copies = DiskCopies()
        self._reads_disks = False
        # Another snapshot may take its place before all of it is open
        self._layers = Layers(folder)
        try:
            self._read(changes, verify=verify)
        except BaseException:
            self.close()
            raise

    def _read(self, changes: dict[str, Any], *, verify: bool) -> None:
        folder, top = self._folder, self._layers.top
        self._manifest: Manifest = top.manifest
        where = os.path.join(folder, MANIFEST)
        saved: MachineConfig = made(self._manifest.config, "MachineConfig", config_kinds(), where)
        if saved.all_memory() != self._manifest.memory_size:
            raise ConfigError(f"{where}: two sizes of memory", code="snapshot-format")
        self._check_processor()
        self.config = saved.of_clone(changes)
        if verify:
            whole.verify(self._layers)
        self._working_set = None
        if self._wants_prefetch:
            self._working_set = working_set.read(top.directory.file(""), self._manifest.memory_size)
        self._memory_files = memory_files(self._layers)
        state_of_it = made(read_state(top), "MachineState", KINDS, os.path.join(folder, "state"))
        self._state: MachineState = state_of_it
        if self._state.version != STATE_VERSION:
            raise ConfigError(f"{folder}: state version {self._state.version}", code="snapshot-version")
        self._give_disks(saved, changes)

    def _check_processor(self) -> None:
        vendor, model = processor()
        cpu = self._manifest.cpu
        if cpu.vendor != vendor and not self._force:
            raise ConfigError(
                f"{self._folder} was taken on a processor of {cpu.vendor} ({cpu.model}), this host's is {vendor} "
                f"({model})",
                code="snapshot-cpu",
                hint="restore it on a host of that kind",
            )

    def _give_disks(self, saved: MachineConfig, changes: dict[str, Any]) -> None:
        """Disks that the caller did not give: a copy for each disk that the guest writes, the same file for a read-only
        one."""
        wanted = saved.disk_configs()
        if len(wanted) != len(self._manifest.disks):
            raise ConfigError(f"{self._folder}/{MANIFEST}: another number of disks", code="snapshot-format")
        first = len(wanted) - len(saved.disks)
        if "rootfs" not in changes and first:
            self.config = replace(self.config, rootfs=self._own(wanted[0], self._manifest.disks[0]))
        if "disks" not in changes:
            more = zip(saved.disks, self._manifest.disks[first:], strict=True)
            self.config = replace(self.config, disks=tuple(self._own(disk, kept) for disk, kept in more))

    def _own(self, disk: DiskConfig, kept: Disk) -> DiskConfig:
        if kept.file:
            directory = self._layers.top.directory
            image = directory.name(kept.file)
            disk = replace(disk, path=image, overlay="", cow=self._cow or disk.cow)
            if disk.has_overlay:
                os.close(directory.open(kept.file))
                self._reads_disks = True
                return disk
            copy = self._copies.make(directory.file(kept.file), beside=self._folder, cow=disk.cow, name=image)
            return replace(disk, path=copy)
        now = file_state(kept.image.path)
        if now != kept.image and not self._force:
            raise ConfigError(
                f"disk {kept.image.path}: it was changed since the snapshot was taken",
                code="snapshot-disk",
                hint="the guest relies on what it has read; give it another with --disk, or --force",
            )
        return disk

    # -- Origin ------------------------------------------------------------------------------------------------------

    def make_memory(self, ram: MemoryConfig, *, shared: bool, on_demand: bool, hotplug: int) -> GuestMemory:
        """RAM as saved: pages are read when they are first touched, and copied when they are first written."""
        first = working_set.at_once(self._working_set) if shared and on_demand else b""
        return memory_file.open_ram(
            ram.size + hotplug,
            self._memory_files,
            huge_pages=ram.huge_pages,
            shared=shared,
            prefault=ram.prefault,
            on_demand=on_demand,
            first=first,
            exactly=self.records,
            constant=self._manifest.constant_ranges(),
            hotplug=hotplug,
        )

    @property
    def records(self) -> bool:
        """Record into the snapshot's directory what it touches, while it runs."""
        return self._wants_prefetch and self._working_set is None

    def take_shell(self) -> None:
        """Nothing was made ahead."""

    def begin(self, memory: GuestMemory) -> None:
        """Whether something must be read in advance. A copy already has everything it needs."""
        self._memory = memory
        if self._wants_prefetch and (memory.over_file or memory.on_demand):
            self._prefetch = Prefetch(self._folder, memory, self._working_set)

    def finish(self, core: Core, slots: Slots, platform: Platform) -> None:
        """Everything as it was.

        :raises ConfigError: the guest would see another processor, or the machine has other devices
        """
        self._copies.remove()
        if self._reads_disks and not self._layers.top.directory.is_in_place():
            raise ConfigError(
                f"{self._folder}: was replaced by another snapshot meanwhile",
                code="snapshot-replaced",
                hint="restore that one",
            )
        self._layers.close()
        self._check_cpuid(core.cpuid())
        core.wait_for_memory()
        state.restore(self._state, core, slots, platform, self._memory, advance_clock=self._advance)
        if self._prefetch is not None:
            self._prefetch.bring(core.vcpus[0].map_pages)

    def _check_cpuid(self, here: str) -> None:
        cpu = self._manifest.cpu
        if here != cpu.cpuid and not self._force:
            raise ConfigError(
                f"{self._folder} was taken on a {cpu.model or 'processor'} with other features",
                code="snapshot-cpu",
                hint="restore it on a host of that kind, or --force it if its guest uses nothing that this one lacks",
            )

    def go_on(self, slots: Slots) -> None:
        """Restore its devices, and start the prefetch."""
        state.go_on(slots)
        if self._prefetch is not None:
            self._prefetch.start()

    def release(self, core: Core) -> None:
        """Its clocks have run since the restore."""

    def close(self) -> None:
        """Remove what was made for the clone.  A second call does nothing."""
        self._copies.remove()
        self._layers.close()
        if self._prefetch is not None:
            self._prefetch.close()
