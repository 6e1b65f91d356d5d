"""The driver's side of virtqueues (virtio 1.2, 2.7 and 2.8) over real guest RAM, for :mod:`tests.driver`."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from vmm.virtio import spec

if TYPE_CHECKING:
    from tests.driver import Guest

_fence_lock = threading.Lock()


def fence() -> None:
    """A full memory barrier: stores before it are seen before loads behind it are done."""
    with _fence_lock:
        pass


class Buffer(NamedTuple):
    """A piece of guest memory in a chain."""

    gpa: int
    length: int
    writable: bool = False


class Used(NamedTuple):
    """An entry of the used ring."""

    head: int
    written: int


class DriverQueue:
    """A split virtqueue as a driver keeps it (2.7)."""

    def __init__(self, guest: Guest, index: int, size: int) -> None:
        self.guest = guest
        self.memory = guest.memory
        self.index = index
        self.size = size
        self.desc, self.avail, self.used = (self._make_area(*each) for each in self._areas())
        self.free = list(range(size))[::-1]
        self.next_avail = 0
        self.next_used = 0
        self._chains: dict[int, list[int]] = {}

    def _areas(self) -> tuple[tuple[int, int], ...]:
        """Length and alignment of the descriptor, driver and device areas."""
        return (16 * self.size, 16), (6 + 2 * self.size, 2), (6 + 8 * self.size, 4)

    def _make_area(self, length: int, align: int) -> int:
        gpa = self.guest.alloc(length, align)
        self.memory.write(gpa, bytes(length))
        return gpa

    # -- raw -------------------------------------------------------------------------------------------------

    def write_desc(self, index: int, gpa: int, length: int, flags: int = 0, link: int = 0) -> None:
        self.write_entry(self.desc, index, gpa, length, flags, link)

    def write_entry(self, table: int, index: int, gpa: int, length: int, flags: int = 0, link: int = 0) -> None:
        entry = gpa.to_bytes(8, "little") + length.to_bytes(4, "little")
        entry += flags.to_bytes(2, "little") + link.to_bytes(2, "little")
        self.memory.write(table + 16 * index, entry)

    def write_avail(self, slot: int, head: int) -> None:
        self.memory.write_int(self.avail + 4 + 2 * (slot % self.size), 2, head)

    def write_avail_idx(self, index: int) -> None:
        self.memory.write_int(self.avail + 2, 2, index)

    def read_used_idx(self) -> int:
        return self.memory.read_int(self.used + 2, 2)

    def read_used_flags(self) -> int:
        return self.memory.read_int(self.used, 2)

    def write_avail_flags(self, flags: int) -> None:
        self.memory.write_int(self.avail, 2, flags)

    def write_used_event(self, index: int) -> None:
        self.memory.write_int(self.avail + 4 + 2 * self.size, 2, index)

    def read_avail_event(self) -> int:
        return self.memory.read_int(self.used + 4 + 8 * self.size, 2)

    # -- as a driver does it ---------------------------------------------------------------------------------

    def chain(self, buffers: Iterable[Buffer], *, indirect: bool = False) -> int:
        """Write descriptors for *buffers*; returns the head."""
        buffers = list(buffers)
        if indirect:
            table = self.guest.alloc(16 * len(buffers))
            self._link(table, range(len(buffers)), buffers)
            head = self.free.pop()
            self.write_desc(head, table, 16 * len(buffers), spec.DESC_F_INDIRECT)
            self._chains[head] = [head]
            return head
        indices = [self.free.pop() for _ in buffers]
        self._link(self.desc, indices, buffers)
        self._chains[indices[0]] = indices
        return indices[0]

    def _link(self, table: int, indices: Iterable[int], buffers: list[Buffer]) -> None:
        indices = list(indices)
        for at, (index, buffer) in enumerate(zip(indices, buffers, strict=True)):
            last = at == len(buffers) - 1
            flags = (spec.DESC_F_WRITE if buffer.writable else 0) | (0 if last else spec.DESC_F_NEXT)
            self.write_entry(table, index, buffer.gpa, buffer.length, flags, 0 if last else indices[at + 1])

    def offer(self, *heads: int) -> None:
        """Make chains available, all at once, without a kick."""
        for head in heads:
            self.write_avail(self.next_avail, head)
            self.next_avail = (self.next_avail + 1) & 0xFFFF
        self.write_avail_idx(self.next_avail)

    def kick(self) -> None:
        """Ring, whether the device wants it or not."""
        fence()
        self.guest.write(spec.MMIO_QUEUE_NOTIFY, self.index)

    def has_used(self) -> bool:
        """The device has given back something that was not taken."""
        return self.next_used != self.read_used_idx()

    def take_one(self) -> Used:
        """The next of what the device has given back; its descriptors are free again."""
        gpa = self.used + 4 + 8 * (self.next_used % self.size)
        used = Used(self.memory.read_int(gpa, 4), self.memory.read_int(gpa + 4, 4))
        self.free += self._chains.pop(used.head, [])[::-1]
        self.next_used = (self.next_used + 1) & 0xFFFF
        return used

    def take_used(self) -> list[Used]:
        """All that the device has given back and was not taken before."""
        taken = []
        while self.has_used():
            taken.append(self.take_one())
        return taken

    def ask_irq(self) -> None:
        """With EVENT_IDX: an interrupt for the next one (2.7.7.2)."""
        self.write_used_event(self.next_used)

    def wait(self, count: int = 1) -> list[Used]:
        """Wait, by interrupts, until *count* chains have come back."""
        done: list[Used] = []
        while True:
            # The wish is out before the last look
            self.ask_irq()
            fence()
            done += self.take_used()
            if len(done) >= count:
                return done
            self.ask_irq()
            fence()
            if not self.has_used():
                self.guest.wait_irq()

    def send(self, *buffers: Buffer, indirect: bool = False) -> Used:
        """One request, from its chain to its answer."""
        head = self.chain(buffers, indirect=indirect)
        self.offer(head)
        self.kick()
        (used,) = self.wait()
        assert used.head == head
        return used


class PackedQueue(DriverQueue):
    """A packed virtqueue as a driver keeps it (2.8).  What is called head elsewhere is a buffer id here.

    :ivar slot, wrap: where the driver's next descriptor goes, and its wrap counter
    :ivar used_slot, used_wrap: where the device's next one will be
    """

    def __init__(self, guest: Guest, index: int, size: int) -> None:
        super().__init__(guest, index, size)
        self.slot = self.used_slot = 0
        self.wrap = self.used_wrap = 1
        self._buffers: dict[int, list[tuple[int, int, int]]] = {}

    def _areas(self) -> tuple[tuple[int, int], ...]:
        return (16 * self.size, 16), (4, 4), (4, 4)

    # -- raw -------------------------------------------------------------------------------------------------

    def write_packed(self, slot: int, gpa: int, length: int, ident: int, flags: int) -> None:
        """A descriptor; its flags, by which it becomes available, last."""
        at = self.desc + 16 * slot
        self.memory.write(at, gpa.to_bytes(8, "little") + length.to_bytes(4, "little") + ident.to_bytes(2, "little"))
        self.memory.write_int(at + 14, 2, flags)

    def available(self, ahead: int = 0) -> int:
        """The flags that make the descriptor *ahead* of :attr:`slot` available."""
        wrap = self.wrap ^ ((self.slot + ahead) // self.size & 1)
        return spec.PACKED_DESC_F_AVAIL if wrap else spec.PACKED_DESC_F_USED

    def write_driver_event(self, flags: int, slot: int = 0, wrap: int = 0) -> None:
        self.memory.write_int(self.avail, 4, flags << 16 | wrap << 15 | slot)

    def read_device_event(self) -> tuple[int, int, int]:
        """Flags, slot, wrap counter."""
        word = self.memory.read_int(self.used, 4)
        return word >> 16, word & 0x7FFF, word >> 15 & 1

    # -- as a driver does it ---------------------------------------------------------------------------------

    def chain(self, buffers: Iterable[Buffer], *, indirect: bool = False) -> int:
        """Keep *buffers* under an id, which is returned, until they are offered."""
        entries = [(each.gpa, each.length, spec.DESC_F_WRITE if each.writable else 0) for each in buffers]
        if indirect:
            table = self.guest.alloc(16 * len(entries))
            for at, (gpa, length, flags) in enumerate(entries):
                self.write_entry(table, at, gpa, length, 0, flags)
            entries = [(table, 16 * len(entries), spec.DESC_F_INDIRECT)]
        ident = self.free.pop()
        self._buffers[ident] = entries
        return ident

    def offer(self, *heads: int) -> None:
        """Make chains available, all at once, without a kick."""
        later: list[tuple[int, int]] = []
        for ident in heads:
            entries = self._buffers[ident]
            for at, (gpa, length, flags) in enumerate(entries):
                flags |= self.available() | (0 if at == len(entries) - 1 else spec.DESC_F_NEXT)
                self.write_packed(self.slot, gpa, length, ident, flags if later else self._old_flags())
                later.append((self.slot, flags))
                self.slot += 1
                if self.slot == self.size:
                    self.slot, self.wrap = 0, self.wrap ^ 1
        for slot, flags in later[:1]:
            self.memory.write_int(self.desc + 16 * slot + 14, 2, flags)

    def _old_flags(self) -> int:
        return self.memory.read_int(self.desc + 16 * self.slot + 14, 2)

    def has_used(self) -> bool:
        flags = self.memory.read_int(self.desc + 16 * self.used_slot + 14, 2)
        both = spec.PACKED_DESC_F_AVAIL | spec.PACKED_DESC_F_USED
        return flags & both == (both if self.used_wrap else 0)

    def take_one(self) -> Used:
        at = self.desc + 16 * self.used_slot
        used = Used(self.memory.read_int(at + 12, 2), self.memory.read_int(at + 8, 4))
        entries = self._buffers.pop(used.head)
        self.free.append(used.head)
        self.used_slot += len(entries)
        if self.used_slot >= self.size:
            self.used_slot, self.used_wrap = self.used_slot - self.size, self.used_wrap ^ 1
        return used

    def ask_irq(self) -> None:
        if self.guest.features & spec.F_EVENT_IDX:
            self.write_driver_event(spec.PACKED_EVENT_FLAG_DESC, self.used_slot, self.used_wrap)
