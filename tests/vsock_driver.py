"""The guest's side of virtio-vsock (virtio 1.2, 5.10.6), on top of :mod:`tests.driver`: packets, good and bad ones."""

from __future__ import annotations

import resource
import socket
import struct
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.command import of_threads
from tests.driver import TIMEOUT, Buffer, Guest
from tests.driver_queue import fence
from vmm.virtio.vsock import VsockConfig
from vmm.virtio.vsock import device as vsock_spec
from vmm.virtio.vsock.device import EVENT, RX, TX, Vsock

CID = 3
BUF_ALLOC = 256 << 10
NAMES = ("src_cid", "dst_cid", "src_port", "dst_port", "length", "type", "op", "flags", "buf_alloc", "fwd_cnt")


class Packet(NamedTuple):
    """A packet as it was found in a buffer of the guest's."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    length: int
    type: int
    op: int
    flags: int
    buf_alloc: int
    fwd_cnt: int
    data: bytes


def header(
    op: int,
    dst_port: int,
    src_port: int,
    *,
    length: int = 0,
    flags: int = 0,
    kind: int = vsock_spec.VSOCK_TYPE_STREAM,
    src_cid: int = CID,
    dst_cid: int = vsock_spec.VSOCK_CID_HOST,
    buf_alloc: int = BUF_ALLOC,
    fwd_cnt: int = 0,
) -> bytes:
    """44 bytes."""
    return struct.pack(
        vsock_spec.VSOCK_HEADER_FORMAT,
        *(src_cid, dst_cid, src_port, dst_port, length, kind, op, flags & 0xFFFF_FFFF),
        *(buf_alloc & 0xFFFF_FFFF, fwd_cnt & 0xFFFF_FFFF),
    )


def is_asleep() -> bool:
    """Whether the device's worker waits in the kernel: it looks around for a while before it does."""
    return {text.rpartition(") ")[2][0] for text in of_threads("stat").values() if "(vsock)" in text} == {"S"}


