"""The host's end of the connection on which the core reports system calls: see `core/hooks/exchange.c`.

An attacker may control the core. So what it sends is bounded, and a message that makes no sense ends the connection,
which ends the sandbox.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Callable

from pyvmm_sentry import events
from vmm import HostError

PORT = 1025
DECIDE, TRACE = 2, 4
"""Bits for each system call: `WATCH_*` of the core."""
CONTENT_MOST = 1 << 20
_ANSWER, _WATCH, _START, _FILE, _STATUS = range(5)
_ORDER = struct.Struct("<IIQq")
_RECORD_MOST = 4 << 20
_WORKERS, _WAITING = 8, 4096
_REPLY_S = 30.0

Decide = Callable[[events.Event], tuple[int, bytes]]
"""Returns -errno; or 0 or more: which argument the bytes replace, if there are any."""


class Connection:
    """Answers the core's questions on threads of its own, eight at most.

    :param decide: called for a system call
    :param content: called for the file of that number that a program opens; it raises OSError to refuse
    :param trace: called for the record of a trace point
    :param on_end: called when the core sends nothing more
    :ivar exchanges: how many questions the core has asked
    :ivar dropped: how many trace points the core has lost
    """

    def __init__(
        self,
        sock: socket.socket,
        decide: Decide,
        content: Callable[[int], bytes],
        trace: Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self.exchanges = self.dropped = 0
        self._sock, self._decide, self._content = sock, decide, content
        self._trace, self._on_end = trace, on_end
        self._sending = threading.Lock()
        self._questions: queue.Queue[tuple[events.Header, bytes]] = queue.Queue(_WAITING)
        self._replies: dict[int, queue.SimpleQueue[tuple[events.Header, bytes] | None]] = {}
        self._lock = threading.Lock()
        self._last_id = self._workers = self._idle = 0
        self._closed = False
        self._reader = threading.Thread(target=self._read, name="sentry-hooks", daemon=True)
        self._reader.start()

    # -- orders ------------------------------------------------------------------------------------------------------

    def watch(self, bits: bytes, timeout: float) -> None:
        """Select the system calls to report, by number.

        :param timeout: seconds that the core waits for an answer
        """
        self._order(_WATCH, bits, int(timeout * 1e9))

    def serve(self, number: int, path: bytes) -> None:
        """Serve a file at a path.

        :raises HostError: the core cannot place a file there
        """
        self._order(_FILE, path, number)

    def start(self) -> None:
        """Release the program, which the core holds back until its hooks are configured."""
        self._order(_START)

    def status(self) -> tuple[events.Header, bytes]:
        """The state of the core and of the programs that it runs."""
        return self._order(_STATUS)

    def _order(self, kind: int, data: bytes = b"", value: int = 0) -> tuple[events.Header, bytes]:
        """
        :raises HostError: the core refuses, or has ended
        """
        reply: queue.SimpleQueue[tuple[events.Header, bytes] | None] = queue.SimpleQueue()
        with self._lock:
            self._last_id += 1
            number = self._last_id
            self._replies[number] = reply
        try:
            self._send(kind, number, value, data)
            found = None if self._closed else reply.get(timeout=_REPLY_S)
        except (OSError, queue.Empty):
            found = None
        finally:
            del self._replies[number]
        if found is None:
            raise HostError("the sandbox has ended, or does not answer")
        if found[0].result:
            raise OSError(-found[0].result, "the core refuses")
        return found

    def _send(self, kind: int, number: int, value: int, data: bytes) -> None:
        with self._sending:
            self._sock.sendall(_ORDER.pack(kind, len(data), number, value) + data)

    # -- what the core sends -----------------------------------------------------------------------------------------

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError, queue.Full), self._sock.makefile("rb") as stream:
            while size := stream.read(4):
                length = int.from_bytes(size, "little")
                data = stream.read(length) if length <= _RECORD_MOST else b""
                if len(data) != length:
                    break
                self._take(data)
        self.close()
        self._on_end()

    def _take(self, data: bytes) -> None:
        head = events.header(data)
        if head.kind in (events.DECIDE, events.FILE):
            self.exchanges += 1
            self._questions.put_nowait((head, data))
            self._hire()
        elif head.kind == events.TRACE:
            self._trace(data)
        elif head.kind == events.DROPPED:
            self.dropped = head.args[0]
        elif head.kind == events.REPLY and head.id in self._replies:
            self._replies[head.id].put((head, data))

    def _hire(self) -> None:
        """Start a thread if all are busy: a hook that hangs does not hold up the others."""
        with self._lock:
            if self._workers >= _WORKERS or self._idle >= self._questions.qsize():
                return
            self._workers += 1
        threading.Thread(target=self._work, name="sentry-hook", daemon=True).start()

    def _work(self) -> None:
        while not self._closed:
            with self._lock:
                self._idle += 1
            found = self._questions.get()
            with self._lock:
                self._idle -= 1
            if self._closed:
                break
            value, data = self._answer(*found)
            with contextlib.suppress(OSError):
                self._send(_ANSWER, found[0].id, value, data)

    def _answer(self, head: events.Header, data: bytes) -> tuple[int, bytes]:
        if head.kind == events.DECIDE:
            return self._decide(events.Event(data))
        try:
            return 0, self._content(head.args[0])
        except OSError as error:
            return -(error.errno or 5), b""

    def finish(self) -> None:
        """The core has ended: read what it has sent."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection, and with it the sandbox.  What had come before is taken.  A second call does nothing."""
        self._closed = True
        self.finish()
        if self._reader is not threading.current_thread():
            self._reader.join()
        self._sock.close()
        for reply in list(self._replies.values()):
            reply.put(None)
        for _ in range(_WORKERS):
            with contextlib.suppress(queue.Full):
                self._questions.put_nowait((events.Header(0, 0, 0, 0, 0, 0, 0, (), 0, 0, b""), b""))
