"""Guests that break their balloon, memory device, persistent memory or console: pages that are not theirs, requests
that are none, chains of the wrong kind, readers that never read."""

from __future__ import annotations

import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Buffer, Guest
from vmm.memory import GuestMemory
from vmm.memory.layout import HOLE_END, HOLE_START
from vmm.native import lib
from vmm.virtio import spec
from vmm.virtio.balloon import BalloonConfig
from vmm.virtio.balloon import device as balloon_spec
from vmm.virtio.balloon.device import DEFLATE, INFLATE, STATS, Balloon
from vmm.virtio.console.device import RX, TX, VirtioConsole
from vmm.virtio.mem import HotplugMemoryConfig
from vmm.virtio.mem import device as mem_spec
from vmm.virtio.mem.device import HotplugMemory
from vmm.virtio.pmem import PmemConfig
from vmm.virtio.pmem import device as pmem_spec
from vmm.virtio.pmem.device import Pmem

RAM = 16 << 20
PAGE = 4096
REPORT = 3
MIB = 1 << 20
FLUSH = struct.pack("<I", pmem_spec.PMEM_REQ_FLUSH)
OK, EIO = struct.pack("<I", pmem_spec.PMEM_RESP_OK), struct.pack("<I", pmem_spec.PMEM_RESP_EIO)


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
        guest.wait_for("the last", lambda: guest.device.stats()["guest"] == {"free_memory": (1 << 63) - 1})
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


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    path = tmp_path / "image"
    path.write_bytes(bytes(2 * MIB))
    with Guest(Pmem(PmemConfig(str(path)))) as made:
        yield made


@pytest.mark.parametrize("request_", [struct.pack("<I", 1), struct.pack("<I", 0xFFFF_FFFF), b"\0", b"\0\0\0"])
def test_requests_that_are_none(guest: Guest, request_: bytes) -> None:
    queue = guest.start()
    answer = guest.room(4)
    assert queue.send(guest.data(request_), answer).written == 4
    assert guest.content(answer) == EIO
    assert guest.device.stats()["flushes"] == 0


def test_an_answer_without_a_request(guest: Guest) -> None:
    answer = guest.room(4)
    guest.start().send(answer)
    assert guest.content(answer) == EIO


@pytest.mark.parametrize("room", [0, 1, 3])
def test_no_room_for_the_answer(guest: Guest, room: int) -> None:
    queue = guest.start()
    good, last = guest.room(4), guest.room(4)
    bad = [guest.data(FLUSH), *([guest.room(room)] if room else [])]
    chains = [queue.chain([guest.data(FLUSH), good]), queue.chain(bad), queue.chain([guest.data(FLUSH), last])]
    queue.offer(*chains)
    queue.kick()
    guest.wait_needs_reset()
    assert (guest.content(good), guest.content(last)) == (OK, b"\xee" * 4)
    queue = guest.start()
    queue.send(guest.data(FLUSH), last)
    assert guest.content(last) == OK


def test_a_request_and_an_answer_in_pieces(guest: Guest) -> None:
    queue = guest.start()
    pieces = [guest.data(FLUSH[at : at + 1]) for at in range(4)]
    answer = [guest.room(1) for _ in range(6)]
    assert queue.send(*pieces, *answer, indirect=True).written == 4
    assert b"".join(guest.content(piece) for piece in answer) == OK + b"\xee\xee"


def test_much_more_than_a_request(guest: Guest) -> None:
    queue = guest.start()
    answer = guest.room(1 << 20)
    assert queue.send(guest.data(FLUSH + b"x" * 100000), answer).written == 4
    assert guest.content(answer) == OK + b"\xee" * ((1 << 20) - 4)


def test_the_window_is_no_memory_for_descriptors(guest: Guest) -> None:
    """A page of it may vanish with the end of its file: our own threads must never meet it."""
    device = guest.device
    assert isinstance(device, Pmem)
    device.region.gpa = 1 << 32
    queue = guest.start()
    queue.offer(queue.chain([guest.data(FLUSH), Buffer(1 << 32, 4, writable=True)]))
    queue.kick()
    guest.wait_needs_reset()


def test_anything_at_all(guest: Guest) -> None:
    rng = random.Random(9)
    for _ in range(100):
        guest._free = 0x10000
        queue = guest.start()
        for _ in range(rng.randrange(1, 12)):
            sizes = [rng.randrange(1, 9) for _ in range(rng.randrange(1, 5))]
            cut = rng.randrange(len(sizes) + 1)
            buffers = [guest.data(rng.choice([b"\0", b"\1"]) * n) for n in sizes[:cut]]
            buffers += [guest.room(n) for n in sizes[cut:]]
            queue.offer(queue.chain(buffers))
        queue.kick()
        guest.wait_irq()
    guest.reset()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    yield ends
    for fd in ends:
        os.close(fd)


