"""The guest's side of virtio-blk (virtio 1.2, 5.2.6), on top of :mod:`tests.driver`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.driver import Buffer, DriverQueue, Guest
from vmm.memory import GuestMemory
from vmm.virtio.blk import DiskConfig
from vmm.virtio.blk import device as blk_spec
from vmm.virtio.blk.device import Blk

IO_URING = pytest.mark.parametrize("io_uring", [None, True, False], ids=["auto", "io_uring", "sync"])
"""How the host does what the guest asks for."""


class Answer(NamedTuple):
    """What came back: the status byte (None: it was not written), the data, the used length."""

    status: int | None
    data: bytes
    written: int


class Request(NamedTuple):
    """A request that is under way."""

    head: int
    data: Buffer | None
    status: Buffer


def header(kind: int, sector: int = 0) -> bytes:
    return kind.to_bytes(4, "little") + bytes(4) + (sector & (1 << 64) - 1).to_bytes(8, "little")


def segment(sector: int, sectors: int, flags: int = 0) -> bytes:
    """One segment of DISCARD or WRITE_ZEROES."""
    return sector.to_bytes(8, "little") + sectors.to_bytes(4, "little") + flags.to_bytes(4, "little")


class BlkGuest(Guest):
    """A driver with a disk."""

    def __init__(
        self,
        path: Path | str,
        *,
        io_uring: bool | None = None,
        memory: GuestMemory | None = None,
        cpus: int = 1,
        **options: Any,
    ) -> None:
        self.disk = Blk(DiskConfig(str(path), **options), cpus=cpus, io_uring=io_uring)
        super().__init__(self.disk, memory=memory)

    def __enter__(self) -> BlkGuest:
        return self

    def submit(
        self,
        kind: int,
        sector: int = 0,
        data: bytes | int | None = None,
        *,
        queue: DriverQueue | None = None,
        indirect: bool = False,
        kick: bool = True,
    ) -> Request:
        """Make a request available.

        :param data: bytes for the device to read, or how many it may write
        """
        queue = queue or self.queues[0]
        buffers = [self.data(header(kind, sector))]
        body = None
        if data is not None:
            body = self.room(data) if isinstance(data, int) else self.data(data)
            if body.length:
                buffers.append(body)
        status = self.room(1)
        head = queue.chain([*buffers, status], indirect=indirect)
        queue.offer(head)
        if kick:
            queue.kick()
        return Request(head, body, status)

    def answer(self, request: Request, written: int = 0) -> Answer:
        """What a completed request has left in memory."""
        status = self.content(request.status)[0]
        data = b"" if request.data is None else self.content(request.data)
        return Answer(None if status == 0xEE else status, data, written)

    def request(
        self,
        kind: int,
        sector: int = 0,
        data: bytes | int | None = None,
        *,
        queue: DriverQueue | None = None,
        indirect: bool = False,
    ) -> Answer:
        """One request, waited for."""
        with self.scratch():
            request = self.submit(kind, sector, data, queue=queue, indirect=indirect)
            (used,) = (queue or self.queues[0]).wait()
            assert used.head == request.head
            return self.answer(request, used.written)

    def read_disk(self, sector: int, length: int) -> bytes:
        """Read *length* bytes, which must work."""
        answer = self.request(blk_spec.BLK_T_IN, sector, length)
        assert answer.status == blk_spec.BLK_S_OK
        return answer.data

    def write_disk(self, sector: int, data: bytes) -> None:
        """Write, which must work."""
        assert self.request(blk_spec.BLK_T_OUT, sector, data).status == blk_spec.BLK_S_OK
