"""Memory files: made, sealed, mapped, and searched for data."""

from __future__ import annotations

import mmap
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_F_ADD_SEALS, _F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW, _F_SEAL_WRITE = 1033, 1, 2, 4, 8
"""``<linux/fcntl.h>``."""
_SEEK_DATA, _SEEK_HOLE = 3, 4
_ENXIO = 6


def sealed_memory(name: str, size: int, flags: int = 0) -> int:
    """A new memfd of *size* bytes (a descriptor), whose size is sealed: touching a mapped page that was truncated would
    raise SIGBUS.

    :param flags: ``MFD_*`` of memfd_create(2) besides MFD_CLOEXEC
    :raises OSError: the host lacks such memory
    """
    fd = open_memory(name, size, flags)
    try:
        _seal(fd, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)
    except BaseException:
        posix.close(fd)
        raise
    return fd


def open_memory(name: str, size: int, flags: int = 0) -> int:
    """The same, before it is sealed."""
    fd = posix.memfd_create(name, posix.MFD_CLOEXEC | posix.MFD_ALLOW_SEALING | flags)
    try:
        posix.ftruncate(fd, size)
    except BaseException:
        posix.close(fd)
        raise
    return fd


def open_ram(size: int) -> int:
    """The same for shared guest RAM: its size is sealed, and :func:`freeze` may follow."""
    fd = open_memory("guest-ram", size)
    try:
        _seal(fd, _F_SEAL_SHRINK | _F_SEAL_GROW)
    except BaseException:
        posix.close(fd)
        raise
    return fd


def freeze(fd: int) -> None:
    """Seal the memfd *fd* against writing and resizing.

    :raises OSError: it is mapped for writing
    """
    _seal(fd, _F_SEAL_WRITE | _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)


def _seal(fd: int, seals: int) -> None:
    import fcntl

    fcntl.fcntl(fd, _F_ADD_SEALS, seals)


def map_memory(fd: int, size: int) -> mmap.mmap:
    """Map *size* bytes of a memfd, or of no file (-1). From Python 3.13 on, the map keeps no descriptor of its own,
    which would stay open until the map is collected."""
    return mmap.mmap(fd, size, **_NO_DESCRIPTOR)


_NO_DESCRIPTOR: Any = {"trackfd": False} if sys.version_info >= (3, 13) else {}


def data_ranges(file: int, size: int, begin: int = 0) -> Iterator[tuple[int, int]]:
    """Data in the first *size* bytes of *file*, from *begin* on, without holes: offsets, half-open."""
    at = begin
    while at < size:
        try:
            start = posix.lseek(file, at, _SEEK_DATA)
        except OSError as error:
            if error.errno == _ENXIO:
                return  # a hole up to the end
            raise
        at = min(posix.lseek(file, start, _SEEK_HOLE), size)
        if start < at:
            yield start, at
