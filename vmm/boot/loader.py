"""Kernel and initrd: from their files into guest RAM."""

from __future__ import annotations

import posix

from vmm.boot import cache
from vmm.boot.image import Identity, KernelImage, identity
from vmm.errors import ConfigError
from vmm.faststart.builtin import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.memory import GuestMemory

_AROUND = 64 << 10
"""A read fault maps the pages around it that are there, by this much at once (Linux's fault-around)."""
_CHUNK = 1 << 30
_SEEK_SET = 0  # lseek(2)
_NO_KINDS = (
    (stat.S_ISDIR, "is a directory"),
    (stat.S_ISFIFO, "is a pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a block device"),
)


def open_file(path: str, what: str) -> tuple[int, Identity]:
    """Open the regular file *path* for reading; *what* describes it in messages.

    :raises ConfigError: it does not exist, may not be read, or is not a regular file
    """
    code = f"{what}-file"
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY)
    except (OSError, ValueError) as error:
        hints: dict[type[Exception], str] = {
            FileNotFoundError: "check the path",
            PermissionError: "its owner can allow it: chmod a+r FILE (and a+x on the folders above it)",
        }
        reason = getattr(error, "strerror", None) or "it has a NUL in its name"
        raise ConfigError(f"{what} {path}: {reason}", code=code, hint=hints.get(type(error), "")) from error
    try:
        status = posix.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            kind = next((text for test, text in _NO_KINDS if test(status.st_mode)), "is no file")
            text = f"{what} {path} {kind}, not a regular file"
            raise ConfigError(text, code=code, hint=f"name the {what} file itself")
        return fd, identity(status)
    except BaseException:
        posix.close(fd)
        raise


def find_kernel(path: str, *, unpack: bool = True) -> KernelImage:
    """Parse the kernel file *path*, or take it from the cache.

    :param unpack: extract the ELF file inside a bzImage, where it can be unpacked
    :raises ConfigError: it cannot be read, or is not a loadable kernel
    """
    fd, state = open_file(path, "kernel")
    try:
        real = _real_path(fd)
        image = cache.load(path, real, state) if real else None
        if image is None:
            image = _parse(path, fd, state, unpack)
            if real and not image.setup and image.identity == state:
                cache.store(image, real)
        return image
    except OSError as error:
        raise ConfigError(f"kernel {path}: {error.strerror}", code="kernel-file", hint="copy the file again") from error
    finally:
        posix.close(fd)


def _parse(path: str, fd: int, state: Identity, unpack: bool) -> KernelImage:
    from vmm.boot import bzimage

    if bzimage.is_bzimage(posix.pread(fd, 1024, 0)):
        if unpack:
            from vmm.boot.unpack import find

            inside = find(path, fd, state)
            if inside is not None:
                return find_kernel(inside)
        return bzimage.parse(path, fd, state)
    from vmm.boot import elf

    return elf.parse(path, fd, state)


def _real_path(fd: int) -> bytes:
    """The path of the open file *fd*, without symbolic links; empty where /proc is not mounted."""
    try:
        return posix.readlink(f"/proc/self/fd/{fd}".encode())
    except OSError:
        return b""


def load_kernel(memory: GuestMemory, image: KernelImage) -> None:
    """Copy the segments of *image* into *memory*, which is fresh: parts without bytes in the file are not touched.

    :raises ConfigError: the file is not the one that was checked
    :raises HostError: the host has no free page left
    """
    fd = _reopen(image.path, "kernel", image.identity)
    try:
        for segment in image.segments:
            _copy(memory, fd, segment.offset, segment.paddr, segment.filesz, f"kernel {image.path}")
    finally:
        posix.close(fd)


def load_initrd(memory: GuestMemory, path: str, state: Identity, address: int) -> None:
    """Copy the initrd *path*, in its state *state*, to *address* (see :func:`vmm.boot.image.initrd_address`).

    :raises ConfigError: the file is not the one that was checked
    """
    fd = _reopen(path, "initrd", state)
    try:
        _copy(memory, fd, 0, address, state[2], f"initrd {path}")
    finally:
        posix.close(fd)


def _reopen(path: str, what: str, state: Identity) -> int:
    fd, now = open_file(path, what)
    if now != state:
        posix.close(fd)
        raise _changed(f"{what} {path}")
    return fd


def _changed(where: str) -> ConfigError:
    text = f"{where} changed while it was read"
    return ConfigError(text, code="file-changed", hint="start again when the file is complete")


def _copy(memory: GuestMemory, fd: int, offset: int, gpa: int, size: int, where: str) -> None:
    """Copy *size* bytes at *offset* of *fd* to *gpa*: once, from the page cache to guest RAM.

    Sending into a memfd costs two thirds of reading into the mapping, since no page is zeroed first and none faults.
    The pages are then mapped in groups of sixteen. Otherwise KVM would fault each in when the guest first touches it.
    Private memory and huge pages can only be faulted in, and huge pages are cheaper still.

    :raises ConfigError: the file ends too early or cannot be read
    """
    if not size:
        return
    try:
        done = 0 if memory.huge or memory.fd < 0 else _send(memory, fd, offset, gpa, size)
        with memory.view(gpa, size) as view:
            with view[:done:_AROUND] as sparse:
                sparse.tobytes()
            while done < size:
                with view[done : done + _CHUNK] as part:
                    count = posix.preadv(fd, [part], offset + done)
                if not count:
                    raise _changed(where)
                done += count
    except OSError as error:
        raise ConfigError(
            f"{where}: cannot read its {size} bytes at {offset:#x}: {error.strerror}",
            code="file-read",
            hint="copy the file again, to another disk",
        ) from error


def _send(memory: GuestMemory, fd: int, offset: int, gpa: int, size: int) -> int:
    """How many bytes could be sent from the file to the memfd."""
    done = 0
    try:
        posix.lseek(memory.fd, memory.offset(gpa, size), _SEEK_SET)
        while done < size:
            count = posix.sendfile(memory.fd, fd, offset + done, size - done)
            if not count:
                break
            done += count
    except OSError:
        # hugetlb pages, a file system that cannot splice, a bad disk: reading works, or finds out which
        pass
    return done
