"""The files of a snapshot's directory: their names, and how to open one that another user may have placed there."""

from __future__ import annotations

import errno
import os
import stat

from vmm.errors import ConfigError

MANIFEST, STATE, MEMORY = "manifest.json", "state", "memory"
DIFFS = "diffs"
"""A directory: an entry for each snapshot that is a diff of this one, see :mod:`vmm.saving.bases`."""


def open_regular(path: str, name: str = "") -> int:
    """Open the regular file *path* for reading: links are not followed, and a FIFO does not block.

    :param name: what errors call it
    :raises ConfigError: there is none
    """
    name = name or path
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        why = "a link where a file is wanted" if error.errno == errno.ELOOP else error.strerror
        raise ConfigError(f"{name}: {why}", code="snapshot-file") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigError(f"{name}: no regular file", code="snapshot-file")
    return fd


def read_regular(path: str, most: int, name: str = "") -> bytes:
    """All of such a file, of at most *most* bytes.

    :raises ConfigError: there is none, it is longer, or it cannot be read
    """
    fd = open_regular(path, name)
    try:
        data = b""
        while piece := os.read(fd, min(most + 1 - len(data), 1 << 24)):
            data += piece
    except OSError as error:
        raise ConfigError(f"{name or path}: {error.strerror}", code="snapshot-file") from error
    finally:
        os.close(fd)
    if len(data) > most:
        raise ConfigError(f"{name or path}: more than {most} bytes", code="snapshot-format")
    return data


_ROOM = "it needs about as much room as the guest has used of its memory, and its disks"
_HINTS = {
    errno.ENOSPC: f"free some room, or name a directory on another file system: {_ROOM}",
    errno.EDQUOT: f"free some of this user's quota, or name a directory on another file system: {_ROOM}",
    errno.EFBIG: "raise the limit of the size of files (ulimit -f)",
    errno.EACCES: "name a directory that this user may write",
    errno.EPERM: "name a directory that this user may write",
    errno.EROFS: "the file system is read only: name a directory on another one",
    errno.ENOENT: "make the directory first that it is to be in",
    errno.ENOTDIR: "make the directory first that it is to be in",
    errno.EINVAL: "name a new directory: this file system may be unable to replace one in one step",
    errno.EBUSY: "a file system is mounted there: name a directory in it",
    errno.EIO: "check the host's kernel log: the disk may be failing",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def hint_for(number: int) -> str:
    """The hint for a host that fails to write a snapshot with that errno."""
    return _HINTS.get(number, "")
