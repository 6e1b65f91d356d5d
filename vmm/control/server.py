"""The server of one machine's control socket, with a thread for each connection.

A request is one line: a JSON object with ``command`` and the arguments of that command.  Answers are lines, too: any
number with ``progress``, then one with ``ok`` or with ``error``.  An invalid request ends the connection.

Idle connections are closed for new ones, so no client can lock others out by connecting.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import socket
import struct
import time

from vmm import report
from vmm.control.plugged import Disks, Shares
from vmm.control.requests import REQUESTS
from vmm.errors import ConfigError, VmmError, as_answer, as_fault
from vmm.faststart.thread import Thread, allocate_lock
from vmm.lifecycle import check_children
from vmm.virtio.vsock.path import Listening, listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.machine.interface import MachineInterface
    from vmm.virtio.image import Below

    Tell = Callable[[dict[str, Any]], None]

_log = logging.getLogger(__name__)

LINE_MAX = 64 << 10
"""The longest request, in bytes."""
CONNECTIONS_MAX = 16
"""Connections of one user, with a thread each."""
_ALL_MAX = 4 * CONNECTIONS_MAX
_ANSWER_S = 30
"""Seconds that a client may leave an answer unread."""
_FOR_NOW = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED, errno.EINTR)
"""Why a connection may not be accepted, and the next one may."""
_SEND_S = 2
"""Seconds that :meth:`ControlServer.close` waits for a client to read its answer."""


def import_the_rest(*, disks: bool, shares: bool) -> None:
    """Import what a request may need, in a process that cannot map code afterwards.

    :param disks: disks may be plugged in
    :param shares: the same of shares
    """
    import ctypes
    import hashlib
    import shutil
    import tempfile

    import cbor2

    from vmm.faststart.builtin import sha256
    from vmm.saving import bases, memory_base, memory_file, new_directory, snapshot, working_set
    from vmm.saving import disk_copies as files
    from vmm.version import version

    assert shutil and tempfile and cbor2 and snapshot and bases and new_directory and files
    assert memory_base and memory_file and working_set
    if disks:
        import fcntl

        from vmm.virtio.blk import device

        assert fcntl and device
    if shares:
        from vmm.saving import records
        from vmm.virtio import fs

        assert records and fs
    ctypes.CDLL(None)
    hashlib.sha256()
    sha256(b"")
    version()


class _Gone(Exception):
    """The client has closed its connection, or reads no answers."""


class _Connection:
    """A client.  Its fields change under the server's lock.

    :ivar uid: the client's user
    :ivar busy: a request is being served
    :ivar since: time since which it is idle
    :ivar is_ended: it was closed for another one
    :ivar served: held until its thread has closed it
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        _, self.uid, _ = struct.unpack("=3I", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self.busy = self.is_ended = False
        self.since = time.monotonic()
        self.served = allocate_lock()
        self.served.acquire()
        self.thread: Thread | None = None

    def send(self, answer: dict[str, Any]) -> None:
        """
        :raises _Gone: the client does not read it
        """
        data = memoryview(json.dumps(answer).encode() + b"\n")
        deadline = time.monotonic() + _ANSWER_S
        try:
            while data:
                try:
                    data = data[self.sock.send(data, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    writable = select.poll()
                    writable.register(self.sock, select.POLLOUT)
                    if not writable.poll(max(0.0, deadline - time.monotonic()) * 1000):
                        raise _Gone from None
        except OSError as error:
            raise _Gone from error


class ControlServer:
    """Serves *machine* at a unix socket until :meth:`close`.  A context manager.

    :param path: where to make the socket, with mode 0600; or a socket that listens already
    :param below: directories from which disks may be plugged in; None: none
    :param shares: the same for directories of shares
    :param forker: makes children of the machine, numbered from the second argument on; None: this process does
    :ivar disks: those that were plugged in
    :ivar shares: the same of shares
    :raises ConfigError: the socket cannot be made
    """

    def __init__(
        self,
        machine: MachineInterface,
        path: str | Listening,
        below: Below | None = None,
        shares: Below | None = None,
        forker: Callable[[int, int], list[dict[str, str]]] | None = None,
    ) -> None:
        self.machine = machine
        self.disks = Disks(machine, below, lambda: self._stopping)
        self.shares = Shares(machine, shares, lambda: self._stopping)
        self._forker = forker
        self._listening = listen(path, socket.SOCK_STREAM) if isinstance(path, str) else path
        self._socket = socket.socket(fileno=os.dup(self._listening.sock.fileno()))
        self._socket.setblocking(True)
        self._lock = allocate_lock()
        self._connections: list[_Connection] = []
        self._stopping = False
        self._children: list[Child] = []
        self._forked = 0
        self._thread = Thread(self._accept, "control")
        self._thread.start()

    @property
    def path(self) -> str:
        """The absolute path of the socket."""
        return self._listening.path

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError as error:
                if error.errno not in _FOR_NOW or self._stopping:
                    return  # closed
                self._wait_for_room()
                continue
            connection = _Connection(sock)
            with self._lock:
                if not self._stopping and self._has_room(connection.uid):
                    connection.thread = Thread(self._server(connection), "control")
                    self._connections.append(connection)
                    connection.thread.start()
                    continue
            try:
                connection.send(
                    {
                        "error": f"{CONNECTIONS_MAX} requests are being served",
                        "code": "control-busy",
                        "hint": "try again when one of them has ended",
                    }
                )
            except _Gone:
                pass
            sock.close()

    def _has_room(self, uid: int) -> bool:
        """Whether another connection of this user may be served; an idle one is closed for it."""
        living = [each for each in self._connections if not each.is_ended]
        own = [each for each in living if each.uid == uid]
        if len(own) < CONNECTIONS_MAX and len(living) < _ALL_MAX:
            return True
        return self._end_idle(own)

    def _end_idle(self, connections: list[_Connection]) -> bool:
        """End the connection that has been idle longest; False if none is idle."""
        idle = [each for each in connections if not each.busy and not each.is_ended]
        if not idle:
            return False
        found = min(idle, key=lambda each: each.since)
        found.is_ended = True
        _shut(found.sock, socket.SHUT_RDWR)
        return True

    def _wait_for_room(self) -> None:
        """This process has no free descriptor, or the host no memory."""
        with self._lock:
            self._end_idle(self._connections)
            waiting = [each.served for each in self._connections]
        if waiting:
            if waiting[0].acquire(timeout=1.0):
                waiting[0].release()
        else:
            select.poll().poll(100)  # for others to close some

    def _server(self, connection: _Connection) -> Callable[[], None]:
        return lambda: self._serve(connection)

    def _serve(self, connection: _Connection) -> None:
        try:
            with connection.sock.makefile("rb") as stream:
                while line := stream.readline(LINE_MAX):
                    with self._lock:
                        if connection.is_ended:
                            return
                        connection.busy = True
                    if not self._answer(line, connection.send):
                        return
                    with self._lock:
                        connection.busy, connection.since = False, time.monotonic()
        except (OSError, _Gone):
            pass  # the client has closed the connection
        finally:
            with self._lock:
                self._connections.remove(connection)
            connection.sock.close()
            connection.served.release()

    def _answer(self, line: bytes, tell: Tell) -> bool:
        """Serve one line; False: it is not a request.

        :raises _Gone: the client does not read the answer
        """
        try:
            request = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("command"), str):
            tell({"error": "a request is a JSON object with a command", "code": "control-request", "hint": ""})
            return False
        name = request.pop("command")
        try:
            known = REQUESTS.get(name)
            if known is None:
                raise ConfigError(
                    f"no command {name!r:.60}", code="control-command", hint="there are: " + ", ".join(REQUESTS)
                )
            tell({"ok": known.work(self, known.take(request), tell) or {}})
        except VmmError as error:
            tell(as_answer(error))
        except _Gone:
            raise
        except Exception as error:
            _log.exception("a request to the control socket failed")
            tell(as_fault(name, error))
        return True

    def fork(self, n: int) -> list[dict[str, str]]:
        """Fork the machine into *n* children, each with a control socket.  They end at :meth:`close` at the latest.

        :returns: the paths of each child's sockets
        """
        check_children(n)
        with self._lock:
            first = self._forked + 1
            self._forked += n
        return self._fork_here(n, first) if self._forker is None else self._forker(n, first)

    def _fork_here(self, n: int, first: int) -> list[dict[str, str]]:
        machine = self.machine
        numbers = range(first, first + n)
        children = machine.fork(n, each=lambda index: machine.config.own_devices(numbers[index]), start=False)
        made: list[Child] = []
        try:
            for number, child in zip(numbers, children, strict=True):
                path = f"{self.path}.{number}"
                made.append(Child(child, path, ControlServer(child, path)))
            for child in children:
                child.start(confined=machine.confined)
        except BaseException:
            for child in children:
                child.close()
            for each in made:
                each.close()
            raise
        with self._lock:
            self._children = [each for each in self._children if each.lives] + made
        return [each.where() for each in made]

    def close(self) -> None:
        """Accept no more requests, answer those that were made, end the machine's children, and remove the socket.
        May be called again."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            connections = list(self._connections)
        _shut(self._socket, socket.SHUT_RDWR)
        for connection in connections:
            _shut(connection.sock, socket.SHUT_RD)
        self._thread.join()
        for connection in connections:
            # A client that does not read its answer delays the end of the machine by no more than this
            if not connection.served.acquire(timeout=_SEND_S):
                _shut(connection.sock, socket.SHUT_RDWR)
            else:
                connection.served.release()
            assert connection.thread is not None
            connection.thread.join()
        for child in self._children:
            child.close()
        self._socket.close()
        self._listening.close()

    def __enter__(self) -> ControlServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _shut(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:
        pass  # this end or the other one is closed


class Child:
    """A child that the command ``fork`` made.

    :param path: of its control socket
    :param server: the server of its socket, unless another process serves it
    """

    def __init__(self, machine: MachineInterface, path: str, server: ControlServer | None = None) -> None:
        self._machine = machine
        self._path = path
        self._server = server
        self._thread = Thread(self._wait, "forked")
        self._thread.start()

    @property
    def lives(self) -> bool:
        """Whether it is still open."""
        return self._machine.state != "closed"

    def where(self) -> dict[str, str]:
        """The paths of its sockets."""
        vsock = self._machine.config.vsock
        return {"control": self._path, "vsock": "" if vsock is None else vsock.uds}

    def _wait(self) -> None:
        try:
            self._machine.wait()
        except VmmError as error:
            report.error(__name__, f"{self._path}: {error}")
        if self._server is not None:
            self._server.close()
        self._machine.close()

    def stop(self) -> None:
        """Begin to end the child."""
        self._machine.stop()

    def close(self) -> None:
        """End the child, and wait for that."""
        self.stop()
        self._thread.join()
