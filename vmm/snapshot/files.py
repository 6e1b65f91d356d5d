"""Copies of disks: shared blocks where the file system can (reflinks), else only what is no hole."""

from __future__ import annotations

import errno
import fcntl
import os

from vmm.errors import HostError
from vmm.memory import data_ranges

_FICLONE = 0x4004_9409
"""``<linux/fs.h>``."""
_CANNOT = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.ETXTBSY}


def copy_disk(source: str, target: str) -> bool:
    """Make the new file *target* a copy of the image *source*, which is not written meanwhile.

    :returns: whether both share their blocks until one is written
    :raises HostError: the host cannot
    """
    try:
        with open(source, "rb", buffering=0) as read, open(target, "xb", buffering=0) as write:
            os.fchmod(write.fileno(), 0o600)
            return copy_open_disk(read.fileno(), write.fileno())
    except OSError as error:
        raise HostError(
            f"cannot copy the disk {source}: {error.strerror}",
            code="snapshot-disk",
            hint=f"it takes as much room as its data beside {target}",
            errno=error.errno or 0,
        ) from error


def copy_open_disk(source: int, target: int) -> bool:
    """The same of descriptors; *target* is an empty file.

    :raises OSError: the host cannot
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return True
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    size = os.lseek(source, 0, os.SEEK_END)
    os.ftruncate(target, size)
    for start, end in data_ranges(source, size):
        _copy_range(source, target, start, end)
    return False


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    at = start
    while at < end:
        try:
            done = os.copy_file_range(source, target, end - at, at, at)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            done = os.pwrite(target, os.pread(source, min(end - at, 1 << 20), at), at)
        if not done:
            raise OSError(errno.EIO, "the file ends early")
        at += done


class DiskCopies:
    """Copies of disks for a machine, which have names until it has opened them: nothing is left when it is killed."""

    def __init__(self) -> None:
        self._paths: list[str] = []

    def make(self, source: str, *, beside: str) -> str:
        """Copy the image *source*; the path of the copy.

        :param beside: a path: the copy is in the same directory, if one can write there, so that it may share blocks
        :raises HostError: the host cannot
        """
        folder = os.path.dirname(os.path.abspath(beside))
        if not os.access(folder, os.W_OK):
            import tempfile

            folder = tempfile.gettempdir()
        path = os.path.join(folder, f".pyvmm-clone-{os.getpid()}-{os.urandom(6).hex()}")
        self._paths.append(path)
        copy_disk(source, path)
        return path

    def remove(self) -> None:
        """Remove the names.  A second call does nothing."""
        while self._paths:
            try:
                os.unlink(self._paths.pop())
            except OSError:
                pass
