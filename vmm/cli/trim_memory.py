"""What the start of a machine needed, and a monitor that only waits does not."""

from __future__ import annotations

import posix

from vmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAPS, _PAGEMAP = "/proc/self/maps", "/proc/self/pagemap"  # smaps would count the pages of the guest's RAM
_PAGE = 4096
# An entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst in Linux)
_PRESENT, _SWAPPED, _OF_A_FILE = 1 << 63, 1 << 62, 1 << 61


_maps: tuple[int, int] | None = None


def open_maps() -> None:
    """Open what :func:`unmap_programs` reads, for a process that has no files left by then."""
    global _maps
    try:
        flags = posix.O_RDONLY | posix.O_CLOEXEC
        _maps = posix.open(_MAPS, flags), posix.open(_PAGEMAP, flags)
    except OSError:
        pass


def unmap_programs() -> None:
    """Have no text and constants of programs and libraries mapped; what is needed comes back, from the page cache.

    A fault maps the pages around it, too.  So a start leaves 7 MiB of them mapped, a third of which is used afterwards,
    and which count as this process's own as long as nobody else has them mapped.
    """
    global _maps
    try:
        if _maps is None:
            open_maps()
        if _maps is None:
            return
        maps, pagemap = _maps
        try:
            with open(maps, "rb", closefd=False) as file:
                lines = file.read().splitlines()
            # The interpreter's, which are lowest, come last, since what goes on needs them
            found = [(start, size) for start, size in _read_only(reversed(lines)) if not _changed(pagemap, start, size)]
        finally:
            posix.close(maps)
            posix.close(pagemap)
            _maps = None
    except OSError:
        return
    del lines
    for start, size in found:
        lib.memory_unmap_pages(start, size)


def _read_only(lines: Iterator[bytes]) -> Iterator[tuple[int, int]]:
    """Address and size of what is mapped of files and cannot be written to."""
    for line in lines:
        # start-end r-xp offset device inode path (proc(5))
        addresses, permissions, _, _, _, *path = line.split(None, 5)
        if permissions in (b"r-xp", b"r--p") and path and path[0].startswith(b"/"):
            start, end = (int(address, 16) for address in addresses.split(b"-"))
            yield start, end - start


def _changed(pagemap: int, start: int, size: int) -> bool:
    """Whether a page there is no longer the file's: by relocations, or by a debugger."""
    entries = memoryview(posix.pread(pagemap, size // _PAGE * 8, start // _PAGE * 8)).cast("Q")
    return any(entry & (_PRESENT | _SWAPPED) and not entry & _OF_A_FILE for entry in entries)
