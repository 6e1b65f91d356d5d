"""The mapping of guest RAM in this process, and the files behind it."""

from __future__ import annotations

import mmap
import posix

from vmm.errors import HostError
from vmm.memory.layout import HUGE_2M, PAGE
from vmm.memory.memfd import data_ranges, open_ram, sealed_memory
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_MAP_NORESERVE = 0x4000
"""``<asm-generic/mman-common.h>``; Python has a name for it since 3.13 only."""
_MADV_REMOVE = 9
"""The same header: pages of a memfd are freed, not only unmapped."""
_MADV_POPULATE_WRITE = 23
"""The same header."""
_EIO, _EINVAL = 5, 22


def check(result: int) -> int:
    """The result of a C function.

    :raises OSError: it is an errno
    """
    if result < 0:
        raise OSError(-result, posix.strerror(-result))
    return result


class Mapping:
    """*size* bytes of memory at one address of this process: anonymous, of a memfd, or over a file.

    :ivar map: the mapping, in which RAM begins at :attr:`start`
    :ivar view: RAM itself, writable
    :ivar base: the same for C (cdata)
    :ivar fd: the memfd of shared or hugetlb memory; -1: there is none
    :ivar file: a descriptor of the file that RAM lies over, or is filled from if it is a single one; or -1
    :ivar over_file: a page that is given up must not show the file's bytes again: :func:`ram_zero` makes it zero
    :ivar huge: it consists of huge pages where the host has them
    :ivar makes_huge: huge pages can be made of single pieces
    :ivar prefaulted: no page is missing

    Parameters as of :class:`~vmm.memory.GuestMemory`.

    :raises HostError: the host lacks such memory
    """

    def __init__(self, size: int, huge_pages: str, *, shared: bool, file: int) -> None:
        self.size = size
        self.fd = self.file = -1
        self.over_file = file >= 0 and not shared and huge_pages != "hugetlb"
        self.hugetlb = huge_pages == "hugetlb"
        self.huge = huge_pages in ("thp", "hugetlb") or (huge_pages == "auto" and not shared)
        self.makes_huge = huge_pages in ("auto", "thp") and size >= HUGE_2M
        self.prefaulted = False
        try:
            if file >= 0 and posix.fstat(file).st_size < size:
                raise OSError(_EIO, "the file of guest memory ends early")
            if self.over_file:
                self.map, self.start = self._make_over(file), 0
                self.file = posix.dup(file)
            else:
                self.map, self.start = self._make(huge_pages, shared)
                if file >= 0:
                    self.copy_from(file, 0, size)
        except (OSError, ValueError, OverflowError) as error:
            self.close_files()
            raise _unavailable(size, huge_pages, error) from error
        self._look()

    def _look(self) -> None:
        self.view = memoryview(self.map)[self.start : self.start + self.size]
        self.base: Any = ffi.from_buffer(self.view)

    def _make(self, huge_pages: str, shared: bool) -> tuple[mmap.mmap, int]:
        """The mapping, and the offset in it at which RAM starts."""
        size = self.size
        if huge_pages == "hugetlb":
            # Reserved, or a page that is missing later would be a SIGBUS
            self.fd = sealed_memory("guest-ram", size, posix.MFD_HUGETLB | posix.MFD_HUGE_2MB)
            ram = mmap.mmap(self.fd, size, mmap.MAP_SHARED)
            ram.madvise(mmap.MADV_DONTDUMP)
            return ram, 0
        # Guest and host addresses must agree in their last 21 bits, or KVM cannot map 2 MiB at once
        room = size + HUGE_2M - PAGE if huge_pages != "none" and size >= HUGE_2M else size
        ram = mmap.mmap(-1, room, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        start = 0
        with ffi.from_buffer(ram) as base:
            if room > size:
                start = -int(ffi.cast("uintptr_t", base)) % HUGE_2M
            if shared:
                self.fd = open_ram(size)
                check(lib.ram_map(base + start, size, lib.RAM_SHARED, self.fd, 0))
        # What a guest has in memory is not left on the host's disk; and a child that is forked must not make private
        # pages copy-on-write under the guest
        ram.madvise(mmap.MADV_DONTDUMP)
        ram.madvise(mmap.MADV_DOFORK if shared else mmap.MADV_DONTFORK)
        self._advise_huge(ram)
        return ram, start

    def _make_over(self, file: int) -> mmap.mmap:
        ram = mmap.mmap(file, self.size, mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE)
        ram.madvise(mmap.MADV_DONTFORK)
        ram.madvise(mmap.MADV_DONTDUMP)
        return ram

    def _advise_huge(self, ram: mmap.mmap) -> None:
        try:
            ram.madvise(mmap.MADV_HUGEPAGE if self.huge else mmap.MADV_NOHUGEPAGE)
        except OSError:
            pass  # the host's kernel has no transparent huge pages

    @property
    def backing(self) -> int:
        """The kind of its pages: ``RAM_ANONYMOUS``, ..., for :func:`ram_release`."""
        return int(lib.RAM_SHARED if self.fd >= 0 else lib.RAM_OVER_FILE if self.over_file else lib.RAM_ANONYMOUS)

    def copy_from(self, file: int, begin: int, end: int) -> None:
        """Copy the data of *file* between two offsets to the same place of RAM: holes are left out, since untouched
        pages need no page here either.

        :raises OSError: it cannot be read
        """
        for start, stop in data_ranges(file, end, begin):
            at = start
            while at < stop:
                with memoryview(self.map) as ram, ram[self.start + at : self.start + stop] as room:
                    got = posix.preadv(file, [room], at)
                if not got:
                    raise OSError(_EIO, "the file of guest memory ends early")
                at += got

    def load_pages(self, file: int, bits: bytes) -> None:
        """Copy the pages of *file* whose bits are set in *bits* to the same place of RAM.

        :raises OSError: it cannot be read, or ends early
        """
        with ffi.from_buffer(bits) as native:
            result = lib.ram_load(self.base, self.size, file, native)
        if result == -_EIO:
            raise OSError(_EIO, "the file of guest memory ends early")
        check(result)

    def lay_over(self, file: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Map *file* privately into the *ranges* (offsets, half-open, of whole pages) of private memory.

        The guest may run. Addresses do not change; the previous pages are returned to the host.

        :param file: a descriptor, open for reading, needed during this call only
        :raises OSError: part of it could not be done; the rest is unchanged
        """
        kept, self.file = self.file, posix.dup(file)
        if kept >= 0:
            posix.close(kept)
        self.over_file = True
        for start, end in ranges:
            check(lib.ram_map(self.base + start, end - start, lib.RAM_OVER_FILE, file, start))

    def show(self, file: int) -> bool:
        """Map another memfd at the same addresses, also as :attr:`fd`; False: the host refuses."""
        if lib.ram_map(self.base, self.size, lib.RAM_SHARED, file, 0) < 0:
            return False
        self._advise_huge(self.map)
        posix.dup2(file, self.fd, False)
        return True

    def leave_file(self) -> None:
        """Close :attr:`file`."""
        if self.file >= 0:
            posix.close(self.file)
            self.file = -1

    def prefault(self, size: int) -> None:
        """Touch the first *size* bytes now."""
        self.prefaulted = True
        try:
            self.map.madvise(_MADV_POPULATE_WRITE, self.start, size)
            return
        except OSError:
            pass  # before Linux 5.14
        for offset in range(0, size, PAGE):
            self.view[offset] = 0

    def populate(self, start: int, end: int) -> None:
        """Map the pages between two offsets for writing, where the host's kernel can (Linux 5.14)."""
        try:
            self.map.madvise(_MADV_POPULATE_WRITE, self.start + start, end - start)
        except OSError as error:
            if error.errno != _EINVAL:
                raise

    def keep_from_children(self) -> None:
        """Leave RAM out of processes that are forked: they would find holes in it."""
        self.map.madvise(mmap.MADV_DONTFORK)

    def discard(self) -> None:
        """Return all pages to the host: they are zero when they are touched again, unless RAM lies over a file."""
        self.map.madvise(_MADV_REMOVE if self.fd >= 0 else mmap.MADV_DONTNEED, self.start, self.size)

    def zero(self) -> None:
        """The same, also if RAM lies over a file.

        :raises HostError: the host does not do it
        """
        if not self.over_file:
            self.discard()
            return
        result = lib.ram_zero(self.base, self.size)
        if result < 0:
            raise HostError("cannot give guest memory back", code="memory-unavailable", errno=-result)
        self.over_file = False
        self.close_files()

    @property
    def closed(self) -> bool:
        """:meth:`unmap` was called."""
        return self.map.closed

    def unmap(self) -> None:
        """Remove the mapping.

        :raises BufferError: a view of it still exists; the mapping stays
        """
        ffi.release(self.base)
        self.view.release()
        try:
            self.map.close()
        except BufferError:
            self._look()
            raise

    def close_files(self) -> None:
        """Close the descriptors.  A second call does nothing."""
        for fd in {self.fd, self.file} - {-1}:
            posix.close(fd)
        self.fd = self.file = -1


def _unavailable(size: int, huge_pages: str, error: Exception) -> HostError:
    return HostError(
        f"cannot get {size >> 20} MiB of guest memory: {getattr(error, 'strerror', None) or error}",
        code="memory-unavailable",
        hint="reserve pages with: sysctl vm.nr_hugepages=" + str(-(-size // HUGE_2M))
        if huge_pages == "hugetlb"
        else "ask for less memory, or see ulimit -v and the memory limits of this process",
        errno=getattr(error, "errno", 0) or 0,
    )
