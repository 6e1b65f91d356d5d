"""A guest that names pages which are not its own, reports what is not RAM, and gives figures that are none."""

from __future__ import annotations

import random
import struct

import pytest

from tests.driver import Buffer, Guest
from vmm.memory import HOLE_END, HOLE_START, GuestMemory
from vmm.virtio import spec
from vmm.virtio.balloon import BalloonConfig
from vmm.virtio.balloon import device as balloon_spec
from vmm.virtio.balloon.device import DEFLATE, INFLATE, STATS, Balloon

RAM = 16 << 20
PAGE = 4096
REPORT = 3


def make(ram: int = RAM) -> Guest:
    return Guest(Balloon(BalloonConfig(free_page_reporting=True), ram), memory=GuestMemory(ram))


def offer(guest: Guest, index: int, *buffers: Buffer) -> None:
    queue = guest.queues[index]
    queue.offer(queue.chain(buffers))
    queue.kick()


@pytest.mark.parametrize("page", [RAM // PAGE, 0xD000_0000 // PAGE, 0xFEE0_0000 // PAGE, 0xFFFF_FFFF])
def test_a_page_that_is_not_ram(page: int) -> None:
    """Behind RAM, a register page, the local APIC, the last there can be."""
    with make() as guest:
        guest.start()
        offer(guest, INFLATE, guest.data(struct.pack("<I", page)))
        guest.wait_needs_reset()
        assert guest.device.stats()["released"] == 0
        guest.start()
        guest.memory.write(8 << 20, b"x" * PAGE)
        guest.queues[INFLATE].send(guest.data(struct.pack("<I", (8 << 20) // PAGE)))
        assert guest.memory.read(8 << 20, PAGE) == bytes(PAGE), "it works again after a reset"


def test_a_run_of_pages_that_goes_over_the_end() -> None:
    with make() as guest:
        guest.start()
        guest.memory.write(RAM - PAGE, b"x" * PAGE)
        last = RAM // PAGE
        offer(guest, INFLATE, guest.data(struct.pack("<4I", last - 1, last, last + 1, last + 2)))
        guest.wait_needs_reset()


def test_a_run_of_pages_over_the_hole() -> None:
    with make(HOLE_START + RAM) as guest:
        guest.start()
        pages = (HOLE_START // PAGE - 1, HOLE_END // PAGE)
        guest.queues[INFLATE].send(guest.data(struct.pack("<2I", *pages)))
        assert guest.device.stats()["released"] == 2 * PAGE
        offer(guest, INFLATE, guest.data(struct.pack("<2I", pages[0], pages[0] + 1)))
        guest.wait_needs_reset()


def test_arrays_that_are_none() -> None:
    """Half a number, room to write instead of numbers to read."""
    with make() as guest:
        guest.start()
        for index in (INFLATE, DEFLATE):
            assert guest.queues[index].send(guest.data(b"\1\2\3")).written == 0
            assert guest.queues[index].send(guest.room(64)).written == 0
        assert guest.device.stats()["released"] == 0


def test_its_own_rings_and_the_list_itself() -> None:
    """The guest harms itself: what it names is zero afterwards, and nothing else is."""
    with make() as guest:
        queue = guest.start()
        page = guest.alloc(PAGE, PAGE)
        guest.memory.write(page, struct.pack("<2I", page // PAGE, page // PAGE) + b"x" * 100)
        queue.send(Buffer(page, 8))
        assert guest.memory.read(page, PAGE) == bytes(PAGE)


@pytest.mark.parametrize("gpa,size", [(RAM - PAGE, 2 * PAGE), (0xD000_0000, PAGE), (1 << 63, PAGE)])
def test_a_report_of_what_is_not_ram(gpa: int, size: int) -> None:
    with make() as guest:
        guest.start()
        offer(guest, REPORT, Buffer(gpa, size, writable=True))
        guest.wait_needs_reset()
        assert guest.device.stats()["released"] == 0


def test_a_report_of_parts_of_pages() -> None:
    with make() as guest:
        guest.start()
        area = 8 << 20
        guest.memory.write(area, b"x" * 4 * PAGE)
        guest.queues[REPORT].send(
            Buffer(area + 100, 2 * PAGE, writable=True), Buffer(area + 3 * PAGE + 1, PAGE - 1, writable=True)
        )
        expected = b"x" * PAGE + bytes(PAGE) + b"x" * 2 * PAGE
        assert guest.memory.read(area, 4 * PAGE) == expected


def test_a_report_that_was_not_negotiated() -> None:
    with make() as guest:
        assert guest.negotiate(guest.offered() & ~balloon_spec.BALLOON_F_PAGE_REPORTING)
        guest.add_queue(INFLATE)
        guest.add_queue(REPORT)
        guest.driver_ok()
        guest.memory.write(8 << 20, b"x" * PAGE)
        offer(guest, REPORT, Buffer(8 << 20, PAGE, writable=True))
        guest.expect_no_irq()
        assert guest.memory.read(8 << 20, PAGE) == b"x" * PAGE


def test_figures_that_are_none() -> None:
    with make() as guest:
        guest.start()
        unknown = struct.pack("<HQHQ", 999, 1, 0xFFFF, 2)
        for data in (b"x", b"x" * 9, unknown, unknown * 5000, struct.pack("<HQ", 4, (1 << 64) - 1)):
            offer(guest, STATS, guest.data(data))
        guest.wait_for("the last", lambda: guest.device.stats()["guest"] == {"free_memory": (1 << 64) - 1})
        assert len(guest.queues[STATS].take_used()) == 4, "each that is not the newest came back"


def test_more_buffers_for_figures_than_one() -> None:
    with make() as guest:
        guest.start()
        queue = guest.queues[STATS]
        queue.offer(*(queue.chain([guest.data(struct.pack("<HQ", 4, at))]) for at in range(queue.size)))
        queue.kick()
        guest.wait_for("the last", lambda: guest.device.stats()["guest"].get("free_memory") == queue.size - 1)


def test_any_pages_at_all() -> None:
    rng = random.Random(5)
    for _ in range(50):
        with make() as guest:
            guest.start()
            guest.memory.write(8 << 20, b"x" * (1 << 20))
            count = rng.randrange(1, 600)
            high = rng.choice([RAM // PAGE, 1 << 20, 1 << 32])
            low = (9 << 20) // PAGE
            pages = [rng.randrange(low, max(high, low + 1)) for _ in range(count)]
            offer(guest, INFLATE, guest.data(struct.pack(f"<{count}I", *pages)))
            guest.wait_irq()
            assert guest.memory.read(8 << 20, 1 << 20) == b"x" * (1 << 20), "it touched what it was not given"
            assert bool(guest.status & spec.DEVICE_NEEDS_RESET) == any(page >= RAM // PAGE for page in pages)
