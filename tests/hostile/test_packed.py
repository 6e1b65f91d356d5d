"""Packed rings that a driver must not make (virtio 1.2, 2.8), against a device in Python and the C worker of a disk.

What must follow is the same as for split rings (:mod:`tests.hostile.test_ring`): the device is stopped once, says so
once, harms nobody, and works after a reset.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.driver import RAM, Buffer, Guest, PackedQueue
from tests.hostile.test_ring import KINDS, TWO_REGIONS, broken, good, make, works
from tests.sample_devices import Echo, Holder
from vmm.memory import GuestMemory
from vmm.memory.layout import HOLE_START
from vmm.native import lib
from vmm.virtio import spec

NEXT, WRITE, INDIRECT = spec.DESC_F_NEXT, spec.DESC_F_WRITE, spec.DESC_F_INDIRECT
AVAIL, USED = spec.PACKED_DESC_F_AVAIL, spec.PACKED_DESC_F_USED
TOP = (1 << 64) - 1


@pytest.fixture(autouse=True)
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All guests of these tests."""
    monkeypatch.setattr(Guest, "packed", True)


@pytest.fixture(params=KINDS)
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    with make(request.param, tmp_path) as guest:
        yield guest


def start(guest: Guest, features: int | None = None, size: int = 15) -> PackedQueue:
    queue = guest.start(features, size=size)
    assert isinstance(queue, PackedQueue)
    return queue


def put(queue: PackedQueue, *entries: tuple[int, int, int], ident: int = 0) -> None:
    """Write (address, length, flags) to the driver's next descriptors; all available, the first last."""
    for ahead, (gpa, length, flags) in reversed(list(enumerate(entries))):
        slot = (queue.slot + ahead) % queue.size
        queue.write_packed(slot, gpa, length, ident, flags | queue.available(ahead))


# Each breaks one rule with what it writes from the driver's next descriptor on.


def id_out_of_range(queue: PackedQueue) -> None:
    put(queue, (0x1000, 16, 0), ident=queue.size)


def id_far_out_of_range(queue: PackedQueue) -> None:
    put(queue, (0x1000, 16, 0), ident=0xFFFF)


def next_at_a_descriptor_that_is_not_available(queue: PackedQueue) -> None:
    put(queue, (0x1000, 16, NEXT))


def next_at_a_descriptor_with_the_wrong_wrap_counter(queue: PackedQueue) -> None:
    slot = (queue.slot + 1) % queue.size
    queue.write_packed(slot, 0x1000, 16, 0, queue.available(1) ^ (AVAIL | USED))
    put(queue, (0x1000, 16, NEXT))


def chain_as_long_as_the_ring_that_goes_on(queue: PackedQueue) -> None:
    put(queue, *[(0x1000, 16, NEXT)] * queue.size)


def address_plus_length_that_wraps(queue: PackedQueue) -> None:
    put(queue, (TOP - 15, 32, 0))


def address_plus_length_that_wraps_to_zero(queue: PackedQueue) -> None:
    put(queue, (TOP - 15, 16, 0))


def buffer_behind_ram(queue: PackedQueue) -> None:
    put(queue, (RAM, 16, 0))


def buffer_one_byte_over_the_end_of_ram(queue: PackedQueue) -> None:
    put(queue, (RAM - 16, 17, 0))


def buffer_of_4_gib(queue: PackedQueue) -> None:
    put(queue, (0, 0xFFFF_FFFF, WRITE))


def buffer_in_the_register_page(queue: PackedQueue) -> None:
    put(queue, (0xD000_0000, 16, 0))


def buffer_of_zero_bytes(queue: PackedQueue) -> None:
    put(queue, (0x1000, 0, 0))


def second_buffer_of_zero_bytes(queue: PackedQueue) -> None:
    put(queue, (0x1000, 16, NEXT), (0x1000, 0, WRITE))


def writable_before_readable(queue: PackedQueue) -> None:
    put(queue, (0x1000, 16, NEXT | WRITE), (0x2000, 16, 0))


def indirect_inside_indirect(queue: PackedQueue) -> None:
    queue.write_entry(0x1000, 0, 0x1000, 16, 0, INDIRECT)
    put(queue, (0x1000, 16, INDIRECT))


def indirect_table_not_a_multiple_of_16(queue: PackedQueue) -> None:
    put(queue, (0x1000, 24, INDIRECT))


def indirect_table_of_zero_bytes(queue: PackedQueue) -> None:
    put(queue, (0x1000, 0, INDIRECT))


def indirect_table_behind_ram(queue: PackedQueue) -> None:
    put(queue, (RAM - 16, 32, INDIRECT))


def indirect_table_that_wraps(queue: PackedQueue) -> None:
    put(queue, (TOP - 15, 32, INDIRECT))


def indirect_with_next(queue: PackedQueue) -> None:
    queue.write_entry(0x1000, 0, 0x2000, 16)
    put(queue, (0x1000, 16, INDIRECT | NEXT), (0x2000, 16, 0))


