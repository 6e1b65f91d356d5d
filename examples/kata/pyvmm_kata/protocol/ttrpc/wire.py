"""ttrpc frames on a socket, and the statuses of calls. The protocol: github.com/containerd/ttrpc, PROTOCOL.md."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

MAX_DATA = 4 << 20
"""The most bytes that a frame may carry ("Message Frame": larger ones should be rejected)."""

HEADER = struct.Struct(">IIBB")  # data length, stream id, message type, flags
REQUEST, RESPONSE, DATA = 1, 2, 3
REMOTE_OPEN = 2  # a flag of requests: the stream is no unary call

CODES = {
    0: "OK",
    1: "CANCELLED",
    2: "UNKNOWN",
    3: "INVALID_ARGUMENT",
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    6: "ALREADY_EXISTS",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    10: "ABORTED",
    11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
    16: "UNAUTHENTICATED",
}
"""google.rpc.Code, by number."""

NUMBERS = {name: number for number, name in CODES.items()}


class RpcError(Exception):
    """A call failed: the status in the server's answer, or one that a server's handler raises.

    :ivar code: the name of a google.rpc.Code, "UNKNOWN" for unknown numbers
    :ivar message: what the server says
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


class CallTimeout(RpcError):
    """The peer did not answer in time; the message names it, and the call. The connection stays open."""

    def __init__(self, message: str) -> None:
        super().__init__("DEADLINE_EXCEEDED", message)


class ConnectionLost(RpcError):
    """The connection ended before the answer: closed by one of the two sides, or the peer broke the protocol."""

    def __init__(self, message: str) -> None:
        super().__init__("UNAVAILABLE", message)


class ProtocolError(Exception):
    """The peer sent something that is not ttrpc; later data on the connection cannot be parsed."""


class Frames:
    """Complete frames over a connected stream socket. One thread may receive while any number send."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._turn = threading.Lock()
        self._broken = False

    @contextlib.contextmanager
    def turn(self, deadline: float | None) -> Iterator[None]:
        """Hold the right to send; `deadline` is in time.monotonic()'s seconds. Raises TimeoutError."""
        if not self._turn.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        try:
            yield
        finally:
            self._turn.release()

    def send(self, stream: int, kind: int, data: bytes, deadline: float | None) -> None:
        """Send one frame; the caller holds turn().

        Raises TimeoutError if the peer does not accept it in time, OSError if the connection has ended.
        """
        if self._broken:
            raise BrokenPipeError("a frame was cut off before")
        left = memoryview(HEADER.pack(len(data), stream, kind, 0) + data)
        started = False
        while left:
            try:
                sent = self._sock.send(left, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if self._wait_for_room(deadline):
                    continue
                if started:  # the rest can never follow, so that the peer would take the next frame for it
                    self._broken = True
                    self.shut_down()
                raise TimeoutError from None
            started = True
            left = left[sent:]

    def _wait_for_room(self, deadline: float | None) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        wait = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        return bool(poll.poll(wait))

    def receive(
        self, room: Callable[[int], int] = lambda stream: MAX_DATA
    ) -> tuple[int, int, int, bytes | None] | None:
        """The next frame: stream id, type, flags and data, or None at the end of the connection.

        The data is None if it was larger than the stream's limit; it was skipped then. Raises ProtocolError for an
        invalid header, OSError if the connection breaks.
        """
        header = self._read(HEADER.size)
        if header is None:
            return None
        length, stream, kind, flags = HEADER.unpack(header)
        if length >= 1 << 24:
            raise ProtocolError(f"a frame of {length} bytes is announced: the first byte of a header is always zero")
        if length > room(stream):
            while length:
                skipped = self._sock.recv(min(length, 1 << 16))
                if not skipped:
                    return None
                length -= len(skipped)
            return stream, kind, flags, None
        data = self._read(length)
        return None if data is None else (stream, kind, flags, data)

    def _read(self, size: int) -> bytes | None:
        """Exactly `size` bytes; None if the connection ends before."""
        parts = []
        while size:
            part = self._sock.recv(min(size, 1 << 18))
            if not part:
                return None
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def shut_down(self) -> None:
        """End both directions; a receiving thread gets the end of the connection."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was first

    def close(self) -> None:
        """Give the socket back. Only the receiving thread may call it."""
        with self._turn:
            self._broken = True
            self._sock.close()
