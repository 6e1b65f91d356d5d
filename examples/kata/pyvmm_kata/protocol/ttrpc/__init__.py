"""ttrpc, the protocol between containerd and its shims, and between a Kata runtime and its agent: client and server.

Unary calls, any number at a time over one connection. Streams are answered with UNIMPLEMENTED: no service of this
package needs them.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pyvmm_kata.protocol import protobuf
from pyvmm_kata.protocol.protobuf import Message
from pyvmm_kata.protocol.ttrpc.wire import (
    CODES,
    MAX_DATA,
    NUMBERS,
    REMOTE_OPEN,
    REQUEST,
    RESPONSE,
    CallTimeout,
    ConnectionLost,
    Frames,
    ProtocolError,
    RpcError,
)

__all__ = [
    "ANSWER_DATA",
    "MAX_DATA",
    "Call",
    "CallTimeout",
    "Client",
    "ConnectionLost",
    "Handler",
    "RpcError",
    "Server",
]

MAX_CALLS = 1024  # under way on one connection of a server; each has a thread and up to MAX_DATA of memory
MAX_SILENT = 64  # connections of a server that have sent no call yet; beyond that the oldest is closed
ANSWER_DATA = 64 << 10
"""Bytes of an answer, unless the caller has room for more."""
ANSWER_ELEMENTS = 1 << 14
"""Fields and members of lists of an answer, with all within it."""
MAX_TEXT = 4096
"""Characters of what a server says about an error."""
REPLY_TIME = 30.0  # seconds for a client to read an answer before its connection is closed


class _Answer:
    """The place where a call waits for its response."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.ready = threading.Event()
        self.data: bytes | None = None
        self.error: RpcError | None = None

    def set(self, data: bytes | None, error: RpcError | None) -> None:
        self.data, self.error = data, error
        self.ready.set()


class Client:
    """One connection to a ttrpc server. Any thread may call; a thread of its own dispatches the answers.

    :param sock: a connected stream socket (unix, vsock, ...), which the client owns from now on
    :param peer: the name of the server, for messages: "the agent of sandbox s1"
    """

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self._frames = Frames(sock)
        self._peer = peer
        self._lock = threading.Lock()
        self._waiting: dict[int, _Answer] = {}
        self._next = 1  # a client's streams have odd numbers
        self._lost: str | None = None  # why the connection ended
        self._reader = threading.Thread(target=self._read, name=f"ttrpc client of {peer}", daemon=True)
        self._reader.start()

    def call(
        self, service: str, method: str, request: Message, timeout: float | None, room: int = ANSWER_DATA
    ) -> Message:
        """Call a method and return its response.

        :param service: its full name: "grpc.AgentService"
        :param timeout: seconds; None waits for ever, or until the connection ends
        :param room: the largest answer, in bytes
        :raises CallTimeout: the server did not answer in time
        :raises ConnectionLost: the connection has ended
        :raises RpcError: the status that the server answered
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        data = protobuf.message("ttrpc.Request")(
            service=service,
            method=method,
            payload=request.SerializeToString(),
            timeout_nano=int((timeout or 0) * 1e9),
        ).SerializeToString()
        if len(data) > MAX_DATA:
            raise RpcError("RESOURCE_EXHAUSTED", f"{method}: a request of {len(data)} bytes, {MAX_DATA} are allowed")
        answer = _Answer(room)
        stream = 0
        try:
            with self._frames.turn(deadline):  # numbers must arrive in their order
                stream = self._register(answer)
                self._frames.send(stream, REQUEST, data, deadline)
            if not answer.ready.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                raise TimeoutError
        except TimeoutError:
            raise CallTimeout(f"{self._peer} did not answer {method} within {timeout:g} s") from None
        except OSError as error:
            # The reader knows better why, once it has seen the end as well.
            if not answer.ready.wait(1):
                raise ConnectionLost(f"{method}: the connection to {self._peer} broke: {error}") from None
        finally:
            with self._lock:
                self._waiting.pop(stream, None)
        if answer.error is not None:
            raise answer.error
        return self._unpack(service, method, answer.data or b"")

    def _register(self, answer: _Answer) -> int:
        """The number of a new stream, whose response goes to `answer`."""
        with self._lock:
            if self._lost is not None:
                raise ConnectionLost(self._lost)
            stream = self._next
            self._next += 2
            self._waiting[stream] = answer
        return stream

    def _unpack(self, service: str, method: str, data: bytes) -> Message:
        try:
            response = protobuf.parse(protobuf.message("ttrpc.Response"), data, ANSWER_ELEMENTS)
            if response.status.code:
                raise RpcError(CODES.get(response.status.code, "UNKNOWN"), response.status.message[:MAX_TEXT] or method)
            return protobuf.parse(protobuf.methods(service)[method][1], response.payload, ANSWER_ELEMENTS)
        except ValueError as error:
            raise RpcError("INTERNAL", f"{self._peer} answered {method} with what is {error}") from None

    def _room(self, stream: int) -> int:
        """The limit for the answer of a stream; 0 for an unknown one."""
        with self._lock:
            answer = self._waiting.get(stream)
        return 0 if answer is None else answer.room

    def _read(self) -> None:
        reason = f"the connection to {self._peer} was closed"
        try:
            while (frame := self._frames.receive(self._room)) is not None:
                stream, kind, _, data = frame
                with self._lock:
                    answer = self._waiting.pop(stream, None)
                if answer is None:
                    continue  # its caller has stopped waiting, or there never was one
                if kind != RESPONSE:
                    answer.set(None, RpcError("UNIMPLEMENTED", f"{self._peer} answered with a stream"))
                elif data is None:
                    answer.set(
                        None, RpcError("RESOURCE_EXHAUSTED", f"{self._peer} answered more than {answer.room} bytes")
                    )
                else:
                    answer.set(data, None)
        except ProtocolError as error:
            reason = f"{self._peer} broke the protocol: {error}"
        except OSError as error:
            reason = f"the connection to {self._peer} broke: {error}"
        self._frames.shut_down()
        self._frames.close()
        with self._lock:
            self._lost = reason
            waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer.set(None, ConnectionLost(reason))

    @property
    def is_open(self) -> bool:
        """Whether the connection still stands."""
        return self._lost is None

    def close(self) -> None:
        """End the connection; pending calls raise ConnectionLost. May be called twice, and from any thread."""
        self._frames.shut_down()
        if threading.current_thread() is not self._reader:
            self._reader.join()


class Call(NamedTuple):
    """A handler's information about a call besides its request."""

    method: str
    timeout: float | None
    """Seconds that the client waits; None: no limit."""
    gone: threading.Event
    """Set when the client's connection has ended, so that the answer is not waited for."""


