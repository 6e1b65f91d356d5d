"""RAM at one moment, which a machine and its children have in common until one of them writes a page.

A base is a memfd that nobody can write any more.  The machine lies over it from then on, too: its pages are the base's,
at the addresses where they were, and what it writes is its own, as it is with a clone that lies over a snapshot's file.
When it is forked again, those pages alone are copied for its children, or a new base is made of both, whichever copies
less.
"""

from __future__ import annotations

import posix

from vmm.errors import HostError
from vmm.memory import PAGE, GuestMemory, data_ranges, freeze, open_memory
from vmm.native import ffi, lib
from vmm.snapshot.memory_file import page_runs, ram_areas

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from vmm.memory import Layer

    Range = tuple[int, int]
    """Offsets into RAM, half-open, of whole pages."""

_PIECE = 2 << 20
"""RAM lies over its base in pieces of this size, or of more: elsewhere it stays anonymous, where a page that is written
for the first time is one page, and not one of the base and a copy of it; and where it may be a huge one."""
_MOST_PIECES = 32
"""Each is a mapping; a process has 65530."""


class Base:
    """RAM as it was when :func:`take_base` was called.

    :ivar size: of RAM in bytes
    """

    def __init__(self, size: int, file: int, pieces: list[Range], own: int, bits: bytes) -> None:
        self.size = size
        self._file = file
        self._pieces = pieces
        self._own = own
        self._bits = bits

    def open(self, *, huge_pages: str, shared: bool, prefault: bool, on_demand: bool = False) -> GuestMemory:
        """RAM of a child; parameters as of :class:`~vmm.memory.GuestMemory`.  Shared memory is a copy of all of it.

        :param on_demand: or is filled when it is touched, where the host's kernel supports that

        :raises HostError: the host has not enough memory
        """
        memory = GuestMemory(self.size, huge_pages=huge_pages, shared=shared)
        try:
            if memory.fd >= 0 and on_demand and not prefault and huge_pages != "hugetlb" and self._fill(memory):
                return memory
            if memory.fd < 0:
                memory.lay_over(self._file, self._pieces)
            else:
                for start, end in self._pieces:
                    memory.copy_from(self._file, start, end)
            if self._own >= 0:
                for start, end in page_runs(self._bits, self.size):
                    memory.copy_from(self._own, start, end)
            if prefault:
                memory.prefault()
        except OSError as error:
            memory.close()
            raise _no_memory(error) from error
        return memory

    def _fill(self, memory: GuestMemory) -> bool:
        layers: list[Layer] = []
        if self._pieces:
            layers.append((self._file, self._pieces, b""))
        if self._own >= 0:
            layers.append((self._own, (), self._bits))
        if not memory.fill_from(layers):
            return False
        if self._own < 0:
            memory.file = posix.dup(self._file)
        return True

    def settle(self, memory: GuestMemory) -> None:
        """Lay the machine that this is the RAM of over it, too, and give back what it had of its own."""
        try:
            memory.lay_over(self._file, self._pieces)
        except OSError:
            pass  # it has the same bytes in pages of its own: that costs memory and nothing else

    def close(self) -> None:
        """A second call does nothing.  Machines that lie over it keep what they need."""
        for fd in {self._file, self._own} - {-1}:
            posix.close(fd)
        self._file = self._own = -1


def take_base(memory: GuestMemory, children: int) -> Base:
    """RAM of a machine as it is now, while nobody changes it.  *memory* stays as it is for whoever reads or writes it.

    :param children: how many will be made of it
    :raises HostError: the host has not enough memory
    """
    try:
        if memory.on_demand:
            return _base_over(memory)
        if memory.fd >= 0:
            # Another process with a writable mapping would continue to write the base
            return _new_base(memory, [(start, end, lib.RAM_ALL) for start, end in data_ranges(memory.fd, memory.size)])
        if not memory.over_file:
            base = _new_base(memory, [(0, memory.size, lib.RAM_TOUCHED)])
            base.settle(memory)
            return base
        return _next_base(memory, children)
    except OSError as error:
        raise _no_memory(error) from error


