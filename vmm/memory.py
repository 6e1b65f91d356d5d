"""Guest RAM: one mapping, seen as regions of guest physical addresses."""

from __future__ import annotations

import mmap
import posix
import sys

from vmm import report
from vmm.errors import ConfigError, GuestError, HostError
from vmm.faststart.thread import allocate_lock
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    Layer = tuple[int, Sequence[tuple[int, int]], bytes]
    """Of what RAM is filled from: a file as long as RAM; between which offsets its data counts; and a bit for each page
    that it has, always if there are no offsets."""

PAGE = 4096
MAX_CONSTANT: int = lib.FILL_LAID
"""How many ranges of constant memory a template can have."""
HOLE_START = 0xC000_0000
"""Where the 32-bit hole for devices begins: 3 GiB."""
HOLE_END = 0x1_0000_0000
"""RAM goes on here: 4 GiB."""
HOTPLUG_ALIGN = 2 << 30
"""Memory that is added begins at a multiple of this: of the largest piece in which Linux adds memory on any machine."""
ADDRESSES_END = 1 << 39
"""What the CPUs with the fewest address lines have."""
HUGE_PAGES = ("auto", "none", "thp", "hugetlb")
HUGE_2M = 2 << 20
_MAP_NORESERVE = 0x4000
"""``<asm-generic/mman-common.h>``; Python has a name for it since 3.13 only."""
_F_ADD_SEALS, _F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW, _F_SEAL_WRITE = 1033, 1, 2, 4, 8
"""``<linux/fcntl.h>``."""
_MADV_REMOVE = 9
"""The same header: pages of a memfd are freed, not only unmapped."""
_SEEK_DATA, _SEEK_HOLE = 3, 4
_EIO, _ENXIO = 5, 6
_MADV_POPULATE_WRITE = 23
"""The same header."""
_BLOCK = 512
"""Bytes of a block of ``st_blocks``."""
_UNMAP_FROM = 4 << 20
"""To go through all of KVM's tables once more, for less than this, takes longer than the pages take then."""
_MOST_LAYERS = 4
"""When RAM is filled from so many files, they are put together: soon, or before the next fork when they are twice as
many."""
_AROUND = 2
"""Pages that are filled together when one is touched (decision 0020 has what more or fewer cost)."""


def sealed_memory(name: str, size: int, flags: int = 0) -> int:
    """A new memfd of *size* bytes (a descriptor), whose size is sealed: touching a mapped page that was truncated would
    raise SIGBUS.

    :param flags: ``MFD_*`` of memfd_create(2) besides MFD_CLOEXEC
    :raises OSError: the host lacks such memory
    """
    fd = open_memory(name, size, flags)
    try:
        _seal(fd, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)
    except BaseException:
        posix.close(fd)
        raise
    return fd


def open_memory(name: str, size: int, flags: int = 0) -> int:
    """The same, before it is sealed."""
    fd = posix.memfd_create(name, posix.MFD_CLOEXEC | posix.MFD_ALLOW_SEALING | flags)
    try:
        posix.ftruncate(fd, size)
    except BaseException:
        posix.close(fd)
        raise
    return fd


def map_memory(fd: int, size: int) -> mmap.mmap:
    """Map *size* bytes of a memfd, or of no file (-1). From Python 3.13 on, the map keeps no descriptor of its own,
    which would stay open until the map is collected."""
    return mmap.mmap(fd, size, **_NO_DESCRIPTOR)


_NO_DESCRIPTOR: Any = {"trackfd": False} if sys.version_info >= (3, 13) else {}


def _open_shared(size: int) -> int:
    """The same for guest RAM, which :meth:`GuestMemory.put_below` may :func:`freeze`."""
    fd = open_memory("guest-ram", size)
    try:
        _seal(fd, _F_SEAL_SHRINK | _F_SEAL_GROW)
    except BaseException:
        posix.close(fd)
        raise
    return fd


def freeze(fd: int) -> None:
    """Seal the memfd *fd* against writing and resizing.

    :raises OSError: it is mapped for writing
    """
    _seal(fd, _F_SEAL_WRITE | _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)


def _seal(fd: int, seals: int) -> None:
    import fcntl

    fcntl.fcntl(fd, _F_ADD_SEALS, seals)


