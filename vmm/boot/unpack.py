"""The ELF kernel inside a bzImage, unpacked once and kept beside the cache of parsed kernels.

A kernel that unpacks itself does so at every boot, on one vCPU, and is copied twice. Unpacked here, it is an ELF file
like any other, with a PVH entry and a cached parsed form.

An unknown format is no error: the kernel unpacks itself then. zstd is in Python from 3.14 on, before that in the
package zstandard.
"""

from __future__ import annotations

import posix

from vmm.boot import bzimage, cache
from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.boot.image import Identity

MAX_SIZE = 1 << 30
"""More than any kernel has."""
_ELF = b"\x7fELF"


def _gzip(data: bytes, room: int) -> bytes:
    import zlib

    return zlib.decompressobj(wbits=31).decompress(data, room)


def _xz(data: bytes, room: int) -> bytes:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data, room)


def _lzma(data: bytes, room: int) -> bytes:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(data, room)


def _bzip2(data: bytes, room: int) -> bytes:
    import bz2

    return bz2.BZ2Decompressor().decompress(data, room)


def _zstd(data: bytes, room: int) -> bytes:
    try:
        from compression.zstd import ZstdDecompressor

        return bytes(ZstdDecompressor().decompress(data, room))
    except ImportError:
        from zstandard import ZstdDecompressor as Zstandard

        return bytes(Zstandard().stream_reader(data).read(room))


_FORMATS: tuple[tuple[bytes, str, Callable[[bytes, int], bytes]], ...] = (
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    (b"\x1f\x8b", "gzip", _gzip),
    (b"\xfd7zXZ\0", "xz", _xz),
    (b"BZh", "bzip2", _bzip2),
    (b"\x5d\0\0", "lzma", _lzma),
)


def payload(path: str, fd: int, identity: Identity) -> bytes | None:
    """The ELF file in the open bzImage *fd*; None if the compression is not supported here, or it is not an ELF file.

    :raises ConfigError: the header or the compressed data is damaged
    """
    setup = bzimage.read_setup(path, fd, identity[2])
    offset, length = setup.payload
    # Behind the compressed data its size when unpacked, which only gzip's own format has anyway
    if length < 8:
        return None
    data = posix.pread(fd, length, offset)
    size = int.from_bytes(data[-4:], "little")
    found = next(((name, undo) for magic, name, undo in _FORMATS if data.startswith(magic)), None)
    if found is None or not 64 <= size <= MAX_SIZE:
        return None
    name, undo = found
    try:
        unpacked = undo(data if name == "gzip" else data[:-4], size + 1)
    except ImportError:
        return None
    except Exception as error:  # each of them has exceptions of its own
        raise ConfigError(
            f"kernel {path}: its payload, {length} bytes of {name} at {offset:#x}, is damaged: {error}",
            code="kernel-payload",
            hint="copy or install the kernel file again; --entry linux64 lets the kernel unpack itself",
        ) from error
    if len(unpacked) != size:
        raise ConfigError(
            f"kernel {path}: its payload, {length} bytes of {name} at {offset:#x}, unpacks to {len(unpacked)} bytes"
            f"{' or more' if len(unpacked) > size else ''} instead of {size}",
            code="kernel-payload",
            hint="copy or install the kernel file again; --entry linux64 lets the kernel unpack itself",
        )
    return unpacked if unpacked.startswith(_ELF) else None


def _name(identity: Identity) -> str:
    return f"{identity[0]:x}-{identity[1]:x}-" + "-".join(f"{value:x}" for value in identity[2:]) + ".elf"


def find(path: str, fd: int, identity: Identity) -> str | None:
    """The path of the unpacked kernel of the open bzImage *fd*, unpacked if necessary; None if that is impossible.

    :raises ConfigError: see :func:`payload`
    """
    where = cache.folder()
    if where is None:
        return None
    target = f"{where}/{_name(identity)}"
    if cache.is_ours(target):
        return target
    if not cache.is_settled(identity):
        return None
    unpacked = payload(path, fd, identity)
    if unpacked is None:
        return None
    return target if _store(where, target, unpacked, identity) else None


def _store(where: str, target: str, data: bytes, identity: Identity) -> bool:
    import os  # the first time with a kernel; all others do without it

    temporary = f"{target}.{os.getpid()}"
    try:
        os.makedirs(where, mode=0o700, exist_ok=True)
        for name in os.listdir(where):  # of what the file was before
            if name.startswith(f"{identity[0]:x}-{identity[1]:x}-") and name.endswith(".elf"):
                os.unlink(f"{where}/{name}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
        os.replace(temporary, target)
        return True
    except OSError:
        pass
    try:
        os.unlink(temporary)
    except OSError:
        pass
    return False
