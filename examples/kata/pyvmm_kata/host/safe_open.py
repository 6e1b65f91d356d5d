"""Opens files below a directory with untrusted contents: no link leads out of it, and nothing blocks."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct

from pyvmm_kata.host.mounts import libc

_OPENAT2 = 437  # x86-64; linux/openat2.h
_NO_MAGICLINKS, _IN_ROOT = 0x02, 0x10


def open_file(directory: int, path: str) -> int:
    """A descriptor of the regular file *path*, for reading.

    Links in the path are resolved as if *directory*, a descriptor, were the root directory.

    :raises OSError: there is no such file; it is a FIFO, a device or a directory (EINVAL)
    """
    how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC, 0, _IN_ROOT | _NO_MAGICLINKS)
    found = int(libc.syscall(_OPENAT2, directory, os.fsencode(path), how, len(how)))
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    try:
        # Before it is opened: to open a FIFO can block, to open a device can do anything
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(found)


def read_file(directory: int, path: str, most: int) -> bytes:
    """The contents of such a file.

    :param most: the largest size in bytes
    :raises OSError: see :func:`open_file`; or the file is larger (EFBIG)
    """
    with open(open_file(directory, path), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most} bytes", path)
    return content
