"""Takes a snapshot of a machine: its state, disks and RAM into files while it is paused, and the manifest.

The files are descriptors, so that a process outside of a machine's jail can make them.
"""

from __future__ import annotations

import os
import time

from vmm.boot import elf
from vmm.errors import ConfigError
from vmm.faststart.record import dataclass, replace
from vmm.saveable import saveable
from vmm.saving import machine_state as state
from vmm.saving import memory_file
from vmm.saving.disk_copies import copy_open_disk, copy_overlaid, copy_overlay
from vmm.saving.manifest import (
    FORMAT,
    Cpu,
    Device,
    Disk,
    FileState,
    Layers,
    Manifest,
    encode_state,
    file_state,
    memory_files,
    size_and_change,
    state_most,
    write_manifest,
)
from vmm.saving.new_directory import NewDirectory, cannot_write
from vmm.saving.records import plain
from vmm.saving.regular_files import MANIFEST, MEMORY, STATE, open_regular
from vmm.saving.verify import with_checksum
from vmm.virtio.blk import DiskConfig
from vmm.virtio.spec import ID_BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.board.kvm_vm import Core
    from vmm.board.pc import Platform
    from vmm.board.slots import Attached, Slots
    from vmm.config import MachineConfig
    from vmm.memory import GuestMemory
    from vmm.saving.memory_base import Ahead

_MERGED = ".base"
"""The memory of a base that is a diff itself, while the new one is made."""


class Files:
    """Descriptors of empty files for a snapshot. A context manager, which closes them.

    :ivar memory: of RAM
    :ivar state: of everything else
    :ivar pages: for the bits of a diff; -1: it is not a diff
    :ivar than: of a diff: RAM of its base, for reading
    :ivar disks: of each disk that the guest may write
    :ivar children: of a fork, else 0: only the overlay of a disk is copied. *memory* becomes the base of private RAM,
        or gets what is not in *than*, the base since the last fork
    """

    def __init__(
        self, memory: int, state: int, pages: int, than: int, disks: tuple[int, ...], *, children: int = 0
    ) -> None:
        self.memory, self.state, self.pages, self.than, self.disks = memory, state, pages, than, disks
        self.children = children

    def ahead(self, memory: GuestMemory, *, runs: bool) -> Ahead | None:
        """The RAM that is copied before the pause.

        :raises HostError: the host lacks memory
        """
        from vmm.saving.memory_base import Ahead

        if not self.children or memory.fd >= 0:
            return None
        same = memory.file >= 0 and self.than >= 0 and os.path.samestat(os.fstat(self.than), os.fstat(memory.file))
        try:
            return Ahead(memory, self.children, empty=not runs, file=os.dup(self.memory), whole=not same)
        except OSError as error:
            raise cannot_write("", error) from error

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *exc: object) -> None:
        for fd in (self.memory, self.state, self.pages, self.than, *self.disks):
            if fd >= 0:
                os.close(fd)


@dataclass(frozen=True)
class Saved:
    """The description of a machine whose state, RAM and disks are in :class:`Files`.

    :ivar devices: kind and version of each
    :ivar cpuid: see :meth:`vmm.board.kvm_vm.Core.cpuid`
    :ivar disks: of each disk that was open: size in bytes, and its time of last change in ns
    :ivar memory_bytes: bytes of RAM that were written
    :ivar areas: of a fork: where RAM lies over the last base, or what it was restored from; None: all of it was written
    """

    devices: tuple[tuple[str, int], ...]
    cpuid: str
    disks: tuple[tuple[int, int], ...]
    memory_bytes: int
    areas: tuple[tuple[int, int], ...] | None = None


_readers: dict[int, int] = {}


def open_all(attached: list[Attached], core: Core) -> None:
    """Open and import what :func:`save` needs, for a process that will lose its files."""
    import fcntl

    import cbor2

    from vmm.board import vcpu_gate
    from vmm.kvm import saved, structs_state
    from vmm.saving import memory_base

    assert cbor2 and saved and structs_state and vcpu_gate and fcntl and memory_base
    core.cpuid()
    memory_file.open_proc()
    for blk in _disks(attached):
        if not blk.read_only:
            _readers[blk.image_fd] = os.open(f"/proc/self/fd/{blk.image_fd}", os.O_RDONLY | os.O_CLOEXEC)


def _disks(attached: list[Attached]) -> list[Any]:
    return [each.device for each in attached if each.device.device_id == ID_BLOCK]


