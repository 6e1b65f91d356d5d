"""A disk image on the host: opened, locked and measured, with errors that name a remedy."""

from __future__ import annotations

import errno
import mmap
import posix

from vmm import report
from vmm.errors import ConfigError, HostError
from vmm.faststart.builtin import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    Opener = Callable[[str, int], int]

SECTOR = 512
BLOCK = 4096
"""What the host moves at once, at least: a page of its cache, a block of its file system."""

_LOCK_SH, _LOCK_EX, _LOCK_NB, _LOCK_UN = 1, 2, 4, 8  # flock(2)
_SEEK_END = 2  # lseek(2)
_FOREIGN_FORMATS = {b"QFI\xfb": "qcow2", b"KDMV": "VMDK", b"vhdx": "VHDX", b"cone": "VHD"}


class Below:
    """Directories below which disks or shares may be opened; they stay open, so later changes of their paths have no
    effect. No link is followed.

    :param kind: their purpose, for errors
    :raises ConfigError: one is missing, or not a directory
    """

    def __init__(self, paths: Iterable[str], kind: str = "disk") -> None:
        import os.path

        self._kind = kind
        self._folders: list[tuple[str, int]] = []
        for path in paths:
            try:
                fd = posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
            except OSError as error:
                self.close()
                raise ConfigError(f"{kind}s from {path}: {error.strerror}", code=f"{kind}s-from") from error
            self._folders.append((os.path.abspath(path).rstrip("/") + "/", fd))

    @property
    def fds(self) -> tuple[int, ...]:
        """Their descriptors."""
        return tuple([fd for _, fd in self._folders])

    def open(self, path: str, flags: int) -> int:
        """As :func:`posix.open`.

        :param path: an absolute path that begins with one of theirs
        :raises ConfigError: *path* is not below one of them
        """
        for folder, fd in self._folders:
            names = path.removeprefix(folder).split("/")
            if path.startswith(folder) and not {"", ".", ".."} & {*names}:
                return _open_below(fd, names, flags)
        places = ", ".join(folder for folder, _ in self._folders)
        raise ConfigError(f"{self._kind} {path}: it is not below {places}", code=f"{self._kind}-not-below")

    def close(self) -> None:
        """Close them.  A second call does nothing."""
        while self._folders:
            posix.close(self._folders.pop()[1])


def _open_below(folder: int, names: list[str], flags: int) -> int:
    at = folder
    try:
        for name in names[:-1]:
            way = posix.O_PATH | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
            before, at = at, posix.open(name, way, dir_fd=at)
            if before != folder:
                posix.close(before)
        return posix.open(names[-1], flags | posix.O_NOFOLLOW, dir_fd=at)
    finally:
        if at != folder:
            posix.close(at)


class Image:
    """A raw image file or a block device. Its content is never interpreted.

    It is locked (flock) while it is open: a writer excludes all others, readers share.

    :param opener: like :func:`posix.open`, with the path and flags
    :ivar fd: the descriptor
    :ivar alignment: of offsets, lengths and memory for direct I/O (bytes); else 1
    :raises ConfigError: the file is missing, locked, of the wrong kind or size, or must not be opened
    """

    def __init__(
        self, path: str, *, read_only: bool = False, direct: bool = False, opener: Opener = posix.open
    ) -> None:
        self.path = path
        self.fd = _open(path, read_only, direct, opener)
        self.alignment = 1
        try:
            self.sectors()
            if direct:
                self.alignment = self._direct_alignment()
            else:
                self._warn_of_format()
        except BaseException:
            self.close()
            raise

    @classmethod
    def given(cls, path: str, fd: int, alignment: int) -> Self:
        """A file that another process has opened and locked.

        :param fd: its descriptor, owned by this object from now on
        """
        image = cls.__new__(cls)
        image.path, image.fd, image.alignment = path, fd, alignment
        return image

    def sectors(self) -> int:
        """The present size, in sectors of 512 bytes.

        :raises ConfigError: an invalid size for a disk
        """
        size = posix.lseek(self.fd, 0, _SEEK_END)
        if size == 0:
            raise ConfigError(
                f"disk {self.path}: it is empty",
                code="disk-size",
                hint=f"give it a size: truncate -s 1G {self.path}",
            )
        if size % SECTOR:
            raise ConfigError(
                f"disk {self.path}: its size of {size} bytes is not a multiple of {SECTOR}",
                code="disk-size",
                hint=f"round it up: truncate -s %{SECTOR} {self.path}",
            )
        return size // SECTOR

    def _direct_alignment(self) -> int:
        # Found by trying: not every kernel says
        with mmap.mmap(-1, 2 * BLOCK) as buffer, memoryview(buffer) as view:
            for alignment in (SECTOR, BLOCK):
                try:
                    with view[alignment : 2 * alignment] as part:
                        posix.preadv(self.fd, [part], 0)
                    return alignment
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise ConfigError(f"disk {self.path}: {error.strerror}", code="disk-read") from error
        raise ConfigError(
            f"disk {self.path}: direct I/O needs blocks larger than {BLOCK} bytes",
            code="disk-direct",
            hint="leave direct out",
        )

    def _warn_of_format(self) -> None:
        # Only a hint. A format guessed from content would be the guest's to choose: it writes the content
        kind = _FOREIGN_FORMATS.get(posix.pread(self.fd, 4, 0))
        if kind is not None:
            report.warn(
                __name__,
                f"disk {self.path} looks like a {kind} image; it is used as raw bytes all the same. "
                f"To convert it: qemu-img convert -O raw {self.path} disk.raw",
            )

    def close(self, *, unlock: bool = True) -> None:
        """Unlock and close.  A second call does nothing.

        :param unlock: by an explicit call: io_uring releases a closed file, and so its lock, at a later time
        """
        if self.fd >= 0:
            if unlock:
                _flock(self.fd, _LOCK_UN)
            posix.close(self.fd)
            self.fd = -1