Handler = Callable[[Message, Call], Message]
"""Answers one method: takes the request, returns the response; RpcError is answered as its status."""


class Server:
    """Answers calls of any number of connections, each call in a thread of its own.

    :param services: full name of a service -> name of a method -> its handler. Methods of the service without a handler
        are answered with UNIMPLEMENTED.
    :param on_error: called with exceptions that a handler should not have raised; the client gets INTERNAL
    """

    def __init__(
        self,
        services: Mapping[str, Mapping[str, Handler]],
        on_error: Callable[[str, Exception], None] | None = None,
    ) -> None:
        self._services = services
        self._on_error = on_error or (lambda method, error: None)
        self._lock = threading.Lock()
        self._connections: dict[_Connection, None] = {}
        """In the order of their coming."""
        self._listener: socket.socket | None = None
        self._closed = False

    def serve(self, listener: socket.socket) -> None:
        """Accept connections until close() is called. The server owns `listener` from now on."""
        with self._lock:
            self._listener = listener
            if self._closed:
                listener.close()
                return
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                if self._closed:
                    listener.close()
                    return
                time.sleep(0.1)  # out of descriptors, say: one of the connections will end
                continue
            self.serve_connection(sock)

    def serve_connection(self, sock: socket.socket) -> None:
        """Answer the calls of a connected socket, in the background. The server owns it from now on."""
        connection = _Connection(self, sock)
        with self._lock:
            if self._closed:
                sock.close()
                return
            silent = [each for each in self._connections if each.is_silent]
            if len(silent) >= MAX_SILENT:  # a client that connects and sends nothing locks no other out
                del self._connections[silent[0]]
                silent[0].end()
            self._connections[connection] = None
        try:
            threading.Thread(target=self._run, args=(connection,), name="ttrpc connection", daemon=True).start()
        except RuntimeError:  # no thread left
            with self._lock:
                self._connections.pop(connection, None)
            sock.close()

    def _run(self, connection: _Connection) -> None:
        try:
            connection.run()
        finally:
            with self._lock:
                self._connections.pop(connection, None)

    @property
    def connections(self) -> int:
        """How many clients there are."""
        with self._lock:
            return len(self._connections)

    def answer(self, request: Message, call: Call) -> Message:
        """Route a request to its handler; returns the ttrpc.Response."""
        response = protobuf.message("ttrpc.Response")()
        try:
            handlers = self._services.get(request.service)
            if handlers is None:
                raise RpcError("UNIMPLEMENTED", f"there is no service {request.service!r} here")
            if (handler := handlers.get(request.method)) is None:
                raise RpcError("UNIMPLEMENTED", f"{request.service} has no method {request.method!r} here")
            try:
                content = protobuf.parse(protobuf.methods(request.service)[request.method][0], request.payload)
            except ValueError as error:
                raise RpcError("INVALID_ARGUMENT", f"{request.method}: {error}") from None
            response.payload = handler(content, call).SerializeToString()
        except RpcError as error:
            response.status.code = NUMBERS.get(error.code, NUMBERS["UNKNOWN"])
            response.status.message = error.message
        except Exception as error:
            # A mistake in a handler must neither go unseen nor leave the client waiting.
            self._on_error(request.method, error)
            response.status.code = NUMBERS["INTERNAL"]
            response.status.message = f"{request.method}: {type(error).__name__}: {error}"
        return response

    def close(self) -> None:
        """Stop accepting and end every connection. Handlers that still run are not waited for."""
        with self._lock:
            self._closed = True
            connections = list(self._connections)
            listener = self._listener
        if listener is not None:
            try:
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            except OSError:
                pass
        for connection in connections:
            connection.end()


