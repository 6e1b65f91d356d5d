"""Forwards connections to loopback addresses of the pod's network namespace to the guest's servers.

kubelet's port-forward (containerd) connects to 127.0.0.1 or ::1 in that namespace, where a container of runc's would
listen.  Two sockets listen there, one for each family, and get every connection to such an address, whatever its port
is (:mod:`pyvmm_kata.host.socket_lookup`).  The guest's agent connects to the same port in the guest.

A client of a port without a listener has to be refused before its handshake ends, as the guest would do. So the guest
is queried first. Meanwhile the client's SYN goes to a third or fourth socket, whose filter accepts nothing, and the
kernel drops it. A raw socket receives a copy of it. After the answer, the SYN is sent again, to the listening socket,
or a RST is sent to the client.

The guest cannot use this. Its frames to such an address go from its tap device to the pod's interface (*mirred*) before
the namespace's stack sees them, which accepts such addresses from ``lo`` alone. The BPF program is attached by a
descriptor of this process, and detached when that is closed.
"""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING

from pyvmm_kata.host import syn_proxy
from pyvmm_kata.host.relay import pump, reset_on_close, shut
from pyvmm_kata.host.socket_lookup import Steering
from pyvmm_kata.pod.guest_port import connect_to_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata.host.syn_proxy import Knock