OVERLAY_BITS = BLOCK
"""Where an overlay's bitmap begins; its header is before it."""
_OVERLAY_HEADER = "<8sIIQqQQ"
"""For :mod:`struct`: magic; version; size of a block; of the image: size and time of its last change; where the bitmap
and the blocks begin.  Then a CRC-32 of these."""
_OVERLAY_MAGIC = b"PYVMMCOW"
_OVERLAY_VERSION = 1


class Overlay:
    """The file with the guest's writes to a disk whose image is never written. It is locked as long as it is open.

    A header names its image by size and time of change; a bitmap follows, and the blocks at their offsets in the image
    (``blk_overlay.c``).

    :param path: created if it is missing or empty; empty: a nameless file, which ends with this object
    :param base: the image
    :ivar fd: the descriptor
    :ivar size: of the disk (bytes)
    :ivar data_at: where the blocks begin
    :raises ConfigError: it is missing, locked, of the wrong kind, not an overlay, or that of another image
    :raises HostError: the host cannot make it
    """

    def __init__(self, path: str, base: Image) -> None:
        self._take(path, base)
        self.fd = self._open() if path else _nameless_file(base.path)
        try:
            self._read_or_make()
        except BaseException:
            self.close()
            raise

    @classmethod
    def given(cls, path: str, base: Image, fd: int) -> Self:
        """The same as :meth:`Image.given`."""
        overlay = cls.__new__(cls)
        overlay._take(path, base)
        overlay.fd = fd
        return overlay

    def _take(self, path: str, base: Image) -> None:
        self.path = path
        self._base = base
        self.size = base.sectors() * SECTOR
        bits = (self.size + BLOCK - 1) // BLOCK
        self.data_at = OVERLAY_BITS + (bits + 8 * BLOCK - 1) // (8 * BLOCK) * BLOCK
        self._named = path or f"of {base.path}"

    def _open(self) -> int:
        flags = posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY
        try:
            fd = posix.open(self.path, flags, 0o600)
        except OSError as error:
            raise self._error(posix.strerror(error.errno or 0), "overlay-open") from error
        try:
            found = posix.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise self._error("it is no file")
            if found[:3] == posix.fstat(self._base.fd)[:3]:
                raise self._error("it is the image itself")
            posix.set_blocking(fd, True)
            try:
                _flock(fd, _LOCK_EX | _LOCK_NB)
            except BlockingIOError as error:
                raise self._error(f"in use by {_lock_holder(fd) or 'another program'}", "disk-in-use") from error
        except BaseException:
            posix.close(fd)
            raise
        return fd

    def _error(self, what: str, code: str = "overlay", hint: str = "") -> ConfigError:
        return ConfigError(f"overlay {self._named}: {what}", code=code, hint=hint)

    def _header(self) -> bytes:
        import struct
        from zlib import crc32

        info = posix.fstat(self._base.fd)
        changed = info.st_mtime_ns if stat.S_ISREG(info.st_mode) else 0
        header = struct.pack(
            _OVERLAY_HEADER, _OVERLAY_MAGIC, _OVERLAY_VERSION, BLOCK, self.size, changed, OVERLAY_BITS, self.data_at
        )
        return header + struct.pack("<I", crc32(header))

    def _read_or_make(self) -> None:
        wanted = self._header()
        end = self.data_at + self.size
        try:
            size = posix.lseek(self.fd, 0, _SEEK_END)
            found = posix.pread(self.fd, len(wanted), 0)
            # A process that was killed while it made one leaves it empty, or with the header alone
            if size == 0 or (size == len(wanted) and found == wanted):
                posix.pwrite(self.fd, wanted, 0)
                posix.ftruncate(self.fd, end)
                posix.fsync(self.fd)
                return
        except OSError as error:
            raise HostError(
                f"overlay {self._named}: {error.strerror}", code="overlay-make", errno=error.errno or 0
            ) from error
        self._check(found, wanted)
        if size != end:
            raise self._error(f"damaged: it has {size} bytes instead of {end}")

    def _check(self, found: bytes, wanted: bytes) -> None:
        import struct
        from zlib import crc32

        if found[:8] != _OVERLAY_MAGIC:
            raise self._error("it is not an overlay", hint="a new one is made where there is no file, or an empty one")
        if len(found) < len(wanted) or found[-4:] != struct.pack("<I", crc32(found[:-4])):
            raise self._error("damaged: the checksum of its header is wrong")
        if found == wanted:
            return
        _, version, block, size, _, bits_at, data_at = struct.unpack_from(_OVERLAY_HEADER, found)
        if version != _OVERLAY_VERSION:
            raise self._error(f"it has the format {version}, this pyvmm knows {_OVERLAY_VERSION}")
        if size != self.size:
            raise self._error(f"it is for an image of {size} bytes, and {self._base.path} has {self.size}")
        if (block, bits_at, data_at) != (BLOCK, OVERLAY_BITS, self.data_at):
            raise self._error("damaged: its header names another layout")
        raise self._error(
            f"it is for another image, or {self._base.path} was changed since it was made",
            hint="an image must stay as it is while overlays need it; to give up what was written, remove the overlay",
        )

    def close(self, *, unlock: bool = True) -> None:
        """Unlock and close.  A second call does nothing.

        :param unlock: see :meth:`Image.close`
        """
        if self.fd >= 0:
            if unlock:
                _flock(self.fd, _LOCK_UN)
            posix.close(self.fd)
            self.fd = -1


