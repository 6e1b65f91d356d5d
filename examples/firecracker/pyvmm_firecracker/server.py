"""HTTP/1.1 on a unix socket."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import h11

from pyvmm_firecracker import VERSION
from pyvmm_firecracker.fault import Fault
from pyvmm_firecracker.schema import parse_json

if TYPE_CHECKING:
    from typing import Any

    from pyvmm_firecracker.routes import Api

IDLE_S = 60.0
"""Seconds after which a connection that sends nothing is closed."""
CONNECTIONS = 32
"""At most; one more ends another that has not got an answer yet, or the oldest."""
_CHUNK = 64 << 10


class Server:
    """Serves the API.  A context manager.

    :param path: of the socket, which must not exist yet
    :param most: bytes of a request's body
    :raises OSError: the socket cannot be made
    """

    def __init__(self, api: Api, path: str, most: int) -> None:
        self._api = api
        self._path = path
        self._most = most
        self._open: list[_Connection] = []
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listen(path)
        except OSError as error:
            self._socket.close()
            raise OSError(error.errno, f"{os.strerror(error.errno or errno.EINVAL)}: {path}") from error
        self._made = os.stat(path)
        threading.Thread(target=self._accept, name="fc_api", daemon=True).start()

    def _listen(self, path: str) -> None:
        """Clients connect as soon as the socket has its name: it listens before."""
        made = f"{path}.{os.getpid()}"
        self._socket.bind(made)
        try:
            self._socket.listen(CONNECTIONS)
            os.link(made, path)
        finally:
            os.unlink(made)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:
                return  # it was closed
            sock.settimeout(IDLE_S)
            connection = _Connection(sock, self._api, self._most)
            with self._lock:
                if len(self._open) >= CONNECTIONS:
                    min(self._open, key=lambda each: (each.is_busy, each.served, each.since)).end()
                self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), name="fc_api", daemon=True).start()

    def _serve(self, connection: _Connection) -> None:
        try:
            with contextlib.suppress(OSError):
                connection.serve()
        finally:
            with self._lock:
                self._open.remove(connection)
                connection.close()

    def close(self) -> None:
        """Serve nobody any more, and remove the socket if it is still this one."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self._path), self._made):
                os.unlink(self._path)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Connection:
    """One client: requests one after the other.

    :ivar is_busy: a request is being served
    :ivar served: it has got an answer
    :ivar since: ``time.monotonic()`` of its beginning
    """

    def __init__(self, connection: socket.socket, api: Api, most: int) -> None:
        self.is_busy = self.served = False
        self.since = time.monotonic()
        self._socket = connection
        self._api = api
        self._most = most
        self._is_head = False
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=16 << 10)

    def serve(self) -> None:
        """Until the client goes, or breaks the protocol.

        :raises OSError: it does not answer
        """
        try:
            while (request := self._next()) is not None and isinstance(request, h11.Request):
                self._is_head = request.method == b"HEAD"  # its answer has no body
                self._answer(request)
                if self._protocol.our_state is not h11.DONE or self._protocol.their_state is not h11.DONE:
                    return
                self._protocol.start_next_cycle()
        except h11.RemoteProtocolError as error:
            if self._protocol.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self._send(error.error_status_hint, {"fault_message": f"Invalid HTTP request: {error}."})

    def end(self) -> None:
        """Make room for another client."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()

    def _next(self) -> Any:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            if self._protocol.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                self._socket.sendall(self._protocol.send(go_on) or b"")
            self._protocol.receive_data(self._socket.recv(_CHUNK))
        return None if isinstance(event, h11.ConnectionClosed) else event

    def _body(self, request: h11.Request) -> object:
        """
        :raises Fault: it is too long, or not JSON
        """
        announced = next((value for name, value in request.headers if name == b"content-length"), b"0")
        if int(announced) > self._most:
            raise self._too_long(int(announced))
        data = bytearray()
        while isinstance(event := self._next(), h11.Data):
            data += event.data
            if len(data) > self._most:
                raise self._too_long(len(data))
        if not data:
            return None
        try:
            return parse_json(bytes(data))
        except (ValueError, RecursionError) as error:
            raise Fault(f"An error occurred when deserializing the json body of a request: {error}.") from error

    def _too_long(self, size: int) -> Fault:
        return Fault(
            f"Request payload with size {size} is larger than the limit of {self._most} allowed by server.", 413
        )

    def _answer(self, request: h11.Request) -> None:
        try:
            body = self._body(request)
            self.is_busy = True
            path = request.target.decode("ascii", "replace").partition("?")[0]
            found = self._api.handle(request.method.decode("ascii", "replace"), path, body)
        except Fault as fault:
            self._send(fault.status, {"fault_message": fault.message})
        else:
            self._send(204 if found is None else 200, found)
        finally:
            self.is_busy, self.served = False, True

    def _send(self, status: int, body: object) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        headers = [("Server", f"Firecracker API ({VERSION})"), ("Connection", "keep-alive")]
        if data:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
        if self._protocol.their_state not in (h11.DONE, h11.MUST_CLOSE):
            headers[1] = ("Connection", "close")  # the rest of the body is not read
        events = [
            h11.Response(status_code=status, headers=headers),
            *([h11.Data(data=data)] if data and not self._is_head else ()),
            h11.EndOfMessage(),
        ]
        self._socket.sendall(b"".join(self._protocol.send(event) or b"" for event in events))