def _base_over(memory: GuestMemory) -> Base:
    """Of RAM that is filled on demand: what is its own, over its template if that is one file."""
    if memory.file < 0:
        return _new_base(memory, [(0, memory.size, lib.RAM_ALL)])
    own = open_memory("guest-ram-own", memory.size)
    try:
        bits = bytearray(-(-memory.size // PAGE // 8))
        _copy(memory, own, [(0, memory.size, lib.RAM_OWN)], bits)
        freeze(own)
        return Base(memory.size, posix.dup(memory.file), _pieces(memory.file, memory.size), own, bytes(bits))
    except BaseException:
        posix.close(own)
        raise


def _next_base(memory: GuestMemory, children: int) -> Base:
    """Of RAM that lies over a base or file already."""
    areas = list(ram_areas(memory))
    pieces = [(start, end) for start, end, what in areas if what == lib.RAM_OWN]
    own = open_memory("guest-ram-own", memory.size)
    try:
        bits = bytearray(-(-memory.size // PAGE // 8))
        written = _copy(memory, own, areas, bits)
        below = [both for piece in pieces for both in data_ranges(memory.file, piece[1], piece[0])]
        if children * written <= written + sum(end - start for start, end in below):
            freeze(own)
            return Base(memory.size, posix.dup(memory.file), pieces, own, bytes(bits))
        _copy(memory, own, [(start, end, lib.RAM_ALL) for start, end in below], None)
        freeze(own)
    except BaseException:
        posix.close(own)
        raise
    base = Base(memory.size, own, _pieces(own, memory.size), -1, b"")
    base.settle(memory)
    return base


def _new_base(memory: GuestMemory, areas: list[tuple[int, int, int]]) -> Base:
    file = open_memory("guest-ram-base", memory.size)
    try:
        _copy(memory, file, areas, None)
        freeze(file)
        return Base(memory.size, file, _pieces(file, memory.size), -1, b"")
    except BaseException:
        posix.close(file)
        raise


def _pieces(file: int, size: int) -> list[Range]:
    """Where RAM is to lie over *file*: where that has data, in pieces that are not too many."""
    piece = _PIECE
    while True:
        found: list[Range] = []
        for start, end in data_ranges(file, size):
            start, end = start // piece * piece, min(-(-end // piece) * piece, size)
            if found and start <= found[-1][1]:
                found[-1] = found[-1][0], max(end, found[-1][1])
            else:
                found.append((start, end))
        if len(found) <= _MOST_PIECES:
            return found
        piece *= 2


def _copy(memory: GuestMemory, file: int, areas: Iterable[tuple[int, int, int]], bits: bytearray | None) -> int:
    """Write areas of RAM to *file*; bytes written.

    :param bits: gets one for each page that was written
    """
    pagemap = posix.open("/proc/self/pagemap", posix.O_RDONLY | posix.O_CLOEXEC)
    native = ffi.new("struct ram_file *", {"fd": file, "pagemap": pagemap})
    native.fill = memory.native_fill
    bitmap: Any = ffi.NULL if bits is None else ffi.from_buffer(bits)
    native.bitmap = bitmap
    total = 0
    try:
        for start, end, what in areas:
            native.what = what
            done = lib.ram_save(native, ffi.cast("void *", memory.host_address), start, end - start)
            if done < 0:
                raise OSError(-done, posix.strerror(-done))
            total += done
    finally:
        posix.close(pagemap)
    return total


def _no_memory(error: OSError) -> HostError:
    return HostError(
        f"cannot get guest memory for a fork: {error.strerror or error}",
        code="memory-unavailable",
        hint="ask for less memory, or see the memory limits of this process and of /dev/shm",
        errno=error.errno or 0,
    )
