"""SYNs to the loopback addresses of a network namespace: observed, sent again, refused (RFC 9293)."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading

_SO_ATTACH_FILTER, _IPV6_HDRINCL, _MARK = 26, 36, 0x70796B6E
"""Marks the SYNs that are sent again, so that they are not received once more."""
_SYN, _ACK, _RST = 2, 16, 4
_LONGEST = 4096
# linux/filter.h: code, jump if true, jump if false, value
_LOAD_MARK = (0x20, 0, 0, 0xFFFFF014)
_IS_SYN = ((0x54, 0, 0, _SYN | _ACK), (0x15, 0, 1, _SYN), (0x06, 0, 0, _LONGEST), (0x06, 0, 0, 0))
# Of IPv4 there is a header, of IPv6 there is none
_FILTER_4 = (_LOAD_MARK, (0x15, 7, 0, _MARK), (0x30, 0, 0, 16), (0x15, 0, 5, 127), (0xB1, 0, 0, 0), (0x50, 0, 0, 13))
_FILTER_6 = (_LOAD_MARK, (0x15, 4, 0, _MARK), (0x30, 0, 0, 13))


class Knock:
    """A SYN.

    :ivar index: 0 of IPv4, 1 of IPv6
    :ivar address: that was dialled
    :ivar client: the source port
    :ivar server: the destination port
    :ivar answer: a connection for it
    :ivar taken: it has its connection, or is not waited for any more
    """

    def __init__(self, index: int, source: str, address: str, segment: bytes) -> None:
        self.index = index
        self.address = address
        self.client, self.server, self._sequence = struct.unpack_from(">HHI", segment)
        self.key = (index, source, self.client, self.server)
        self.answer: socket.socket | None = None
        self.taken = threading.Event()
        self._source = source
        self._segment = segment

    def is_of(self, other: Knock) -> bool:
        """Whether the client has sent the same SYN again."""
        return self.key == other.key and self._sequence == other._sequence

    def send(self, raw: socket.socket) -> None:
        """Send it once more.

        :param raw: from :func:`listen`
        """
        self._send(raw, self._source, self.address, self._segment)

    def refuse(self, raw: socket.socket) -> None:
        """Answer with a RST: nothing listens there."""
        expected = (self._sequence + 1) & 0xFFFFFFFF
        segment = struct.pack(">HHIIBBHHH", self.server, self.client, 0, expected, 5 << 4, _RST | _ACK, 0, 0, 0)
        self._send(raw, self.address, self._source, segment)

    def _send(self, raw: socket.socket, source: str, target: str, segment: bytes) -> None:
        family = socket.AF_INET6 if self.index else socket.AF_INET
        addresses = socket.inet_pton(family, source) + socket.inet_pton(family, target)
        pseudo = addresses + struct.pack(">II", len(segment), socket.IPPROTO_TCP)
        blank = segment[:16] + bytes(2) + segment[18:]
        made = segment[:16] + _checksum(pseudo + blank).to_bytes(2, "big") + segment[18:]
        if self.index:
            made = struct.pack(">IHBB", 6 << 28, len(made), socket.IPPROTO_TCP, 64) + addresses + made
        else:  # the kernel fills in length and sum
            made = struct.pack(">BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses + made
        raw.sendto(made, (target, 0))


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) & 1:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def deafen(listener: socket.socket) -> None:
    """Make a listening socket accept nothing: a client gets no answer, and tries again after a second."""
    _attach(listener, ((0x06, 0, 0, 0),))


def _attach(sock: socket.socket, filters: tuple[tuple[int, int, int, int], ...]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in filters))
    program = struct.pack("HxxxxxxP", len(filters), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def listen(family: int) -> socket.socket:
    """A socket that receives each SYN to a loopback address of this thread's network namespace.

    :raises OSError: CAP_NET_RAW is missing
    """
    raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    try:
        _attach(raw, (_FILTER_4 if family == socket.AF_INET else _FILTER_6) + _IS_SYN)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK)
        if family == socket.AF_INET:
            raw.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        else:
            raw.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
            raw.bind(("::1", 0))
    except BaseException:
        raw.close()
        raise
    return raw


def hear(raw: socket.socket, index: int) -> Knock | None:
    """The next SYN; None: there is none, or it came before the filter.

    :param index: 0 of IPv4, 1 of IPv6
    """
    try:
        data, place = raw.recvfrom(_LONGEST)
    except OSError:
        return None
    source, address = str(place[0]), "::1"
    if not index:
        if len(data) < 20 or data[16] != 127:
            return None
        address = socket.inet_ntoa(data[16:20])
        data = data[(data[0] & 15) * 4 :]
    if len(data) < 20 or data[13] & (_SYN | _ACK) != _SYN:
        return None
    return Knock(index, source, address, data)