def indirect_behind_a_buffer(queue: PackedQueue) -> None:
    queue.write_entry(0x1000, 0, 0x2000, 16)
    put(queue, (0x2000, 16, NEXT), (0x1000, 16, INDIRECT))


def more_buffers_than_any_chain_has(queue: PackedQueue) -> None:
    count = lib.RING_MAX_SEGMENTS + 1
    for index in range(count):
        queue.write_entry(0x40000, index, 0x2000, 16)
    put(queue, (0x40000, 16 * count, INDIRECT))


RULES = (
    id_out_of_range, id_far_out_of_range, next_at_a_descriptor_that_is_not_available,
    next_at_a_descriptor_with_the_wrong_wrap_counter, chain_as_long_as_the_ring_that_goes_on,
    address_plus_length_that_wraps, address_plus_length_that_wraps_to_zero, buffer_behind_ram,
    buffer_one_byte_over_the_end_of_ram, buffer_of_4_gib, buffer_in_the_register_page, buffer_of_zero_bytes,
    second_buffer_of_zero_bytes, writable_before_readable, indirect_inside_indirect,
    indirect_table_not_a_multiple_of_16, indirect_table_of_zero_bytes, indirect_table_behind_ram,
    indirect_table_that_wraps, indirect_with_next, indirect_behind_a_buffer, more_buffers_than_any_chain_has,
)  # fmt: skip


@pytest.mark.parametrize("before", [1, 6])
@pytest.mark.parametrize("rule", RULES)
def test_rule(guest: Guest, rule: Callable[[PackedQueue], None], before: int, caplog: pytest.LogCaptureFixture) -> None:
    """Where the wrap counters are 1, and where they are 0."""
    queue = start(guest)
    for _ in range(before):
        works(guest, queue)
    rule(queue)
    broken(guest, queue, caplog)


def test_indirect_not_negotiated(guest: Guest, caplog: pytest.LogCaptureFixture) -> None:
    queue = start(guest, guest.offered() & ~spec.F_INDIRECT_DESC)
    works(guest, queue)
    queue.offer(queue.chain(good(guest), indirect=True))
    broken(guest, queue, caplog)


@pytest.mark.parametrize("flags", [0, AVAIL | USED, USED])
def test_flags_that_say_not_available(guest: Guest, flags: int) -> None:
    """The wrap counter alone says what is there: nothing is taken, and the device goes on."""
    queue = start(guest)
    queue.write_packed(0, TOP, 0xFFFF_FFFF, 0xFFFF, flags | NEXT | WRITE)
    queue.kick()
    guest.turn_loop()
    assert not guest.status & spec.DEVICE_NEEDS_RESET
    works(guest, queue)


@pytest.mark.parametrize(
    ("area", "gpa"),
    [
        ("desc", RAM - 16 * 15 + 16), ("desc", TOP - 15), ("desc", 0x1008),
        ("driver", RAM), ("driver", TOP - 3), ("driver", 0x1002),
        ("device", RAM), ("device", TOP - 3), ("device", 0x1001),
    ],
)  # fmt: skip
def test_areas_that_are_not_ram_or_not_aligned(guest: Guest, area: str, gpa: int) -> None:
    assert guest.negotiate()
    guest.write(spec.MMIO_QUEUE_SEL, 0)
    places = {"desc": 0x1000, "driver": 0x2000, "device": 0x3000} | {area: gpa}
    guest.write_queue(15, *places.values())
    guest.driver_ok()
    guest.wait_needs_reset()
    works(guest, guest.start())


@pytest.mark.parametrize("size", [1, 3, 15, 16, 129, 256])
def test_sizes_that_are_no_powers_of_two_are_legal(size: int) -> None:
    with Guest(Echo()) as guest:
        queue = guest.start(size=size)
        for _ in range(2 * size + 3):
            with guest.scratch():
                assert queue.send(guest.data(b"abc"), guest.room(3), indirect=True).written == 3


def test_the_same_id_twice_while_the_device_has_it(caplog: pytest.LogCaptureFixture) -> None:
    with Guest(device := Holder()) as guest:
        queue = start(guest)
        room = guest.room(4)
        head = queue.chain([room])
        queue.offer(head)
        queue.kick()
        guest.wait_for("the device has it", lambda: device.held)
        queue.offer(head)
        queue.kick()
        guest.wait_needs_reset()
        assert "while the device still has it" in caplog.text
        device.answer(b"late")
        assert guest.content(room) == b"\xee" * 4, "its memory is the driver's again"


def test_more_descriptors_than_the_ring_has(caplog: pytest.LogCaptureFixture) -> None:
    with Guest(device := Holder()) as guest:
        queue = start(guest, size=3)
        queue.offer(*[queue.chain([guest.room(4)]) for _ in range(3)])
        queue.kick()
        guest.wait_for("the device has them", lambda: len(device.held) == 3)
        put(queue, (0x1000, 4, WRITE))
        queue.kick()
        guest.wait_needs_reset()
        assert "the device has all 3" in caplog.text


