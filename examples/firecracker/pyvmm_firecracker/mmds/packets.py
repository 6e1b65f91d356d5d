"""Frames of Ethernet, ARP (RFC 826), IPv4 (RFC 791) and TCP (RFC 9293), as far as the metadata service needs them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
DEFAULT_MSS = 536
"""RFC 9293, 3.7.1: of a peer that announces none."""
_ETHERNET, _ARP = struct.Struct("!6s6sH"), struct.Struct("!HHBBH6s4s6s4s")
_IP, _TCP = struct.Struct("!BBHHHBBH4s4s"), struct.Struct("!HHIIBBHHH")
_PSEUDO = struct.Struct("!4s4sBBH")
_ARP_TYPE, _IP_TYPE, _TCP_PROTOCOL = 0x0806, 0x0800, 6
_ARP_HEAD = (1, _IP_TYPE, 6, 4, 1)
_MORE_OR_OFFSET = 0x3FFF


@dataclass(frozen=True, slots=True)
class Arp:
    """A request for an address."""

    mac: bytes
    sender: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment.

    :ivar mac: Ethernet address of the other end
    :ivar source: IPv4 address of its sender
    :ivar mss: announced by it
    """

    mac: bytes
    source: bytes
    destination: bytes
    source_port: int
    port: int
    seq: int
    ack: int
    flags: int
    window: int
    mss: int
    data: bytes

    @property
    def length(self) -> int:
        """How many sequence numbers it has."""
        return len(self.data) + bool(self.flags & SYN) + bool(self.flags & FIN)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(frame: bytes, *, is_checked: bool) -> Arp | Segment | None:
    """A frame; None: it is nothing that the service answers, or it is damaged.

    :param is_checked: its sender has left the checksum of TCP to the card
    """
    if len(frame) < _ETHERNET.size:
        return None
    _, mac, kind = _ETHERNET.unpack_from(frame)
    if kind == _ARP_TYPE:
        return _parse_arp(mac, frame[_ETHERNET.size :])
    return _parse_ip(mac, frame[_ETHERNET.size :], is_checked) if kind == _IP_TYPE else None


def _parse_arp(mac: bytes, packet: bytes) -> Arp | None:
    if len(packet) < _ARP.size:
        return None
    *head, sender_mac, sender, _, target = _ARP.unpack_from(packet)
    if (*head,) != _ARP_HEAD or sender_mac != mac:
        return None
    return Arp(mac, sender, target)


def _parse_ip(mac: bytes, packet: bytes, is_checked: bool) -> Segment | None:
    if len(packet) < _IP.size:
        return None
    first, _, total, _, fragment, _, protocol, _, source, destination = _IP.unpack_from(packet)
    start = (first & 15) * 4
    if first >> 4 != 4 or not _IP.size <= start <= total <= len(packet):
        return None
    if fragment & _MORE_OR_OFFSET or protocol != _TCP_PROTOCOL or checksum(packet[:start]):
        return None
    return _parse_tcp(mac, source, destination, packet[start:total], is_checked)


def _parse_tcp(mac: bytes, source: bytes, destination: bytes, packet: bytes, is_checked: bool) -> Segment | None:
    if len(packet) < _TCP.size:
        return None
    source_port, port, seq, ack, offset, flags, window, _, _ = _TCP.unpack_from(packet)
    start = (offset >> 4) * 4
    if not _TCP.size <= start <= len(packet):
        return None
    if not is_checked and checksum(_pseudo(source, destination, len(packet)) + packet):
        return None
    mss = _parse_mss(packet[_TCP.size : start]) if flags & SYN else DEFAULT_MSS
    return Segment(
        mac, source, destination, source_port, port, seq, ack, flags & 0x1F, window, mss, packet[start:]
    )  # fmt: skip


def _parse_mss(options: bytes) -> int:
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            break
        if options[at] == 2 and size == 4:
            return int.from_bytes(options[at + 2 : at + 4], "big")
        at += size
    return DEFAULT_MSS


def _pseudo(source: bytes, destination: bytes, length: int) -> bytes:
    return _PSEUDO.pack(source, destination, 0, _TCP_PROTOCOL, length)


def arp_reply(request: Arp, mac: bytes) -> bytes:
    """The frame that answers a request: *mac* has the address."""
    packet = _ARP.pack(*_ARP_HEAD[:4], 2, mac, request.target, request.mac, request.sender)
    return _ETHERNET.pack(request.mac, mac, _ARP_TYPE) + packet


def tcp_frame(mac: bytes, segment: Segment) -> bytes:
    """A frame with a segment; ``segment.mac`` is where it goes to, and a SYN announces ``segment.mss``.

    :param mac: its sender
    """
    options = struct.pack("!BBH", 2, 4, segment.mss) if segment.flags & SYN else b""
    head = _TCP.pack(
        segment.source_port, segment.port, segment.seq, segment.ack, (_TCP.size + len(options)) << 2, segment.flags,
        segment.window, 0, 0,
    )  # fmt: skip
    packet = head + options + segment.data
    found = checksum(_pseudo(segment.source, segment.destination, len(packet)) + packet)
    packet = packet[:16] + found.to_bytes(2, "big") + packet[18:]
    total = _IP.size + len(packet)
    ip = _IP.pack(0x45, 0, total, 0, 0x4000, 64, _TCP_PROTOCOL, 0, segment.source, segment.destination)
    ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
    return _ETHERNET.pack(segment.mac, mac, _IP_TYPE) + ip + packet