def save(
    files: Files,
    core: Core,
    memory: GuestMemory,
    slots: Slots,
    platform: Platform,
    progress: Callable[[int, int], None] | None,
    ahead: Ahead | None = None,
) -> Saved:
    """Write everything of a paused machine that changes when it resumes.

    :raises HostError: the host cannot
    """
    schemas = [saveable(each.device) for each in slots.attached]
    devices = tuple((schema.kind, schema.version) for schema in schemas)
    plain_state = encode_state(state.save(core, slots, platform))
    try:
        memory_file.write_all(files.state, plain_state)
        disks = _copy_disks(_disks(slots.attached), list(files.disks), overlays=files.children > 0)
        if ahead is not None:
            return Saved(devices, core.cpuid(), disks, 0, _lay_over(memory, files, ahead))
        if files.children and _is_over(memory, files.than):
            written = memory_file.write_ram(memory, files.memory, files.pages, files.than, progress=progress)
            return Saved(devices, core.cpuid(), disks, written, ((0, memory.size),))
        pages, than = (-1, -1) if files.children else (files.pages, files.than)
        written = memory_file.write_ram(memory, files.memory, pages, than, progress=progress)
    except OSError as error:
        raise cannot_write("", error) from error
    return Saved(devices, core.cpuid(), disks, written)


def _is_over(memory: GuestMemory, than: int) -> bool:
    """Whether shared RAM is filled on demand from the file *than* alone."""
    if than < 0 or not memory.on_demand or memory.file < 0:
        return False
    return os.path.samestat(os.fstat(than), os.fstat(memory.file))


def _lay_over(memory: GuestMemory, files: Files, ahead: Ahead) -> tuple[tuple[int, int], ...] | None:
    from vmm.saving.memory_base import take_base

    base = take_base(memory, files.children, ahead)
    handed = base.handed()
    base.close()
    if handed is None:
        return None
    areas, bits = handed
    memory_file.write_all(files.pages, bits)
    return tuple(areas)


