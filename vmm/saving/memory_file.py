"""Guest RAM in a snapshot: a sparse file with each byte at its offset, or the pages that differ from another one's.

``memory`` contains RAM from its first region on, without the hole below 4 GiB. In a diff it contains only the pages
whose bits are set in ``pages`` (bit *n* % 8 of byte *n* / 8: page *n*); all others are the base's.
"""

from __future__ import annotations

import errno
import mmap
import os
import posix

from vmm.errors import ConfigError, HostError
from vmm.memory import GuestMemory
from vmm.memory.layout import PAGE
from vmm.memory.memfd import data_ranges
from vmm.native import ffi, lib
from vmm.saving.regular_files import hint_for, open_regular, read_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from vmm.memory.layers import Layer

    Progress = Callable[[int, int], None]
    """Called with the number of bytes done, and of all."""

PAGES = "pages"
_STEP = 64 << 20
"""Bytes that are read in one call; progress is reported between calls."""


_proc: dict[str, int] = {}


def open_proc() -> None:
    """Open the files of /proc that are read later, for a process that will lose its files.

    Without capabilities: an attacker who takes that process over must not read physical addresses in ``pagemap``.

    :raises HostError: the host cannot
    """
    for name in ("maps", "pagemap"):
        fd = int(lib.jail_open_unprivileged(f"/proc/self/{name}".encode()))
        if fd < 0:
            raise HostError(f"/proc/self/{name}: {posix.strerror(-fd)}", code="snapshot-proc", errno=-fd)
        _proc[name] = fd


class opened:
    """A descriptor of a file of /proc/self."""

    def __init__(self, name: str) -> None:
        self._fd = -1
        self.fd = _proc.get(name, -1)
        if self.fd < 0:
            self.fd = self._fd = posix.open(f"/proc/self/{name}", posix.O_RDONLY | posix.O_CLOEXEC)

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            posix.close(self._fd)


def new_file(path: str) -> int:
    """A descriptor of the new file *path*, for :func:`write_ram`.

    :raises OSError: the host cannot
    """
    return posix.open(path, posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)


def write_new(memory: GuestMemory, path: str, *, than: str | None = None) -> int:
    """:func:`write_ram` to the new file *path*, and its bits beside it if it is a diff of *than*."""
    fds = [new_file(path)]
    try:
        if than is None:
            return write_ram(memory, fds[0])
        fds.append(new_file(os.path.join(os.path.dirname(path), PAGES)))
        fds.append(posix.open(than, posix.O_RDONLY | posix.O_CLOEXEC))
        return write_ram(memory, *fds)
    finally:
        posix.fchmod(fds[0], 0o400)  # clones map it
        for fd in fds:
            posix.close(fd)


