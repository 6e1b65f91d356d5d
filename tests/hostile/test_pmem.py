"""A guest that asks its persistent memory for what is no flush, and gives it no room to answer."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Buffer, Guest
from vmm.virtio.pmem import PmemConfig
from vmm.virtio.pmem import device as pmem_spec
from vmm.virtio.pmem.device import Pmem

MIB = 1 << 20
FLUSH = struct.pack("<I", pmem_spec.PMEM_REQ_FLUSH)
OK, EIO = struct.pack("<I", pmem_spec.PMEM_RESP_OK), struct.pack("<I", pmem_spec.PMEM_RESP_EIO)


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
