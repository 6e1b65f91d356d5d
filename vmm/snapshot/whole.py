"""A snapshot as a whole: is it complete and undamaged; and a diff made one that needs no base."""

from __future__ import annotations

import os

from vmm.errors import ConfigError
from vmm.faststart.record import replace
from vmm.snapshot import memory_file
from vmm.snapshot.directory import MANIFEST, MEMORY, STATE, NewDirectory
from vmm.snapshot.files import copy_disk
from vmm.snapshot.manifest import layers, memory_files, read_state, write_manifest


def verify_snapshot(folder: str) -> None:
    """Read all of the snapshot in *folder*, and of those that it is a diff of.

    :raises ConfigError: something is missing or damaged; the message names it
    """
    chain = layers(folder)
    for (place, manifest), path in zip(chain, memory_files(chain), strict=True):
        read_state(place, manifest)
        if memory_file.checksum(path, manifest.memory_size) != manifest.memory_crc32:
            raise ConfigError(f"{path}: damaged: its checksum is another", code="snapshot-damaged")
        if manifest.base:
            memory_file.read_pages(place, manifest.memory_size)
        for disk in manifest.disks:
            copy = os.path.join(place, disk.file)
            if disk.file and (not os.path.isfile(copy) or os.path.getsize(copy) != disk.image.size):
                raise ConfigError(f"{copy}: missing, or not of {disk.image.size} bytes", code="snapshot-damaged")


def merge(folder: str) -> None:
    """Make the diff in *folder* a full snapshot, in its place.  One that is full already stays as it is.

    :raises ConfigError: it is none, or its base is missing
    :raises HostError: the host cannot write it; the old one is still there
    """
    chain = layers(folder)
    manifest = chain[-1][1]
    if not manifest.base:
        return
    with NewDirectory(folder) as new:
        path = new.file(MEMORY)
        written = memory_file.merge_ram(manifest.memory_size, memory_files(chain), path)
        for name in (STATE, *(disk.file for disk in manifest.disks if disk.file)):
            copy_disk(os.path.join(folder, name), new.file(name))
        full = replace(
            manifest,
            base="",
            base_id="",
            memory_bytes=written,
            memory_crc32=memory_file.checksum(path, manifest.memory_size),
        )
        write_manifest(new.file(MANIFEST), full)
