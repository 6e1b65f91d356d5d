"""RAM that is filled from layers when it is touched (userfaultfd(2), ``vmm/native/ram``)."""

from __future__ import annotations

import posix

from vmm import report
from vmm.memory.layers import Layers, duplicates
from vmm.memory.layout import PAGE
from vmm.memory.mapping import check
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmm.memory.layers import Layer
    from vmm.memory.mapping import Mapping

MAX_CONSTANT: int = lib.FILL_LAID
"""How many ranges of constant memory a template can have."""
_AROUND = 2
"""Pages that are filled together when one is touched (decision 0020 has what more or fewer cost)."""

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

    def __init__(self) -> None:
        self.native: Any = None
        """cdata ``struct fill_first *``, which lives as long as what writes to it."""

    def pages(self) -> list[int]:
        """Their numbers, in the order in which they were touched.  Any thread, at any time."""
        native = self.native
        return [] if native is None else [int(page) for page in native.page[0 : native.count]]


class OnDemand:
    """Fills the RAM of a :class:`~vmm.memory.mapping.Mapping` on demand, once :meth:`start` was called.

    A shell calls :meth:`prepare` before it is known what its RAM is filled from, and possibly :meth:`fill_early`.

    :ivar layers: what RAM is filled from
    :ivar active: pages are filled when they are touched
    :ivar first: see :meth:`record_first`
    """

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self.layers = Layers()
        self.active = False
        self._laid = False
        """Some ranges lie over the template's file."""
        self._fill: Any = None
        self._prepared: Any = None
        self.first = FirstTouched()
        self._early_bits: list[bytes] = []
        """Those of the layers whose pages :meth:`fill_early` has filled."""

    @property
    def native(self) -> Any:
        """The object that fills RAM (cdata ``struct fill *``); NULL: nothing ever has. Until :meth:`close`."""
        return ffi.NULL if self._fill is None else self._fill

    # -- start -------------------------------------------------------------------------------------------------------

    def start(
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
        fill, prepared = self.new(layers, 1 if exactly else _AROUND), self._prepared
        result = 0
        if fill != ffi.NULL:
            if prepared is not None:
                if self._early_bits:
                    lib.fill_renew(fill, self._same_as_early(layers))
                result = int(lib.fill_again(fill, False))
                self._prepared = None
            elif len(layers) == 1 and not exactly:
                for start, end in constant:
                    # Where it does not, pages are filled
                    self._laid = lib.fill_lay(fill, layers[0][0], start, end) == 0 or self._laid
            if first and prepared is None:
                result = int(lib.fill_ahead(fill, ffi.from_buffer(first), self._mapping.makes_huge))
            if prepared is None:
                result = result or int(lib.fill_start(fill))
        if result:
            lib.fill_free(fill)
            _say_why(result)
        if result or fill == ffi.NULL:
            return False
        self.use(fill)  # from here on, closing the memory ends it
        self._early_bits = []
        self._mapping.keep_from_children()
        self.layers.files = duplicates(
            [(file, pieces, bits or self.bits(fill, index)) for index, (file, pieces, bits) in enumerate(layers)]
        )
        if len(layers) == 1:
            self._mapping.file = posix.dup(layers[0][0])
        return True

    def new(self, layers: Sequence[Layer], around: int = _AROUND) -> Any:
        """The object that fills RAM from *layers*, not yet started unless it is prepared; NULL: the host does not
        allow it."""
        error = ffi.new("int *")
        ram = self._mapping
        fill = self._prepared or lib.fill_new(ram.base, ram.size, ram.fd, around, error)
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
                self._prepared = None
        if result:
            _say_why(result)
            return ffi.NULL
        return fill

    def use(self, fill: Any) -> None:
        """Fill with an object from :meth:`new` that the caller has started, instead of the present one."""
        if self._fill is not None:
            lib.fill_free(self._fill)
        self._fill, self.active = fill, True

    # -- shells ------------------------------------------------------------------------------------------------------

    def prepare(self, *, exactly: bool = False) -> None:
        """Prepare for a :meth:`start` that may follow: untouched shared memory.

        :param exactly: see there
        """
        fill = self.new((), 1 if exactly else _AROUND)
        if fill != ffi.NULL:
            if lib.fill_start(fill):
                lib.fill_free(fill)
            else:
                self._prepared = fill

    def fill_early(self, layers: Sequence[Layer], bits: bytes) -> bool:
        """After :meth:`prepare`: fill the pages with a bit in *bits* now, before it is known what all of RAM is filled
        from.  :meth:`start` copies those that differ by then; otherwise call :meth:`discard_early`.

        :param layers: what it would be filled from now, see :meth:`start`
        :returns: False: nothing was done
        :raises OSError: the host has not enough memory; this one must be closed
        """
        if self._prepared is None:
            return False
        fill = self.new(layers)
        if fill == ffi.NULL:
            return False
        self._early_bits = [each for _, _, each in layers]
        result = int(lib.fill_early(fill, ffi.from_buffer(bits)))
        for _ in layers:
            lib.fill_layer_drop(fill)
        check(result)
        return True

    def discard_early(self) -> None:
        """Reset untouched RAM to zeros, including what :meth:`fill_early` has filled.

        :raises OSError: the host refuses
        """
        if self._early_bits:
            self._mapping.discard()
            self._early_bits = []

    def _same_as_early(self, layers: Sequence[Layer]) -> int:
        """How many of the *layers* are those of :meth:`fill_early`: all of these, or none.  They have the same object
        for their bits then."""
        early = self._early_bits
        same = [bits is seen for (_, _, bits), seen in zip(layers, early, strict=False)]
        return len(early) if len(same) == len(early) and all(same) else 0

    def record_first(self) -> FirstTouched:
        """After :meth:`prepare` or :meth:`start`: which pages are missing when they are touched, from now on."""
        fill = self._prepared or self._fill
        if fill is not None:
            self.first.native = ffi.new("struct fill_first *")
            lib.fill_record(fill, self.first.native)
        return self.first

    # -- while it is active ------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Stop the thread until :meth:`go_on`. Do not access RAM meanwhile: a missing page would block the access."""
        if self._fill is not None:
            lib.fill_rest(self._fill)

    def go_on(self) -> None:
        """Resume filling, with a thread that has the restrictions of the calling one.

        :raises OSError: it cannot be made
        """
        if self._fill is not None:
            check(int(lib.fill_go_on(self._fill)))

    def fill_range(self, start: int, end: int) -> int:
        """Fill the pages between two offsets now; returns the number of bytes.

        :raises OSError: the template cannot be read
        """
        return check(int(lib.fill_range(self._fill, start, end)))

    def fill_pages(self, bits: bytes) -> None:
        """Fill the pages whose bits are set, and map them for writing.

        :raises OSError: the template cannot be read, or the host lacks memory
        """
        start, end, native = ffi.new("uint64_t *"), ffi.new("uint64_t *"), ffi.from_buffer(bits)
        while lib.mem_run(native, self._mapping.size, start, end):
            self.fill_range(start[0], end[0])
            self._mapping.populate(start[0], end[0])

    def fill_places(self, mem: Any, places: Sequence[int]) -> None:
        """Fill the pages with these guest physical addresses now; pages that are not RAM, or cannot be filled, are left
        to the next access.

        :param mem: the regions (cdata ``struct mem *``)
        """
        lib.fill_places(self._fill, mem, ffi.new("uint64_t[]", places), len(places))

    def filled(self) -> bytes:
        """A bit for each page that was filled, written or returned."""
        bits = self._no_bits()
        with ffi.from_buffer(bits) as room:
            lib.fill_done(self._fill, room)
        return bytes(bits)

    def own(self) -> bytes:
        """A bit for each page that is not the template's, including those that the kernel supplied by itself."""
        bits = self._no_bits()
        with ffi.from_buffer(bits) as room:
            lib.fill_own(self._fill, room)
        return bytes(bits)

    def bits(self, fill: Any, index: int) -> bytes:
        """A bit for each page that a layer of *fill* has."""
        bits = self._no_bits()
        with ffi.from_buffer(bits) as room:
            lib.fill_layer_bits(fill, index, room)
        return bytes(bits)

    def _no_bits(self) -> bytearray:
        return bytearray(-(-self._mapping.size // PAGE // 8))

    def stats(self) -> dict[str, int]:
        """``faults`` that were answered, and bytes ``filled``; empty if RAM was never filled on demand."""
        if self._fill is None:
            return {}
        stats = ffi.new("struct fill_stats *")
        lib.fill_get_stats(self._fill, stats)
        return {"faults": int(stats.faults), "filled": int(stats.filled)}

    # -- other processes ---------------------------------------------------------------------------------------------

    def admit(self, uffd: int) -> int:
        """See :meth:`vmm.memory.GuestMemory.admit`."""
        return check(int(lib.fill_client(self._fill, uffd)))

    def mapped_by(self, client: int, address: int) -> None:
        """See :meth:`vmm.memory.GuestMemory.mapped_by`."""
        check(int(lib.fill_client_maps(self._fill, client, address)))

    def dismiss(self, client: int) -> None:
        """See :meth:`vmm.memory.GuestMemory.dismiss`."""
        if self._fill is not None:
            lib.fill_client_drop(self._fill, client)

    # -- end ---------------------------------------------------------------------------------------------------------

    def complete(self) -> None:
        """Fill all of RAM now, and nothing afterwards.

        :raises OSError: the template cannot be read
        """
        if self.active:
            self.put_together()
            self.fill_range(0, self._mapping.size)
            self.stop()

    def put_together(self) -> None:
        """Move everything into the memfd, constant parts too.

        :raises OSError: the host lacks memory
        """
        if self._laid:
            check(int(lib.fill_together(self._fill)))
            self._laid = False

    def stop(self) -> None:
        """Missing pages are zeros from now on."""
        if self.active:
            self.active = False
            with self.layers.lock:
                lib.fill_stop(self._fill)
                self.layers.close()

    def close(self) -> None:
        """RAM is no longer mapped.  A second call does nothing."""
        for fill in (self._fill, self._prepared):
            if fill is not None:
                lib.fill_free(fill)
        self._fill = self._prepared = None
        self.active = False
        self.layers.close()
