"""Guest RAM: one mapping, seen as regions of guest physical addresses, possibly filled on demand."""

from __future__ import annotations

from vmm.errors import ConfigError, GuestError, HostError
from vmm.memory.fork_layers import ForkLayers
from vmm.memory.layout import HUGE_2M, PAGE, regions
from vmm.memory.mapping import Mapping
from vmm.memory.on_demand import OnDemand
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

HUGE_PAGES = ("auto", "none", "thp", "hugetlb")


def _check(size: int, huge_pages: str) -> None:
    if size < PAGE or size % PAGE:
        raise ConfigError(
            f"memory size {size} is not a multiple of {PAGE} bytes, 4096 or more",
            code="memory-size",
            hint="use for example 256M or 4G",
        )
    if huge_pages not in HUGE_PAGES:
        raise ConfigError(f"huge pages {huge_pages!r}: not one of {', '.join(HUGE_PAGES)}", code="memory-huge-pages")
    if huge_pages == "hugetlb" and size % HUGE_2M:
        raise ConfigError(
            f"memory size {size} is not a multiple of 2 MiB, which hugetlb pages need", code="memory-size"
        )


class GuestMemory:
    """Guest RAM of *size* bytes (a multiple of 4 KiB, at least one page), zeroed.

    The guest does not have the last *hotplug* bytes at first: they lie at a separate address, the last of
    :attr:`regions`, and cost the host nothing until they are touched.

    Every access is checked: an address range that is not completely inside one region raises :class:`GuestError`.
    :meth:`read` copies once; :meth:`view` does not copy.

    It is private to this process and consists of huge pages where the host has them. If it is *shared*, it is a memfd,
    :attr:`fd`, which another process can map, region *r* at ``r.offset``; huge pages then depend on the host's setting
    for shared memory.

    :ivar first: those of :attr:`regions` that the guest has from the start
    :ivar mapping: the pages in this process, and the files behind them
    :ivar fill: fills them on demand
    :ivar forks: turns them into layers when the machine is forked

    With a *file*, RAM begins with *size* of its bytes (holes are zeros), which are read when they are first touched;
    nobody may change the file. Shared memory is a copy of it, or is filled from it on demand, with :attr:`fill`.

    :param huge_pages: ``auto``: transparent ones for private memory; ``thp``: for shared memory too; ``none``; or
        ``hugetlb``: reserved 2 MiB pages, of which *size* is a multiple
    :param prefault: touch everything that the guest has at first, so that no access waits for a page
    :param shared: make it a memfd
    :param file: a descriptor, open for reading, of at least *size* bytes; needed during this call only
    :raises ConfigError: an invalid size or mode
    :raises HostError: the host lacks such memory
    """

    def __init__(
        self,
        size: int,
        *,
        huge_pages: str = "auto",
        prefault: bool = False,
        shared: bool = False,
        file: int = -1,
        hotplug: int = 0,
    ) -> None:
        _check(size, huge_pages)
        self.size = size
        self._at_first = size - hotplug
        self.first = regions(self._at_first)
        self.regions = regions(self._at_first, hotplug)
        self.mapping = Mapping(size, huge_pages, shared=shared, file=file)
        self.fill = OnDemand(self.mapping)
        self.forks = ForkLayers(self.mapping, self.fill)
        self.huge = self.mapping.huge
        self._map, self._start = self.mapping.map, self.mapping.start
        self._native: Any = None
        if prefault:
            self.prefault()

    # -- pages -------------------------------------------------------------------------------------------------------

    @property
    def fd(self) -> int:
        """The memfd, or -1."""
        return self.mapping.fd

    @property
    def file(self) -> int:
        """A descriptor of the file that RAM lies over, or is filled from if it is a single one; or -1."""
        return self.mapping.file

    @property
    def over_file(self) -> bool:
        """RAM lies privately over a file."""
        return self.mapping.over_file

    @property
    def backing(self) -> int:
        """The kind of its pages: ``RAM_ANONYMOUS``, ..., for :func:`ram_release`."""
        return self.mapping.backing

    def prefault(self) -> None:
        """Touch everything that the guest has at first now, and after each :meth:`clear`."""
        self.mapping.prefault(self._at_first)

    def clear(self) -> None:
        """Restore the initial state: zeroed, and returned to the host unless it was prefaulted. If it was filled on
        demand, only this process has it mapped."""
        try:
            self.fill.put_together()
        except OSError as error:
            raise HostError(
                "cannot give guest memory back", code="memory-unavailable", errno=error.errno or 0
            ) from error
        self.fill.stop()
        self.mapping.zero()
        if self.mapping.prefaulted:
            self.prefault()

    @property
    def can_make_huge(self) -> bool:
        """:meth:`make_huge` may do something."""
        return self.fd >= 0 and self.mapping.makes_huge and not self.mapping.prefaulted

    def make_huge(self, pieces: Sequence[tuple[int, int]]) -> None:
        """Make huge pages of shared memory in *pieces* now: where a guest touches nearly all of it, that saves an exit,
        a fault and a table entry for each 4 KiB. No effect where the host makes none.

        :param pieces: guest physical addresses, half-open, of 2 MiB each
        """
        for start, end in pieces:
            if lib.ram_huge(self.mapping.base + self.offset(start, end - start), end - start) < 0:
                return

    def release(self, gpa: int, length: int) -> bool:
        """Return pages to the host: they are zero when they are touched again.

        :returns: False: they are zero, but the host did not accept them
        """
        at = self.mapping.base + self.offset(gpa, length)
        return bool(lib.ram_release(at, length, self.backing, self.native_fill) == 0)

    def offset(self, gpa: int, length: int) -> int:
        """The offset of the range in RAM, which begins at 0 and has no hole.

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
        return self.mapping.view[start : start + length]

    def whole(self) -> memoryview:
        """All of RAM, region after region, writable.  Release it before :meth:`close`."""
        return self.mapping.view[:]

    def read(self, gpa: int, length: int) -> bytes:
        """A copy of the range."""
        start = self._start + self.offset(gpa, length)
        return self._map[start : start + length]

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy *data* (bytes, C-contiguous) to *gpa*."""
        start = self._start + self.offset(gpa, len(data))
        self._map[start : start + len(data)] = data

    def read_int(self, gpa: int, size: int) -> int:
        """A little-endian unsigned integer of *size* bytes."""
        return int.from_bytes(self.read(gpa, size), "little")

    def write_int(self, gpa: int, size: int, value: int) -> None:
        """Write *value*, truncated to *size* bytes, little-endian."""
        self.write(gpa, (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little"))

    @property
    def host_address(self) -> int:
        """The address of RAM in this process; region *r* lies at ``host_address + r.offset``."""
        return int(ffi.cast("uintptr_t", self.mapping.base))

    @property
    def native(self) -> Any:
        """The same regions for the C data plane (cdata ``struct mem *``). Valid until :meth:`close`: a caller that
        passes it to C keeps this object open."""
        if self._native is None:
            self._native = ffi.new("struct mem *")
            self._native.nregions = len(self.regions)
            for index, region in enumerate(self.regions):
                entry = self._native.region[index]
                entry.gpa, entry.size, entry.hva = region.gpa, region.size, self.host_address + region.offset
        return self._native

    # -- filled on demand --------------------------------------------------------------------------------------------

    @property
    def on_demand(self) -> bool:
        """Pages are filled when they are touched: another process that maps :attr:`fd` sees holes unless it takes part
        (:meth:`admit`)."""
        return self.fill.active

    @property
    def native_fill(self) -> Any:
        """For memory that is filled on demand (cdata ``struct fill *``); NULL otherwise. Until :meth:`close`."""
        return self.fill.native

    def fill_stats(self) -> dict[str, int]:
        """``faults`` that were answered, and bytes ``filled``; empty if it is not filled on demand."""
        return self.fill.stats()

    def complete(self) -> None:
        """Fill all of it now, for a process that does not take part.

        :raises OSError: the template cannot be read
        """
        self.fill.complete()

    def bits_of(self, pages: Collection[int]) -> bytes:
        """A bit for each page, set for those of *pages*, which are numbers of pages."""
        bits = bytearray(-(-self.size // PAGE // 8))
        for page in pages:
            bits[page // 8] |= 1 << page % 8
        return bytes(bits)

    def prefault_pages(self, bits: bytes) -> bool:
        """Fill the pages whose bits are set, while others may touch them, and map them; False: it is not filled on
        demand, and nothing was done.

        :raises HostError: the host has not enough memory
        """
        if not self.fill.active:
            return False
        try:
            self.fill.fill_pages(bits)
        except OSError as error:
            message = f"guest memory: {error.strerror}"
            raise HostError(message, code="memory-unavailable", errno=error.errno or 0) from error
        return True

    def admit(self, uffd: int) -> int:
        """Another process will map :attr:`fd`; *uffd* is a userfaultfd of its own, which the caller closes after
        :meth:`dismiss`, or when this is closed.

        :returns: its number
        :raises OSError: it cannot take part
        """
        return self.fill.admit(uffd)

    def mapped_by(self, client: int, address: int) -> None:
        """It has mapped memory at *address*, and touched none of it yet.

        :raises OSError: the address is not in its mappings
        """
        self.fill.mapped_by(client, address)

    def dismiss(self, client: int) -> None:
        """It has ended, or unmapped all."""
        self.fill.dismiss(client)

    def close(self) -> None:
        """Unmap and close.  A second call does nothing.

        :raises BufferError: a view of it still exists
        """
        if not self.mapping.closed:
            self.mapping.unmap()
            self.fill.close()
            self.mapping.close_files()