class _Connection:
    """One client of a server.

    :ivar is_silent: it has sent no call yet
    """

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.is_silent = True
        self._server = server
        self._frames = Frames(sock)
        self._gone = threading.Event()
        self._room = threading.BoundedSemaphore(MAX_CALLS)

    def end(self) -> None:
        """End the connection."""
        self._frames.shut_down()

    def run(self) -> None:
        """Answer calls until the connection ends."""
        newest = 0
        try:
            while (frame := self._frames.receive()) is not None:
                self.is_silent = False
                stream, kind, flags, data = frame
                if kind != REQUEST:
                    continue  # data of a stream that was refused
                if stream % 2 == 0 or stream <= newest:
                    self._refuse(stream, "INVALID_ARGUMENT", f"stream {stream} is even or was used before")
                    continue
                newest = stream
                if data is None:
                    self._refuse(stream, "RESOURCE_EXHAUSTED", f"a request of more than {MAX_DATA} bytes")
                elif flags & REMOTE_OPEN:
                    self._refuse(stream, "UNIMPLEMENTED", "streams are not served")
                elif not self._room.acquire(blocking=False):
                    self._refuse(stream, "RESOURCE_EXHAUSTED", f"more than {MAX_CALLS} calls at a time")
                else:
                    try:
                        threading.Thread(
                            target=self._answer, args=(stream, data), name="ttrpc call", daemon=True
                        ).start()
                    except RuntimeError:
                        self._room.release()
                        self._refuse(stream, "RESOURCE_EXHAUSTED", "the host has no thread left")
        except (OSError, ProtocolError):
            pass  # the client has closed, or is none
        finally:
            self._gone.set()
            self._frames.shut_down()
            self._frames.close()

    def _answer(self, stream: int, data: bytes) -> None:
        try:
            try:
                request = protobuf.parse(protobuf.message("ttrpc.Request"), data)
            except ValueError as error:
                self._refuse(stream, "INVALID_ARGUMENT", str(error))
                return
            timeout = request.timeout_nano / 1e9 if request.timeout_nano > 0 else None
            response = self._server.answer(request, Call(request.method, timeout, self._gone))
            if response.ByteSize() > MAX_DATA:
                self._refuse(
                    stream, "RESOURCE_EXHAUSTED", f"{request.method}: the answer has {response.ByteSize()} bytes"
                )
                return
            self._send(stream, response)
        finally:
            self._room.release()

    def _refuse(self, stream: int, code: str, message: str) -> None:
        response = protobuf.message("ttrpc.Response")()
        response.status.code = NUMBERS[code]
        response.status.message = message
        self._send(stream, response)

    def _send(self, stream: int, response: Message) -> None:
        try:
            deadline = time.monotonic() + REPLY_TIME
            with self._frames.turn(deadline):
                self._frames.send(stream, RESPONSE, response.SerializeToString(), deadline)
        except (OSError, TimeoutError):
            self._frames.shut_down()  # a client that does not read its answers gets no more
