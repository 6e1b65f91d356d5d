"""Guest RAM: one memfd, mapped once, seen as regions of guest physical addresses."""

from __future__ import annotations

import mmap
import os

from vmm.errors import ConfigError, GuestError, HostError
from vmm.native import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PAGE = 4096
HOLE_START = 0xC000_0000
"""Where the 32-bit hole for devices begins: 3 GiB."""
HOLE_END = 0x1_0000_0000
"""RAM goes on here: 4 GiB."""
HUGE_PAGES = ("none", "thp", "hugetlb")
_HUGE_2M = 2 << 20
_MAP_NORESERVE = 0x4000
"""``<asm-generic/mman-common.h>``; Python has a name for it since 3.13 only."""


class Region:
    """A run of guest RAM: *size* bytes at guest physical *gpa*, at *offset* of the memfd."""

    __slots__ = ("gpa", "offset", "size")

    def __init__(self, gpa: int, size: int, offset: int) -> None:
        self.gpa = gpa
        self.size = size
        self.offset = offset

    @property
    def end(self) -> int:
        """The first address behind the region."""
        return self.gpa + self.size

    def __repr__(self) -> str:
        return f"Region({self.gpa:#x}..{self.end:#x})"


def regions(size: int) -> tuple[Region, ...]:
    """How *size* bytes of RAM lie around the hole between 3 and 4 GiB."""
    if size <= HOLE_START:
        return (Region(0, size, 0),)
    return (Region(0, HOLE_START, 0), Region(HOLE_END, size - HOLE_START, HOLE_START))


class GuestMemory:
    """Guest RAM of *size* bytes (a multiple of 4 KiB, at least one page), zeroed.

    Every access is checked: an address range that is not wholly inside one region raises :class:`GuestError`.
    :meth:`read` copies once; :meth:`view` does not copy.

    :param huge_pages: ``none``; ``thp`` (transparent, advised); ``hugetlb`` (reserved 2 MiB pages; *size* is a
        multiple of 2 MiB)
    :param prefault: touch all of it now, so that no guest access waits for a page
    :raises ConfigError: a size or mode that cannot be
    :raises HostError: the host has no such memory
    """

    def __init__(self, size: int, *, huge_pages: str = "none", prefault: bool = False) -> None:
        if size < PAGE or size % PAGE:
            raise ConfigError(
                f"memory size {size} is not a multiple of {PAGE} bytes, 4096 or more",
                code="memory-size",
                hint="give it as for example 256M or 4G",
            )
        if huge_pages not in HUGE_PAGES:
            raise ConfigError(
                f"huge pages {huge_pages!r}: not one of {', '.join(HUGE_PAGES)}", code="memory-huge-pages"
            )
        if huge_pages == "hugetlb" and size % _HUGE_2M:
            raise ConfigError(
                f"memory size {size} is not a multiple of 2 MiB, which hugetlb pages need", code="memory-size"
            )
        self.size = size
        self.regions = regions(size)
        self.fd = -1
        flags = os.MFD_CLOEXEC | (os.MFD_HUGETLB | os.MFD_HUGE_2MB if huge_pages == "hugetlb" else 0)
        try:
            self.fd = os.memfd_create("guest-ram", flags)
            os.ftruncate(self.fd, size)
            map_flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if prefault and huge_pages != "thp" else 0)
            if huge_pages != "hugetlb":
                # Not so with hugetlb: an unreserved page that is missing later is a SIGBUS
                map_flags |= _MAP_NORESERVE
            self._map = mmap.mmap(self.fd, size, map_flags)
            if huge_pages == "thp":
                self._map.madvise(mmap.MADV_HUGEPAGE)
        except (OSError, ValueError, OverflowError) as error:
            errno = getattr(error, "errno", 0) or 0
            if self.fd >= 0:
                os.close(self.fd)
            raise HostError(
                f"cannot get {size >> 20} MiB of guest memory: {getattr(error, 'strerror', None) or error}",
                code="memory-unavailable",
                hint="reserve pages with: sysctl vm.nr_hugepages=" + str(-(-size // _HUGE_2M))
                if huge_pages == "hugetlb"
                else "ask for less memory, or see ulimit -v and the memory limits of this process",
                errno=errno,
            ) from error
        self._view = memoryview(self._map)
        self._native: Any = None
        self._base: Any = ffi.from_buffer(self._map)
        if prefault and huge_pages == "thp":
            # Populating before the advice would have made small pages
            for offset in range(0, size, PAGE):
                self._map[offset] = 0

    def offset(self, gpa: int, length: int) -> int:
        """Where the range lies in the memfd.

        :raises GuestError: not wholly inside one region
        """
        if length >= 0:
            for region in self.regions:
                if region.gpa <= gpa and gpa + length <= region.end and gpa < region.end:
                    return region.offset + gpa - region.gpa
        raise GuestError(f"guest memory {gpa:#x}+{length:#x} is not RAM", code="memory-range")

    def view(self, gpa: int, length: int) -> memoryview:
        """The range itself, writable, without a copy.  Release it before :meth:`close`."""
        start = self.offset(gpa, length)
        return self._view[start : start + length]

    def read(self, gpa: int, length: int) -> bytes:
        """A copy of the range."""
        start = self.offset(gpa, length)
        return self._map[start : start + length]

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy *data* (bytes, C-contiguous) to *gpa*."""
        start = self.offset(gpa, len(data))
        self._map[start : start + len(data)] = data

    def read_int(self, gpa: int, size: int) -> int:
        """A little-endian unsigned integer of *size* bytes."""
        return int.from_bytes(self.read(gpa, size), "little")

    def write_int(self, gpa: int, size: int, value: int) -> None:
        """Write *value*, cut to *size* bytes, little-endian."""
        self.write(gpa, (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little"))

    @property
    def host_address(self) -> int:
        """Where the memfd is mapped in this process; region *r* lies at ``host_address + r.offset``."""
        return int(ffi.cast("uintptr_t", self._base))

    @property
    def native(self) -> Any:
        """The same regions as the C data plane takes them (cdata ``struct mem *``).  Valid until :meth:`close`: whoever
        hands it to C keeps this object open."""
        if self._native is None:
            self._native = ffi.new("struct mem *")
            self._native.nregions = len(self.regions)
            for index, region in enumerate(self.regions):
                entry = self._native.region[index]
                entry.gpa, entry.size, entry.hva = region.gpa, region.size, self.host_address + region.offset
        return self._native

    def close(self) -> None:
        """Unmap and close; harmless when done twice.

        :raises BufferError: somebody still holds a view
        """
        if self.fd < 0:
            return
        self._view.release()
        ffi.release(self._base)
        try:
            self._map.close()
        except BufferError:
            self._view = memoryview(self._map)
            self._base = ffi.from_buffer(self._map)
            raise
        os.close(self.fd)
        self.fd = -1
