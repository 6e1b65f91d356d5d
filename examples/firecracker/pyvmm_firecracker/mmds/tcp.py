"""The serving end of a TCP connection (RFC 9293) over a link that neither reorders nor, most of the time, loses frames.

What arrives out of order is not kept: its sender repeats it. What is sent is repeated from the oldest byte on, when it
was not acknowledged in time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pyvmm_firecracker.mmds.packets import ACK, FIN, PSH, RST, SYN, Segment

Emit = Callable[[Segment], None]

WINDOW = 8192
"""Bytes of requests that are accepted at a time."""
MSS = 1460
LEAST_MSS = 64
"""Of a peer that announces less: otherwise an answer is a flood of frames."""
FIRST_RTO, LAST_RTO = 0.2, 3.2
TRIES = 8
"""How often the same bytes are sent without an acknowledgement."""
IDLE_S = 60.0
_MASK = 0xFFFF_FFFF


def distance(a: int, b: int) -> int:
    """From sequence number *a* to *b*, negative: backwards."""
    found = (b - a) & _MASK
    return found - (1 << 32) if found >> 31 else found


class Connection:
    """A connection, made by its SYN.

    :param syn: the segment
    :param first: our first sequence number
    :param serve: called with bytes of the client, and with none at their end; returns what to send, and whether to end
    :param emit: sends a segment
    :ivar is_over: nothing is sent or expected any more
    :ivar active: when the client was heard last
    """

    def __init__(
        self, syn: Segment, first: int, serve: Callable[[bytes], tuple[bytes, bool]], emit: Emit, now: float
    ) -> None:
        self._syn = syn
        self._serve, self._emit = serve, emit
        self._mss = max(min(syn.mss, MSS), LEAST_MSS)
        self._window = syn.window
        self._expected = (syn.seq + 1) & _MASK
        self._out = bytearray()
        self._acked = (
            first  # the oldest sequence number that was not acknowledged: of the SYN, of out[0], or of the FIN
        )
        self._sent = 0  # sequence numbers after it that were sent
        self._most_sent = 0
        self._is_open = self._ends = self._fin_is_acked = self._peer_ended = False
        self._rto, self._due, self._tries = FIRST_RTO, 0.0, 0
        self.is_over = False
        self.active = now
        self._answer_syn(now)

    # -- from the client -----------------------------------------------------------------------------------------------

    def receive(self, segment: Segment, now: float) -> None:
        """A segment of this connection."""
        if segment.flags & SYN:
            self._repeated_syn(segment, now)
            return
        if segment.flags & RST:
            self.is_over = segment.seq == self._expected
            return
        if not segment.flags & ACK or not self._acknowledge(segment, now):
            self._send_ack()
            return
        self.active = now
        if self._fin_is_acked and segment.data:
            self.reset()  # nobody reads what comes after the end (RFC 9293, 3.6.1)
            return
        if segment.length:
            self._take(segment)
        elif segment.seq != self._expected:
            self._send_ack()  # a keep-alive probe (RFC 9293, 3.8.4)
        self._push(now)
        self.is_over = self._peer_ended and self._fin_is_acked

    def _repeated_syn(self, segment: Segment, now: float) -> None:
        if not self._is_open and segment.seq == self._syn.seq:
            self._answer_syn(now)
        else:
            self._send_ack()  # RFC 9293, 3.10.7.4: a client that has restarted answers with RST

    def _acknowledge(self, segment: Segment, now: float) -> bool:
        """Whether the acknowledgement is one of this connection."""
        count = distance(self._acked, segment.ack)
        if count > self._most_sent or count < -WINDOW:
            return False
        if not self._is_open:
            if count < 1:
                return False
            self._is_open = True
            count -= 1
            self._acked = (self._acked + 1) & _MASK
            self._sent = self._most_sent = 0
            self._rest(now)
        if count >= 0:
            self._window = segment.window
        if count > 0:
            self._fin_is_acked = self._ends and count == len(self._out) + 1
            del self._out[:count]
            self._acked = (self._acked + count) & _MASK
            self._sent = max(self._sent - count, 0)
            self._most_sent -= count
            self._rest(now)
        return True

    def _take(self, segment: Segment) -> None:
        """Bytes and the end of the client's, if they are the next ones and the last answer was read."""
        before = distance(segment.seq, self._expected)
        if self._peer_ended or before < 0 or before >= segment.length or (self._out or self._ends):
            self._peer_ended |= self._takes_late_end(segment, before)
            self._send_ack()
            return
        data = segment.data[before : before + WINDOW]
        ended = bool(segment.flags & FIN) and before + len(data) == len(segment.data)
        self._expected = (self._expected + len(data) + ended) & _MASK
        self._peer_ended = ended
        for each in ([data] if data else []) + ([b""] if ended else []):
            if not self._ends:
                answer, self._ends = self._serve(each)
                self._out += answer
        self._ends |= ended
        if not self._out and not self._ends:
            self._send_ack()

    def _takes_late_end(self, segment: Segment, before: int) -> bool:
        """The client ends while it reads the answer."""
        late = not self._peer_ended and bool(segment.flags & FIN) and before == len(segment.data)
        if late:
            self._expected = (self._expected + 1) & _MASK
            self._ends = True
        return late

    # -- to the client -------------------------------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """When :meth:`tick` has something to do."""
        return self._due or self.active + IDLE_S

    def tick(self, now: float) -> None:
        """Repeat what was not acknowledged."""
        if now >= self.active + IDLE_S or (self._due and now >= self._due and self._tries >= TRIES):
            self.reset()
        elif self._due and now >= self._due:
            self._tries += 1
            self._rto = min(self._rto * 2, LAST_RTO)
            self._sent = 0
            if self._is_open:
                self._push(now, is_probe=True)
            else:
                self._answer_syn(now)

    def reset(self) -> None:
        """End it at once."""
        self._send(RST | ACK, b"", self._most_sent)
        self.is_over = True

    def _rest(self, now: float) -> None:
        """Something was acknowledged."""
        self._rto, self._tries = FIRST_RTO, 0
        self._due = now + self._rto if self._most_sent else 0.0

    def _push(self, now: float, *, is_probe: bool = False) -> None:
        """Send what the client's window has room for, one byte at least if it is to be probed."""
        room = max(self._window, 1 if is_probe else 0)
        while (self._is_open and self._sent < len(self._out)) and self._sent < room:
            data = bytes(self._out[self._sent : min(self._sent + self._mss, room)])
            self._send(ACK | PSH, data, self._sent)
            self._count(len(data))
        if self._is_open and self._ends and self._sent == len(self._out) and not self._fin_is_acked:
            self._send(ACK | FIN, b"", self._sent)
            self._count(1)
        if is_probe and not self._window:
            self._sent = 0  # it was not accepted
        waits = self._most_sent or len(self._out) > self._sent
        if waits and (is_probe or not self._due):
            self._due = now + self._rto

    def _count(self, more: int) -> None:
        self._sent += more
        self._most_sent = max(self._most_sent, self._sent)

    def _answer_syn(self, now: float) -> None:
        self._send(SYN | ACK, b"", 0)
        self._sent = self._most_sent = 1
        self._due = now + self._rto

    def _send_ack(self) -> None:
        self._send(ACK, b"", self._sent)

    def _send(self, flags: int, data: bytes, at: int) -> None:
        syn = self._syn
        self._emit(
            replace(
                syn,
                source=syn.destination,
                destination=syn.source,
                source_port=syn.port,
                port=syn.source_port,
                seq=(self._acked + at) & _MASK,
                ack=self._expected,
                flags=flags,
                window=WINDOW,
                mss=MSS,
                data=data,
            )
        )


def refusal(segment: Segment) -> Segment | None:
    """The reset that a segment of no connection gets (RFC 9293, 3.10.7.1)."""
    if segment.flags & RST:
        return None
    seq, ack, flags = (segment.ack, 0, RST) if segment.flags & ACK else (0, segment.seq + segment.length, RST | ACK)
    return replace(
        segment,
        source=segment.destination,
        destination=segment.source,
        source_port=segment.port,
        port=segment.source_port,
        seq=seq,
        ack=ack & _MASK,
        flags=flags,
        window=0,
        data=b"",
    )