def test_nothing_to_send_and_no_room_to_receive(pipe: tuple[int, int]) -> None:
    """A chain with only room on the send queue, one with only bytes on the receive queue."""
    console = VirtioConsole(out_fd=pipe[1])
    with Guest(console) as guest:
        guest.start()
        room = guest.room(100)
        assert guest.queues[TX].send(room).written == 0
        assert guest.content(room) == b"\xee" * 100
        console.input(b"hello")
        assert guest.queues[RX].send(guest.data(b"secret")).written == 0
        more = guest.room(100)
        assert guest.queues[RX].send(guest.data(b"secret"), more).written == 5
        assert guest.content(more)[:5] == b"hello"
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 100)


@pytest.mark.parametrize("index", [RX, TX])
def test_a_broken_ring(index: int, pipe: tuple[int, int]) -> None:
    console = VirtioConsole(out_fd=pipe[1])
    with Guest(console) as guest:
        guest.start()
        console.input(b"wake it")
        queue = guest.queues[index]
        queue.write_desc(0, 1 << 62, 100)
        queue.offer(0)
        queue.kick()
        guest.wait_needs_reset()
        guest.start()
        guest.queues[TX].send(guest.data(b"again\n"))
    assert os.read(pipe[0], 100) == b"again\n"


def test_one_chain_many_times_as_long_as_ram() -> None:
    """It takes long to write; the device can be reset all the same."""
    with open("/dev/zero", "wb") as out, Guest(VirtioConsole(out_fd=out.fileno())) as guest:
        guest.start()
        piece = Buffer(0x100000, 8 << 20)
        guest.queues[TX].offer(guest.queues[TX].chain([piece] * 1000, indirect=True))
        guest.queues[TX].kick()
        guest.reset()
        guest.start()
        assert guest.queues[TX].send(guest.data(b"x")).written == 0


def test_a_reader_that_never_reads_does_not_hold_a_reset_up(pipe: tuple[int, int]) -> None:
    console = VirtioConsole(out_fd=pipe[1])
    with Guest(console) as guest:
        for _ in range(20):
            queue = guest.start() and guest.queues[TX]
            queue.offer(*(queue.chain([guest.data(b"x" * 60000)]) for _ in range(8)))
            queue.kick()
            guest.reset()
            guest._free = 0x10000
        assert console.drain(0.01) <= lib.CONSOLE_KEEP
        while console.drain(0.01):
            os.read(pipe[0], 1 << 16)


def test_input_and_resets_at_once(pipe: tuple[int, int]) -> None:
    console = VirtioConsole(out_fd=pipe[1])
    stop = threading.Event()

    def type_on() -> None:
        while not stop.is_set():
            console.input(b"abc")
            console.drain(0.001)

    with Guest(console) as guest:
        typist = threading.Thread(target=type_on)
        typist.start()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            guest._free = 0x10000
            guest.start()
            queue = guest.queues[RX]
            queue.offer(*(queue.chain([guest.room(64)]) for _ in range(16)))
            queue.kick()
        stop.set()
        typist.join()


def test_chains_of_any_kind(pipe: tuple[int, int]) -> None:
    rng = random.Random(3)
    console = VirtioConsole(out_fd=pipe[1])
    with Guest(console) as guest:
        for _ in range(100):
            guest._free = 0x10000
            guest.start()
            for _ in range(rng.randrange(1, 10)):
                index = rng.choice([RX, TX])
                sizes = [rng.randrange(1, 300) for _ in range(rng.randrange(2, 6))]
                cut = rng.randrange(len(sizes) + 1)
                buffers = [guest.data(b"q" * n) for n in sizes[:cut]] + [guest.room(n) for n in sizes[cut:]]
                queue = guest.queues[index]
                queue.offer(queue.chain(buffers))
                queue.kick()
                console.input(b"in")
            try:
                while os.read(pipe[0], 1 << 16):
                    pass
            except BlockingIOError:
                pass
        guest.reset()
    stats = console.stats()
    assert stats["tx_dropped"] == 0


# -- the memory device -----------------------------------------------------------------------------------------------

MORE, BLOCK, ADDR = 256 << 20, 2 << 20, 4 << 30
PLUG, UNPLUG, UNPLUG_ALL, STATE = 0, 1, 2, 3
ACK, NACK, ERROR = mem_spec.MEM_RESP_ACK, mem_spec.MEM_RESP_NACK, mem_spec.MEM_RESP_ERROR