def _copy_disks(blks: list[Any], targets: list[int], *, overlays: bool) -> tuple[tuple[int, int], ...]:
    found = []
    for blk in blks:
        if not blk.read_only:
            # By what is open, since a clone's disk has no name any more; but not to go past the host's cache
            reader = _readers.get(blk.image_fd, -1)
            source = reader if reader >= 0 else os.open(f"/proc/self/fd/{blk.image_fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if blk.overlay is not None and overlays:
                    copy_overlay(blk, targets.pop(0))
                elif blk.overlay is not None:
                    copy_overlaid(blk, source, targets.pop(0))
                else:
                    copy_open_disk(source, targets.pop(0), blk.cow)
            finally:
                if reader < 0:
                    os.close(source)
        found.append(size_and_change(blk.image_fd))
    return tuple(found)


class Taking:
    """One snapshot: prepared while the machine runs, :func:`save` into :meth:`files` while it is paused, :meth:`finish`
    afterwards.

    :param folder: where files are made
    :param base: the directory of the base, if this is a diff, or None
    :raises ConfigError: it cannot be a diff of that snapshot
    :raises HostError: the host cannot write there, or into the base
    """

    def __init__(self, config: MachineConfig, folder: NewDirectory, base: str | None) -> None:
        self._config = config
        self._folder = folder
        self._id = os.urandom(16).hex()
        self._base: Layers | None = None
        self._than: str | None = None
        self._names = ["" if disk.read_only else f"disk{index}" for index, disk in enumerate(config.disk_configs())]
        if base is not None:
            self._open_base(base)

    def _open_base(self, base: str) -> None:
        from vmm.saving.bases import Entry

        found = self._base = Layers(base)
        self._folder.afterwards(lambda _done: found.close())
        place = self._folder.place
        for each in found.all:
            if each.directory.is_at(place):
                needs = "itself" if each is found.top else f"{base}, which is a diff of that"
                raise ConfigError(
                    f"{place}: cannot be replaced by a diff of {needs}: it would need what it replaces",
                    code="snapshot-needed",
                    hint="name a new directory, or take a full snapshot",
                )
        if found.top.manifest.memory_size != self._config.all_memory():
            raise ConfigError(f"{base}: it is of a machine with another size of memory", code="snapshot-base")
        # Before the diff is there: from now on nothing takes the place of its base
        self._folder.afterwards(Entry(found.top.directory, place, self._id).end)
        below = memory_files(found)
        self._than = below[0]
        if len(below) > 1:
            # Now, while the machine runs: nothing of it is needed
            self._than = self._folder.file(_MERGED)
            memory_file.merge_ram(self._config.all_memory(), below, self._than)

    def files(self) -> Files:
        """Make them.

        :raises OSError: the host cannot
        """
        made: list[int] = []

        def new(name: str) -> int:
            made.append(memory_file.new_file(self._folder.file(name)))
            return made[-1]

        try:
            memory, saved, pages, than = new(MEMORY), new(STATE), -1, -1
            if self._than is not None:
                pages = new(memory_file.PAGES)
                than = open_regular(self._than)
                made.append(than)
            return Files(memory, saved, pages, than, tuple(new(name) for name in self._names if name))
        except BaseException:
            for fd in made:
                os.close(fd)
            raise

    def finish(self, saved: Saved) -> None:
        """The slow steps that need no pause any more.

        :raises ConfigError: the state is too large to be restored
        :raises OSError: the host cannot
        """
        from hashlib import file_digest

        from vmm.version import version

        if self._than == self._folder.file(_MERGED):
            os.unlink(self._than)
        os.chmod(self._folder.file(MEMORY), 0o400)  # clones map it
        most = state_most(self._config.all_memory())
        if os.path.getsize(self._folder.file(STATE)) > most:
            raise ConfigError(f"the state of the machine has more than {most} bytes", code="snapshot-state")
        with open(self._folder.file(STATE), "rb") as file:
            sha256 = file_digest(file, "sha256").hexdigest()
        base, base_id = "", ""
        pages_crc32 = 0
        if self._base is not None:
            base = os.path.relpath(os.path.realpath(self._base.top.folder), self._folder.place)
            base_id = self._base.top.manifest.id
            pages = self._folder.file(memory_file.PAGES)
            pages_crc32 = memory_file.checksum(pages, os.path.getsize(pages))
        disks = zip(self._config.disk_configs(), self._names, saved.disks, strict=True)
        constant: tuple[tuple[int, int], ...] = ()
        if self._base is None:
            with open(self._folder.file(MEMORY), "rb") as ram:
                constant = elf.constant(self._config.boot.kernel, ram.fileno())
        manifest = Manifest(
            format=FORMAT,
            id=self._id,
            base=base,
            base_id=base_id,
            taken=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            pyvmm=version(),
            host_kernel=os.uname().release,
            cpu=Cpu(*processor(), saved.cpuid),
            kernel=_state_of(self._config.boot.kernel),
            state_sha256=sha256,
            memory_crc32=memory_file.checksum(self._folder.file(MEMORY), self._config.all_memory()),
            memory_size=self._config.all_memory(),
            memory_bytes=saved.memory_bytes,
            devices=tuple(Device(kind, version) for kind, version in saved.devices),
            disks=tuple(
                with_checksum(Disk(FileState(os.path.abspath(disk.path), *image), name, disk.read_only), self._folder)
                for disk, name, image in disks
            ),
            config=plain(_with_full_paths(self._config)),
            constant=constant,
            pages_crc32=pages_crc32,
        )
        write_manifest(self._folder.file(MANIFEST), manifest)


def _with_full_paths(config: MachineConfig) -> MachineConfig:
    """*config* with paths that are valid from another directory."""
    boot = config.boot
    initrd = None if boot.initrd is None else os.path.abspath(boot.initrd)

    def full(record: Any) -> Any:
        # Of an overlay there is none in the snapshot
        more = {"overlay": ""} if isinstance(record, DiskConfig) else {}
        return replace(record, path=os.path.abspath(record.path), **more) if hasattr(record, "path") else record

    return replace(
        config,
        boot=replace(boot, kernel=os.path.abspath(boot.kernel), initrd=initrd),
        rootfs=None if config.rootfs is None else full(config.rootfs),
        disks=tuple(map(full, config.disks)),
        shares=tuple(map(full, config.shares)),
        pmems=tuple(map(full, config.pmems)),
    )


def _state_of(path: str) -> FileState:
    try:
        return file_state(path)
    except ConfigError:
        return FileState(os.path.abspath(path), 0, 0)  # needed for a reset only


def processor() -> tuple[str, str]:
    """``vendor_id`` and ``model name`` of this host's first processor, from /proc/cpuinfo."""
    found = {"vendor_id": "", "model name": ""}
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() in found and not found[key.strip()]:
                found[key.strip()] = value.strip()
            if all(found.values()):
                break
    return found["vendor_id"], found["model name"]
