"""The socket that gdb connects to, and the thread that serves one debugger at a time."""

from __future__ import annotations

import errno
import os
import select
import socket

from vmm import report
from vmm.debug.packet import INTERRUPT, Packet, Reader, frame
from vmm.debug.stub import Stub
from vmm.debug.target import Target
from vmm.errors import ConfigError, HostError
from vmm.events import EventFd
from vmm.faststart.record import dataclass
from vmm.faststart.thread import Thread
from vmm.lifecycle import EndEvent, Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine.machine import Machine

_WHAT_TO_DO = {
    errno.EADDRINUSE: "remove the file or stop who listens there, or choose another place",
    errno.ENOENT: "make its directory first, or choose another place",
}
_UNREAD_S = 10
"""Seconds that a debugger may leave a reply unread."""


@dataclass(frozen=True)
class GdbTarget:
    """Where to listen for gdb.

    :ivar path: of a unix socket, made with mode 0600; or
    :ivar port: of TCP, on *host* (by default the loopback: whoever can connect controls the guest); 0: any
    :ivar wait: the guest waits until a debugger resumes it
    """

    path: str = ""
    port: int = -1
    host: str = "127.0.0.1"
    wait: bool = False

    @classmethod
    def parse(cls, text: str, flag: str = "--gdb") -> GdbTarget:
        """From ``unix:PATH[,wait]`` or ``tcp:[HOST:]PORT[,wait]``; a bare PATH is a unix socket.

        :raises ConfigError: it is neither
        """
        place, comma, option = text.partition(",")
        kind, colon, rest = place.partition(":")
        if comma and option != "wait":
            raise ConfigError(
                f"{flag} {text!r}: option {option!r} is not known", code="gdb-syntax", hint="the one option is wait"
            )
        if kind == "tcp":
            host, _, port = rest.rpartition(":")
            if port.isascii() and port.isdigit() and int(port) < 1 << 16:
                return cls(port=int(port), host=host.strip("[]") or "127.0.0.1", wait=bool(comma))
        elif kind == "unix" and rest:
            return cls(path=rest, wait=bool(comma))
        elif "/" in place and not colon:
            return cls(path=place, wait=bool(comma))
        raise ConfigError(
            f"{flag} {text!r}: no place to listen at",
            code="gdb-syntax",
            hint=f"{flag} unix:/tmp/vm.gdb  or  {flag} tcp:1234,wait",
        )


