"""The disks of a pod's containers: their roots, and block devices as volumes."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from pyvmm_kata.bundle.guest_mounts import root_of_layers
from pyvmm_kata.bundle.root_disks import (
    IN_SHARE,
    PMEM,
    SERIAL,
    RootDisk,
    device_storage,
    root_storages,
)
from pyvmm_kata.errors import ConfigError, HostError, VmmError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.bundle.storage import Storage
    from pyvmm_kata.host.mounts import SharedDirectory
    from pyvmm_kata.pod.sandbox_config import SandboxConfig
    from pyvmm_kata.pod.vm import Vm


class PodDisks:
    """The disks of one machine, by container.

    :param machine: the machine, or an error when it does not run (any more)
    """

    def __init__(self, config: SandboxConfig, machine: Callable[[], Vm]) -> None:
        self._config = config
        self._machine = machine
        self._disks: dict[str, list[tuple[RootDisk, str]]] = {}
        self._held: dict[str, list[int]] = {}
        self._serials = 0

    @property
    def are_written(self) -> bool:
        """The guest may have written to one of them, and has to write it back before the machine ends."""
        disks = [disk.read_only for disks in self._disks.values() for disk, _ in disks]
        return not all(disks + [volume.read_only for volume in self._config.volumes])

    def mount_root(self, bundle: Bundle, container_id: str, shared: SharedDirectory) -> tuple[str, list[Storage]]:
        """The path in the guest of a root that it mounts, and the storages for that; empty for a folder.

        :raises VmmError: the machine has no room for the disk, or does not run (any more)
        """
        disk = bundle.machine_disk
        if disk is None:
            return root_of_layers(bundle, container_id, shared)
        if self._config.more_disks:
            serial = self._plug(disk, container_id)
        elif disk == self._config.root and not self._disks:
            serial = PMEM if disk.is_mappable else SERIAL
            self._disks[container_id] = [(disk, serial)]
        else:
            raise ConfigError(
                f"container {container_id}: its root is on the disk {disk.path}, and this virtual machine has no room",
                code="root-disk-late",
                hint="containers of a pod may have disks if its first one has, or with more_disks = true in kata.toml",
            )
        return root_storages(disk, serial, container_id)

    def plug_volumes(self, bundle: Bundle, container_id: str) -> tuple[list[str], list[Storage]]:
        """The serial numbers of a container's block devices that come with it, and the storages by which the agent
        finds them.

        :raises VmmError: the machine does not accept them
        """
        serials = []
        if self._config.more_disks:
            serials = [self._plug(RootDisk(path, "", ro), container_id) for path, ro in bundle.volumes]
        return serials, [device_storage(serial) for serial in serials]

    def _plug(self, disk: RootDisk, container_id: str) -> str:
        """Give the guest a disk, until the container is removed; returns its serial number."""
        self._serials += 1
        serial = f"{SERIAL}-{self._serials}"
        self._machine().plug(disk, serial)
        self._disks.setdefault(container_id, []).append((disk, serial))
        return serial

    def hold_images(self, container_id: str, storages: Sequence[Storage], shared: SharedDirectory) -> None:
        """Lock the images of a container that are in the share, until it is removed: the store keeps them.

        :raises HostError: one cannot be opened
        """
        for storage in storages:
            if storage.driver == IN_SHARE:
                path = shared.source_of(storage.source)
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    self._held.setdefault(container_id, []).append(fd)
                    fcntl.flock(fd, fcntl.LOCK_SH)
                except OSError as error:
                    raise HostError(f"{path}: {error.strerror}", code="root-disk") from error

    def release(self, container_id: str) -> None:
        """Unplug the disks that came with a container, and unlock its images."""
        for fd in self._held.pop(container_id, []):
            os.close(fd)
        for _, serial in self._disks.pop(container_id, []):
            if serial not in (SERIAL, PMEM):
                try:
                    self._machine().unplug(serial)
                except VmmError:
                    pass  # the machine has ended, or is about to, and the disk is closed with it
