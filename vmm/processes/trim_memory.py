"""Unmaps what a machine's start needed and its idle monitor does not."""

from __future__ import annotations

import posix
import sys

from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAPS, _PAGEMAP = "/proc/self/maps", "/proc/self/pagemap"  # smaps would walk all pages of guest RAM
_PAGE = 4096
_SEEK_SET = 0
# An entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst in Linux)
_PRESENT, _SWAPPED, _OF_A_FILE = 1 << 63, 1 << 62, 1 << 61


_maps: tuple[int, int, int] | None = None
"""The process whose files they are, and two descriptors, -1 where they cannot be opened."""


def open_maps() -> None:
    """Open the files that :func:`warm_wait` reads, for a process that cannot open files later. They stay open."""
    global _maps
    _maps = posix.getpid(), -1, -1
    try:
        maps = posix.open(_MAPS, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return
    # In a jail, who has taken this process over must not read physical addresses there
    pagemap = lib.jail_open_unprivileged(_PAGEMAP.encode())
    if pagemap < 0:
        posix.close(maps)
        return
    _maps = posix.getpid(), maps, pagemap


def warm_settle() -> None:
    """For a process that has started and now waits: unmap what returns from files when it is used again.

    These are programs and libraries. In a process that ``pyvmm-warm`` has started, they are also the pages of its image
    that have not changed, and byte code with its inline caches.
    """
    warm_wait(-1, 0)


def warm_wait(fd: int, timeout: int = -1) -> None:
    """The same, and wait until *fd* is readable or a signal is handled, at most *timeout* milliseconds (-1: for ever).

    A fault also maps the pages around it. So a start leaves 7 MiB of programs mapped, and from an image 10 MiB of that,
    which count as this process's own while no other process maps them. The wait is here because a wait in Python would
    map 2 MiB of them again. Pages that other threads map are unmapped again from time to time.
    """
    # Imported in a process that started from an image, and no use in others
    if (warm := sys.modules.get("vmm.faststart.warm")) is not None:
        warm.forget_code()
    if _maps is None or _maps[0] != posix.getpid():  # a fork has those of its parent
        open_maps()
    assert _maps is not None
    _, maps, pagemap = _maps
    words = ffi.new("uint64_t[]", [word for pair in _programs(maps, pagemap) for word in pair])
    lib.warm_unmap_and_wait(words, len(words) // 2, maps, pagemap, fd, timeout)


def _programs(maps: int, pagemap: int) -> list[tuple[int, int]]:
    """Address and size of mappings that can be read again from files; none where the maps cannot be read."""
    try:
        posix.lseek(maps, 0, _SEEK_SET)
        with open(maps, "rb", closefd=False) as file:
            lines = file.read().splitlines()
        return [(start, size) for start, size in _read_only(lines) if not _changed(pagemap, start, size)]
    except OSError:
        return []


def _read_only(lines: Iterable[bytes]) -> Iterator[tuple[int, int]]:
    """Address and size of read-only mappings of programs and libraries.

    These are files with mapped text, which stay in place; another file may vanish at any time, and its addresses be
    reused.
    """
    # start-end r-xp offset device inode path (proc(5))
    found = [words for words in (line.split(None, 5) for line in lines) if len(words) == 6]
    programs = {path for _, permissions, *_, path in found if permissions == b"r-xp" and path.startswith(b"/")}
    for addresses, permissions, *_, path in found:
        if permissions in (b"r-xp", b"r--p") and path in programs:
            start, end = (int(address, 16) for address in addresses.split(b"-"))
            yield start, end - start


def _changed(pagemap: int, start: int, size: int) -> bool:
    """Whether a page there no longer has the file's content: after relocations, or a debugger's changes."""
    entries = memoryview(posix.pread(pagemap, size // _PAGE * 8, start // _PAGE * 8)).cast("Q")
    return any(entry & (_PRESENT | _SWAPPED) and not entry & _OF_A_FILE for entry in entries)
