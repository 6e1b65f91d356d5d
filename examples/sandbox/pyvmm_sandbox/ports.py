"""TCP servers inside a sandbox, as ports of the host: ``box.ports``.  The sandbox needs no network for them."""

from __future__ import annotations

import socket
import threading
import weakref
from typing import TYPE_CHECKING

from pyvmm_kata.errors import VmmError
from pyvmm_kata.host.relay import pump, reset_on_close, shut
from pyvmm_sandbox.errors import UsageError, error_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pyvmm_kata import Container

    Dial = Callable[[int], socket.socket]

MOST_CONNECTIONS = 128
"""At a time, for each forwarded port; others wait until one of them ends."""
_LARGEST = 0xFFFF


class Forward:
    """A port of the host that leads to one inside a sandbox.  It ends with the sandbox, and as a context manager with
    the block.

    :ivar host: the address of the host
    :ivar port: the port of the host
    """

    def __init__(self, dial: Dial, inside: int, listener: socket.socket) -> None:
        self.host, self.port = listener.getsockname()[:2]
        self._dial = dial
        self._inside = inside
        self._listener = listener
        self._places = threading.Semaphore(MOST_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, name=f"port {inside}", daemon=True).start()

    @property
    def url(self) -> str:
        """Of a web server at that port."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def close(self) -> None:
        """Listen no more, and end its connections.  A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for each in self._open:
                shut(each, socket.SHUT_RDWR)  # wakes the threads that wait for it
        shut(self._listener, socket.SHUT_RDWR)
        self._places.release()

    def _accept(self) -> None:
        with self._listener:
            while True:
                self._places.acquire()
                try:
                    client = self._listener.accept()[0]
                except OSError:
                    if self._closed:
                        return
                    self._places.release()
                    threading.Event().wait(0.1)  # no descriptor is left: some will be closed
                    continue
                threading.Thread(target=self._serve, args=(client,), name=f"port {self._inside}", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client:
                try:
                    server = self._dial(self._inside)
                except (OSError, VmmError):
                    reset_on_close(client)
                    return
                with server:
                    self._relay(client, server)
        finally:
            self._places.release()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        with self._lock:
            if self._closed:
                return
            self._open |= {client, server}
        back = threading.Thread(target=pump, args=(server, client), name=f"port {self._inside}", daemon=True)
        back.start()
        pump(client, server)
        back.join()
        with self._lock:
            self._open -= {client, server}

    def __enter__(self) -> Forward:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"<Forward {self.host}:{self.port} to {self._inside}>"


class Ports:
    """The ports of a sandbox: ``box.ports``.  They are those of its loopback addresses.

    :param dial: connects to one
    """

    def __init__(self, container: Container, dial: Dial) -> None:
        self._container = container
        self._dial = dial
        self._forwards: weakref.WeakSet[Forward] = weakref.WeakSet()

    def forward(self, port: int, host: str = "127.0.0.1", host_port: int = 0) -> Forward:
        """Forward a port of the host to a port inside.  A server can start there later.

        :param host: the address of the host that listens
        :param host_port: the port of the host; 0: a free one
        :raises OSError: the host's port is in use
        """
        _check(port)
        if host_port:
            _check(host_port)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = Forward(self._dial, port, socket.create_server((host, host_port), family=family, backlog=128))
        self._forwards.add(made)
        return made

    def connect(self, port: int) -> socket.socket:
        """A connection to a port inside.

        :raises ConnectionRefusedError: nothing listens there
        :raises SandboxGone: the sandbox has ended
        """
        _check(port)
        try:
            return self._dial(port)
        except VmmError as error:
            raise error_of(self._container, error) from error

    def close(self) -> None:
        """End all forwards."""
        for each in list(self._forwards):
            each.close()


def _check(port: int) -> None:
    if not 1 <= port <= _LARGEST:
        raise UsageError(f"port {port} is not 1 to {_LARGEST}")