class Region:
    """A run of guest RAM: *size* bytes at guest physical *gpa*, *offset* bytes from the beginning of RAM."""

    __slots__ = ("gpa", "offset", "size")

    def __init__(self, gpa: int, size: int, offset: int) -> None:
        self.gpa = gpa
        self.size = size
        self.offset = offset

    @property
    def end(self) -> int:
        """The first address after the region."""
        return self.gpa + self.size

    def __repr__(self) -> str:
        return f"Region({self.gpa:#x}..{self.end:#x})"


def regions(size: int, hotplug: int = 0) -> tuple[Region, ...]:
    """The layout of *size* bytes of RAM around the hole between 3 and 4 GiB, followed by *hotplug* bytes that a guest
    may get later."""
    if size <= HOLE_START:
        first: tuple[Region, ...] = (Region(0, size, 0),)
    else:
        first = (Region(0, HOLE_START, 0), Region(HOLE_END, size - HOLE_START, HOLE_START))
    return (*first, Region(hotplug_base(size), hotplug, size)) if hotplug else first


def hotplug_base(size: int) -> int:
    """The address of memory that is added to *size* bytes of RAM."""
    end = size if size <= HOLE_START else HOLE_END + size - HOLE_START
    return -(-max(end, HOLE_END) // HOTPLUG_ALIGN) * HOTPLUG_ALIGN


def data_ranges(file: int, size: int, begin: int = 0) -> Iterator[tuple[int, int]]:
    """Data in the first *size* bytes of *file*, from *begin* on, without holes: offsets, half-open."""
    at = begin
    while at < size:
        try:
            start = posix.lseek(file, at, _SEEK_DATA)
        except OSError as error:
            if error.errno == _ENXIO:
                return  # a hole up to the end
            raise
        at = min(posix.lseek(file, start, _SEEK_HOLE), size)
        if start < at:
            yield start, at


def _duplicates(layers: Sequence[Layer]) -> list[Layer]:
    """The same with duplicate descriptors, owned by the caller."""
    made: list[Layer] = []
    try:
        for file, pieces, bits in layers:
            made.append((posix.dup(file), pieces, bits))
    except BaseException:
        _close_all(made)
        raise
    return made


def _close_all(layers: Sequence[Layer]) -> None:
    for file, _, _ in layers:
        posix.close(file)


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


def _unavailable(size: int, huge_pages: str, error: Exception) -> HostError:
    return HostError(
        f"cannot get {size >> 20} MiB of guest memory: {getattr(error, 'strerror', None) or error}",
        code="memory-unavailable",
        hint="reserve pages with: sysctl vm.nr_hugepages=" + str(-(-size // HUGE_2M))
        if huge_pages == "hugetlb"
        else "ask for less memory, or see ulimit -v and the memory limits of this process",
        errno=getattr(error, "errno", 0) or 0,
    )


_said_why: list[int] = []


def _say_why(result: int) -> None:
    """Log once that shared memory is copied."""
    if not _said_why:
        _said_why.append(result)
        report.debug(
            __name__, f"clones with a server process copy their memory: userfaultfd: {posix.strerror(-result)}"
        )


class FirstTouched:
    """The pages that were missing when they were touched, the first ``FILL_FIRST`` of them."""

    def __init__(self, native: Any) -> None:
        self._native = native

    def pages(self) -> list[int]:
        """Their numbers, in the order in which they were touched.  Any thread, at any time."""
        return [int(page) for page in self._native.page[0 : self._native.count]]


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
    :ivar file: a descriptor of the file that it lies over, or -1
    :ivar on_demand: pages are filled when they are touched: another process that maps :attr:`fd` sees holes unless it
        takes part (:meth:`admit`)

    With a *file*, RAM begins with *size* of its bytes (holes are zeros), which are read when they are first touched;
    nobody may change the file. Shared memory is a copy of it, or is filled from it on demand, with :meth:`fill_from`.

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
        self.fd = self.file = -1
        self._layers: list[Layer] = []
        self.over_file = file >= 0 and not shared and huge_pages != "hugetlb"
        """A page that is given up must not show the file's bytes again: :func:`ram_zero` makes it zero."""
        self._hugetlb = huge_pages == "hugetlb"
        self.huge = huge_pages in ("thp", "hugetlb") or (huge_pages == "auto" and not shared)
        self._early = huge_pages in ("auto", "thp") and size >= HUGE_2M
        try:
            if file >= 0 and posix.fstat(file).st_size < size:
                raise OSError(_EIO, "the file of guest memory ends early")
            if self.over_file:
                self._map, self._start = self._make_over(file), 0
                self.file = posix.dup(file)
            else:
                self._map, self._start = self._make(huge_pages, shared)
                if file >= 0:
                    self.copy_from(file, 0, size)
        except (OSError, ValueError, OverflowError) as error:
            self._close_files()
            raise _unavailable(size, huge_pages, error) from error
        self._view = memoryview(self._map)[self._start : self._start + size]
        self._native: Any = None
        self._fill: Any = None
        self._ready_fill: Any = None
        self._first: Any = None
        self._early_bits: list[bytes] = []
        """Those of the layers whose pages :meth:`fill_early` has filled."""
        self._layers_lock = allocate_lock()
        """While other layers come in the place of some, and while all go."""
        self._merges = False
        self.on_demand = self._laid = False
        self._unsealed = False
        """The last of them can still be written."""
        self._base: Any = ffi.from_buffer(self._view)
        self._prefaulted = False
        if prefault:
            self.prefault()

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
                self.fd = _open_shared(size)
                result = lib.ram_map(base + start, size, lib.RAM_SHARED, self.fd, 0)
                if result < 0:
                    raise OSError(-result, posix.strerror(-result))
        # What a guest has in memory is not left on the host's disk; and a child that is forked must not make private
        # pages copy-on-write under the guest
        ram.madvise(mmap.MADV_DONTDUMP)
        ram.madvise(mmap.MADV_DOFORK if shared else mmap.MADV_DONTFORK)
        try:
            ram.madvise(mmap.MADV_HUGEPAGE if self.huge else mmap.MADV_NOHUGEPAGE)
        except OSError:
            pass  # the host's kernel has no transparent huge pages
        return ram, start

    def _make_over(self, file: int) -> mmap.mmap:
        ram = mmap.mmap(file, self.size, mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE)
        ram.madvise(mmap.MADV_DONTFORK)
        ram.madvise(mmap.MADV_DONTDUMP)
        return ram

    @property
    def can_make_huge(self) -> bool:
        """:meth:`make_huge` may do something."""
        return self.fd >= 0 and self._early and not self._prefaulted

    def make_huge(self, pieces: Sequence[tuple[int, int]]) -> None:
        """Make huge pages of shared memory in *pieces* now: where a guest touches nearly all of it, that saves an exit,
        a fault and a table entry for each 4 KiB. No effect where the host makes none.

        :param pieces: guest physical addresses, half-open, of 2 MiB each
        """
        for start, end in pieces:
            if lib.ram_huge(self._base + self.offset(start, end - start), end - start) < 0:
                return

    def load_pages(self, file: int, bits: bytes) -> None:
        """Copy the pages of *file* whose bits are set in *bits* to the same place of RAM.

        :raises OSError: it cannot be read, or ends early
        """
        with ffi.from_buffer(bits) as native:
            result = lib.ram_load(self._base, self.size, file, native)
        if result == -_EIO:
            raise OSError(_EIO, "the file of guest memory ends early")
        if result:
            raise OSError(-result, posix.strerror(-result))

    def copy_from(self, file: int, begin: int, end: int) -> None:
        """Copy the data of *file* between two offsets to the same place of RAM: holes are left out, since untouched
        pages need no page here either.

        :raises OSError: it cannot be read
        """
        for start, stop in data_ranges(file, end, begin):
            at = start
            while at < stop:
                with memoryview(self._map) as ram, ram[self._start + at : self._start + stop] as room:
                    got = posix.preadv(file, [room], at)
                if not got:
                    raise OSError(_EIO, "the file of guest memory ends early")
                at += got

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
            result = lib.ram_map(self._base + start, end - start, lib.RAM_OVER_FILE, file, start)
            if result < 0:
                raise OSError(-result, posix.strerror(-result))

    # -- filled on demand --------------------------------------------------------------------------------------------

    def fill_from(
        self,
        layers: Sequence[Layer],
        first: bytes = b"",
        *,
        exactly: bool = False,
        constant: Sequence[tuple[int, int]] = (),
    ) -> bool:
        """Fill untouched shared memory on demand from *layers*, the last one on top, page by page. Their descriptors
        are needed during this call only; the files must not change.

        :param first: bits of the pages to fill now; as huge pages where nearly all of one is wanted
        :param exactly: fill nothing but touched pages, so that :meth:`filled` reports exactly those
        :param constant: offsets, half-open, of whole pages, ascending: parts that the guest only reads, unless it
            patches them, and that no device writes. RAM lies over the file there, if it is a single one, so all users
            share these pages. Another process sees there what was there when it looked first
        :returns: False: the host does not allow it, and nothing was done
        """
        fill, ready = self._new_fill(layers, 1 if exactly else _AROUND), self._ready_fill
        result = 0
        if fill != ffi.NULL:
            if ready is not None:
                if self._early_bits:
                    lib.fill_renew(fill, self._same_as_early(layers))
                result = int(lib.fill_again(fill, False))
                self._ready_fill = None
            elif len(layers) == 1 and not exactly:
                for start, end in constant:
                    # Where it does not, pages are filled
                    self._laid = lib.fill_lay(fill, layers[0][0], start, end) == 0 or self._laid
            if first and ready is None:
                result = int(lib.fill_ahead(fill, ffi.from_buffer(first), self._early))
            if ready is None:
                result = result or int(lib.fill_start(fill))
        if result:
            lib.fill_free(fill)
            _say_why(result)
        if result or fill == ffi.NULL:
            return False
        # A child that is forked would find holes
        self._map.madvise(mmap.MADV_DONTFORK)
        self._layers = [
            (posix.dup(file), pieces, bits or self._bits(fill, index))
            for index, (file, pieces, bits) in enumerate(layers)
        ]
        self._fill, self.on_demand = fill, True
        self._early_bits = []
        return True

    def _new_fill(self, layers: Sequence[Layer], around: int = _AROUND) -> Any:
        """The object that fills RAM from *layers*, not yet started unless it is ready; NULL: the host does not allow
        it."""
        error = ffi.new("int *")
        fill = self._ready_fill or lib.fill_new(self._base, self.size, self.fd, around, error)
        result = error[0]
        if fill != ffi.NULL:
            for file, pieces, bits in layers:
                if result == 0:
                    result = lib.fill_layer(fill, file, bits or ffi.NULL)
                for start, end in () if bits else pieces:
                    if result == 0:
                        result = lib.fill_data(fill, file, start, end)
            if result:
                lib.fill_free(fill)
                self._ready_fill = None
        if result:
            _say_why(result)
            return ffi.NULL
        return fill

    def get_ready_to_fill(self, *, exactly: bool = False) -> None:
        """Prepare for a :meth:`fill_from` that may follow: untouched shared memory.

        :param exactly: see there
        """
        fill = self._new_fill((), 1 if exactly else _AROUND)
        if fill != ffi.NULL:
            if lib.fill_start(fill):
                lib.fill_free(fill)
            else:
                self._ready_fill = fill

    def fill_early(self, layers: Sequence[Layer], bits: bytes) -> bool:
        """After :meth:`get_ready_to_fill`: fill the pages with a bit in *bits* now, before it is known what all of RAM
        is filled from.  :meth:`fill_from` copies those that differ by then; who does not call it calls :meth:`empty`.

        :param layers: what it would be filled from now, see :meth:`fill_from`
        :returns: False: nothing was done
        :raises OSError: the host has not enough memory; this one must be closed
        """
        if self._ready_fill is None:
            return False
        fill = self._new_fill(layers)
        if fill == ffi.NULL:
            return False
        self._early_bits = [each for _, _, each in layers]
        result = int(lib.fill_early(fill, ffi.from_buffer(bits)))
        for _ in layers:
            lib.fill_layer_drop(fill)
        if result < 0:
            raise OSError(-result, posix.strerror(-result))
        return True

    def _same_as_early(self, layers: Sequence[Layer]) -> int:
        """How many of the *layers* are those of :meth:`fill_early`: all of these, or none.  They have the same object
        for their bits then."""
        early = self._early_bits
        same = [bits is seen for (_, _, bits), seen in zip(layers, early, strict=False)]
        return len(early) if len(same) == len(early) and all(same) else 0

    def record_first(self) -> FirstTouched:
        """After :meth:`get_ready_to_fill`: which pages are missing when they are touched, from now on."""
        first = ffi.new("struct fill_first *")
        if self._ready_fill is not None:
            self._first = first  # it lives as long as what writes to it
            lib.fill_record(self._ready_fill, first)
        return FirstTouched(first)

    def empty(self) -> None:
        """Have memory that nobody has touched be zero, also what :meth:`fill_early` has filled.

        :raises OSError: the host does not take it
        """
        if self._early_bits:
            self._map.madvise(_MADV_REMOVE, self._start, self.size)
            self._early_bits = []

    def layers(self) -> list[Layer]:
        """What it is filled from, with descriptors of the caller's; empty: nothing, or what may still be written."""
        with self._layers_lock:
            return [] if self._unsealed else _duplicates(self._layers)

    def _bits(self, fill: Any, index: int) -> bytes:
        bits = bytearray(-(-self.size // PAGE // 8))
        with ffi.from_buffer(bits) as room:
            lib.fill_layer_bits(fill, index, room)
        return bytes(bits)

    @property
    def deep(self) -> bool:
        """It is filled from enough files that :meth:`merge_layers` is useful."""
        return len(self._layers) >= _MOST_LAYERS

    def merge_layers(self, make: Callable[[Sequence[Layer]], Layer], *, soon: bool) -> None:
        """Merge the files that it is filled from, if they are too many. On any thread; the guest may run, and the
        machine be forked.

        :param soon: nobody waits for it
        :param make: merges some layers into one, with all of their visible pages
        :raises OSError: the host lacks memory
        """
        with self._layers_lock:
            count = len(self._layers)
            if count < _MOST_LAYERS * (1 if soon else 2) or self._unsealed or self._merges:
                return
            layers = _duplicates(self._layers)
            self._merges = True
        try:
            one = make(layers)
            with self._layers_lock:
                below = self._layers[:count]
                # They have gone if it is no longer filled on demand
                same = [id(bits) for _, _, bits in below] == [id(bits) for _, _, bits in layers]
                result = int(lib.fill_merge(self._fill, count, one[0], ffi.from_buffer(one[2]))) if same else 0
                if same and not result:
                    self._layers[:count] = [one]
                else:
                    below = [one]
            _close_all(below)
            if result:
                raise OSError(-result, posix.strerror(-result))
        finally:
            self._merges = False
            _close_all(layers)

    def get_ready_below(self) -> None:
        """Prepare for a :meth:`put_below`, while the guest runs."""
        if self._hugetlb or self._prefaulted:
            return
        # What takes time is to take each page out of tables. Only what is touched until then is in them again.
        if posix.fstat(self.fd).st_blocks * _BLOCK >= _UNMAP_FROM:
            if self._fill is None:
                lib.ram_unmap(self._base, self.size)
            else:
                lib.fill_unmap(self._fill)

    def put_below(self, pieces: Sequence[tuple[int, int]]) -> list[Layer]:
        """Turn the present shared memory into a template that nobody writes any more: RAM, at the same addresses,
        becomes an empty memfd that is filled from it. Nothing is copied.

        Nobody touches RAM meanwhile, and no other process has it mapped; later mappers take part (:meth:`admit`).
        :meth:`let_go` follows, in which the kernel verifies that.

        :param pieces: parts that may have data: offsets, half-open, of whole pages; None if it is filled on demand
            already
        :returns: the files that it is filled from, with descriptors owned by the caller; empty: it is impossible, and
            nothing was done
        """
        if self._hugetlb or self._prefaulted:
            return []
        self.let_go()
        try:
            self._put_together()
            new = _open_shared(self.size)
        except OSError:
            return []
        kept = posix.dup(self.fd)
        own = self._fill_below(kept, new) if self.on_demand else self._begin_below(kept, new, pieces)
        posix.close(new)
        if own is None:
            posix.close(kept)
            return []
        if self.file >= 0:
            posix.close(self.file)
            self.file = -1
        with self._layers_lock:
            self._layers.append(own)
            return _duplicates(self._layers)

    def let_go(self) -> bool:
        """After :meth:`put_below`, when the guest may run: seal the files that RAM is filled from. A second call does
        nothing.

        :returns: False: another process has one mapped, and may write it; RAM is complete and no longer filled from it
        :raises OSError: the host has no memory for that
        """
        if self._unsealed:
            try:
                # Fails if anybody has it mapped to write, whatever was asked of them
                freeze(self._layers[-1][0])
            except OSError:
                self.complete()
                return False
            self._unsealed = False
        return True

    def _begin_below(self, old: int, new: int, pieces: Sequence[tuple[int, int]]) -> Layer | None:
        """For memory that is not filled on demand yet: its first layer."""
        fill = self._new_fill([(old, pieces, b"")]) if pieces else ffi.NULL
        if fill == ffi.NULL:
            return None
        if not self._exchange(old, new, lambda: int(lib.fill_start(fill))):
            lib.fill_free(fill)
            return None
        if self._fill is not None:
            lib.fill_free(self._fill)
        self._fill, self.on_demand = fill, True
        return old, pieces, self._bits(fill, 0)

    def _fill_below(self, old: int, new: int) -> Layer | None:
        """For memory that is: its next layer."""
        fill, own = self._fill, self._own()
        if lib.fill_layer(fill, old, own):
            return None
        if not self._exchange(old, new, lambda: int(lib.fill_again(fill, True))):
            lib.fill_layer_drop(fill)
            lib.fill_again(fill, False)
            return None
        return old, (), own

    def _exchange(self, old: int, new: int, fill: Callable[[], int]) -> bool:
        """Map *new* at the place of *old*, filled on demand; False: *old* is still there."""
        done = self._show(new) and fill() == 0
        if done:
            self._unsealed = True
        else:
            self._show(old)
        return done

    def _show(self, file: int) -> bool:
        if lib.ram_map(self._base, self.size, lib.RAM_SHARED, file, 0) < 0:
            return False
        try:
            self._map.madvise(mmap.MADV_HUGEPAGE if self.huge else mmap.MADV_NOHUGEPAGE)
        except OSError:
            pass  # the host's kernel has no transparent huge pages
        posix.dup2(file, self.fd, False)
        return True

    def _own(self) -> bytes:
        """A bit for each page that is not the template's, including those that the kernel supplied by itself."""
        bits = bytearray(-(-self.size // PAGE // 8))
        with ffi.from_buffer(bits) as room:
            lib.fill_own(self._fill, room)
        return bytes(bits)

    def rest(self) -> None:
        """Stop the thread until :meth:`go_on`: nobody may touch memory meanwhile, or would wait for ever."""
        if self._fill is not None:
            lib.fill_rest(self._fill)

    def go_on(self) -> None:
        """Resume filling, with a thread that has the restrictions of the calling one.

        :raises OSError: it cannot be made
        """
        result = 0 if self._fill is None else int(lib.fill_go_on(self._fill))
        if result < 0:
            raise OSError(-result, posix.strerror(-result))

    @property
    def native_fill(self) -> Any:
        """For memory that is filled on demand (cdata ``struct fill *``); NULL otherwise. Until :meth:`close`."""
        return ffi.NULL if self._fill is None else self._fill

    def fill_range(self, start: int, end: int) -> int:
        """Fill the pages between two offsets now; returns the number of bytes.

        :raises OSError: the template cannot be read
        """
        result = int(lib.fill_range(self._fill, start, end))
        if result < 0:
            raise OSError(-result, posix.strerror(-result))
        return result

    def fill_places(self, places: Sequence[int]) -> None:
        """Fill the pages with these guest physical addresses now; pages that are not RAM, or cannot be filled, are left
        to the next access."""
        lib.fill_places(self._fill, self.native, ffi.new("uint64_t[]", places), len(places))

    def filled(self) -> bytes:
        """A bit for each page that was filled, written or returned."""
        bits = bytearray(-(-self.size // PAGE // 8))
        with ffi.from_buffer(bits) as room:
            lib.fill_done(self._fill, room)
        return bytes(bits)

    def fill_stats(self) -> dict[str, int]:
        """``faults`` that were answered, and bytes ``filled``; empty if it is not filled on demand."""
        if self._fill is None:
            return {}
        stats = ffi.new("struct fill_stats *")
        lib.fill_get_stats(self._fill, stats)
        return {"faults": int(stats.faults), "filled": int(stats.filled)}

    def complete(self) -> None:
        """Fill all of it now, for a process that does not take part.

        :raises OSError: the template cannot be read
        """
        if self.on_demand:
            self._put_together()
            self.fill_range(0, self.size)
            self._stop_filling()

    def _put_together(self) -> None:
        """Move everything into the memfd, constant parts too.

        :raises OSError: the host lacks memory
        """
        if self._laid:
            result = int(lib.fill_together(self._fill))
            if result < 0:
                raise OSError(-result, posix.strerror(-result))
            self._laid = False

    def _stop_filling(self) -> None:
        """Missing pages are zeros from now on."""
        self.on_demand = self._unsealed = False
        with self._layers_lock:
            lib.fill_stop(self._fill)
            while self._layers:
                posix.close(self._layers.pop()[0])

    def admit(self, uffd: int) -> int:
        """Another process will map :attr:`fd`; *uffd* is a userfaultfd of its own, which the caller closes after
        :meth:`dismiss`, or when this is closed.

        :returns: its number
        :raises OSError: it cannot take part
        """
        result = int(lib.fill_client(self._fill, uffd))
        if result < 0:
            raise OSError(-result, posix.strerror(-result))
        return result

    def mapped_by(self, client: int, address: int) -> None:
        """It has mapped memory at *address*, and touched none of it yet.

        :raises OSError: the address is not in its mappings
        """
        result = lib.fill_client_maps(self._fill, client, address)
        if result < 0:
            raise OSError(-result, posix.strerror(-result))

    def dismiss(self, client: int) -> None:
        """It has ended, or unmapped all."""
        if self._fill is not None:
            lib.fill_client_drop(self._fill, client)

    def prefault(self) -> None:
        """Touch everything that the guest has at first now, and after each :meth:`clear`."""
        self._prefaulted = True
        try:
            self._map.madvise(_MADV_POPULATE_WRITE, self._start, self._at_first)
            return
        except OSError:
            pass  # before Linux 5.14
        for offset in range(0, self._at_first, PAGE):
            self._view[offset] = 0

    def clear(self) -> None:
        """Restore the initial state: zeroed, and returned to the host unless it was prefaulted. If it was filled on
        demand, only this process has it mapped."""
        try:
            self._put_together()
        except OSError as error:
            raise HostError(
                "cannot give guest memory back", code="memory-unavailable", errno=error.errno or 0
            ) from error
        if self.on_demand:
            self._stop_filling()
        if self.over_file:
            result = lib.ram_zero(self._base, self.size)
            if result < 0:
                raise HostError("cannot give guest memory back", code="memory-unavailable", errno=-result)
            self.over_file = False
            self._close_files()
        else:
            self._map.madvise(_MADV_REMOVE if self.fd >= 0 else mmap.MADV_DONTNEED, self._start, self.size)
        if self._prefaulted:
            self.prefault()

    @property
    def backing(self) -> int:
        """The kind of its pages: ``RAM_ANONYMOUS``, ..., for :func:`ram_release`."""
        return int(lib.RAM_SHARED if self.fd >= 0 else lib.RAM_OVER_FILE if self.over_file else lib.RAM_ANONYMOUS)

    def release(self, gpa: int, length: int) -> bool:
        """Return pages to the host: they are zero when they are touched again.

        :returns: False: they are zero, but the host did not accept them
        """
        at = self._base + self.offset(gpa, length)
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
        return self._view[start : start + length]

    def whole(self) -> memoryview:
        """All of RAM, region after region, writable.  Release it before :meth:`close`."""
        return self._view[:]

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
        return int(ffi.cast("uintptr_t", self._base))

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

    def close(self) -> None:
        """Unmap and close.  A second call does nothing.

        :raises BufferError: a view of it still exists
        """
        if self._map.closed:
            return
        ffi.release(self._base)
        self._view.release()
        try:
            self._map.close()
        except BufferError:
            self._view = memoryview(self._map)[self._start : self._start + self.size]
            self._base = ffi.from_buffer(self._view)
            raise
        for fill in (self._fill, self._ready_fill):
            if fill is not None:
                lib.fill_free(fill)
        self._fill = self._ready_fill = None
        self.on_demand = False
        self._close_files()

    def _close_files(self) -> None:
        for fd in {self.fd, self.file, *(file for file, _, _ in self._layers)} - {-1}:
            posix.close(fd)
        self._layers = []
        self.fd = self.file = -1
