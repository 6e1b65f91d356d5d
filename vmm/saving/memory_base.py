"""RAM at one moment, which a machine and its children share until one of them writes a page.

A base is a memfd that nobody can write any more. From then on the machine lies over it too. Its pages are the base's,
at their old addresses, and its writes are private, as in a clone over a snapshot's file. When it is forked again, only
its private pages are copied for its children, or a new base is made of both, whichever copies less.
"""

from __future__ import annotations

import mmap
import posix

from vmm.errors import ConfigError, HostError
from vmm.memory import GuestMemory
from vmm.memory.layout import PAGE
from vmm.memory.memfd import data_ranges, freeze, open_memory
from vmm.native import ffi, lib
from vmm.saving.memory_file import opened, page_runs, ram_areas

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from vmm.memory.layers import Layer

    Range = tuple[int, int]
    """Offsets into RAM, half-open, of whole pages."""

_PIECE = 2 << 20
"""RAM lies over its base in pieces of this size, or of more: elsewhere it stays anonymous, where a page that is written
for the first time is one page, and not one of the base and a copy of it; and where it may be a huge one."""
_MADV_POPULATE_READ = 22
"""``<asm-generic/mman-common.h>``."""
_MOST_AREAS = 1000
"""A child is told each in a message."""
_MOST_PIECES = 32
"""Each is a mapping; a process has 65530."""


