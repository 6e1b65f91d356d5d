"""Rings that a driver must not make (virtio 1.2, 2.7), against a device in Python and the C worker of a disk.

Whatever is wrong, the same must follow: the device is stopped once, says so once, harms nobody, and works after a
reset.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.blk_driver import BlkGuest, header
from tests.driver import RAM, Buffer, DriverQueue, Guest
from tests.sample_devices import Echo, Holder
from vmm.memory import GuestMemory
from vmm.memory.layout import HOLE_END, HOLE_START
from vmm.native import lib
from vmm.virtio import spec
from vmm.virtio.blk import device as blk_spec

NEXT, WRITE, INDIRECT = spec.DESC_F_NEXT, spec.DESC_F_WRITE, spec.DESC_F_INDIRECT
TOP = (1 << 64) - 1
KINDS = ("python", "disk", "disk with io_uring", "disk without io_uring")


def make(kind: str, tmp_path: Path, memory: GuestMemory | None = None) -> Guest:
    if kind == "python":
        return Guest(Echo(), memory=memory)
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    io_uring = {"disk with io_uring": True, "disk without io_uring": False}.get(kind)
    return BlkGuest(path, io_uring=io_uring, memory=memory)


@pytest.fixture(params=KINDS)
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    with make(request.param, tmp_path) as guest:
        yield guest


def good(guest: Guest) -> list[Buffer]:
    """The buffers of a request that any of the devices takes."""
    return [guest.data(header(blk_spec.BLK_T_IN)), guest.room(512), guest.room(1)]


def works(guest: Guest, queue: DriverQueue) -> None:
    with guest.scratch():
        assert queue.send(*good(guest)).written in (16, 513)


# Each breaks one rule with what it writes to the descriptors; the head is 0 and has been made available by the caller.


def next_out_of_range(queue: DriverQueue) -> None:
    queue.write_desc(0, 0x1000, 16, NEXT, queue.size)


def next_far_out_of_range(queue: DriverQueue) -> None:
    queue.write_desc(0, 0x1000, 16, NEXT, 0xFFFF)


def descriptor_that_points_to_itself(queue: DriverQueue) -> None:
    queue.write_desc(0, 0x1000, 16, NEXT, 0)


def loop_over_the_whole_table(queue: DriverQueue) -> None:
    for index in range(queue.size):
        queue.write_desc(index, 0x1000, 16, NEXT, (index + 1) % queue.size)


def address_plus_length_that_wraps(queue: DriverQueue) -> None:
    queue.write_desc(0, TOP - 15, 32)


def address_plus_length_that_wraps_to_zero(queue: DriverQueue) -> None:
    queue.write_desc(0, TOP - 15, 16)


def buffer_behind_ram(queue: DriverQueue) -> None:
    queue.write_desc(0, RAM, 16)


def buffer_one_byte_over_the_end_of_ram(queue: DriverQueue) -> None:
    queue.write_desc(0, RAM - 16, 17)


def buffer_of_4_gib(queue: DriverQueue) -> None:
    queue.write_desc(0, 0, 0xFFFF_FFFF)


def buffer_in_the_register_page(queue: DriverQueue) -> None:
    queue.write_desc(0, 0xD000_0000, 16)


def buffer_of_zero_bytes(queue: DriverQueue) -> None:
    queue.write_desc(0, 0x1000, 0)


def second_buffer_of_zero_bytes(queue: DriverQueue) -> None:
    queue.write_desc(0, 0x1000, 16, NEXT, 1)
    queue.write_desc(1, 0x1000, 0, WRITE)


def writable_before_readable(queue: DriverQueue) -> None:
    queue.write_desc(0, 0x1000, 16, NEXT | WRITE, 1)
    queue.write_desc(1, 0x2000, 16)


def indirect_inside_indirect(queue: DriverQueue) -> None:
    queue.write_desc(0, 0x1000, 16, INDIRECT)
    queue.write_entry(0x1000, 0, 0x1000, 16, INDIRECT)


def indirect_table_not_a_multiple_of_16(queue: DriverQueue) -> None:
    queue.write_desc(0, 0x1000, 24, INDIRECT)
    queue.write_entry(0x1000, 0, 0x2000, 16)


def indirect_table_of_zero_bytes(queue: DriverQueue) -> None:
    queue.write_desc(0, 0x1000, 0, INDIRECT)


def indirect_table_behind_ram(queue: DriverQueue) -> None:
    queue.write_desc(0, RAM - 16, 32, INDIRECT)


def indirect_table_that_wraps(queue: DriverQueue) -> None:
    queue.write_desc(0, TOP - 15, 32, INDIRECT)


def indirect_with_next(queue: DriverQueue) -> None:
    queue.write_desc(0, 0x1000, 16, INDIRECT | NEXT, 1)
    queue.write_entry(0x1000, 0, 0x2000, 16)
    queue.write_desc(1, 0x2000, 16)


def indirect_next_out_of_range(queue: DriverQueue) -> None:
    queue.write_desc(0, 0x1000, 32, INDIRECT)
    queue.write_entry(0x1000, 0, 0x2000, 16, NEXT, 2)


def indirect_loop(queue: DriverQueue) -> None:
    queue.write_desc(0, 0x1000, 32, INDIRECT)
    queue.write_entry(0x1000, 0, 0x2000, 16, NEXT, 1)
    queue.write_entry(0x1000, 1, 0x2000, 16, NEXT, 0)


def more_buffers_than_any_chain_has(queue: DriverQueue) -> None:
    count = lib.RING_MAX_SEGMENTS + 1
    queue.write_desc(0, 0x40000, 16 * count, INDIRECT)
    for index in range(count):
        queue.write_entry(0x40000, index, 0x2000, 16, NEXT if index + 1 < count else 0, index + 1)


CHAINS = (
    next_out_of_range, next_far_out_of_range, descriptor_that_points_to_itself, loop_over_the_whole_table,
    address_plus_length_that_wraps, address_plus_length_that_wraps_to_zero, buffer_behind_ram,
    buffer_one_byte_over_the_end_of_ram, buffer_of_4_gib, buffer_in_the_register_page, buffer_of_zero_bytes,
    second_buffer_of_zero_bytes, writable_before_readable, indirect_inside_indirect,
    indirect_table_not_a_multiple_of_16, indirect_table_of_zero_bytes, indirect_table_behind_ram,
    indirect_table_that_wraps, indirect_with_next, indirect_next_out_of_range, indirect_loop,
    more_buffers_than_any_chain_has,
)  # fmt: skip


def broken(guest: Guest, queue: DriverQueue, caplog: pytest.LogCaptureFixture) -> None:
    """The guest rings, and what must follow follows."""
    failures = guest.transport.failures
    with caplog.at_level(logging.WARNING):
        queue.kick()
        guest.wait_needs_reset()
        for kick in guest.kicks:
            kick.signal()
        queue.kick()
        guest.turn_loop()
        guest.expect_no_irq()
    assert guest.transport.failures == failures + 1
    assert [record.message.count("stopped until its driver resets it") for record in caplog.records] == [1]
    works(guest, guest.start())


@pytest.mark.parametrize("rule", CHAINS)
def test_chain(guest: Guest, rule: Callable[[DriverQueue], None], caplog: pytest.LogCaptureFixture) -> None:
    queue = guest.start(size=16)
    works(guest, queue)
    rule(queue)
    queue.offer(0)
    broken(guest, queue, caplog)


@pytest.mark.parametrize("rule", [rule for rule in CHAINS if rule is not loop_over_the_whole_table])
def test_chain_behind_good_ones(
    guest: Guest, rule: Callable[[DriverQueue], None], caplog: pytest.LogCaptureFixture
) -> None:
    queue = guest.start(size=16)
    queue.free = list(range(2, 16))
    heads = [queue.chain(good(guest)) for _ in range(4)]
    rule(queue)
    queue.offer(*heads, 0, queue.free[0])
    queue.kick()
    guest.wait_needs_reset()
    assert sorted(used.head for used in queue.take_used()) == sorted(heads), "those before it, nothing behind it"
    works(guest, guest.start())


def test_indirect_not_negotiated(guest: Guest, caplog: pytest.LogCaptureFixture) -> None:
    queue = guest.start(guest.offered() & ~spec.F_INDIRECT_DESC)
    works(guest, queue)
    queue.offer(queue.chain(good(guest), indirect=True))
    broken(guest, queue, caplog)


@pytest.mark.parametrize("ahead", [17, 18, 1000, 0x7FFF, 0x8000, 0xFFFF])
def test_avail_idx_ahead_by_more_than_the_queue_size(
    guest: Guest, ahead: int, caplog: pytest.LogCaptureFixture
) -> None:
    queue = guest.start(size=16)
    works(guest, queue)
    queue.write_avail_idx(queue.next_avail + ahead & 0xFFFF)
    broken(guest, queue, caplog)


@pytest.mark.parametrize("head", [16, 17, 0x7FFF, 0xFFFF])
def test_head_out_of_range(guest: Guest, head: int, caplog: pytest.LogCaptureFixture) -> None:
    queue = guest.start(size=16)
    works(guest, queue)
    queue.offer(head)
    broken(guest, queue, caplog)


def test_buffers_at_the_last_byte_of_ram(guest: Guest) -> None:
    queue = guest.start()
    guest.memory.write(RAM - 16, header(blk_spec.BLK_T_IN))
    used = queue.send(Buffer(RAM - 16, 16), guest.room(512), Buffer(RAM - 1, 1, writable=True))
    assert used.written in (16, 513)


def test_rings_that_overlap_everything(guest: Guest) -> None:
    """All three areas and all buffers in one place: nonsense, but the guest's own memory."""
    for _ in range(5):
        guest.negotiate()
        guest.write(spec.MMIO_QUEUE_SEL, 0)
        guest.memory.write(0x1000, bytes(range(256)) * 16)
        guest.write_queue(16, 0x1000, 0x1000, 0x1000)
        guest.driver_ok()
        guest.write(spec.MMIO_QUEUE_NOTIFY, 0)
    works(guest, guest.start())


