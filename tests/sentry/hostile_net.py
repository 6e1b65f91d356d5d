"""The device side of a virtio-net device, as bad as it can be: it gives the core an address, then malformed frames."""

from __future__ import annotations

import mmap
import os
import random
import struct
from collections.abc import Iterator

from pyvmm_sentry.share import NET_RINGS, STRIDE

SIZE = 256
HEADER = bytes(12)
INDEX = struct.Struct("H")  # native: "<H" is written byte by byte, and the core could read one of the two
MAC, OURS = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ADDRESS, SERVER = bytes((10, 1, 2, 3)), bytes((10, 1, 2, 1))


def checksum(data: bytes) -> int:
    """The sum of the internet protocols."""
    total: int = sum(struct.unpack(f">{len(data + bytes(len(data) % 2)) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def ip4(protocol: int, payload: bytes, *, fragment: int = 0, options: bytes = b"", target: bytes = ADDRESS) -> bytes:
    """An Ethernet frame with an IPv4 packet, whose header has the right sum."""
    first = (0x40 | (20 + len(options)) // 4, 0, 20 + len(options) + len(payload), 7, fragment, 64, protocol)
    head = struct.pack(">BBHHHBB", *first)
    total = checksum(head + b"\0\0" + SERVER + target + options)
    return MAC + OURS + b"\x08\0" + head + struct.pack(">H", total) + SERVER + target + options + payload


def ip6(protocol: int, payload: bytes) -> bytes:
    """An Ethernet frame with an IPv6 packet to the core's link-local address."""
    link = bytes.fromhex("fe80000000000000000000fffe000001")
    head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 255)
    return MAC + OURS + b"\x86\xdd" + head + bytes.fromhex("fe80000000000000000000fffe000002") + link + payload


def with_sum(protocol: int, payload: bytes, at: int) -> bytes:
    """A payload of TCP or UDP with the right sum at an offset."""
    pseudo = SERVER + ADDRESS + struct.pack(">BBH", 0, protocol, len(payload))
    return payload[:at] + struct.pack(">H", checksum(pseudo + payload)) + payload[at + 2 :]


def dhcp(discover: bytes) -> bytes | None:
    """The answer to a request for an address, or None."""
    payload = discover[14 + 20 + 8 :]
    if discover[12:14] != b"\x08\0" or discover[23] != 17 or len(payload) < 244:
        return None
    kind = payload[payload.index(b"\x35\x01") + 2]
    head = b"\2\1\6\0" + payload[4:8] + bytes(8) + ADDRESS + SERVER + bytes(4) + MAC + bytes(10 + 192)
    options = (
        bytes((53, 1, 2 if kind == 1 else 5, 54, 4)) + SERVER + b"\x33\4\0\0\x0e\x10\1\4\xff\xff\xff\0\3\4" + SERVER
    )
    data = head + b"\x63\x82\x53\x63" + options + b"\xff"
    return ip4(17, struct.pack(">HHHH", 67, 68, 8 + len(data), 0) + data)


def frames(seed: int, count: int) -> Iterator[bytes]:
    """Malformed frames, half of them nearly right."""
    r = random.Random(seed)
    for _ in range(count):
        rest = r.randbytes(r.choice((0, 1, 7, 20, 40, 300, 1400)))
        offset = r.choice((0x50, 0x60, 0xF0, 0))
        tcp = struct.pack(
            ">HHIIBBHHH", r.randrange(65536), r.choice((80, 1)), r.getrandbits(32), 0, offset, r.randrange(256), 9, 0, 0
        )
        udp = struct.pack(">HHHH", 67, r.choice((68, 80)), r.choice((8 + len(rest), 3, 65535)), 0)
        icmp = bytes((r.choice((0, 3, 8, 128, 133, 134, 135, 136)), r.randrange(6), 0, 0)) + rest
        target = r.choice((bytes((127, 0, 0, 1)), bytes((255, 255, 255, 255)), bytes((224, 0, 0, 1))))
        arp = b"\0\1\x08\0\6\4\0" + bytes((r.randrange(4),)) + OURS + SERVER + MAC + ADDRESS
        frame = r.choice((
            ip4(6, with_sum(6, tcp + rest, 16)),
            ip4(17, udp + rest),
            ip4(1, icmp[:2] + struct.pack(">H", checksum(icmp)) + icmp[4:]),
            ip4(r.choice((6, 17)), rest, fragment=r.choice((0x2000, 0x2001, 1, 0x1FFF, 0x3FFF))),
            ip4(17, udp + rest, options=r.randbytes(4 * r.randrange(11))),
            ip4(17, udp + rest, target=target),
            ip6(r.choice((0, 6, 17, 43, 44, 58, 60)), rest),
            ip6(58, icmp),
            MAC + OURS + b"\x08\x06" + arp + rest,
            MAC + OURS + r.randbytes(2) + rest,
        ))  # fmt: skip
        if r.random() < 0.3:
            at = r.randrange(len(frame))
            frame = frame[:at] + r.randbytes(1) + frame[at + 1 :]
        yield frame[: r.randrange(len(frame) + 1)] if r.random() < 0.3 else frame


class HostileNet:
    """Serves the device on RAM of *size*.

    :ivar fds: what the platform's program needs: RAM, two kicks, the irq
    """

    def __init__(self, size: int) -> None:
        ram = os.memfd_create("sentry")
        os.truncate(ram, size)
        self.fds = (ram, *(os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)))
        self._ram = mmap.mmap(ram, size)
        self._taken = [0, 0]

    def close(self) -> None:
        """Close all descriptors."""
        self._ram.close()
        for fd in self.fds:
            os.close(fd)

    def _take(self, queue: int) -> tuple[int, int, int] | None:
        """Head, address and size of the next buffer that the core has made available."""
        base = NET_RINGS + queue * STRIDE
        (there,) = INDEX.unpack_from(self._ram, base + 16 * SIZE + 2)
        if there == self._taken[queue]:
            return None
        (head,) = INDEX.unpack_from(self._ram, base + 16 * SIZE + 4 + 2 * (self._taken[queue] % SIZE))
        address, size = struct.unpack_from("<QI", self._ram, base + 16 * head)
        return head, address, size

    def _used(self, queue: int, head: int, size: int) -> None:
        used = -(-(NET_RINGS + queue * STRIDE + 16 * SIZE + 6 + 2 * SIZE) // 64) * 64
        struct.pack_into("<II", self._ram, used + 4 + 8 * (self._taken[queue] % SIZE), head, size)
        self._taken[queue] += 1
        INDEX.pack_into(self._ram, used + 2, self._taken[queue] & 0xFFFF)
        os.eventfd_write(self.fds[3], 1)

    def sent(self) -> bytes | None:
        """A frame that the core has sent."""
        buffer = self._take(1)
        if buffer is None:
            return None
        head, address, size = buffer
        frame = self._ram[address + len(HEADER) : address + size]
        self._used(1, head, 0)
        return frame

    def receive(self, frame: bytes) -> bool:
        """Give the core a frame; whether there was a buffer."""
        buffer = self._take(0)
        if buffer is None:
            return False
        head, address, size = buffer
        data = (HEADER + frame)[:size]
        self._ram[address : address + len(data)] = data
        self._used(0, head, len(data))
        return True