def test_buffers_given_back_over_descriptors_that_are_under_way() -> None:
    """In any order: the device writes where the oldest descriptor was, and what is under way is not read again."""
    with Guest(device := Holder()) as guest:
        queue = start(guest, size=4)
        rooms = [guest.room(4) for _ in range(3)]
        queue.offer(*[queue.chain([room]) for room in rooms])
        queue.kick()
        guest.wait_for("the device has them", lambda: len(device.held) == 3)
        device.held.reverse()
        device.answer(b"done")
        assert [used.written for used in queue.wait(3)] == [4, 4, 4]
        assert [guest.content(room) for room in rooms] == [b"done"] * 3


@pytest.mark.parametrize("kind", KINDS[:2])
def test_event_suppression_that_means_nothing(kind: str, tmp_path: Path) -> None:
    """A place out of the ring, a reserved flag: an interrupt too many harms nobody, one too few does."""
    with make(kind, tmp_path) as guest:
        queue = start(guest)
        for flags, slot, wrap in ((2, 15, 1), (2, 0x7FFF, 0), (3, 0, 1), (0xFFFC, 0, 0)):
            queue.write_driver_event(flags, slot, wrap)
            with guest.scratch():
                queue.offer(queue.chain(good(guest)))
                queue.kick()
                guest.wait_irq()
                guest.wait_for("the answer", queue.has_used)
                queue.take_used()


@pytest.mark.parametrize("kind", KINDS[:2])
def test_chains_over_two_regions_and_the_hole(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with make(kind, tmp_path, GuestMemory(HOLE_START + (1 << 20))) as guest:
        for gpa, length in TWO_REGIONS.values():
            for writable in (False, True):
                queue = start(guest)
                buffers = [guest.data(bytes(16)), Buffer(gpa, length & 0xFFFF_FFFF, writable)]
                queue.offer(queue.chain([*buffers, guest.room(1)]))
                with caplog.at_level(logging.CRITICAL):
                    queue.kick()
                    guest.wait_needs_reset()
        works(guest, guest.start())


def spoiled(right: bytes, round_: int) -> tuple[tuple[bytes, ...], bool, bool]:
    """What another vCPU writes over the first descriptor of three or the first entry of a table, whether a device that
    reads it may stop, and whether it must.  In some rounds one value stays: a wrong one, then the right one."""
    flags = int.from_bytes(right[14:], "little")
    wrong, fatal = (
        ((TOP - 7).to_bytes(8, "little") + right[8:], True),
        (right[:8] + b"\xff\xff\xff\xff" + right[12:], True),
        (right[:12] + b"\xff\xff" + right[14:], False),  # the id counts in the last descriptor only
        (right[:14] + (flags ^ (AVAIL | USED)).to_bytes(2, "little"), False),
        (right[:14] + (flags | INDIRECT).to_bytes(2, "little"), True),
    )[round_ % 5]
    values = {0: (wrong,), 1: (right,)}.get(round_ // 5, (wrong, right))
    return values, wrong in values, fatal and right not in values


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_thread_changes_descriptors_while_the_device_works(kind: str, tmp_path: Path) -> None:
    """A descriptor is read once; what was checked is what is used."""
    with make(kind, tmp_path) as guest:
        for round_ in range(30):
            queue = guest.prepare(guest.offered() & ~spec.F_EVENT_IDX, size=15)
            with guest.scratch():
                queue.offer(queue.chain(good(guest)))
                values, may_stop, must_stop = spoiled(guest.memory.read(queue.desc, 16), round_)
                with guest.rewriting((queue.desc, values)):
                    guest.driver_ok()  # the device has not looked at the ring before
                    queue.kick()
                    if must_stop:
                        guest.wait_needs_reset()
                    elif may_stop:
                        guest.turn_loop(3)
                    else:
                        guest.wait_irq()
                assert may_stop or not guest.status & spec.DEVICE_NEEDS_RESET
        works(guest, guest.start())


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_thread_changes_tables_while_the_device_works(kind: str, tmp_path: Path) -> None:
    """An indirect table, too."""
    with make(kind, tmp_path) as guest:
        for round_ in range(30):
            queue = start(guest, guest.offered() & ~spec.F_EVENT_IDX)
            with guest.scratch():
                ident = queue.chain(good(guest), indirect=True)
                entries = queue._buffers[ident]
                table = entries[0][0]
                values, may_stop, must_stop = spoiled(guest.memory.read(table, 16), round_)
                with guest.rewriting((table, values)):
                    for _ in range(40):
                        queue.offer(ident)
                        queue.kick()
                        if must_stop:
                            guest.wait_needs_reset()
                        else:
                            guest.wait_irq()
                        if guest.status & spec.DEVICE_NEEDS_RESET:
                            break
                        queue.take_used()
                        queue._buffers[ident] = entries
                assert may_stop or not guest.status & spec.DEVICE_NEEDS_RESET
        works(guest, guest.start())