def make_mem(requested: int = MORE // 2) -> Guest:
    device = HotplugMemory(HotplugMemoryConfig(MORE), ADDR)
    device.resize(requested)
    guest = Guest(device, memory=GuestMemory(RAM + MORE, hotplug=MORE))
    guest.start()
    return guest


def ask_mem(guest: Guest, kind: int, addr: int, count: int) -> int:
    room = guest.room(10)
    guest.queues[0].send(guest.data(struct.pack(mem_spec.MEM_REQ_FORMAT, kind, addr, count)), room)
    return guest.memory.read_int(room.gpa, 2)


@pytest.mark.parametrize("kind", [PLUG, UNPLUG, STATE])
@pytest.mark.parametrize(
    "addr, count",
    [
        (ADDR, 0),
        (ADDR, 65535),
        (ADDR + 4096, 1),
        (ADDR + BLOCK - 1, 1),
        (ADDR - BLOCK, 1),
        (ADDR - BLOCK, 2),
        (ADDR + MORE - BLOCK, 2),
        (ADDR + MORE, 1),
        (0, 1),
        ((1 << 64) - BLOCK, 1),
        ((1 << 64) - BLOCK, 65535),
    ],
)
def test_blocks_that_are_none(kind: int, addr: int, count: int) -> None:
    with make_mem() as guest:
        assert ask_mem(guest, PLUG, ADDR, 2) == ACK
        guest.memory.write(ADDR, b"x" * PAGE)
        assert ask_mem(guest, kind, addr, count) == ERROR
        assert guest.config(40, 8) == 2 * BLOCK
        assert guest.memory.read(ADDR, PAGE) == b"x" * PAGE


def test_memory_taken_twice_and_given_back_twice() -> None:
    """Also where it overlaps by one block; nothing of such a request is done."""
    with make_mem() as guest:
        assert ask_mem(guest, PLUG, ADDR + 4 * BLOCK, 2) == ACK
        for first, count in ((4, 2), (5, 1), (3, 2), (5, 2), (0, 8)):
            assert ask_mem(guest, PLUG, ADDR + first * BLOCK, count) == ERROR
        for first, count in ((3, 2), (5, 2), (0, 8), (6, 1)):
            assert ask_mem(guest, UNPLUG, ADDR + first * BLOCK, count) == ERROR
        assert guest.config(40, 8) == 2 * BLOCK
        assert ask_mem(guest, UNPLUG, ADDR + 4 * BLOCK, 2) == ACK
        assert ask_mem(guest, UNPLUG, ADDR + 4 * BLOCK, 2) == ERROR


def test_more_memory_than_the_host_wants_to_give() -> None:
    with make_mem(4 * BLOCK) as guest:
        assert ask_mem(guest, PLUG, ADDR, 5) == NACK
        assert ask_mem(guest, PLUG, ADDR, 4) == ACK
        assert ask_mem(guest, PLUG, ADDR + 8 * BLOCK, 1) == NACK
        guest.device.resize(2 * BLOCK)  # type: ignore[attr-defined]
        assert ask_mem(guest, UNPLUG, ADDR, 1) == ACK
        assert ask_mem(guest, PLUG, ADDR, 1) == NACK


@pytest.mark.parametrize("kind", [4, 255, 65535])
def test_requests_to_the_memory_device_that_are_none(kind: int) -> None:
    with make_mem() as guest:
        assert ask_mem(guest, kind, ADDR, 1) == ERROR
        room = guest.room(10)
        guest.queues[0].send(guest.data(b"\0" * 20), room)
        assert guest.memory.read_int(room.gpa, 2) == ERROR
        offer(guest, 0, guest.data(bytes(24)), guest.room(9))
        guest.wait_needs_reset()
        guest.start()
        assert ask_mem(guest, PLUG, ADDR, 1) == ACK


def test_requests_and_rings_in_memory_that_is_not_plugged() -> None:
    """It harms itself: what it writes there is lost when the block is taken back, and the device lives."""
    with make_mem() as guest:
        request = struct.pack(mem_spec.MEM_REQ_FORMAT, PLUG, ADDR, 1)
        guest.memory.write(ADDR, request)
        queue = guest.queues[0]
        queue.send(Buffer(ADDR, len(request)), Buffer(ADDR + PAGE, 10, writable=True))
        assert guest.memory.read_int(ADDR + PAGE, 2) == ACK
        unplug = guest.data(struct.pack(mem_spec.MEM_REQ_FORMAT, UNPLUG, ADDR, 1))
        queue.send(unplug, Buffer(ADDR + PAGE, 10, writable=True))
        assert guest.memory.read(ADDR, PAGE) == bytes(PAGE), "the answer came behind"
        guest._free = ADDR + 8 * BLOCK
        guest.start()
        assert ask_mem(guest, PLUG, ADDR + 8 * BLOCK, 1) == ACK
        queue = guest.queues[0]
        queue.offer(queue.chain([guest.data(struct.pack(mem_spec.MEM_REQ_FORMAT, UNPLUG_ALL, 0, 0)), guest.room(10)]))
        queue.kick()
        guest.wait_for("the end of its rings", lambda: guest.config(40, 8) == 0)
        guest._free = 0x10000
        guest.start()
        assert ask_mem(guest, PLUG, ADDR, 1) == ACK


def test_whatever_is_asked_of_the_memory_device() -> None:
    chance = random.Random(3)
    with make_mem() as guest:
        plugged = [False] * (MORE // BLOCK)
        for _ in range(400):
            kind, first, count = chance.choice((PLUG, UNPLUG)), chance.randrange(len(plugged)), chance.randrange(1, 24)
            piece = plugged[first : first + count]
            wanted = ACK
            if piece != [kind == UNPLUG] * count:
                wanted = ERROR
            elif kind == PLUG and sum(plugged) + count > MORE // 2 // BLOCK:
                wanted = NACK
            assert ask_mem(guest, kind, ADDR + first * BLOCK, count) == wanted
            if wanted == ACK:
                plugged[first : first + count] = [kind == PLUG] * count
            assert guest.config(40, 8) == sum(plugged) * BLOCK