def write_ram(
    memory: GuestMemory, fd: int, pages_fd: int = -1, than: int = -1, *, progress: Progress | None = None
) -> int:
    """Write *memory*, which does not change meanwhile, to the empty file *fd*.

    :param pages_fd: of a diff: the empty file of its bits
    :param than: of a diff: the ``memory`` file of its base
    :returns: bytes written
    :raises HostError: the host cannot
    """
    posix.ftruncate(fd, memory.size)
    if than < 0:
        return _write(memory, fd, -1, None, None, False, progress)
    pages = bytearray(-(-memory.size // PAGE // 8))
    with mmap.mmap(than, memory.size, prot=mmap.PROT_READ) as base:
        same = memory.file >= 0 and os.path.samestat(os.fstat(than), os.fstat(memory.file))
        with ffi.from_buffer(base) as below, ffi.from_buffer(pages) as bitmap:
            written = _write(memory, fd, than, below, bitmap, same, progress)
    write_all(pages_fd, pages)
    return written


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Write all of *data* to the beginning of the file *fd*.

    :raises OSError: the host cannot
    """
    done = 0
    while done < len(data):
        done += posix.pwrite(fd, memoryview(data)[done:], done)


def _write(
    memory: GuestMemory, fd: int, than_fd: int, than: Any, bitmap: Any, same: bool, progress: Progress | None
) -> int:
    with opened("pagemap") as pagemap:
        file = ffi.new("struct ram_file *", {"fd": fd, "pagemap": pagemap, "than_fd": than_fd})
        return _write_with(file, memory, than, bitmap, same, progress)


def _write_with(file: Any, memory: GuestMemory, than: Any, bitmap: Any, same: bool, progress: Progress | None) -> int:
    file.than = ffi.NULL if than is None else than
    file.bitmap = ffi.NULL if bitmap is None else bitmap
    file.fill = memory.native_fill
    ram = ffi.cast("void *", memory.host_address)
    total = 0
    for start, end, what in _wanted(memory, than is None, same):
        file.what = what
        for at in range(start, end, _STEP):
            result = lib.ram_save(file, ram, at, min(_STEP, end - at))
            if result < 0:
                raise HostError(
                    f"cannot write guest memory: {posix.strerror(-result)}",
                    code="snapshot-write",
                    hint=hint_for(-result),
                    errno=-result,
                )
            total += result
            if progress is not None:
                progress(min(at + _STEP, memory.size), memory.size)
    return total


def _wanted(memory: GuestMemory, whole: bool, same: bool) -> Iterator[tuple[int, int, int]]:
    """Which parts of RAM to examine, and how: those that may contain data; for a diff those that may differ from its
    base.

    :param whole: it is not for a diff
    :param same: the base of the diff is the file that RAM lies over
    """
    if memory.over_file:
        for start, end, what in ram_areas(memory):
            if what != lib.RAM_OWN or same:
                yield start, end, what if whole or what == lib.RAM_OWN else lib.RAM_ALL
            elif not whole:
                yield start, end, lib.RAM_ALL
            else:
                yield from _over_holes(memory.file, start, end)
    elif memory.on_demand:
        # What is not there is read from the template, and nothing is filled
        yield 0, memory.size, lib.RAM_OWN if same else lib.RAM_ALL
    elif not whole:
        yield 0, memory.size, lib.RAM_ALL
    elif memory.fd >= 0:
        for start, end in data_ranges(memory.fd, memory.size):
            yield start, end, lib.RAM_ALL
    else:
        yield 0, memory.size, lib.RAM_TOUCHED


def _over_holes(file: int, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """For RAM that lies over *file*: everything where that has data; elsewhere what was written."""
    at = begin
    for start, stop in data_ranges(file, end, begin):
        yield at, start, lib.RAM_OWN
        yield start, stop, lib.RAM_ALL
        at = stop
    yield at, end, lib.RAM_OWN


def ram_areas(memory: GuestMemory) -> Iterator[tuple[int, int, int]]:
    """The mappings of RAM over a file, from /proc/self/maps: offsets, half-open, and how to recognize the machine's own
    pages in each. The balloon has replaced others with anonymous ones."""
    begin = memory.host_address
    inode = posix.fstat(memory.file).st_ino
    with opened("maps") as maps:
        text = b""
        while piece := posix.pread(maps, 1 << 16, len(text)):
            text += piece
    for line in text.splitlines():
        addresses, _, rest = line.partition(b" ")
        low, _, high = addresses.partition(b"-")
        first, last = int(low, 16) - begin, int(high, 16) - begin
        if first >= memory.size:
            return
        if last <= 0:
            continue
        number = rest.split(maxsplit=4)[3]
        what = lib.RAM_TOUCHED if number == b"0" else lib.RAM_OWN if int(number) == inode else lib.RAM_ALL
        yield max(first, 0), min(last, memory.size), what


def page_runs(bits: bytes | bytearray, size: int) -> Iterator[tuple[int, int]]:
    """The parts of RAM that a diff contains: offsets in bytes, half-open."""
    start, end, native = ffi.new("uint64_t *"), ffi.new("uint64_t *"), ffi.from_buffer(bits)
    while lib.mem_run(native, size, start, end):
        yield int(start[0]), int(end[0])


def read_pages(folder: str, size: int, name: str = "") -> bytes:
    """The bits of the diff in *folder*, whose RAM has *size* bytes.

    :param name: the file's name in errors
    :raises ConfigError: the file does not contain such bits
    """
    path = os.path.join(folder, PAGES)
    length = -(-size // PAGE // 8)
    bits = read_regular(path, length, name)
    if len(bits) != length:
        raise ConfigError(f"{name or path}: {len(bits)} bytes, of another size of memory", code="snapshot-format")
    return bits


def open_ram(
    size: int,
    layers: list[str],
    *,
    huge_pages: str,
    shared: bool,
    prefault: bool,
    on_demand: bool = False,
    first: bytes = b"",
    exactly: bool = False,
    constant: Sequence[tuple[int, int]] = (),
    hotplug: int = 0,
) -> GuestMemory:
    """RAM as saved: the first file of *layers* is mapped, and the contents of diffs are copied over it, in order.

    :param layers: paths of ``memory`` files: a full one, then diffs
    :param on_demand: fill shared memory when it is touched, instead of copying all, where the host's kernel supports
    that
    :param first: bits of the pages that are filled at once nevertheless
    :param exactly: fill no page beside a touched one
    :param constant: see :meth:`~vmm.memory.on_demand.OnDemand.start`
    :param hotplug: how many of the *size* bytes the guest does not have from the start
    :raises ConfigError: a file is too short
    :raises HostError: the host lacks memory
    """
    if shared and on_demand and not prefault and huge_pages != "hugetlb":
        memory = _open_on_demand(size, layers, huge_pages, first, exactly, constant, hotplug)
        if memory.on_demand:
            return memory
        memory.close()
    fd = open_regular(layers[0])
    try:
        memory = GuestMemory(size, huge_pages=huge_pages, prefault=prefault, shared=shared, file=fd, hotplug=hotplug)
    finally:
        posix.close(fd)
    try:
        for path in layers[1:]:
            _lay_over(memory, path)
    except BaseException:
        memory.close()
        raise
    return memory


def _open_on_demand(
    size: int,
    layers: list[str],
    huge_pages: str,
    first: bytes,
    exactly: bool,
    constant: Sequence[tuple[int, int]],
    hotplug: int,
) -> GuestMemory:
    """Empty shared memory, filled from *layers* if the host allows that."""
    memory = GuestMemory(size, huge_pages=huge_pages, shared=True, hotplug=hotplug)
    files: list[int] = []
    try:
        below: list[Layer] = []
        for path in layers:
            files.append(open_regular(path))
            if posix.fstat(files[-1]).st_size < size:
                raise ConfigError(f"{path}: ends early", code="snapshot-format")
            diff = bool(below)
            bits = read_pages(os.path.dirname(path), size) if diff else b""
            below.append((files[-1], () if diff else ((0, size),), bits))
        memory.fill.start(below, first, exactly=exactly, constant=constant)
        return memory
    except BaseException:
        memory.close()
        raise
    finally:
        for file in files:
            posix.close(file)


def _lay_over(memory: GuestMemory, path: str) -> None:
    bits = read_pages(os.path.dirname(path), memory.size)
    fd = open_regular(path)
    try:
        memory.mapping.load_pages(fd, bits)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", code="snapshot-format") from error
    finally:
        posix.close(fd)


def merge_ram(size: int, layers: list[str], path: str) -> int:
    """Write *layers* into one full file, each page once; returns the bytes written."""
    memory = open_ram(size, layers, huge_pages="none", shared=False, prefault=False)
    try:
        return write_new(memory, path)
    finally:
        memory.close()


def checksum(path: str, size: int) -> int:
    """CRC-32C of the first *size* bytes of a file: for each page that is not zero, its offset as 8 bytes,
    little-endian, and then the page.

    :raises ConfigError: it is not a regular file, or ends earlier
    :raises OSError: the host cannot read it
    """
    fd = open_regular(path)
    try:
        value = int(lib.file_crc32c(fd, size))
    finally:
        posix.close(fd)
    if value == -errno.ENODATA:
        raise ConfigError(f"{path}: ends early", code="snapshot-format")
    if value < 0:
        raise OSError(-value, posix.strerror(-value), path)
    return value


def old_checksum(path: str, size: int) -> int:
    """The same with the CRC-32 of zlib: that of ``memory`` in formats 1 and 2."""
    from zlib import crc32

    value = 0
    zero = bytes(PAGE)
    fd = open_regular(path)
    try:
        for start, end in data_ranges(fd, size):
            for at in range(start, end, _STEP // 64):
                block = posix.pread(fd, min(_STEP // 64, end - at), at)
                for part in range(0, len(block), PAGE):
                    page = block[part : part + PAGE]
                    # A file system may have made a hole of zeros, or zeros of a hole
                    if page != zero:
                        value = crc32(page, crc32((at + part).to_bytes(8, "little"), value))
    finally:
        posix.close(fd)
    return value