class VsockGuest(Guest):
    """A driver with a socket device at ``directory/v.sock``; started, with *buffers* of *size* bytes posted."""

    def __init__(
        self,
        directory: Path,
        *,
        features: int | None = None,
        buffers: int = 32,
        size: int = 4096,
        start: bool = True,
        device: Any = None,
    ) -> None:
        self.uds = directory / "v.sock"
        self.vsock = device or Vsock(VsockConfig(CID, str(self.uds)))
        super().__init__(self.vsock)
        self._room: dict[int, list[Buffer]] = {}
        self.size = size
        self.inbox: list[Packet] = []
        """Packets that came and were not waited for yet."""
        if start:
            self.begin(features, buffers)

    def __enter__(self) -> VsockGuest:
        return self

    def begin(self, features: int | None = None, buffers: int = 32) -> None:
        """From reset to a device with buffers."""
        self.start(features)
        self._room.clear()
        self.inbox.clear()
        self.post(buffers)

    def post(self, count: int = 1, size: int | None = None) -> None:
        """Give the device buffers."""
        for _ in range(count):
            self.post_buffers([self.room(size or self.size)])
        self.queues[RX].kick()

    def post_buffers(self, buffers: list[Buffer]) -> None:
        queue = self.queues[RX]
        head = queue.chain(buffers)
        self._room[head] = buffers
        queue.offer(head)

    def send_buffers(self, *buffers: Buffer, wait: bool = True) -> None:
        """A packet in pieces; waited for until the device has given them back."""
        queue = self.queues[TX]
        head = queue.chain(buffers)
        queue.offer(head)
        queue.kick()
        if wait:
            self.wait_for("the packet is taken", lambda: queue.take_used() != [])

    def send(self, op: int, dst_port: int, src_port: int, data: bytes = b"", **fields: Any) -> None:
        """One packet, header and data in one buffer."""
        fields.setdefault("length", len(data))
        with self.scratch():
            self.send_buffers(self.data(header(op, dst_port, src_port, **fields) + data))

    def packets(self, repost: bool = True) -> list[Packet]:
        """What has come; its buffers are posted again."""
        queue, found = self.queues[RX], []
        # All of them first: a head that is posted again could be that of a later one
        for used, buffers in [(used, self._room.pop(used.head)) for used in queue.take_used()]:
            content = b"".join(self.content(buffer) for buffer in buffers)[: used.written]
            if content:
                fields = struct.unpack_from(vsock_spec.VSOCK_HEADER_FORMAT, content)
                found.append(Packet._make((*fields, content[vsock_spec.VSOCK_HEADER_SIZE :])))
            if repost:
                self.post_buffers(buffers)
        if found and repost:
            queue.kick()
        return found

    def receive(self, count: int = 1) -> list[Packet]:
        """Wait for *count* packets."""
        end = time.monotonic() + TIMEOUT
        while len(self.inbox) < count:
            self.inbox += self.packets()
            if time.monotonic() > end:
                raise TimeoutError(f"{len(self.inbox)} packets of {count}: {self.inbox}")
            if len(self.inbox) < count:
                time.sleep(0.0005)
        found, self.inbox = self.inbox[:count], self.inbox[count:]
        return found

    def expect(self, op: int) -> Packet:
        """Wait for one packet, which is of that kind."""
        (packet,) = self.receive()
        assert packet.op == op, packet
        assert (packet.src_cid, packet.dst_cid) == (vsock_spec.VSOCK_CID_HOST, CID)
        return packet

    def receive_data(self, length: int) -> bytes:
        """Wait for so many bytes of data in RW packets, and for nothing else but news of credit."""
        data = bytearray()  # bytes would be copied for each packet
        while len(data) < length:
            (packet,) = self.receive()
            if packet.op == vsock_spec.VSOCK_OP_RW:
                assert packet.length == len(packet.data), (packet.length, len(packet.data))
                data += packet.data
        return bytes(data)

    def quiet(self) -> None:
        """Nothing more comes: a packet to nobody is answered, and that is all."""
        self.send(vsock_spec.VSOCK_OP_RW, 9, 9)
        packet = self.expect(vsock_spec.VSOCK_OP_RST)
        assert (packet.src_port, packet.dst_port) == (9, 9)

    def event_room(self) -> Buffer:
        """A buffer in the event queue."""
        buffer = self.room(4)
        queue = self.queues[EVENT]
        queue.offer(queue.chain([buffer]))
        fence()
        return buffer

    # -- the host's programs -----------------------------------------------------------------------------------

    def listen(self, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A program that listens for the guest."""
        listener = socket.socket(socket.AF_UNIX, kind)
        listener.settimeout(TIMEOUT)
        listener.bind(f"{self.uds}_{port}")
        listener.listen()
        return listener

    def client(self, line: bytes = b"", kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A program that connects to the device and writes *line*."""
        client = socket.socket(socket.AF_UNIX, kind)
        # With a timeout of Python's it does not block, and fails while as many wait as the listener's queue holds
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("qq", int(TIMEOUT), 0))
        client.connect(str(self.uds) + (".seqpacket" if kind == socket.SOCK_SEQPACKET else ""))
        client.settimeout(TIMEOUT)
        if line:
            client.sendall(line)
        return client

    def from_guest(
        self, port: int = 1000, src: int = 5, kind: int = vsock_spec.VSOCK_TYPE_STREAM, **fields: Any
    ) -> tuple[socket.socket, int, int]:
        """A connection that the guest made: the program's socket, and both ports."""
        sort = socket.SOCK_SEQPACKET if kind == vsock_spec.VSOCK_TYPE_SEQPACKET else socket.SOCK_STREAM
        with self.listen(port, sort) as listener:
            self.send(vsock_spec.VSOCK_OP_REQUEST, port, src, kind=kind, **fields)
            program, _ = listener.accept()
            program.settimeout(TIMEOUT)
            answer = self.expect(vsock_spec.VSOCK_OP_RESPONSE)
            assert (answer.src_port, answer.dst_port, answer.type) == (port, src, kind)
        return program, port, src

    def from_host(
        self, port: int = 2000, kind: int = vsock_spec.VSOCK_TYPE_STREAM, **fields: Any
    ) -> tuple[socket.socket, int, int]:
        """A connection that a program of the host made to *port*: its socket, and both ports as from_guest()."""
        sort = socket.SOCK_SEQPACKET if kind == vsock_spec.VSOCK_TYPE_SEQPACKET else socket.SOCK_STREAM
        client = self.client(b"CONNECT %d\n" % port, sort)
        request = self.expect(vsock_spec.VSOCK_OP_REQUEST)
        assert (request.dst_port, request.type) == (port, kind)
        self.send(vsock_spec.VSOCK_OP_RESPONSE, request.src_port, port, kind=kind, **fields)
        assert client.recv(64) == b"OK %d\n" % request.src_port
        return client, request.src_port, port


def works(guest: VsockGuest, port: int = 7000) -> None:
    """The device does for others what it should."""
    program, port, src = guest.from_guest(port, port)
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"ping")
    assert program.recv(10) == b"ping"
    program.sendall(b"pong")
    assert guest.expect(vsock_spec.VSOCK_OP_RW).data == b"pong"
    program.close()
    Path(f"{guest.uds}_{port}").unlink()


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
