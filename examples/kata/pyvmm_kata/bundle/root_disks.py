"""Root file systems on disks: an image file or a block device that the guest mounts, and the host never does.

A guest may have written a disk byte by byte, to attack the kernel that mounts it. Only a few bytes of it are read here,
to find the type of the file system for the guest, and to report errors to the user.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.bundle.storage import Storage
from pyvmm_kata.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

GUEST_ROOTS = "/run/kata-containers"
"""Where the guest mounts the roots of containers (as with Kata)."""

GUEST_DEVICES = "/run/pyvmm/devices"
"""The mount point by which the agent is told to release a disk that a container used as a device. Nothing is there."""

SERIAL = "root"
"""Of the disk of a machine that has one from its start."""

PMEM = "/dev/pmem1"
"""The same as persistent memory; the first one is the guest's own image."""

IMAGE, IN_SHARE = "image", "erofs"
"""The name of a container's image in the share, and the storage's driver that mounts it."""

_PMEM_PIECE = 2 << 20

FSTYPES = ("ext4", "erofs", "squashfs")
"""What the guest's kernel can mount; ext4 is also ext2 and ext3."""

READ_ONLY = ("erofs", "squashfs")
CREATE = "io.katacontainers.volume.overlayfs.create_directory"
"""Kata's option for the agent: make this directory before an overlay is mounted."""

_HEAD = 2048
_EXT4_MAGIC, _EROFS_MAGIC, _SQUASHFS_MAGIC = b"\x53\xef", b"\xe2\xe1\xf5\xe0", b"hsqs"
_EROFS = struct.Struct("<4s8xB67xIH")
"""struct erofs_super_block: magic, bits of the block size, features, and what says of LZ4."""
_EROFS_BLOCK_BITS = 12
_EXT4_RECOVER = 4  # EXT4_FEATURE_INCOMPAT_RECOVER: the journal must be replayed, which writes


class RootDisk(NamedTuple):
    """A disk with a container's root file system.

    :ivar path: the image file or block device, absolute
    :ivar fstype: one of :data:`FSTYPES`
    :ivar read_only: it is not written: the container's changes are in the guest's memory, and lost with it
    :ivar options: mount options for the guest
    :ivar layer: bytes of these changes at most; 0: half of the guest's memory
    :ivar in_share: the guest reads the file in the share, and its machine has no disk for it
    """

    path: str
    fstype: str
    read_only: bool = False
    options: tuple[str, ...] = ()
    layer: int = 0
    in_share: bool = False

    @property
    def is_mappable(self) -> bool:
        """It can be persistent memory, whose pages all machines and the host share: an erofs file of whole huge pages,
        as the image store makes them."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        whole = stat.S_ISREG(status.st_mode) and status.st_size and status.st_size % _PMEM_PIECE == 0
        return bool(whole and self.read_only and self.fstype == "erofs")


def is_disk(path: str) -> bool:
    """Whether it is a file or a block device, and so can be a disk."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def file_system(path: str) -> str:
    """The file system on a disk, one of :data:`FSTYPES`; empty: none of them.

    :raises ConfigError: it cannot be read
    """
    return _file_system(_read_head(path))


def open_disk(path: str, *, read_only: bool = False, options: Sequence[str] = ()) -> RootDisk:
    """The root file system on a disk.

    :raises ConfigError: it cannot be read, or a guest could not mount it
    """
    head = _read_head(path)
    found = _file_system(head)
    if not found:
        raise ConfigError(
            f"{path}: there is no file system on it that a guest could mount",
            code="root-disk",
            hint="ext4, erofs or squashfs, without a partition table: mke2fs -t ext4 -d FOLDER FILE 1G makes one",
        )
    read_only = read_only or found in READ_ONLY
    if read_only and found == "ext4" and int.from_bytes(head[0x460:0x464], "little") & _EXT4_RECOVER:
        raise ConfigError(
            f"{path}: it was not unmounted, so its journal cannot be replayed read-only",
            code="root-disk-journal",
            hint="run a writable container from it once",
        )
    return RootDisk(os.path.abspath(path), found, read_only, tuple(options))