MAX_CONNECTIONS = 256
"""At a time; further ones complete their handshake, wait, and are reset if nobody listens."""
_REMEMBERED = 64
"""How many clients are remembered, to tell a repeated SYN from a new one."""
HANDSHAKE_S = 10.0
"""How long a client may take from the answer to its connection."""
FULL_MS = 100
"""Milliseconds between looks for a free place, while all are taken."""
_BACKLOG = 128
_FAMILIES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Loopback:
    """Listens, and copies bytes on threads of its own, two for each connection.

    Made in the pod's network namespace.

    :param dial: makes a connection to the agent's port for this
    :raises OSError: the kernel has no BPF programs of type sk_lookup, or this process may not load one
    """

    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        self._dial = dial
        self._places = threading.Semaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._knocks: dict[tuple[int, str, int, int], Knock] = {}
        self._recent: deque[Knock] = deque(maxlen=_REMEMBERED)
        self._waiting: deque[socket.socket] = deque()
        self._closed = False
        self._steering: Steering | None = None
        self._listeners: dict[int, socket.socket] = {}
        self._raw: dict[int, socket.socket] = {}
        self._deaf: list[socket.socket] = []
        try:
            deaf = [self._listen(index) for index in range(len(_FAMILIES))]
            self._steering = Steering([*map(self._listeners.get, range(len(_FAMILIES))), *deaf])
        except BaseException:
            self.close()
            self._release()
            raise

    def _listen(self, index: int) -> socket.socket | None:
        """Make the sockets of a family; returns the one whose filter accepts nothing."""
        family, address = _FAMILIES[index]
        try:
            listener = _listener(family, address, _BACKLOG)
        except OSError:
            if family == socket.AF_INET6:
                return None  # the kernel has no IPv6, or it is disabled in this namespace
            raise
        self._listeners[index] = listener
        deaf = _listener(family, address, 1)
        self._deaf.append(deaf)
        syn_proxy.deafen(deaf)
        self._raw[index] = syn_proxy.listen(family)
        return deaf

    def start(self) -> None:
        """Start to serve connections."""
        threading.Thread(target=self._watch, name="loopback", daemon=True).start()

    def close(self) -> None:
        """Detach from the namespace, and end open connections.  A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._steering is not None:
                self._steering.close()
            for each in (*self._listeners.values(), *self._raw.values(), *self._open):
                shut(each, socket.SHUT_RDWR)  # wakes the threads that wait for it
            for each in (*self._deaf, *self._waiting):
                each.close()
            for knock in self._knocks.values():
                knock.taken.set()

    def _release(self) -> None:
        for each in (*self._listeners.values(), *self._raw.values()):
            each.close()

    def _watch(self) -> None:
        poll = select.poll()
        raws = {raw.fileno(): index for index, raw in self._raw.items()}
        listeners = {listener.fileno(): listener for listener in self._listeners.values()}
        for fd in raws:
            poll.register(fd, select.POLLIN)
        while not self._closed:
            full = len(self._waiting) >= _BACKLOG
            for fd in listeners:
                poll.register(fd, 0 if full else select.POLLIN)
            for fd, _ in poll.poll(FULL_MS if full else None):
                if fd in raws:
                    knock = syn_proxy.hear(self._raw[raws[fd]], raws[fd])
                    if knock is not None:
                        self._take(knock)
                elif (client := _accept(listeners[fd])) is not None:
                    self._welcome(client)
        self._release()

    # -- connections that are asked for ------------------------------------------------------------------------------

    def _take(self, knock: Knock) -> None:
        """Query the guest, unless a query is pending: a client without an answer repeats its SYN."""
        with self._lock:
            if knock.key in self._knocks or any(knock.is_of(other) for other in self._recent) or self._closed:
                return
            asked = self._places.acquire(blocking=False)
            if asked:
                self._knocks[knock.key] = knock
            self._recent.append(knock)
        if asked:
            try:
                threading.Thread(target=self._ask, args=(knock,), name="knock", daemon=True).start()
                return
            except RuntimeError:  # no thread can be made
                self._forget(knock)
                self._leave()
        self._let(knock)

    def _ask(self, knock: Knock) -> None:
        try:
            server = self._connect(knock.address, knock.server)
        except OSError:
            server = None  # the guest has ended, or its answer is invalid
        if server is None:
            self._forget(knock)
            self._refuse(knock)
        else:
            knock.answer = server
            self._let(knock)
            if knock.taken.wait(HANDSHAKE_S) and knock.answer is None:
                return  # its place is the connection's
            self._forget(knock)
            if knock.answer is None:
                return
            server.close()
        self._leave()

    def _let(self, knock: Knock) -> None:
        with self._lock:
            if self._closed or self._steering is None:
                return
            try:
                self._steering.let(knock.index, knock.client, knock.server)
                knock.send(self._raw[knock.index])
            except OSError:
                pass  # it knocks again, in vain

    def _refuse(self, knock: Knock) -> None:
        with self._lock:
            if not self._closed:
                try:
                    knock.refuse(self._raw[knock.index])
                except OSError:
                    pass  # it knocks again, in vain

    def _forget(self, knock: Knock) -> None:
        """Remove its record."""
        with self._lock:
            self._knocks.pop(knock.key, None)
            if not self._closed and self._steering is not None:
                self._steering.forget(knock.index, knock.client, knock.server)

    def _answer_of(self, client: socket.socket) -> socket.socket | None:
        """The connection to the guest that was queried, with its place; None if there is none."""
        index = 0 if client.family == socket.AF_INET else 1
        address, port = client.getpeername()[:2]
        server: int = client.getsockname()[1]
        with self._lock:
            knock = self._knocks.pop((index, address, port, server), None)
            if not self._closed and self._steering is not None:
                self._steering.forget(index, port, server)
            if knock is None:
                return None
            answer, knock.answer = knock.answer, None
            knock.taken.set()
            return answer

    # -- connections -------------------------------------------------------------------------------------------------

    def _welcome(self, client: socket.socket) -> bool:
        """Serve it, or queue it for a place; False: it has been closed already."""
        try:
            server = self._answer_of(client)
        except OSError:
            client.close()
            return False
        if server is None:
            with self._lock:
                if self._closed:
                    client.close()
                    return True
                if not self._places.acquire(blocking=False):
                    self._waiting.append(client)
                    return True
        try:
            threading.Thread(target=self._serve, args=(client, server), name="loopback", daemon=True).start()
        except RuntimeError:  # no thread can be made
            reset_on_close(client)
            client.close()
            if server is not None:
                server.close()
            self._leave()
        return True

    def _leave(self) -> None:
        """Release a place, and give it to a waiting connection."""
        self._places.release()
        while True:
            with self._lock:
                if self._closed or not self._waiting:
                    return
                client = self._waiting.popleft()
            if self._welcome(client):
                return

    def _serve(self, client: socket.socket, server: socket.socket | None) -> None:
        try:
            server = server or self._connect(*client.getsockname()[:2])
            if server is None:
                reset_on_close(client)
            elif self._add(client, server):
                back = threading.Thread(target=pump, args=(server, client), name="loopback", daemon=True)
                back.start()
                pump(client, server)
                back.join()
        except (OSError, RuntimeError):
            reset_on_close(client)  # the guest has ended, or no thread can be made
        finally:
            with self._lock:
                self._open -= {client, server}
            client.close()
            if server is not None:
                server.close()
            self._leave()

    def _add(self, *sockets: socket.socket) -> bool:
        with self._lock:
            if not self._closed:
                self._open.update(sockets)
            return not self._closed

    def _connect(self, address: str, port: int) -> socket.socket | None:
        """A connection to the same port in the guest; None: nothing listens there."""
        return connect_to_port(self._dial, address, port)


def _accept(listener: socket.socket) -> socket.socket | None:
    try:
        client = listener.accept()[0]
    except OSError as error:
        if error.errno in (23, 24):
            threading.Event().wait(0.1)
        return None
    client.setblocking(True)
    return client


def _listener(family: int, address: str, backlog: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.bind((address, 0))
        made.listen(backlog)
    except BaseException:
        made.close()
        raise
    return made
