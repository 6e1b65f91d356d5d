"""Virtqueues on the device's side: a thin layer over ``ring.c``, which alone parses rings.

While the driver sets up a queue, it is a :class:`QueueConfig`, which has only numbers. At DRIVER_OK it becomes a
:class:`Queue`, which is validated and which the guest cannot change.
"""

from __future__ import annotations

import errno

from vmm.errors import GuestError, HostError
from vmm.native import ffi, lib
from vmm.virtio import spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypedDict

    from vmm.events import EventFd
    from vmm.memory import GuestMemory

    class QueueState(TypedDict):
        """A :class:`QueueConfig` as plain data."""

        size: int
        ready: bool
        desc: int
        driver: int
        device: int
        next_index: int


MAX_QUEUE_SIZE: int = lib.RING_MAX_SIZE
_RING_FLAGS = (
    (spec.F_EVENT_IDX, lib.RING_EVENT_IDX),
    (spec.F_INDIRECT_DESC, lib.RING_INDIRECT),
    (spec.F_RING_PACKED, lib.RING_PACKED),
)


class QueueConfig:
    """What the driver has written about a queue (virtio 1.2, 4.2.2): arbitrary numbers.

    :ivar size: descriptors
    :ivar ready: the driver wants to use it
    :ivar desc, driver, device: guest physical addresses of the three areas (2.7, 2.8)
    :ivar next_index: the next index of driver and device, 0 for a new queue. Of a split queue both indices, modulo
        65536; of a packed one the descriptor, and 32768 more if the wrap counters are 0
    """

    __slots__ = ("desc", "device", "driver", "next_index", "ready", "size")

    def __init__(
        self, size: int = 0, ready: bool = False, desc: int = 0, driver: int = 0, device: int = 0, next_index: int = 0
    ) -> None:
        self.size = size
        self.ready = ready
        self.desc = desc
        self.driver = driver
        self.device = device
        self.next_index = next_index


