"""Chains and queues as a device in Python sees them (virtio 1.2, 2.7 and 2.8)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.driver import Buffer, DriverQueue, Guest, PackedQueue
from tests.sample_devices import Echo, Holder
from vmm.errors import GuestError
from vmm.memory import GuestMemory
from vmm.memory.layout import HOLE_END, HOLE_START
from vmm.virtio import spec
from vmm.virtio.queue import Chain, Queue, QueueConfig

FEATURES = spec.F_VERSION_1 | spec.F_INDIRECT_DESC | spec.F_EVENT_IDX

pytestmark = pytest.mark.usefixtures("virtqueues")


@pytest.fixture
def guest(virtqueues: str) -> Iterator[Guest]:
    with Guest(Echo()) as guest:
        yield guest


def make_queue(guest: Guest, size: int = 8, features: int = FEATURES) -> tuple[DriverQueue, Queue]:
    """A driver's queue, and the device's end of it without a transport."""
    kind, packed = (PackedQueue, spec.F_RING_PACKED) if guest.packed else (DriverQueue, 0)
    driver = kind(guest, 0, size)
    config = QueueConfig(size=size, ready=True, desc=driver.desc, driver=driver.avail, device=driver.used)
    return driver, Queue(0, guest.memory, config, features | packed, guest.irq)


def pop(queue: Queue) -> Chain:
    chain = queue.pop()
    assert chain is not None
    return chain


@pytest.mark.parametrize("indirect", [False, True])
def test_a_chain_reads_and_writes_across_its_buffers(guest: Guest, indirect: bool) -> None:
    driver, queue = make_queue(guest)
    rooms = [guest.room(3), guest.room(1), guest.room(6)]
    driver.offer(driver.chain([guest.data(b"abc"), guest.data(b"defgh"), *rooms], indirect=indirect))
    chain = pop(queue)
    assert (chain.readable, chain.room, chain.written) == (8, 10, 0)
    assert [chain.read(2), chain.read(0), chain.read(4), chain.read(2)] == [b"ab", b"", b"cdef", b"gh"]
    chain.write(b"12")
    chain.write(memoryview(b"34567"))
    assert (chain.readable, chain.room, chain.written) == (0, 3, 7)
    queue.push(chain)
    queue.flush()
    assert [guest.content(room) for room in rooms] == [b"123", b"4", b"567\xee\xee\xee"]
    assert [tuple(used) for used in driver.take_used()] == [(chain.head, 7)]
    queue.close()


def test_reading_more_than_there_is_is_the_guests_fault(guest: Guest) -> None:
    driver, queue = make_queue(guest)
    driver.offer(driver.chain([guest.data(b"abc"), guest.room(2)]))
    chain = pop(queue)
    with pytest.raises(GuestError, match="3 bytes to read, 4 expected"):
        chain.read(4)
    with pytest.raises(GuestError, match="room for 2 bytes, 3 needed"):
        chain.write(b"123")
    assert (chain.read(3), chain.room) == (b"abc", 2)
    queue.close()


def test_a_chain_is_for_one_use(guest: Guest) -> None:
    driver, queue = make_queue(guest)
    driver.offer(driver.chain([guest.data(b"abc"), guest.room(3)]))
    chain = pop(queue)
    queue.push(chain)
    for use in (lambda: chain.read(1), lambda: chain.write(b"x"), lambda: queue.push(chain)):
        with pytest.raises(ValueError, match="chain 0"):
            use()
    queue.close()


def test_a_chain_belongs_to_its_queue(guest: Guest) -> None:
    driver, queue = make_queue(guest)
    _, other = make_queue(guest)
    driver.offer(driver.chain([guest.data(b"abc")]))
    chain = pop(queue)
    with pytest.raises(ValueError, match="not one that queue 0 waits for"):
        other.push(chain)
    queue.close()
    other.close()


def test_a_closed_queue_is_silent_and_its_chains_touch_nothing(guest: Guest) -> None:
    driver, queue = make_queue(guest)
    room = guest.room(3)
    driver.offer(driver.chain([guest.data(b"abc"), room]))
    chain = pop(queue)
    queue.close()
    queue.close()
    with pytest.raises(GuestError, match="taken its queue away"):
        chain.write(b"123")
    queue.push(chain)
    assert (queue.pop(), queue.flush(), queue.want_kicks(True), list(queue)) == (None, False, False, [])
    assert guest.content(room) == b"\xee\xee\xee"
    assert driver.take_used() == []


def test_iterating_ends_although_the_driver_refills_without_end(guest: Guest) -> None:
    driver, queue = make_queue(guest, size=4)
    driver.offer(driver.chain([guest.data(b"x")]))
    seen = 0
    for chain in queue:
        seen += 1
        queue.push(chain)
        queue.flush()
        driver.take_used()
        driver.offer(driver.chain([guest.data(b"x")]))
    assert seen == 4
    queue.close()


def test_memory_stays_as_long_as_a_queue_uses_it() -> None:
    with Guest(Echo()) as guest:
        _, queue = make_queue(guest)
        with pytest.raises(BufferError):
            guest.memory.close()
        queue.close()


def test_buffers_above_the_hole_are_found() -> None:
    with Guest(Echo(), memory=GuestMemory(HOLE_START + (1 << 20))) as guest:
        queue = guest.start()
        high = HOLE_END + (1 << 20) - 8
        guest.memory.write(HOLE_END, b"beyond 4 GiB")
        queue.send(Buffer(HOLE_END, 8), Buffer(HOLE_START - 1, 1, True), Buffer(high, 7, True))
        assert guest.memory.read(HOLE_START - 1, 1) == b"b"
        assert guest.memory.read(high, 8) == b"eyond 4\0"


def test_a_queue_goes_on_where_it_was_saved(guest: Guest) -> None:
    driver, queue = make_queue(guest, size=2)
    for _ in range(5):
        driver.offer(driver.chain([guest.data(b"x")]))
        queue.push(pop(queue))
        queue.flush()
        driver.take_used()
    driver.offer(driver.chain([guest.data(b"y")]))
    config = QueueConfig(2, True, driver.desc, driver.avail, driver.used, queue.position())
    queue.close()
    again = Queue(0, guest.memory, config, FEATURES | (spec.F_RING_PACKED if guest.packed else 0), guest.irq)
    chain = pop(again)
    with pytest.raises(ValueError, match="in flight"):
        again.position()
    assert chain.read(1) == b"y"
    again.push(chain)
    again.flush()
    assert len(driver.take_used()) == 1
    again.close()


@pytest.mark.parametrize("features", [FEATURES, FEATURES & ~spec.F_EVENT_IDX])
def test_the_driver_is_told_whether_to_kick(guest: Guest, features: int) -> None:
    driver, queue = make_queue(guest, 8, features)

    def wanted() -> bool:
        if isinstance(driver, PackedQueue):
            flags, slot, wrap = driver.read_device_event()
            if features & spec.F_EVENT_IDX and flags == spec.PACKED_EVENT_FLAG_DESC:
                return (slot, wrap) == (driver.slot, driver.wrap)
            return flags == spec.PACKED_EVENT_FLAG_ENABLE
        if features & spec.F_EVENT_IDX:
            return driver.read_avail_event() == driver.next_avail
        return not driver.read_used_flags() & spec.USED_F_NO_NOTIFY

    driver.offer(driver.chain([guest.data(b"x")]))
    queue.want_kicks(False)
    assert not wanted()
    assert queue.want_kicks(True), "a chain is there already"
    queue.push(pop(queue))
    assert not queue.want_kicks(True)
    assert wanted()
    queue.close()


def test_chains_can_be_answered_later_and_from_another_thread() -> None:
    with Guest(device := Holder()) as guest:
        queue = guest.start()
        rooms = [guest.room(5) for _ in range(3)]
        queue.offer(*[queue.chain([room]) for room in rooms])
        queue.kick()
        guest.wait_for("the device has the chains", lambda: len(device.held) == 3)
        assert queue.take_used() == []
        device.answer(b"later")
        assert len(queue.wait(3)) == 3
        assert [guest.content(room) for room in rooms] == [b"later"] * 3
