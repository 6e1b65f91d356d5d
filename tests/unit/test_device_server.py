"""One virtio device whose driver is another process."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from tests.driver import TIMEOUT
from vmm import DeviceServer, GuestMemory
from vmm.board import device_server
from vmm.events import EventFd
from vmm.virtio.rng import RngConfig

MIB = 1 << 20
SIZE, QUEUE, BUFFER = 64, 0x1000, 0x8000
WRITE = 2
"""The device writes to the buffer."""


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    made = GuestMemory(MIB, shared=True)
    yield made
    made.close()


def test_requests_are_answered_in_shared_memory(memory: GuestMemory) -> None:
    server = DeviceServer(RngConfig(), memory, [(SIZE, QUEUE)])
    driver, device = device_server.areas(SIZE, QUEUE)
    memory.write(QUEUE, BUFFER.to_bytes(8, "little") + (64).to_bytes(4, "little") + WRITE.to_bytes(4, "little"))
    memory.write_int(driver + 2, 2, 1)
    os.eventfd_write(server.kicks[0], 1)
    wait(server.irq)
    assert memory.read_int(device + 2, 2) == 1
    assert memory.read_int(device + 8, 4) == 64
    assert any(memory.read(BUFFER, 64))
    assert server.running
    server.close()
    server.close()


def test_a_driver_that_breaks_a_ring_stops_the_device(memory: GuestMemory) -> None:
    failed = EventFd()
    server = DeviceServer(RngConfig(), memory, [(SIZE, QUEUE)], failed.signal)
    memory.write_int(device_server.areas(SIZE, QUEUE)[0] + 2, 2, SIZE + 1)
    os.eventfd_write(server.kicks[0], 1)
    wait(failed.fd)
    assert not server.running
    server.close()
    failed.close()


def test_nothing_is_left_if_no_thread_can_be_started(memory: GuestMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(device_server, "Task", fail)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RuntimeError, match="new thread"):
        DeviceServer(RngConfig(), memory, [(SIZE, QUEUE)])
    assert os.listdir("/proc/self/fd") == before


def wait(fd: int) -> None:
    """Until an eventfd is signalled."""
    with select.epoll() as poll:
        poll.register(fd, select.EPOLLIN)
        assert poll.poll(TIMEOUT)
