"""What the start of a machine needed, and a monitor that only waits does not."""

from __future__ import annotations

import array
import ctypes
import mmap
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# An entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst in Linux)
_PRESENT, _SWAPPED, _OF_A_FILE = 1 << 63, 1 << 62, 1 << 61


def unmap_programs() -> None:
    """Have no text and constants of programs and libraries mapped; what is needed comes back, from the page cache.

    A fault maps the pages around it, too.  So a start leaves 7 MiB of them mapped, a third of which is used afterwards,
    and which count as this process's own as long as nobody else has them mapped.
    """
    try:
        with open("/proc/self/maps", "rb") as file:  # smaps would count the pages of the guest's RAM
            lines = file.read().splitlines()
        pagemap = posix.open("/proc/self/pagemap", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            # The interpreter's, which are lowest, come last, since what goes on needs them
            found = [(start, size) for start, size in _read_only(reversed(lines)) if not _changed(pagemap, start, size)]
        finally:
            posix.close(pagemap)
    except OSError:
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
    del lines
    for start, size in found:
        madvise(start, size, mmap.MADV_DONTNEED)


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
    entries = array.array("Q", posix.pread(pagemap, size // mmap.PAGESIZE * 8, start // mmap.PAGESIZE * 8))
    return any(entry & (_PRESENT | _SWAPPED) and not entry & _OF_A_FILE for entry in entries)
