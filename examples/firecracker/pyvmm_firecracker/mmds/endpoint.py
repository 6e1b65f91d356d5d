"""The end of the link that the guest's frames for the metadata service reach: it answers ARP, and serves TCP."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from pyvmm_firecracker.mmds.answers import Session
from pyvmm_firecracker.mmds.packets import ACK, RST, SYN, Arp, Segment, arp_reply, parse, tcp_frame
from pyvmm_firecracker.mmds.store import Mmds
from pyvmm_firecracker.mmds.tcp import Connection, refusal

MAC = bytes.fromhex("060123456701")
"""As Firecracker has it (src/dumbo: DEFAULT_MAC_ADDR)."""
PORT = 80
CONNECTIONS = 30
"""At most; one more ends the one that was silent for longest."""
HEADER = 12
"""Bytes before each frame: ``struct virtio_net_hdr`` (virtio 1.2, 5.1.6)."""
_NEEDS_CSUM = 1


class Endpoint:
    """The end.

    :param mmds: what is served
    :param address: IPv4
    :param send: sends a message: a header and a frame
    :param clock: of seconds
    """

    def __init__(
        self, mmds: Mmds, address: bytes, send: Callable[[bytes], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._mmds, self._address = mmds, address
        self._send, self._clock = send, clock
        self._connections: dict[tuple[bytes, int], Connection] = {}

    def receive(self, message: bytes) -> None:
        """A header and a frame, any bytes."""
        counts = self._mmds.counts
        counts["rx_count"] += 1
        found = parse(message[HEADER:], is_checked=bool(message[:1] and message[0] & _NEEDS_CSUM))
        if isinstance(found, Arp) and found.target == self._address:
            counts["rx_accepted"] += 1
            self._transmit(arp_reply(found, MAC))
        elif isinstance(found, Segment) and found.destination == self._address:
            counts["rx_accepted"] += 1
            self._receive_segment(found)

    def _receive_segment(self, segment: Segment) -> None:
        key, now = (segment.source, segment.source_port), self._clock()
        connection = self._connections.get(key)
        if connection is not None:
            connection.receive(segment, now)
            if connection.is_over:
                self._forget(key)
        elif segment.port == PORT and segment.flags & (SYN | ACK | RST) == SYN:
            self._make_room()
            self._mmds.counts["connections_created"] += 1
            serve = Session(self._mmds).serve
            self._connections[key] = Connection(segment, secrets.randbits(32), serve, self._emit, now)
        elif (answer := refusal(segment)) is not None:
            self._emit(answer)

    def _make_room(self) -> None:
        if len(self._connections) >= CONNECTIONS:
            oldest = min(self._connections, key=lambda key: self._connections[key].active)
            self._connections[oldest].reset()
            self._forget(oldest)

    def _forget(self, key: tuple[bytes, int]) -> None:
        del self._connections[key]
        self._mmds.counts["connections_destroyed"] += 1

    def _emit(self, segment: Segment) -> None:
        self._transmit(tcp_frame(MAC, segment))

    def _transmit(self, frame: bytes) -> None:
        self._mmds.counts["tx_frames"] += 1
        self._mmds.counts["tx_bytes"] += len(frame)
        self._send(bytes(HEADER) + frame)

    def tick(self) -> float | None:
        """Repeat what was not acknowledged, and end what is silent; seconds until the next time."""
        now = self._clock()
        for key, connection in [*self._connections.items()]:
            connection.tick(now)
            if connection.is_over:
                self._forget(key)
        if not self._connections:
            return None
        return max(min(each.due for each in self._connections.values()) - now, 0.0)