class GdbServer:
    """Serves gdb for *machine*, started or not, until :meth:`close`.  A context manager.

    :param begin: at once; else from :meth:`start` on
    :raises HostError: the address cannot be bound
    """

    def __init__(self, machine: Machine, target: GdbTarget, *, begin: bool = True) -> None:
        self._machine = machine
        self._socket = _listen(target)
        self._path = target.path
        self.address = target.path or "{}:{}".format(*self._socket.getsockname()[:2])
        """For ``target remote`` of gdb."""
        self._wake = EventFd()
        self._target = Target(machine, self._wake.signal)
        self._connection: socket.socket | None = None
        self._stopping = False
        self._reset = False
        self._forget = machine.listen(self._on_event)
        if target.wait:
            self._target.attach()
        self._thread = Thread(self._serve, "gdb")
        if begin:
            self.start()

    def start(self) -> None:
        """Begin to serve. Later, only connections are opened."""
        self._thread.start()

    def give_name(self) -> list[tuple[str, tuple[int, int]]]:
        """The path of the socket, and its device and inode, for another process that removes it.  Empty with TCP."""
        if not self._path:
            return []
        found, self._path = os.lstat(self._path), ""
        return [(os.path.abspath(self.address), (found.st_dev, found.st_ino))]

    def _on_event(self, event: Event | EndEvent) -> None:
        self._reset = self._reset or event.kind == "reset"
        self._wake.signal()

    def _serve(self) -> None:
        try:
            while not self._stopping:
                self._connection = self._accept()
                if self._connection is not None:
                    with self._connection:
                        self._session(self._connection)
                    self._connection = None
        except Exception as error:
            report.error(__name__, f"the gdb stub stopped: {type(error).__name__}: {error}")
        finally:
            self._target.detach()

    def _accept(self) -> socket.socket | None:
        ready = _wait(self._socket.fileno(), self._wake.fd)
        if self._wake.fd in ready:
            self._wake.clear()
            self._see_to_reset()
        if self._socket.fileno() not in ready or self._stopping:
            return None
        return self._socket.accept()[0]

    def _see_to_reset(self) -> None:
        if self._reset:
            self._reset = False
            if self._target.attached:
                self._target.after_reset()

    def _session(self, connection: socket.socket) -> None:
        stub, reader, silent = Stub(self._target), Reader(), True
        try:
            while not (stub.over or self._stopping):
                # A connection that has sent no packet yet is replaced by the next one, and locks no debugger out
                others = (self._socket.fileno(),) if silent else ()
                ready = _wait(connection.fileno(), self._wake.fd, *others)
                if self._wake.fd in ready:
                    self._wake.clear()
                    self._see_to_reset()
                    _send(connection, self._news(stub))
                if connection.fileno() in ready:
                    data = connection.recvmsg(1 << 16, 0, socket.MSG_DONTWAIT)[0]
                    if not data:
                        break
                    for item in reader.feed(data):
                        silent = False
                        self._take(connection, stub, item)
                elif ready.intersection(others):
                    break
            if self._stopping:
                _send(connection, self._news(stub))
        except OSError as error:
            report.debug(__name__, f"the debugger's connection broke: {error}")
        finally:
            self._target.detach()

    def _news(self, stub: Stub) -> bytes | None:
        if not self._target.attached:
            return None
        if self._target.ended:
            was_running = not self._target.held
            self._target.held = True
            return stub.end_reply() if was_running else None
        return stub.stopped()

    @staticmethod
    def _take(connection: socket.socket, stub: Stub, item: Packet | bytes) -> None:
        if not isinstance(item, Packet):
            assert item == INTERRUPT
            _send(connection, stub.interrupt())
            return
        if item.data is None:
            if stub.ack:
                _send_all(connection, b"-")
            return
        if stub.ack:
            _send_all(connection, b"+")
        if not stub.over:
            _send(connection, stub.handle(item.data))

    def close(self) -> None:
        """Detach from the guest, and close the debugger's connection.  A second call does nothing."""
        if self._stopping:
            return
        self._stopping = True
        self._forget()
        self._wake.signal()
        self._thread.join()
        self._socket.close()
        self._wake.close()
        if self._path:
            try:
                os.unlink(self._path)
            except OSError:
                pass

    def __enter__(self) -> GdbServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _wait(*fds: int) -> set[int]:
    """Wait until one of them is ready; returns those."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll()}


def _send(connection: socket.socket, reply: bytes | None) -> None:
    if reply is not None:
        _send_all(connection, frame(reply))


def _send_all(connection: socket.socket, data: bytes) -> None:
    """As its sendall(), by calls that others need, too: no ioctl, since FIONBIO would set the flags of any file.

    :raises TimeoutError: the debugger reads nothing
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[connection.sendmsg([rest], (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            writable = select.poll()
            writable.register(connection, select.POLLOUT)
            if not writable.poll(_UNREAD_S * 1000):
                raise TimeoutError("the debugger reads nothing") from None


def _listen(target: GdbTarget) -> socket.socket:
    where = target.path or f"{target.host}:{target.port}"
    try:
        if target.path:
            listener = socket.socket(socket.AF_UNIX)
            try:
                os.fchmod(listener.fileno(), 0o600)  # what the file gets, from its first moment on
                listener.bind(target.path)
                listener.listen(1)
            except BaseException:
                listener.close()
                raise
            return listener
        family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
        return socket.create_server((target.host, target.port), family=family, backlog=1)
    except OSError as error:
        raise HostError(
            f"cannot listen for gdb at {where}: {error.strerror or error}",
            code="gdb-listen",
            hint=_WHAT_TO_DO.get(error.errno or 0, "choose another place"),
            errno=error.errno or 0,
        ) from error
