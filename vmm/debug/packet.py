"""The framing of gdb's remote serial protocol ("Debugging with GDB", appendix E.1): ``$data#checksum``.

A reader accepts bytes as they come, in any pieces and of any kind, and never holds more than one packet of limited
size.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PACKET = 0x4000
"""Bytes of a packet's data, as it is sent."""
INTERRUPT = b"\x03"
_ESCAPED = b"#$}*"


def checksum(data: bytes) -> int:
    """The sum of *data* modulo 256."""
    return sum(data) & 0xFF


def escape(data: bytes) -> bytes:
    """Binary data as it may stand in a packet."""
    if not any(byte in data for byte in _ESCAPED):
        return data
    return b"".join(b"}" + bytes((byte ^ 0x20,)) if byte in _ESCAPED else bytes((byte,)) for byte in data)


def unescape(data: bytes) -> bytes:
    """Undo :func:`escape`; a lone escape at the end is dropped."""
    if b"}" not in data:
        return data
    out, special = bytearray(), False
    for byte in data:
        if special:
            out.append(byte ^ 0x20)
            special = False
        elif byte == 0x7D:
            special = True
        else:
            out.append(byte)
    return bytes(out)


def frame(data: bytes) -> bytes:
    """*data*, already escaped where necessary, as a packet."""
    return b"$" + data + b"#%02x" % checksum(data)


class Packet:
    """One packet: its data as sent, or None if it was damaged or too long."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | None) -> None:
        self.data = data


class Reader:
    """Extracts packets and interrupts from a stream; acknowledgements and noise between packets are dropped."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._overlong = False

    def feed(self, data: bytes) -> Iterator[Packet | bytes]:
        """The packets that are complete now, and :data:`INTERRUPT` for each Ctrl-C between packets."""
        self._buffer += data
        while self._buffer:
            start = self._buffer[0]
            if start == INTERRUPT[0] and not self._overlong:
                del self._buffer[0]
                yield INTERRUPT
                continue
            if start != 0x24 and not self._overlong:
                del self._buffer[0]
                continue
            end = self._buffer.find(b"#", 0 if self._overlong else 1)
            if end < 0:
                if len(self._buffer) > MAX_PACKET:
                    self._overlong = True
                    self._buffer.clear()
                return
            if len(self._buffer) < end + 3:
                return
            content, told = bytes(self._buffer[1:end]), bytes(self._buffer[end + 1 : end + 3])
            del self._buffer[: end + 3]
            good = not self._overlong and len(content) <= MAX_PACKET and told.lower() == b"%02x" % checksum(content)
            self._overlong = False
            yield Packet(content if good else None)
