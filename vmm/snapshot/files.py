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
    """Make the new file *target* a copy of the image *source*, which nobody writes meanwhile.

    :returns: whether both share their blocks until one is written
    :raises HostError: the host cannot
    """
    try:
        with open(source, "rb", buffering=0) as read, open(target, "xb", buffering=0) as write:
            os.fchmod(write.fileno(), 0o600)
            try:
                fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
                return True
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
            size = read.seek(0, os.SEEK_END)
            write.truncate(size)
            for start, end in data_ranges(read.fileno(), size):
                _copy_range(read.fileno(), write.fileno(), start, end)
            return False
    except OSError as error:
        raise HostError(
            f"cannot copy the disk {source}: {error.strerror}",
            code="snapshot-disk",
            hint=f"it takes as much room as its data beside {target}",
            errno=error.errno or 0,
        ) from error


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
