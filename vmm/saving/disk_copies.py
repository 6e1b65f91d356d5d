"""Copies of disks: with shared blocks where the file system supports that (reflinks), else without holes; and of
overlays."""

from __future__ import annotations

import errno
import fcntl
import os

from vmm.errors import HostError
from vmm.memory.memfd import data_ranges
from vmm.saving.regular_files import hint_for, open_regular
from vmm.virtio.blk import AUTO, COPY, REFLINK
from vmm.virtio.image import OVERLAY_BITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_FICLONE = 0x4004_9409
"""``<linux/fs.h>``."""
_PAGE = 4096
_NO_BITS = bytes(_PAGE)
_CANNOT = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.ETXTBSY}


def copy_disk(source: str, target: str, cow: str = AUTO, *, name: str = "") -> bool:
    """Make the new file *target* a copy of the image *source*, which is not written meanwhile.

    :param cow: how, see :class:`~vmm.virtio.blk.DiskConfig`
    :param name: what errors call *source*, if it is a file of a snapshot: links are then not followed
    :returns: whether both share their blocks until one is written
    :raises ConfigError: it is not a regular file
    :raises HostError: the host cannot
    """
    try:
        read = open_regular(source, name) if name else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with open(target, "xb", buffering=0) as write:
                os.fchmod(write.fileno(), 0o600)
                return copy_open_disk(read, write.fileno(), cow)
        finally:
            os.close(read)
    except OSError as error:
        raise _cannot_copy(f"the disk {name or source}", f"its data beside {target}", error) from error


def _cannot_copy(what: str, room: str, error: OSError) -> HostError:
    number = error.errno or 0
    hint = f"it takes as much room as {room}" if number in (errno.ENOSPC, errno.EDQUOT) else hint_for(number)
    return HostError(f"cannot copy {what}: {error.strerror}", code="snapshot-disk", hint=hint, errno=number)


def copy_open_disk(source: int, target: int, cow: str = AUTO) -> bool:
    """The same for descriptors; *target* is an empty file.

    :raises HostError: shared blocks are demanded, and not supported
    :raises OSError: the host cannot
    """
    if cow != COPY:
        try:
            fcntl.ioctl(target, _FICLONE, source)
            return True
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
    if cow == REFLINK:
        raise HostError(
            "cow=reflink: the file system cannot share blocks of a disk with its copy",
            code="disk-cow",
            hint="without cow=reflink the disk is copied then; or use a file system with reflinks (XFS, btrfs)",
        )
    size = os.lseek(source, 0, os.SEEK_END)
    os.ftruncate(target, size)
    for start, end in data_ranges(source, size):
        _copy_range(source, target, start, end, share=cow != COPY)
    return False


def copy_overlay(blk: Any, target: int) -> None:
    """Make the empty file *target* a copy of the overlay of a stopped disk.

    :raises OSError: the host cannot
    """
    copy_open_disk(blk.overlay_fd, target)
    # Its file has those of the last flush
    bits = blk.overlay_bits()
    for at in range(0, len(bits), _PAGE):
        page = bits[at : at + _PAGE]
        if page != _NO_BITS:
            os.pwrite(target, page, OVERLAY_BITS + at)


def copy_overlaid(blk: Any, base: int, target: int) -> None:
    """Write to the empty file *target* the image that the guest sees of a stopped disk with an overlay.

    :raises OSError: the host cannot
    """
    copy_open_disk(base, target)
    for start, end in blk.overlay_ranges():
        _copy_range(blk.overlay_fd, target, start, end, ahead=blk.overlay.data_at)


def _copy_range(source: int, target: int, start: int, end: int, *, ahead: int = 0, share: bool = True) -> None:
    """:param ahead: how much further back the data are in the source"""
    at = start
    while at < end:
        done = -1
        if share:  # which the file system does by itself for this call, too
            try:
                done = os.copy_file_range(source, target, end - at, ahead + at, at)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
        if done < 0:
            done = os.pwrite(target, os.pread(source, min(end - at, 1 << 20), ahead + at), at)
        if not done:
            raise OSError(errno.EIO, "the file ends early")
        at += done


def unnamed_file(beside: str) -> int:
    """A new nameless file, which is freed with its last descriptor.

    :param beside: a path: the file is on the same file system, if that is writable, so that it may share blocks
    :raises OSError: the host cannot
    """
    import tempfile

    for folder in (os.path.dirname(os.path.abspath(beside)), tempfile.gettempdir()):
        if os.access(folder, os.W_OK):
            try:
                return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                    raise
            fd, path = tempfile.mkstemp(prefix=".pyvmm-clone-", dir=folder)  # the file system has none without names
            os.unlink(path)
            return fd
    raise OSError(errno.EACCES, os.strerror(errno.EACCES), beside)


class DiskCopies:
    """Copies of disks for a machine. Each has a name from its completion until the machine has opened it, so nothing is
    left if it is killed."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._open: list[int] = []

    def make(self, source: str, *, beside: str, cow: str = AUTO, name: str = "") -> str:
        """Copy the image *source*; the path of the copy.

        :param beside: a path: the copy is in the same directory, if that is writable, so that it may share blocks
        :param cow: how, see :class:`~vmm.virtio.blk.DiskConfig`
        :param name: see :func:`copy_disk`
        :raises ConfigError: as that does
        :raises HostError: the host cannot
        """
        path = self._new(beside)
        try:
            read = open_regular(source, name) if name else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._fill(path, lambda write: copy_open_disk(read, write, cow))
            finally:
                os.close(read)
        except OSError as error:
            raise _cannot_copy(f"the disk {name or source}", f"its data beside {path}", error) from error
        return path

    def make_overlay(self, blk: Any, *, beside: str) -> str:
        """Copy the overlay of a stopped disk; returns the path of the copy.

        :raises HostError: the host cannot
        """
        path = self._new(beside)
        try:
            self._fill(path, lambda write: copy_overlay(blk, write))
        except OSError as error:
            room = f"what the guest has written beside {path}"
            raise _cannot_copy(f"the overlay of the disk {blk.path}", room, error) from error
        return path

    def _fill(self, path: str, copy: Callable[[int], object]) -> None:
        """Make the new file *path*, which has no name while *copy* writes it, if the file system supports that."""
        try:
            fd = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
            fd = -1
        if fd < 0:
            self._paths.append(path)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            copy(fd)
            if path not in self._paths:
                self._paths.append(path)
                # With a directory's descriptor Python calls linkat(2), which follows this link
                os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
        finally:
            os.close(fd)

    def hold(self, fd: int) -> str:
        """A path of a possibly nameless file, valid as long as the copies have theirs."""
        self._open.append(os.dup(fd))
        return f"/proc/self/fd/{self._open[-1]}"

    def hold_until(self, fds: list[int]) -> None:
        """Close *fds* with the names."""
        self._open += fds

    def _new(self, beside: str) -> str:
        folder = os.path.dirname(os.path.abspath(beside))
        if not os.access(folder, os.W_OK):
            import tempfile

            folder = tempfile.gettempdir()
        return os.path.join(folder, f".pyvmm-clone-{os.getpid()}-{os.urandom(6).hex()}")

    def remove(self) -> None:
        """Remove the names.  A second call does nothing."""
        while self._paths:
            try:
                os.unlink(self._paths.pop())
            except OSError:
                pass
        while self._open:
            os.close(self._open.pop())
