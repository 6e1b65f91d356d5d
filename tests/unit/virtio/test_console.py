"""The console device (virtio 1.2, 5.3): bytes both ways, and readers that do not read."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.driver import TIMEOUT, Buffer, Guest
from vmm.native import lib
from vmm.virtio import spec
from vmm.virtio.console.device import RX, TX, VirtioConsole

BYTES = bytes(range(256)) * 64


class ConsoleGuest(Guest):
    """A guest whose console goes to a pipe that a test reads."""

    def __init__(self, out_fd: int, *, drop: bool = False) -> None:
        self.console = VirtioConsole(out_fd=out_fd, drop=drop)
        super().__init__(self.console)
        self.console.attach_host(self.loop)

    def post(self, size: int = 4096) -> Buffer:
        room = self.room(size)
        queue = self.queues[RX]
        queue.offer(queue.chain([room]))
        queue.kick()
        return room

    def offer_output(self, *pieces: bytes) -> None:
        queue = self.queues[TX]
        queue.offer(queue.chain([self.data(piece) for piece in pieces]))
        queue.kick()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass


def read_bytes(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        assert select.select([fd], [], [], TIMEOUT)[0], f"{len(data)} of {count} bytes came"
        data += os.read(fd, count - len(data))
    return data


def test_what_the_guest_sends_is_written(pipe: tuple[int, int]) -> None:
    with ConsoleGuest(pipe[1]) as guest:
        assert guest.read(spec.MMIO_DEVICE_ID) == spec.ID_CONSOLE
        guest.start()
        assert guest.queues[TX].send(guest.data(b"hello, "), guest.data(b"world\n")).written == 0
        assert read_bytes(pipe[0], 13) == b"hello, world\n"
        for at in range(0, len(BYTES), 4096):
            guest.queues[TX].send(guest.data(BYTES[at : at + 4096]))
        assert read_bytes(pipe[0], len(BYTES)) == BYTES
        assert guest.console.stats()["tx_bytes"] == 13 + len(BYTES)


def test_what_is_typed_fills_the_guests_buffers(pipe: tuple[int, int]) -> None:
    with ConsoleGuest(pipe[1]) as guest:
        guest.start()
        assert guest.console.input(b"early ") == 6
        first = guest.post(4)
        (used,) = guest.queues[RX].wait()
        assert (used.written, guest.content(first)) == (4, b"earl")
        second = guest.post()
        (used,) = guest.queues[RX].wait()
        assert guest.content(second)[: used.written] == b"y "
        third = guest.post()
        guest.console.input(b"late")
        (used,) = guest.queues[RX].wait()
        assert guest.content(third)[: used.written] == b"late"
        assert guest.console.stats()["rx_bytes"] == 10


def test_input_before_there_is_a_driver(pipe: tuple[int, int]) -> None:
    with ConsoleGuest(pipe[1]) as guest:
        assert guest.console.input(b"type ahead") == 10
        guest.start()
        room = guest.post()
        guest.queues[RX].wait()
        assert guest.content(room)[:10] == b"type ahead"


def test_more_input_than_there_is_room_for(pipe: tuple[int, int]) -> None:
    """All of it comes, in order, and the caller hears when there is room again."""
    with ConsoleGuest(pipe[1]) as guest:
        guest.start()
        data = os.urandom(5 * lib.CONSOLE_INPUT)
        sent = guest.console.input(data)
        assert sent == lib.CONSOLE_INPUT
        assert guest.console.input(b"x") == 0
        space = threading.Event()
        guest.console.space_callback = space.set
        got = b""
        while len(got) < len(data):
            if len(got) == sent:
                assert space.wait(TIMEOUT)
                space.clear()
                sent += guest.console.input(data[sent:])
            room = guest.post(3000)
            (used,) = guest.queues[RX].wait()
            got += guest.content(room)[: used.written]
            guest._free = room.gpa
        assert got == data


def test_a_slow_reader_holds_the_guest_up(pipe: tuple[int, int]) -> None:
    """What the pipe and the console's own room do not take is not given back, and nothing is lost."""
    os.set_blocking(pipe[1], False)
    with ConsoleGuest(pipe[1]) as guest:
        guest.start()
        piece = BYTES
        total, capacity = 0, (1 << 16) + lib.CONSOLE_KEEP
        while total <= capacity + len(piece):
            guest.offer_output(piece)
            total += len(piece)
        guest.wait_for("a full console", lambda: guest.console.drain(0.01) > lib.CONSOLE_KEEP - len(piece))
        guest.queues[TX].take_used()
        taken = guest.queues[TX].next_used
        assert taken * len(piece) <= capacity
        assert read_bytes(pipe[0], total) == piece * (total // len(piece))
        assert guest.console.drain(TIMEOUT) == 0
        guest.wait_for("all chains", lambda: guest.queues[TX].read_used_idx() == total // len(piece))
        assert guest.console.stats()["tx_dropped"] == 0


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_slow_reader_of_a_blocking_descriptor(kind: str) -> None:
    """Others have it too: it is not made non-blocking; and the device can be reset all the same."""
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        left, right = socket.socketpair()
        reader, writer = left.detach(), right.detach()
    with ConsoleGuest(writer) as guest:
        guest.start()
        for _ in range(40):
            guest.offer_output(BYTES)
        guest.wait_for("a full console", lambda: guest.console.drain(0.01) > lib.CONSOLE_KEEP - len(BYTES))
        assert os.get_blocking(writer)
        guest.reset()
        os.close(reader)
    os.close(writer)


def test_a_reader_that_is_not_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    with ConsoleGuest(pipe[1], drop=True) as guest:
        queue = guest.start() and guest.queues[TX]
        for _ in range(20):
            queue.send(guest.data(BYTES))
        stats = guest.console.stats()
        assert stats["tx_dropped"] > 0
        assert stats["tx_dropped"] + stats["tx_bytes"] == 20 * len(BYTES)


def test_a_reader_that_leaves(pipe: tuple[int, int]) -> None:
    """The owner is told once; the guest is not stopped by it."""
    with ConsoleGuest(pipe[1]) as guest:
        errors: list[int] = []
        guest.console.error_callback = errors.append
        queue = guest.start() and guest.queues[TX]
        os.close(pipe[0])
        for _ in range(3):
            queue.send(guest.data(b"lost\n"))
        guest.wait_for("the error", lambda: errors)
        guest.turn_loop()
        assert errors == [errno.EPIPE]
        assert guest.console.stats()["tx_dropped"] == 15


def test_to_a_file_and_to_nowhere(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as file, ConsoleGuest(file.fileno()) as guest:
        guest.start()
        guest.queues[TX].send(guest.data(BYTES))
    assert (tmp_path / "out").read_bytes() == BYTES
    with ConsoleGuest(-1) as guest:
        guest.start()
        guest.queues[TX].send(guest.data(BYTES))
        assert guest.console.stats()["tx_bytes"] == len(BYTES)


def test_the_last_words_are_written_when_the_device_stops(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    with ConsoleGuest(pipe[1]) as guest:
        guest.start()
        for _ in range(5):
            guest.offer_output(BYTES)  # more than the pipe takes
        guest.wait_for("them taken", lambda: guest.queues[TX].read_used_idx() == 5)
        guest.reset()
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.append(read_bytes(pipe[0], 5 * len(BYTES))))
        reader.start()
        assert guest.console.drain(TIMEOUT) == 0
        reader.join()
        assert received == [BYTES * 5]


def test_pause_and_resume_lose_nothing(pipe: tuple[int, int]) -> None:
    with ConsoleGuest(pipe[1]) as guest:
        guest.start()
        for at in range(20):
            guest.offer_output(b"%03d\n" % at)
            guest.transport.pause()
            guest.console.input(b"<%03d>" % at)
            guest.transport.resume()
        assert read_bytes(pipe[0], 80) == b"".join(b"%03d\n" % at for at in range(20))
        room = guest.post()
        (used,) = guest.queues[RX].wait()
        assert guest.content(room)[: used.written] == b"".join(b"<%03d>" % at for at in range(20))


def test_the_size_of_the_terminal(pipe: tuple[int, int]) -> None:
    with ConsoleGuest(pipe[1]) as guest:
        guest.start()
        guest.console.resize(132, 43)
        assert guest.wait_irq() & spec.INT_CONFIG
        assert (guest.config(0, 2), guest.config(2, 2)) == (132, 43)


def test_a_break_is_what_linux_takes_for_one(pipe: tuple[int, int]) -> None:
    with ConsoleGuest(pipe[1]) as guest:
        guest.start()
        guest.console.send_break()
        room = guest.post()
        (used,) = guest.queues[RX].wait()
        assert guest.content(room)[: used.written] == b"\x0f"


def test_both_ways_at_once(pipe: tuple[int, int]) -> None:
    with ConsoleGuest(pipe[1]) as guest:
        guest.start()
        mark = guest._free
        typed, answered = b"", b""
        for turn in range(300):
            guest._free = mark
            word = b"%06d " % turn
            room = guest.post(64)
            guest.console.input(word)
            (used,) = guest.queues[RX].wait()
            typed += word
            guest.queues[TX].send(guest.data(guest.content(room)[: used.written]))
            answered += read_bytes(pipe[0], used.written)
        assert answered == typed


def test_without_a_receive_queue(pipe: tuple[int, int]) -> None:
    with ConsoleGuest(pipe[1]) as guest:
        assert guest.negotiate()
        queue: Any = guest.add_queue(TX)
        guest.driver_ok()
        queue.send(guest.data(b"mute\n"))
        guest.console.input(b"to nobody")
        assert read_bytes(pipe[0], 5) == b"mute\n"
