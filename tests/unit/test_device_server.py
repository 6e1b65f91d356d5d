"""One virtio device whose driver is another process."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from tests.driver import TIMEOUT
from vmm import DeviceServer, GuestMemory, HostError
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


def request(memory: GuestMemory, server: DeviceServer, number: int) -> None:
    """Make the buffer available as the request of that number, and wait for the answer."""
    driver, device = device_server.areas(SIZE, QUEUE)
    memory.write(QUEUE, BUFFER.to_bytes(8, "little") + (64).to_bytes(4, "little") + WRITE.to_bytes(4, "little"))
    memory.write_int(driver + 4 + 2 * SIZE, 2, number - 1)  # interrupt when that one has been used
    memory.write_int(driver + 2, 2, number)
    os.eventfd_write(server.kicks[0], 1)
    wait(server.irq)
    assert memory.read_int(device + 2, 2) == number


def test_another_server_continues_with_a_copy_of_the_memory(memory: GuestMemory) -> None:
    server = DeviceServer(RngConfig(), memory, [(SIZE, QUEUE)])
    request(memory, server, 1)
    saved = server.save()
    server.close()
    for _ in range(2):
        copy = GuestMemory(MIB, shared=True, file=memory.fd)
        copy.write(BUFFER, bytes(64))
        server = DeviceServer(RngConfig(), copy, [(SIZE, QUEUE)], saved=saved)
        request(copy, server, 2)
        assert any(copy.read(BUFFER, 64))
        server.close()
        copy.close()


def test_a_device_that_has_failed_cannot_be_saved(memory: GuestMemory) -> None:
    failed = EventFd()
    server = DeviceServer(RngConfig(), memory, [(SIZE, QUEUE)], failed.signal)
    memory.write_int(device_server.areas(SIZE, QUEUE)[0] + 2, 2, SIZE + 1)
    os.eventfd_write(server.kicks[0], 1)
    wait(failed.fd)
    with pytest.raises(HostError, match="it does not run"):
        server.save()
    server.close()
    failed.close()


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