class Base:
    """RAM at the time of the call of :func:`take_base`.

    :param layers: files that nobody writes any more, the last one on top; owned by this
    :ivar size: of RAM in bytes
    """

    def __init__(self, size: int, layers: list[Layer]) -> None:
        self.size = size
        self._layers = layers
        while self._layers and not self._layers[0][1] and not self._layers[0][2]:
            posix.close(self._layers.pop(0)[0])  # it has no data

    @classmethod
    def of_files(cls, size: int, file: int, below: int, areas: list[Range], bits: bytes) -> Base:
        """A base that another process has written, into memfds that nobody writes any more; they remain the caller's.

        :param file: all of RAM; or with *below* its pages whose bits are set in *bits*
        :param below: the file that RAM lies over in the *areas*; -1: none
        :raises ConfigError: these are not areas of RAM
        """
        if below < 0:
            return cls(size, [(posix.dup(file), _pieces(file, size), b"")])
        at = 0
        for start, end in areas:
            if not at <= start < end <= size or start % PAGE or end % PAGE:
                raise ConfigError("invalid areas of memory", code="snapshot-format")
            at = end
        if len(bits) != -(-size // PAGE // 8):
            raise ConfigError("the bits are for another size of memory", code="snapshot-format")
        return cls(size, [(posix.dup(below), areas, b""), (posix.dup(file), (), bits)])

    def handed(self) -> tuple[list[Range], bytes] | None:
        """The description of the layers for :meth:`of_files`: areas and bits; None: there is one layer."""
        if len(self._layers) < 2:
            return None
        (_, areas, _), (_, _, bits) = self._layers
        return list(areas), bits

    def open(
        self,
        *,
        huge_pages: str,
        shared: bool,
        prefault: bool,
        on_demand: bool = False,
        empty: GuestMemory | None = None,
        hotplug: int = 0,
    ) -> GuestMemory:
        """RAM of a child; parameters as of :class:`~vmm.memory.GuestMemory`.  Shared memory is a copy of all of it.

        :param on_demand: or is filled when it is touched, where the host's kernel supports that
        :param empty: the RAM of a shell: made with these parameters, and untouched; closed on errors
        :raises HostError: the host lacks memory
        """
        memory = empty or GuestMemory(self.size, huge_pages=huge_pages, shared=shared, hotplug=hotplug)
        try:
            fills = memory.fd >= 0 and on_demand and not prefault and huge_pages != "hugetlb"
            if fills and memory.fill.start(self._layers):
                return memory
            memory.fill.discard_early()
            layers = self._layers
            if memory.fd < 0 and layers and layers[0][1]:
                memory.mapping.lay_over(layers[0][0], layers[0][1])
                layers = layers[1:]
            for file, pieces, bits in layers:
                for start, end in pieces:
                    memory.mapping.copy_from(file, start, end)
                if not pieces:
                    memory.mapping.load_pages(file, bits)
            if prefault:
                memory.prefault()
        except OSError as error:
            memory.close()
            raise _no_memory(error) from error
        return memory

    def settle(self, memory: GuestMemory) -> None:
        """Lay the machine that owns this RAM over it too, and return its private pages."""
        try:
            for file, pieces, _ in self._layers:
                memory.mapping.lay_over(file, pieces)
        except OSError:
            pass  # it has the same bytes in pages of its own: that costs memory and nothing else

    def finish(self, memory: GuestMemory) -> None:
        """When the machine that owns this RAM, *memory*, resumes: slow steps that do not change it.

        :raises HostError: the host lacks memory
        """
        try:
            if not memory.forks.seal():
                # What is still written: from now on nobody writes it, here
                file, pieces, bits = self._layers.pop()
                try:
                    self._layers.append((_copy_of(file, self.size), pieces, bits))
                finally:
                    posix.close(file)
        except OSError as error:
            raise _no_memory(error) from error

    def close(self) -> None:
        """A second call does nothing.  Machines that lie over it keep what they need."""
        while self._layers:
            posix.close(self._layers.pop()[0])


class Ahead:
    """The part of *memory* that :func:`take_base` needs, copied while the machine runs: then only what has changed
    since is written again.

    :param memory: private
    :param children: as of :func:`take_base`
    :param watch_from: from this number of bytes on, the kernel tracks writes, where it can; otherwise everything is
        compared in the pause; -1: it must not
    :param file: the empty memfd to copy to, owned by this object from now on; -1: a new one
    :param whole: the maker of the children does not have the file that *memory* lies over
    :raises OSError: the host lacks memory
    """

    def __init__(
        self,
        memory: GuestMemory,
        children: int,
        *,
        empty: bool = False,
        watch_from: int = -1,
        file: int = -1,
        whole: bool = False,
    ) -> None:
        self.bits = bytearray(-(-memory.size // PAGE // 8))
        self.file = open_memory("guest-ram-base", memory.size) if file < 0 else file
        self._whole = whole
        self.before: mmap.mmap | None = None
        """What was copied, to be compared; None: nothing was."""
        self._watch = -1
        if empty:
            return
        try:
            areas = list(ram_areas(memory)) if memory.over_file else [(0, memory.size, lib.RAM_TOUCHED)]
            _copy(memory, self.file, areas, self.bits)
            below = _below(memory, areas) if memory.over_file else []
            if self.is_too_much(below, children):
                _copy(memory, self.file, below, self.bits)
                areas += below
            self.before = self.mapped(memory.size)
            if 0 <= watch_from <= self._written:
                self._watch = lib.ram_watch(ffi.cast("void *", memory.host_address), memory.size, bytes(self.bits))
                if self._watch >= 0:
                    # What was written in between
                    _copy(memory, self.file, areas, self.bits, self.before)
        except BaseException:
            self.close()
            raise

    @property
    def _written(self) -> int:
        return int.from_bytes(self.bits, "little").bit_count() * PAGE

    def changed(self, memory: GuestMemory) -> bytearray | None:
        """A bit for each page that may differ from its copy; None: any may."""
        if self._watch < 0:
            return None
        bits = bytearray(self.bits)
        with opened("pagemap") as pagemap, ffi.from_buffer(bits) as native:
            result = lib.ram_changed(ffi.cast("void *", memory.host_address), memory.size, pagemap, native)
        return None if result < 0 else bits

    def mapped(self, size: int) -> mmap.mmap:
        """Prefault the file, so that reading it takes no faults in the pause."""
        # Private: a shared mapping would keep the file from being frozen
        before = mmap.mmap(self.file, size, mmap.MAP_PRIVATE, mmap.PROT_READ)
        try:
            for start, end in page_runs(self.bits, size):
                before.madvise(_MADV_POPULATE_READ, start, end - start)
        except OSError:
            pass  # before Linux 5.14
        return before

    def is_too_much(self, below: list[tuple[int, int, int]], children: int) -> bool:
        """Whether *children* copies of this would take more than a new base of this and what is *below* it."""
        written = self._written
        if self._whole or len(below) > _MOST_AREAS:
            return True
        return children * written > written + sum(end - start for start, end, _ in below)

    def take(self) -> int:
        """The file, sealed and owned by the caller now."""
        freeze(self.file)
        file, self.file = self.file, -1
        return file

    def close(self) -> None:
        """Harmless when called twice, or after the file was taken."""
        if self.before is not None:
            self.before.close()
            self.before = None
        if self._watch >= 0:
            posix.close(self._watch)
            self._watch = -1
        if self.file >= 0:
            posix.close(self.file)
            self.file = -1


def take_base(memory: GuestMemory, children: int, ahead: Ahead | None = None, *, alone: bool = False) -> Base:
    """RAM of a machine at this moment, while nobody changes it. *memory* does not change for its readers and writers.
    :meth:`Base.finish` follows when the machine resumes.

    :param children: how many children will be made from it
    :param ahead: of private memory: what was copied already; its file is taken.  The caller closes it when the machine
        runs again
    :param alone: no other process has it mapped now, and later mappers take part in filling it
    :raises HostError: the host lacks memory
    """
    try:
        if memory.fd >= 0 and alone:
            merge_layers(memory)
            layers = memory.forks.add(() if memory.on_demand else _pieces(memory.fd, memory.size))
            if layers:
                return Base(memory.size, layers)
        if memory.on_demand:
            return _base_over(memory)
        if memory.fd >= 0:
            # Another process with a writable mapping would continue to write the base
            return _new_base(memory, [(start, end, lib.RAM_ALL) for start, end in data_ranges(memory.fd, memory.size)])
        copied = ahead or Ahead(memory, children, empty=True)
        try:
            if not memory.over_file:
                touched = [(0, memory.size, lib.RAM_TOUCHED)]
                _copy(memory, copied.file, touched, copied.bits, copied.before, copied.changed(memory))
                return _settled(memory, copied.take())
            return _next_base(memory, children, copied)
        finally:
            if copied is not ahead:
                copied.close()
    except OSError as error:
        raise _no_memory(error) from error


WATCH_FROM = 4 << 20
"""Tracking writes costs page faults; comparing pages costs time while the machine is paused."""


def copied_ahead(memory: GuestMemory, children: int, *, watch_from: int = WATCH_FROM) -> Ahead | None:
    """:class:`Ahead` of *memory*, if possible. Shared memory is prepared in another way.

    :param watch_from: -1 if a device's request may write memory without the page tables
    :raises HostError: the host lacks memory
    """
    try:
        if memory.fd >= 0:
            merge_layers(memory)
            memory.forks.prepare()
            return None
        return Ahead(memory, children, watch_from=watch_from)
    except OSError as error:
        raise _no_memory(error) from error


def merge_layers(memory: GuestMemory, *, soon: bool = False) -> None:
    """Merge the files of *memory*, if it was forked so often that it is filled from many: the new one has all visible
    pages, and the others are freed when no child needs them. On any thread; the guest may run.

    :param soon: in the background: a concurrent fork does the work itself only if this is too late
    :raises OSError: the host lacks memory
    """
    memory.forks.merge(lambda layers: _merged(layers, memory.size), soon=soon)


def _merged(layers: Sequence[Layer], size: int) -> Layer:
    file = open_memory("guest-ram-base", size)
    try:
        above = 0
        length = len(layers[0][2])
        for layer, _, bits in reversed(layers):
            has = int.from_bytes(bits, "little")
            for start, end in page_runs((has & ~above).to_bytes(length, "little"), size):
                _send(file, layer, start, end)
            above |= has
        freeze(file)
    except BaseException:
        posix.close(file)
        raise
    return file, [(0, size)], above.to_bytes(length, "little")


def _base_over(memory: GuestMemory) -> Base:
    """For RAM that is filled on demand: its private pages, over its template if that is one file."""
    if memory.file < 0:
        return _new_base(memory, [(0, memory.size, lib.RAM_ALL)])
    own = open_memory("guest-ram-own", memory.size)
    try:
        bits = bytearray(-(-memory.size // PAGE // 8))
        _copy(memory, own, [(0, memory.size, lib.RAM_OWN)], bits)
        freeze(own)
        return _over(memory, _pieces(memory.file, memory.size), own, bits)
    except BaseException:
        posix.close(own)
        raise


def _over(memory: GuestMemory, pieces: list[Range], own: int, bits: bytearray) -> Base:
    """The content of the file under *memory* in *pieces*, with pages of the file *own* over it."""
    above: Layer = (own, (), bytes(bits))
    return Base(memory.size, [(posix.dup(memory.file), pieces, b""), above] if pieces else [above])


def _below(memory: GuestMemory, areas: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Where the file under *memory* has data."""
    found = []
    for begin, end, what in areas:
        if what == lib.RAM_OWN:
            found += [(start, stop, lib.RAM_ALL) for start, stop in data_ranges(memory.file, end, begin)]
    return found


def _next_base(memory: GuestMemory, children: int, ahead: Ahead) -> Base:
    """For RAM that lies over a base or file already."""
    areas = list(ram_areas(memory))
    changed = ahead.changed(memory)
    _copy(memory, ahead.file, areas, ahead.bits, ahead.before, changed)
    below = _below(memory, areas)
    if not ahead.is_too_much(below, children):
        return _over(
            memory, [(start, end) for start, end, what in areas if what == lib.RAM_OWN], ahead.take(), ahead.bits
        )
    ahead.before = ahead.before or ahead.mapped(memory.size)
    _copy(memory, ahead.file, below, ahead.bits, ahead.before, changed)
    return _settled(memory, ahead.take())


def _settled(memory: GuestMemory, file: int) -> Base:
    base = Base(memory.size, [(file, _pieces(file, memory.size), b"")])
    base.settle(memory)
    return base


def _copy_of(file: int, size: int) -> int:
    copy = open_memory("guest-ram-base", size)
    try:
        for start, end in data_ranges(file, size):
            _send(copy, file, start, end)
        freeze(copy)
    except BaseException:
        posix.close(copy)
        raise
    return copy


def _send(copy: int, file: int, start: int, end: int) -> None:
    """Copy the data of *file* to the same place."""
    posix.lseek(copy, start, 0)
    while start < end:
        start += posix.sendfile(copy, file, start, end - start)


def _new_base(memory: GuestMemory, areas: list[tuple[int, int, int]]) -> Base:
    file = open_memory("guest-ram-base", memory.size)
    try:
        _copy(memory, file, areas, None)
        freeze(file)
        return Base(memory.size, [(file, _pieces(file, memory.size), b"")])
    except BaseException:
        posix.close(file)
        raise


def _pieces(file: int, size: int) -> list[Range]:
    """Where RAM will lie over *file*: where that has data, in a limited number of pieces."""
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


def _copy(
    memory: GuestMemory,
    file: int,
    areas: Iterable[tuple[int, int, int]],
    bits: bytearray | None,
    before: mmap.mmap | None = None,
    changed: bytearray | None = None,
) -> int:
    """Write areas of RAM to *file*; returns the bytes written.

    :param bits: receives a bit for each page that was written
    :param before: *file*, whose existing pages are rewritten only if they have changed
    :param changed: pages that may have changed, see :meth:`Ahead.changed`
    """
    with opened("pagemap") as pagemap:
        native = ffi.new("struct ram_file *", {"fd": file, "pagemap": pagemap})
        native.fill = memory.native_fill
        bitmap: Any = ffi.NULL if bits is None else ffi.from_buffer(bits)
        native.bitmap = bitmap
        again: Any = ffi.NULL if before is None else ffi.from_buffer(before)
        native.again = again
        look: Any = ffi.NULL if changed is None else ffi.from_buffer(changed)
        native.look = look
        total = 0
        try:
            for start, end, what in areas:
                native.what = what
                done = lib.ram_save(native, ffi.cast("void *", memory.host_address), start, end - start)
                if done < 0:
                    raise OSError(-done, posix.strerror(-done))
                total += done
        finally:
            if before is not None:
                ffi.release(again)
        return total


def _no_memory(error: OSError) -> HostError:
    return HostError(
        f"cannot get guest memory for a fork: {error.strerror or error}",
        code="memory-unavailable",
        hint="ask for less memory, or see the memory limits of this process and of /dev/shm",
        errno=error.errno or 0,
    )
