"""The guest's side of virtio-net (virtio 1.2, 5.1.6), on top of :mod:`tests.driver`, and backends for tests: a pair of
sockets that keep the bounds of frames stands for a tap device, another for passt."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any, NamedTuple

from tests.driver import TIMEOUT, Buffer, DriverQueue, Guest
from vmm.native import lib
from vmm.options.limit import LimitConfig
from vmm.virtio.net import device as net_spec
from vmm.virtio.net.device import GUEST_OFFLOADS, Backend, Net

MAC = bytes.fromhex("020000000001")
TAP_FEATURES = GUEST_OFFLOADS | (
    net_spec.NET_F_CSUM | net_spec.NET_F_HOST_TSO4 | net_spec.NET_F_HOST_TSO6 | net_spec.NET_F_HOST_ECN
    | net_spec.NET_F_HOST_UFO | net_spec.NET_F_HOST_USO
)  # fmt: skip


def frame(payload: bytes = b"", length: int = 0) -> bytes:
    """An Ethernet frame, padded to *length* bytes with something to compare."""
    head = b"\xff" * 6 + MAC + b"\x88\xb5" + payload
    return head + bytes(at % 251 for at in range(max(0, length - len(head))))


def header(
    flags: int = 0,
    gso_type: int = 0,
    hdr_len: int = 0,
    gso_size: int = 0,
    csum_start: int = 0,
    csum_offset: int = 0,
    num_buffers: int = 0,
) -> bytes:
    """12 bytes."""
    return struct.pack(
        net_spec.NET_HEADER_FORMAT, flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
    )


class Wire(Backend):
    """Pairs of sockets: *far* is the other end of each."""

    name = "wire"

    def __init__(self, kind: int = lib.NET_TAP, pairs: int = 1, mtu: int = 1500, features: int | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.mtu = mtu
        tap = kind == lib.NET_TAP
        self.features = features if features is not None else TAP_FEATURES if tap else net_spec.NET_F_GUEST_CSUM
        self.far: list[socket.socket] = []
        self.offloads = -1
        self.pairs = 0
        for _ in range(pairs):
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET if tap else socket.SOCK_STREAM)
            near.setblocking(False)
            for end in (near, far):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            far.settimeout(TIMEOUT)
            self.fds.append(near.detach())
            self.far.append(far)

    def set_offloads(self, features: int) -> None:
        self.offloads = features

    def set_pairs(self, pairs: int) -> None:
        self.pairs = pairs

    def close(self) -> None:
        super().close()
        for far in self.far:
            far.close()


class Received(NamedTuple):
    """A frame that the guest got: the fields of its header, itself, and how many bytes of each buffer were used."""

    flags: int
    gso_type: int
    num_buffers: int
    frame: bytes
    written: list[int]


class NetGuest(Guest):
    """A driver with a network card whose cable leads to :attr:`wire`; started, with *buffers* of *size* bytes.

    :param card: another one, with a backend of its own
    """

    def __init__(
        self,
        wire: Wire | None = None,
        *,
        features: int | None = None,
        buffers: int = 32,
        size: int = 2048,
        start: bool = True,
        limit: LimitConfig | None = None,
        queue_size: int | None = None,
        card: Net | None = None,
    ) -> None:
        self.net = card or Net(wire or Wire(), mac=MAC, limit=limit)
        self.wire: Any = self.net.backend
        super().__init__(self.net)
        self._room: dict[tuple[int, int], list[Buffer]] = {}
        self.size = size
        if start:
            self.begin(features, buffers, queue_size)

    def __enter__(self) -> NetGuest:
        return self

    def begin(self, features: int | None = None, buffers: int = 32, queue_size: int | None = None) -> None:
        """From reset to a card with buffers."""
        self.start(features, size=queue_size)
        self._room.clear()
        self.post(buffers)

    @property
    def far(self) -> socket.socket:
        """The other end of the first cable."""
        found: socket.socket = self.wire.far[0]
        return found

    def rx(self, pair: int = 0) -> DriverQueue:
        return self.queues[2 * pair]

    def tx(self, pair: int = 0) -> DriverQueue:
        return self.queues[2 * pair + 1]

    def post(self, count: int = 1, size: int | None = None, pair: int = 0) -> None:
        """Give the card buffers."""
        for _ in range(count):
            self.post_buffers([self.room(size or self.size)], pair)
        if count:
            self.rx(pair).kick()

    def post_buffers(self, buffers: list[Buffer], pair: int = 0) -> None:
        queue = self.rx(pair)
        head = queue.chain(buffers)
        self._room[pair, head] = buffers
        queue.offer(head)

    def send_buffers(self, *buffers: Buffer, pair: int = 0, wait: bool = True) -> None:
        """A frame in pieces, header and all."""
        queue = self.tx(pair)
        queue.offer(queue.chain(buffers))
        queue.kick()
        if wait:
            self.wait_for("the frame is taken", lambda: queue.take_used() != [])

    def send(self, content: bytes, head: bytes | None = None, pair: int = 0) -> None:
        """One frame."""
        with self.scratch():
            self.send_buffers(self.data((header() if head is None else head) + content), pair=pair)

    def receive(self, pair: int = 0, repost: bool = True) -> Received:
        """Wait for one frame, in as many buffers as it says."""
        queue = self.rx(pair)
        got, buffers = self.receive_from(queue, pair)
        if repost:
            for buffer in buffers:
                self.post_buffers([buffer], pair)
            queue.kick()
        return got

    def receive_from(self, queue: DriverQueue, pair: int = 0) -> tuple[Received, list[Buffer]]:
        """The same, and the buffers that it was in."""
        end = time.monotonic() + TIMEOUT
        while not queue.has_used():
            if time.monotonic() > end:
                raise TimeoutError("no frame came")
            time.sleep(0.0005)
        parts: list[tuple[list[Buffer], bytes]] = []
        count = 1
        while len(parts) < count:
            used = queue.take_one()
            buffers = self._room.pop((pair, used[0]))
            parts.append((buffers, b"".join(self.content(buffer) for buffer in buffers)[: used[1]]))
            if len(parts) == 1:
                fields = struct.unpack_from(net_spec.NET_HEADER_FORMAT, parts[0][1].ljust(12, b"\0"))
                count = max(fields[6], 1)
        data = b"".join(part for _, part in parts)
        got = Received(fields[0], fields[1], fields[6], data[12:], [len(part) for _, part in parts])
        return got, [buffer for buffers, _ in parts for buffer in buffers]

    def receive_soon(self, timeout: float) -> bytes:
        """The next frame, or nothing when none comes in *timeout* seconds."""
        queue, end = self.rx(), time.monotonic() + timeout
        while not queue.has_used() and time.monotonic() < end:
            time.sleep(0.001)
        return b"" if not queue.has_used() else self.receive().frame

    def command(self, kind: int, number: int, data: bytes = b"") -> int | None:
        """One command on the control queue, behind all pairs; its answer."""
        with self.scratch():
            answer = self.room(1)
            queue = self.queues[2 * len(self.wire.fds) if self.features & net_spec.NET_F_MQ else 2]
            buffers = [self.data(bytes((kind, number)) + data), answer]
            queue.offer(queue.chain(buffers))
            queue.kick()
            self.wait_for("the command is answered", lambda: queue.take_used() != [])
            status = self.content(answer)[0]
        return None if status == 0xEE else status

    def stat(self, name: str) -> int:
        return int(self.net.stats()[name])

    def wait_stat(self, name: str, at_least: int = 1) -> None:
        self.wait_for(f"{name} is {at_least}", lambda: self.stat(name) >= at_least)


def to_stream(content: bytes) -> bytes:
    """A frame as passt sends it."""
    return struct.pack(">I", len(content)) + content


def from_stream(sock: socket.socket) -> bytes:
    """The next frame as passt gets it."""
    return read_exactly(sock, int.from_bytes(read_exactly(sock, 4), "big"))


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, "the stream ended"
        data += piece
    return data
