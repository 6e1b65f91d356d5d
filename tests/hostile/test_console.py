"""A guest that breaks its console: chains of the wrong kind, readers that never read, resets in the middle."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator

import pytest

from tests.driver import Buffer, Guest
from vmm.native import lib
from vmm.virtio.console.device import RX, TX, VirtioConsole


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
