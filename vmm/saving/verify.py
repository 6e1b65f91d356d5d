"""A snapshot as a whole: verify it, and make a diff independent of its base."""

from __future__ import annotations

import os

from vmm.errors import ConfigError, HostError
from vmm.faststart.record import replace
from vmm.saving import bases, memory_file
from vmm.saving.disk_copies import copy_disk
from vmm.saving.manifest import CHECKED, FORMAT, Layers, damaged, memory_files, read_state, write_manifest
from vmm.saving.new_directory import NewDirectory
from vmm.saving.regular_files import MANIFEST, MEMORY, STATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.saving.manifest import Disk, Layer


def verify_snapshot(folder: str) -> None:
    """Read all of the snapshot in *folder*, and of its bases.

    :raises ConfigError: something is missing or damaged; the message names it
    :raises HostError: the host cannot read it
    """
    with Layers(folder) as found:
        verify(found)


def verify(found: Layers) -> None:
    """The same for snapshots that are open.

    :raises ConfigError: as :func:`verify_snapshot`
    :raises HostError: as that
    """
    memory_files(found)  # sizes, and the bits of diffs
    for each in found.all:
        read_state(each)
        manifest = each.manifest
        of_memory = memory_file.checksum if manifest.format >= CHECKED else memory_file.old_checksum
        try:
            if of_memory(each.directory.file(MEMORY), manifest.memory_size) != manifest.memory_crc32:
                raise damaged(each.directory.name(MEMORY))
            for disk in manifest.disks:
                if disk.file:
                    _verify_disk(each, disk)
        except OSError as error:
            raise HostError(
                f"cannot read the snapshot {each.folder}: {error.strerror}",
                code="snapshot-read",
                hint="check the host's kernel log: the disk may be failing",
                errno=error.errno or 0,
            ) from error


def _verify_disk(layer: Layer, disk: Disk) -> None:
    fd = layer.directory.open(disk.file)
    try:
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    name = layer.directory.name(disk.file)
    if size != disk.image.size:
        raise ConfigError(f"{name}: {size} bytes, not {disk.image.size}", code="snapshot-damaged")
    if layer.manifest.format < CHECKED:
        return
    if memory_file.checksum(layer.directory.file(disk.file), size) != disk.crc32:
        raise damaged(name)


def merge(folder: str) -> None:
    """Turn the diff in *folder* into a full snapshot, in its place, if all checksums are right. A full one is not
    changed.

    :raises ConfigError: it is not a snapshot, its base is missing, or something is damaged; it is unchanged
    :raises HostError: the host cannot write it; the old one is still there
    """
    with Layers(folder) as found:
        manifest, directory = found.top.manifest, found.top.directory
        if not manifest.base:
            return
        verify(found)
        with NewDirectory(folder, same=directory) as new:
            path = new.file(MEMORY)
            written = memory_file.merge_ram(manifest.memory_size, memory_files(found), path)
            for name in (STATE, *(disk.file for disk in manifest.disks if disk.file)):
                copy_disk(directory.file(name), new.file(name), name=directory.name(name))
            full = replace(
                manifest,
                format=FORMAT,
                base="",
                base_id="",
                memory_bytes=written,
                memory_crc32=memory_file.checksum(path, manifest.memory_size),
                pages_crc32=0,
                disks=tuple(with_checksum(disk, new) for disk in manifest.disks),
            )
            write_manifest(new.file(MANIFEST), full)
        bases.forget(found.all[-2].folder, manifest.id)


def with_checksum(disk: Disk, new: NewDirectory) -> Disk:
    """*disk* with the checksum of its copy.

    :raises OSError: the host cannot read that
    """
    if not disk.file:
        return disk
    path = new.file(disk.file)
    return replace(disk, crc32=memory_file.checksum(path, os.path.getsize(path)))