def _nameless_file(beside: str) -> int:
    """Make the nameless file, in the same directory or in that of temporary files."""
    import os.path

    folder = os.path.dirname(os.path.abspath(beside))
    try:
        return posix.open(folder, posix.O_TMPFILE | posix.O_RDWR | posix.O_CLOEXEC | posix.O_EXCL, 0o600)
    except OSError:
        pass
    import tempfile

    try:
        fd, path = tempfile.mkstemp(".overlay", "pyvmm-")
        posix.unlink(path)
    except OSError as error:
        raise HostError(
            f"disk {beside}: cannot make an overlay: {error.strerror}", code="overlay-make", errno=error.errno or 0
        ) from error
    return fd


def _flock(fd: int, operation: int) -> None:
    import fcntl

    try:
        fcntl.flock(fd, operation)
    except BlockingIOError:
        raise
    except OSError:
        return  # a file system without locks


def _open(path: str, read_only: bool, direct: bool, opener: Opener) -> int:
    access = posix.O_RDONLY if read_only else posix.O_RDWR
    # Not to wait for the other end of a FIFO; and not to get a terminal
    flags = access | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY | (posix.O_DIRECT if direct else 0)
    try:
        fd = opener(path, flags)
    except OSError as error:
        raise _open_error(path, read_only, direct, opener, error) from error
    try:
        mode = posix.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "neither a file nor a block device"
            raise ConfigError(
                f"disk {path}: it is {kind}", code="disk-kind", hint="give a raw image file or a block device"
            )
        posix.set_blocking(fd, True)  # io_uring takes O_NONBLOCK seriously, also on files
        _lock(fd, path, read_only)
    except BaseException:
        posix.close(fd)
        raise
    return fd


def _open_error(path: str, read_only: bool, direct: bool, opener: Opener, error: OSError) -> ConfigError:
    code, hint = "disk-open", ""
    if error.errno == errno.ENOENT:
        code, hint = "disk-missing", f"make an empty one with: truncate -s 1G {path}"
    elif error.errno == errno.EISDIR:
        code, hint = "disk-kind", "give a raw image file or a block device"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        code = "disk-permission"
        hint = f"see who may: ls -l {path}"
        if not read_only:
            try:
                posix.close(opener(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY))
                hint = "it can be read: add ,ro to use it read-only"
            except OSError:
                pass
    elif error.errno == errno.ELOOP:
        hint = "name the file itself: links are not followed here"
    elif error.errno == errno.EINVAL and direct:
        code, hint = "disk-direct", "its file system has no direct I/O: leave direct out"
    return ConfigError(f"disk {path}: {error.strerror}", code=code, hint=hint)


def _lock(fd: int, path: str, read_only: bool) -> None:
    try:
        _flock(fd, (_LOCK_SH if read_only else _LOCK_EX) | _LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"disk {path}: in use by {_lock_holder(fd) or 'another program'}",
            code="disk-in-use",
            hint="two machines that write one image destroy it; several may share it if all use ,ro",
        ) from error


def _lock_holder(fd: int) -> str:
    """The process that has locked the file, from /proc/locks; empty if that is unknown."""
    status = posix.fstat(fd)
    wanted = f"{posix.major(status.st_dev):02x}:{posix.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            for line in locks:
                fields = line.split()
                if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == wanted:
                    with open(f"/proc/{fields[4]}/comm", encoding="utf-8", errors="replace") as comm:
                        return f"process {fields[4]} ({comm.read().strip()})"
    except OSError:
        pass
    return ""