def check_image(disk: RootDisk) -> None:
    """Check that a guest can read it without a driver of Linux.

    :raises ConfigError: it is compressed, or made in another way that the image store does not
    """
    found = _EROFS.unpack_from(_read_head(disk.path), 0x400)
    if found[1:] != (_EROFS_BLOCK_BITS, 0, 0):
        raise ConfigError(
            f"{disk.path}: the Sentry reads no erofs that is compressed, or whose blocks are not 4 KiB",
            code="root-disk",
            hint="pyvmm image import makes one from a folder; or use --isolation vm",
        )


def root_storages(disk: RootDisk, serial: str, container_id: str) -> tuple[str, list[Storage]]:
    """The root's path in the guest, and the storages that the agent mounts for it.

    A read-only disk is the lower layer of an overlay whose upper layer is in the guest's memory, so that mount points
    for volumes can be made in it, and the container can write.

    :param serial: the disk's serial number in this machine; :data:`PMEM`: it is persistent memory
    """
    place = f"{GUEST_ROOTS}/{container_id}"
    find = (f"serial={serial}",)
    if not disk.read_only:
        root = f"{place}/rootfs"
        return root, [Storage("blk", path_of(serial), disk.fstype, root, disk.options, find)]
    lower = Storage("blk", path_of(serial), disk.fstype, f"{place}/disk", ("ro", *disk.options), find)
    if serial == PMEM:
        lower = Storage("pmem", PMEM, disk.fstype, f"{place}/disk", ("ro", "dax", *disk.options))
    root, layers = layer_storages(lower.mount_point, container_id, disk.layer)
    return root, [lower, *layers]


def image_storages(disk: RootDisk, file: str, container_id: str) -> tuple[str, list[Storage]]:
    """The same for an image that the guest reads as a file.

    :param file: its path in the guest
    """
    place = f"{GUEST_ROOTS}/{container_id}"
    lower = Storage(IN_SHARE, file, disk.fstype, f"{place}/disk", ("ro",))
    root, layers = layer_storages(lower.mount_point, container_id, disk.layer)
    return root, [lower, *layers]


def layer_storages(lower: str, container_id: str, size: int) -> tuple[str, list[Storage]]:
    """A root of two layers, the upper one in the guest's memory: its path in the guest, and what the agent mounts.

    :param lower: the guest's path of what the container does not change
    :param size: bytes of its changes at most; 0: half of the guest's memory
    """
    place = f"{GUEST_ROOTS}/{container_id}"
    root, layer = f"{place}/rootfs", f"{place}/layer"
    upper, work = f"{layer}/upper", f"{layer}/work"
    overlay = (f"lowerdir={lower}", f"upperdir={upper}", f"workdir={work}")
    return root, [
        Storage("ephemeral", "tmpfs", "tmpfs", layer, (f"size={size}",) if size else ()),
        Storage("overlayfs", "overlay", "overlay", root, overlay, (f"{CREATE}={upper}", f"{CREATE}={work}")),
    ]


def device_storage(serial: str) -> Storage:
    """The storage by which the agent looks for a disk that is a device of a container, and removes it at the
    container's end."""
    return Storage("blk", path_of(serial), "", f"{GUEST_DEVICES}/{serial}", (), (f"serial={serial}",))


def path_of(serial: str) -> str:
    """The name of a disk in the agent's errors."""
    return f"disk {serial}"


def _read_head(path: str) -> bytes:
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not is_disk(f"/proc/self/fd/{fd}"):
                raise ConfigError(f"{path}: neither a file nor a block device", code="root-disk")
            return os.pread(fd, _HEAD, 0)
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", code="root-disk") from error


def _file_system(head: bytes) -> str:
    if head[0x438:0x43A] == _EXT4_MAGIC:
        return "ext4"
    if head[0x400:0x404] == _EROFS_MAGIC:
        return "erofs"
    return "squashfs" if head[:4] == _SQUASHFS_MAGIC else ""
