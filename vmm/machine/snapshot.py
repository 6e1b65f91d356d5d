"""Taking a snapshot of a machine: its state, disks and RAM into files while it is paused, and what describes them."""

from __future__ import annotations

import os
import time

from vmm.errors import ConfigError, HostError
from vmm.faststart.record import replace
from vmm.machine import state
from vmm.persist import saveable
from vmm.snapshot import memory_file
from vmm.snapshot.directory import MANIFEST, MEMORY, STATE, NewDirectory
from vmm.snapshot.files import copy_disk
from vmm.snapshot.manifest import (
    FORMAT,
    Cpu,
    Device,
    Disk,
    FileState,
    Manifest,
    encode_state,
    file_state,
    layers,
    memory_files,
    state_of_open,
    write_manifest,
)
from vmm.snapshot.records import plain
from vmm.virtio.spec import ID_BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.machine.config import MachineConfig
    from vmm.machine.kvm_vm import Core
    from vmm.machine.pc import Platform
    from vmm.machine.slots import Attached, Slots
    from vmm.memory import GuestMemory

_MERGED = ".base"
"""The memory of a base that is a diff itself, while the new one is made."""


class Taking:
    """One snapshot: made while the machine runs, :meth:`save` while it is paused, :meth:`finish` afterwards.

    :param folder: where files are made
    :param base: the directory of the snapshot that this one is a diff of, or None
    """

    def __init__(self, config: MachineConfig, folder: NewDirectory, base: str | None) -> None:
        self._config = config
        self._folder = folder
        self._base = None if base is None else layers(base)
        if self._base is not None and self._base[-1][1].memory_size != config.memory.size:
            raise ConfigError(f"{base}: it is of a machine with another size of memory", code="snapshot-base")
        below = [] if self._base is None else memory_files(self._base)
        self._than = below[0] if below else None
        if len(below) > 1:
            # Now, while the machine runs: nothing of it is needed
            self._than = folder.file(_MERGED)
            memory_file.merge_ram(config.memory.size, below, self._than)

    def save(
        self,
        core: Core,
        memory: GuestMemory,
        slots: Slots,
        platform: Platform,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Everything that changes when the machine goes on."""
        schemas = [saveable(each.device) for each in slots.attached]
        self._devices = tuple(Device(schema.kind, schema.version) for schema in schemas)
        self._state = encode_state(state.save(core, slots, platform))
        self._cpuid = core.cpuid()
        self._disks = self._copy_disks(slots.attached)
        self._bytes = memory_file.write_ram(memory, self._folder.file(MEMORY), than=self._than, progress=progress)

    def _copy_disks(self, attached: list[Attached]) -> tuple[Disk, ...]:
        disks = []
        blks: list[Any] = [each.device for each in attached if each.device.device_id == ID_BLOCK]
        for index, blk in enumerate(blks):
            # By what is open: a clone's disk has no name any more
            name = "" if blk.read_only else f"disk{index}"
            if name:
                copy_disk(f"/proc/self/fd/{blk.image_fd}", self._folder.file(name))
            disks.append(Disk(state_of_open(blk.image_fd, blk.path), name, blk.read_only))
        return tuple(disks)

    def finish(self) -> None:
        """What takes time and no longer needs the machine to stand still."""
        from hashlib import sha256

        from vmm import __version__

        place = self._folder.path
        if self._than == self._folder.file(_MERGED):
            os.unlink(self._than)
        try:
            with open(self._folder.file(STATE), "xb") as file:
                file.write(self._state)
        except OSError as error:
            raise HostError(f"cannot write the snapshot: {error.strerror}", code="snapshot-write") from error
        base, base_id = "", ""
        if self._base is not None:
            base = os.path.relpath(os.path.abspath(self._base[-1][0]), self._folder.place)
            base_id = self._base[-1][1].id
        manifest = Manifest(
            format=FORMAT,
            id=os.urandom(16).hex(),
            base=base,
            base_id=base_id,
            taken=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            pyvmm=__version__,
            host_kernel=os.uname().release,
            cpu=Cpu(*processor(), self._cpuid),
            kernel=_state_of(self._config.boot.kernel),
            state_sha256=sha256(self._state).hexdigest(),
            memory_crc32=memory_file.checksum(os.path.join(place, MEMORY), self._config.memory.size),
            memory_size=self._config.memory.size,
            memory_bytes=self._bytes,
            devices=self._devices,
            disks=self._disks,
            config=plain(_with_full_paths(self._config)),
        )
        write_manifest(self._folder.file(MANIFEST), manifest)


def _with_full_paths(config: MachineConfig) -> MachineConfig:
    """*config* as it is to be read from another directory."""
    boot = config.boot
    initrd = None if boot.initrd is None else os.path.abspath(boot.initrd)

    def full(record: Any) -> Any:
        return replace(record, path=os.path.abspath(record.path)) if hasattr(record, "path") else record

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
    """``vendor_id`` and ``model name`` of this host's first processor, as /proc/cpuinfo has them."""
    found = {"vendor_id": "", "model name": ""}
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() in found and not found[key.strip()]:
                found[key.strip()] = value.strip()
            if all(found.values()):
                break
    return found["vendor_id"], found["model name"]