class Chain:
    """One request: bytes to read, then room for an answer. All of it is guest RAM, checked when popped.

    It is valid until it has been pushed, or its queue is gone; then it reads and writes nothing any more.
    """

    __slots__ = ("_queue", "_readable", "_writable", "head", "readable", "room", "written")

    def __init__(self, queue: Queue, head: int, extents: list[tuple[int, int]], nread: int) -> None:
        self.head = head
        self._queue: Queue | None = queue
        # (guest physical address, length), last first: what is used up is popped or shortened
        self._readable = extents[:nread][::-1]
        self._writable = extents[nread:][::-1]
        self.readable = sum(length for _, length in self._readable)
        self.room = sum(length for _, length in self._writable)
        self.written = 0

    def read(self, n: int) -> bytes:
        """The next *n* bytes of the request, a copy.

        :raises GuestError: the driver sent fewer (``readable`` is the number left)
        """
        memory = self._live()
        if n > self.readable:
            raise GuestError(f"chain {self.head}: {self.readable} bytes to read, {n} expected", code="chain-short")
        self.readable -= n
        return b"".join([memory.read(gpa, length) for gpa, length in _take(self._readable, n)])

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write *data* (bytes) after what was written before.

        :raises GuestError: the driver left too little room (``room`` is the number left)
        """
        memory = self._live()
        n = len(data)
        if n > self.room:
            raise GuestError(f"chain {self.head}: room for {self.room} bytes, {n} needed", code="chain-room")
        self.room -= n
        done = 0
        for gpa, length in _take(self._writable, n):
            memory.write(gpa, data[done : done + length])
            done += length
        self.written += n

    def _live(self) -> GuestMemory:
        if self._queue is None:
            raise ValueError(f"chain {self.head} was already returned to the driver")
        if self._queue.closed:
            raise GuestError(f"chain {self.head}: the driver has taken its queue away", code="queue-closed")
        return self._queue.memory


def _take(extents: list[tuple[int, int]], n: int) -> Iterator[tuple[int, int]]:
    """Remove *n* bytes from the end of *extents*, which contain that many."""
    while n > 0:
        gpa, length = extents.pop()
        if length > n:
            extents.append((gpa + n, length - n))
            length = n
        yield gpa, length
        n -= length


class Queue:
    """A running virtqueue. Iterating yields the available chains, each once, at most as many as the queue is long: a
    driver that refills without end gets further turns, but so do others.

    Not locked: the transport's lock is held while a device processes.

    :ivar kick: the eventfd that the guest rings
    :ivar irq: the irq that C workers raise for it (cdata ``struct irq *``)
    :ivar ring: for C workers (cdata ``struct ring *``); such a queue is not used from Python at the same time
    :raises GuestError: the configuration is invalid (2.7, 2.8): size, alignment, or part of it is not RAM
    """

    def __init__(
        self, index: int, memory: GuestMemory, config: QueueConfig, features: int, kick: EventFd, irq: Any = None
    ) -> None:
        native = ffi.new("struct ring_config *")
        native.size = config.size
        for feature, flag in _RING_FLAGS:
            if features & feature:
                native.flags |= flag
        native.desc, native.avail, native.used = config.desc, config.driver, config.device
        native.next_avail = native.next_used = config.next_index
        error = ffi.new("int *")
        self.index = index
        self.size = config.size
        self.memory = memory
        self.kick = kick
        self.irq = irq
        self.drained = False
        """The driver has been left nothing to pop since this was set to False."""
        self.popped = 0
        self.moved_to: int | None = None
        """Where the queue continues after it was served without :attr:`ring`."""
        self._dirty = False
        self._scratch: Any = None
        self.ring: Any = lib.ring_new(memory.native, native, error)
        if self.ring == ffi.NULL:
            self.ring = None
            if error[0] == -errno.ENOMEM:
                raise HostError(f"no memory for virtqueue {index}", code="memory-unavailable", errno=errno.ENOMEM)
            raise GuestError(
                f"queue {index} is not valid: size {config.size}, descriptors at {config.desc:#x}, "
                f"driver area at {config.driver:#x}, device area at {config.device:#x}",
                code="queue-config",
            )
        # While this is held the memory refuses to be closed under the ring
        self._pin = memory.view(memory.regions[0].gpa, 1)

    def _make_scratch(self) -> Any:
        iov = ffi.new("struct iovec[]", lib.RING_MAX_SEGMENTS)
        chain = ffi.new("struct chain *", {"max": lib.RING_MAX_SEGMENTS, "iov": iov})
        # An iovec is two 64-bit words: read as such, a segment costs no cffi object
        return chain, memoryview(ffi.buffer(iov)).cast("Q"), iov

    def _gpa(self, host_address: int) -> int:
        offset = host_address - self.memory.host_address
        for region in self.memory.regions:
            if offset < region.offset + region.size:
                break
        return region.gpa + offset - region.offset

    @property
    def closed(self) -> bool:
        """The driver has reset the device, or the transport is closed."""
        return self.ring is None

    def pop(self) -> Chain | None:
        """The next chain, or None if there is none.

        :raises GuestError: the guest broke the ring; later calls raise the same error
        """
        if self.ring is None:
            return None
        self._scratch = self._scratch or self._make_scratch()
        chain, words, _ = self._scratch
        result = lib.ring_pop(self.ring, chain)
        if result < 0:
            raise self.error()
        if result == 0:
            self.drained = True
            return None
        self.popped += 1
        last = 2 * (chain.nread + chain.nwrite)
        extents = [(self._gpa(words[i]), words[i + 1]) for i in range(0, last, 2)]
        return Chain(self, chain.head, extents, chain.nread)

    def __iter__(self) -> Iterator[Chain]:
        for _ in range(self.size):
            chain = self.pop()
            if chain is None:
                return
            yield chain

    def push(self, chain: Chain) -> None:
        """Return *chain* with the written answer. The transport makes it visible to the driver.

        Harmless if the driver has reset the device in between.
        """
        if chain._queue is not self:
            raise ValueError(f"chain {chain.head} is not one that queue {self.index} waits for")
        chain._queue = None
        if self.ring is None:
            return
        # The used length is 32 bits; more than that is not announced (2.7.8.2 allows less)
        result = lib.ring_push(self.ring, chain.head, min(chain.written, 0xFFFF_FFFF))
        if result < 0:
            raise ValueError(f"queue {self.index}: head {chain.head} is not in flight")
        self._dirty = True

    def served(self, chains: int) -> None:
        """C has popped and pushed *chains* (a bounded number: there may be more)."""
        self.popped += chains
        self._dirty = self._dirty or chains > 0

    def flush(self) -> bool:
        """Make all pushes visible; True if the driver wants an interrupt for them."""
        if not self._dirty or self.ring is None:
            return False
        self._dirty = False
        return lib.ring_flush(self.ring) > 0

    def want_kicks(self, enable: bool) -> bool:
        """Set whether the next chain needs a kick; True if chains are available already."""
        return self.ring is not None and lib.ring_kicks(self.ring, int(enable)) > 0

    def error(self) -> GuestError:
        """The guest's error in the ring, as an exception to raise."""
        text = ffi.NULL if self.ring is None else lib.ring_error(self.ring)
        reason = "it was closed" if text == ffi.NULL else ffi.string(text).decode("ascii", "replace")
        return GuestError(f"queue {self.index}: {reason}", code="ring-broken")

    def position(self) -> int:
        """The position of the queue, for :attr:`QueueConfig.next_index`.

        :raises GuestError: the ring is broken
        :raises ValueError: chains are in flight: their heads would be lost
        """
        if self.moved_to is not None:
            return self.moved_to
        out = ffi.new("struct ring_config *")
        result = lib.ring_save(self.ring, out)
        if result == -errno.EBUSY:
            raise ValueError(f"queue {self.index} has chains in flight")
        if result < 0:
            raise self.error()
        return int(out.next_avail)

    def areas(self) -> tuple[int, int, int]:
        """Addresses in this process of the descriptors, the driver's area and the device's, all of it guest RAM."""
        out = ffi.new("struct ring_config *")
        if lib.ring_save(self.ring, out) < 0:
            raise self.error()
        memory, size = self.memory, self.size
        places = ((out.desc, 16 * size), (out.avail, 4 + 2 * size), (out.used, 4 + 8 * size))
        desc, avail, used = (memory.host_address + memory.offset(gpa, length) for gpa, length in places)
        return desc, avail, used

    def close(self) -> None:
        """Let go of guest memory.  Workers that use the ring have been joined.  A second call does nothing."""
        if self.ring is not None:
            ring, self.ring = self.ring, None
            lib.ring_free(ring)
            self._scratch = None
            self._pin.release()
