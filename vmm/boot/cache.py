"""A cache of parsed kernels: importing pyelftools costs more than the rest of a start.

One small file for each kernel file, named after its device and inode, in ``$XDG_CACHE_HOME/pyvmm/kernels`` (or below
``~/.cache``). Only the newest are kept. An entry is valid only if this user owns it and it contains the kernel's path,
device, inode, size and both times. Its content is checked as if it had just been parsed. No failure here is an error:
the kernel is parsed instead.

Layout, little-endian::

     0 u64 checksum: the bytes behind it as one number, modulo 2**61 - 1
     8 8s  "PYVMMK\\0" and the version of this format
    16 5 u64 identity, u64 64-bit entry, u64 PVH entry (all ones: none), u32 segments, u32 length of the path
    80 4 u64 for each segment: offset, filesz, memsz, paddr
       the path
"""

from __future__ import annotations

import posix
import struct
import time

from vmm.boot.image import MAX_SEGMENTS, Identity, KernelImage, Segment, check_image
from vmm.errors import ConfigError
from vmm.faststart.builtin import stat, variable

VERSION = 1
_MAGIC = b"PYVMMK\0" + bytes((VERSION,))
_SUM = struct.Struct("<Q")
_HEADER = struct.Struct("<8s7QII")
_SEGMENT = struct.Struct("<4Q")
_NONE = (1 << 64) - 1
_MAX_SIZE = _SUM.size + _HEADER.size + MAX_SEGMENTS * _SEGMENT.size + 4096
_PRIME = (1 << 61) - 1
SETTLED_NS = 50_000_000
"""A file changed less than this long ago is not cached: a second change could leave its times as they are."""
_SECOND = 1_000_000_000
KEPT = 64
"""Entries, the last kernel that was new included."""


def folder() -> str | None:
    """The directory of the entries; None if there is none."""
    base = variable("XDG_CACHE_HOME")
    if not base.startswith("/"):
        home = variable("HOME")
        if not home.startswith("/"):
            return None
        base = home + "/.cache"
    return base + "/pyvmm/kernels"


def _entry(where: str, identity: Identity) -> str:
    return f"{where}/{identity[0]:x}-{identity[1]:x}"


def encode(image: KernelImage, real: bytes) -> bytes:
    """An entry for *image*, whose path without symbolic links is *real*."""
    body = _HEADER.pack(
        _MAGIC,
        *image.identity,
        _NONE if image.entry64 is None else image.entry64,
        _NONE if image.pvh_entry is None else image.pvh_entry,
        len(image.segments),
        len(real),
    )
    body += b"".join([_SEGMENT.pack(s.offset, s.filesz, s.memsz, s.paddr) for s in image.segments]) + real
    return _SUM.pack(int.from_bytes(body, "little") % _PRIME) + body


def decode(data: bytes, path: str, real: bytes, identity: Identity) -> KernelImage | None:
    """Decode the output of :func:`encode` for a kernel called *path*; None if it is damaged or belongs to another
    file."""
    body = data[_SUM.size :]
    if len(body) < _HEADER.size or int.from_bytes(body, "little") % _PRIME != _SUM.unpack_from(data)[0]:
        return None
    magic, *numbers, count, length = _HEADER.unpack_from(body)
    names = _HEADER.size + count * _SEGMENT.size
    if magic != _MAGIC or tuple(numbers[:5]) != identity or len(body) != names + length:
        return None
    if body[names:] != real:
        return None
    entry64, pvh = (None if value == _NONE else value for value in numbers[5:])
    segments = tuple([Segment(*fields) for fields in _SEGMENT.iter_unpack(body[_HEADER.size : names])])
    image = KernelImage(path, identity, segments, entry64, pvh)
    try:
        check_image(image)
    except ConfigError:
        return None
    return image


def load(path: str, real: bytes, identity: Identity) -> KernelImage | None:
    """The entry for the kernel *path* in its state *identity*, or None."""
    where = folder()
    if where is None:
        return None
    try:
        fd = posix.open(_entry(where, identity), posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        status = posix.fstat(fd)
        # A writer of the entry decides what is loaded, and where
        if not stat.S_ISREG(status.st_mode) or status.st_uid != posix.geteuid() or status.st_mode & 0o022:
            return None
        return decode(posix.read(fd, _MAX_SIZE), path, real, identity)
    except OSError:
        return None
    finally:
        posix.close(fd)


def is_ours(path: str) -> bool:
    """Whether *path* is a regular file that no other user can write."""
    try:
        status = posix.lstat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == posix.geteuid() and not status.st_mode & 0o022


def is_settled(state: Identity) -> bool:
    """Whether any later change is certain to change the file's times."""
    # Whole seconds: a file system that counts in those, or in two of them
    tick = SETTLED_NS if state[4] % _SECOND else 3 * _SECOND
    return time.time_ns() - max(state[3:]) >= tick


def store(image: KernelImage, real: bytes) -> None:
    """Store *image*, if possible."""
    where = folder()
    if where is None or not is_settled(image.identity):
        return
    data = encode(image, real)
    if len(data) > _MAX_SIZE:
        return
    target = _entry(where, image.identity)
    temporary = f"{target}.{posix.getpid()}"
    try:
        import os  # the first time with a kernel; all others do without it

        os.makedirs(where, mode=0o700, exist_ok=True)
        fd = posix.open(
            temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC, 0o600
        )
        try:
            written = posix.write(fd, data)
        finally:
            posix.close(fd)
        if written == len(data):
            posix.replace(temporary, target)
            _drop_oldest(where)
            return
    except (OSError, ValueError):
        pass
    try:
        posix.unlink(temporary)
    except (OSError, ValueError):
        pass


def _drop_oldest(where: str) -> None:
    """Each build of a kernel leaves an entry: keep the :data:`KEPT` newest."""
    with posix.scandir(where) as entries:
        found = sorted([(entry.stat(follow_symlinks=False).st_mtime_ns, entry.path) for entry in entries])
    for _, path in found[:-KEPT]:
        posix.unlink(path)
