"""RAM of a machine that is forked: its present pages become a layer that its children are filled from, too."""

from __future__ import annotations

import posix

from vmm.memory.layers import close_all, duplicates
from vmm.memory.mapping import check
from vmm.memory.memfd import freeze, open_ram
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmm.memory.layers import Layer
    from vmm.memory.mapping import Mapping
    from vmm.memory.on_demand import OnDemand

_BLOCK = 512
"""Bytes of a block of ``st_blocks``."""
_UNMAP_FROM = 4 << 20
"""To go through all of KVM's tables once more, for less than this, takes longer than the pages take then."""
_MOST_LAYERS = 4
"""When RAM is filled from so many files, they are put together: soon, or before the next fork when they are twice as
many."""


class ForkLayers:
    """Adds layers to shared RAM that is, or can be, filled on demand, and merges them."""

    def __init__(self, mapping: Mapping, fill: OnDemand) -> None:
        self._mapping = mapping
        self._fill = fill
        self._layers = fill.layers
        self._merges = False

    def prepare(self) -> None:
        """Prepare for :meth:`add`, while the guest runs."""
        ram = self._mapping
        if ram.hugetlb or ram.prefaulted:
            return
        # What takes time is to take each page out of tables. Only what is touched until then is in them again.
        if posix.fstat(ram.fd).st_blocks * _BLOCK >= _UNMAP_FROM:
            if self._fill.native == ffi.NULL:
                lib.ram_unmap(ram.base, ram.size)
            else:
                lib.fill_unmap(self._fill.native)

    def add(self, pieces: Sequence[tuple[int, int]]) -> list[Layer]:
        """Turn the present shared memory into a read-only layer: RAM, at the same addresses, becomes
        an empty memfd that is filled from it. Nothing is copied.

        Nothing may access RAM meanwhile, and no other process may map it; later mappers take part
        (:meth:`vmm.memory.GuestMemory.admit`). :meth:`seal` follows, in which the kernel verifies that.

        :param pieces: parts that may have data: offsets, half-open, of whole pages; ignored if RAM is filled on demand
            already
        :returns: the files that it is filled from, with descriptors owned by the caller; empty: it is impossible, and
            nothing was done
        """
        ram = self._mapping
        if ram.hugetlb or ram.prefaulted:
            return []
        self.seal()
        try:
            self._fill.put_together()
            new = open_ram(ram.size)
        except OSError:
            return []
        kept = posix.dup(ram.fd)
        own = self._next(kept, new) if self._fill.active else self._first(kept, new, pieces)
        posix.close(new)
        if own is None:
            posix.close(kept)
            return []
        ram.leave_file()
        return self._layers.add(own)

    def seal(self) -> bool:
        """After :meth:`add`, when the guest may run: seal the files that RAM is filled from. A second call does
        nothing.

        :returns: False: another process has one mapped, and may write it; RAM is complete and no longer filled from it
        :raises OSError: the host has no memory for that
        """
        if self._layers.unsealed:
            try:
                # Fails if anybody has it mapped to write, whatever was asked of them
                freeze(self._layers.files[-1][0])
            except OSError:
                self._fill.complete()
                return False
            self._layers.unsealed = False
        return True

    def _first(self, old: int, new: int, pieces: Sequence[tuple[int, int]]) -> Layer | None:
        """For memory that is not filled on demand yet: its first layer."""
        fill = self._fill.new([(old, pieces, b"")]) if pieces else ffi.NULL
        if fill == ffi.NULL:
            return None
        if not self._exchange(old, new, lambda: int(lib.fill_start(fill))):
            lib.fill_free(fill)
            return None
        self._fill.use(fill)
        return old, pieces, self._fill.bits(fill, 0)

    def _next(self, old: int, new: int) -> Layer | None:
        """For memory that is: its next layer."""
        fill, own = self._fill.native, self._fill.own()
        if lib.fill_layer(fill, old, own):
            return None
        if not self._exchange(old, new, lambda: int(lib.fill_again(fill, True))):
            lib.fill_layer_drop(fill)
            lib.fill_again(fill, False)
            return None
        return old, (), own

    def _exchange(self, old: int, new: int, fill: Callable[[], int]) -> bool:
        """Map *new* at the place of *old*, filled on demand; False: *old* is still there."""
        done = self._mapping.show(new) and fill() == 0
        if done:
            self._layers.unsealed = True
        else:
            self._mapping.show(old)
        return done

    def copies(self) -> list[Layer]:
        """What RAM is filled from, with descriptors owned by the caller; empty: nothing, or what may still be
        written."""
        return self._layers.copies()

    @property
    def are_many(self) -> bool:
        """There are enough layers that :meth:`merge` is useful."""
        return len(self._layers) >= _MOST_LAYERS

    def merge(self, make: Callable[[Sequence[Layer]], Layer], *, soon: bool) -> None:
        """Merge the layers, if they are too many. On any thread; the guest may run, and the machine be forked.

        :param soon: in the background, before it is urgent
        :param make: merges some layers into one, with all of their visible pages
        :raises OSError: the host lacks memory
        """
        layers = self._layers
        with layers.lock:
            count = len(layers)
            if count < _MOST_LAYERS * (1 if soon else 2) or layers.unsealed or self._merges:
                return
            copies = duplicates(layers.files)
            self._merges = True
        try:
            one = make(copies)
            with layers.lock:
                below = layers.files[:count]
                # They were removed if it is no longer filled on demand
                same = [id(bits) for _, _, bits in below] == [id(bits) for _, _, bits in copies]
                native = self._fill.native
                result = int(lib.fill_merge(native, count, one[0], ffi.from_buffer(one[2]))) if same else 0
                if same and not result:
                    layers.files[:count] = [one]
                else:
                    below = [one]
            close_all(below)
            check(result)
        finally:
            self._merges = False
            close_all(copies)