def test_used_ring_written_by_the_driver(guest: Guest) -> None:
    """It is the device's; what the driver leaves there is not read."""
    queue = guest.start(size=16)
    guest.memory.write(queue.used + 4, b"\xff" * 8 * 16)
    for _ in range(40):
        works(guest, queue)
        guest.memory.write(queue.used + 4, b"\xff" * 8 * 16)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_indices_that_wrap(kind: str, tmp_path: Path) -> None:
    with make(kind, tmp_path) as guest:
        queue = guest.start(guest.offered() & ~spec.F_EVENT_IDX, size=64)
        buffers = good(guest)
        heads = [queue.chain(buffers, indirect=True) for _ in range(64)]
        for _ in range(0x10000 // 64 + 1):
            queue.offer(*heads)
            queue.kick()
            while queue.read_used_idx() != queue.next_avail:
                guest.wait_irq()
        assert queue.next_avail == 64
        last = queue.used + 4
        assert sorted(guest.memory.read_int(last + 8 * slot, 4) for slot in range(64)) == sorted(heads)


# -- the same head twice (CVE-2026-45782) ------------------------------------------------------------------------------


def test_the_same_head_twice_while_the_device_has_it(caplog: pytest.LogCaptureFixture) -> None:
    with Guest(device := Holder()) as guest:
        queue = guest.start()
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


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_heads_many_times_in_one_batch(kind: str, tmp_path: Path) -> None:
    """Whether the first is answered before the second is seen is up to the device; nobody else may notice."""
    with make(kind, tmp_path) as guest:
        for _ in range(20):
            queue = guest.start(size=16)
            heads = [queue.chain(good(guest)) for _ in range(2)]
            queue.offer(*heads * 8)
            queue.kick()
            guest.wait_irq()
            guest.reset()
        works(guest, guest.start())


# -- memory in two regions ---------------------------------------------------------------------------------------------

TWO_REGIONS = {
    "over the end of the first region": (HOLE_START - 8, 16),
    "in the hole": (HOLE_START, 16),
    "at the end of the hole": (HOLE_END - 16, 16),
    "over the end of the hole": (HOLE_END - 8, 16),
    "over the whole hole": (HOLE_START - 8, HOLE_END - HOLE_START + 16),
    "over the end of the second region": (HOLE_END + (1 << 20) - 8, 16),
}


@pytest.mark.parametrize("kind", KINDS[:2])
def test_chains_over_two_regions_and_the_hole(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with make(kind, tmp_path, GuestMemory(HOLE_START + (1 << 20))) as guest:
        for gpa, length in TWO_REGIONS.values():
            for writable in (False, True):
                caplog.clear()
                queue = guest.start(size=16)
                buffers = [guest.data(header(blk_spec.BLK_T_IN)), Buffer(gpa, length & 0xFFFF_FFFF, writable)]
                queue.offer(queue.chain([*buffers, guest.room(1)]))
                with caplog.at_level(logging.CRITICAL):
                    queue.kick()
                    guest.wait_needs_reset()
        works(guest, guest.start())


# -- another vCPU at the same time -------------------------------------------------------------------------------------


def spoiled(right: bytes, round_: int) -> tuple[tuple[bytes, ...], bool, bool]:
    """What another vCPU writes over the first descriptor of three, whether a device that reads it may stop, and whether
    it must.  In some rounds one value stays: a wrong one, then the right one."""
    wrong, fatal = (
        ((TOP - 7).to_bytes(8, "little") + right[8:], True),
        (right[:8] + b"\xff\xff\xff\xff" + right[12:], True),
        (right[:12] + b"\x03\x00" + right[14:], False),  # three buffers to write
        (right[:14] + b"\xff\xff", True),
        (right[:12] + b"\x04\x00\x00\x00", True),
    )[round_ % 5]
    values = {0: (wrong,), 1: (right,)}.get(round_ // 5, (wrong, right))
    return values, wrong in values, fatal and right not in values


@pytest.mark.parametrize("indirect", [False, True], ids=["ring", "table"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_thread_changes_descriptors_while_the_device_works(kind: str, indirect: bool, tmp_path: Path) -> None:
    """Descriptor, indirect table and header are read once; what was checked is what is used."""
    with make(kind, tmp_path) as guest:
        for round_ in range(30):
            queue = guest.start(guest.offered() & ~spec.F_EVENT_IDX, size=16)
            with guest.scratch():
                buffers = good(guest)
                head = queue.chain(buffers, indirect=indirect)
                entry = guest.memory.read_int(queue.desc + 16 * head, 8) if indirect else queue.desc + 16 * head
                values, may_stop, must_stop = spoiled(guest.memory.read(entry, 16), round_)
                sector = (buffers[0].gpa + 8, ((1 << 40).to_bytes(8, "little"), bytes(8)))
                request = (buffers[0].gpa, (b"\x01\0\0\0", bytes(4)))
                with guest.rewriting((entry, values), sector, request):
                    for _ in range(40):
                        queue.offer(head)
                        queue.kick()
                        if must_stop:
                            guest.wait_needs_reset()
                        else:
                            guest.wait_irq()
                        if guest.status & spec.DEVICE_NEEDS_RESET:
                            break
                        queue.take_used()
                        queue._chains[head] = []
                assert may_stop or not guest.status & spec.DEVICE_NEEDS_RESET
        works(guest, guest.start())
