"""The server of one machine's control socket, with a thread for each connection.

A request is one line: a JSON object with ``command`` and the arguments of that command.  Answers are lines, too: any
number with ``progress``, then one with ``ok`` or with ``error``.  An invalid request ends the connection.

Connections without a request under way give way to new ones, so that nobody can lock others out by connecting.
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
from vmm.errors import ConfigError, VmmError
from vmm.faststart.thread import Thread, allocate_lock
from vmm.processes.parent import own_devices
from vmm.virtio.vsock.path import Listening, listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.machine.machine import Machine
    from vmm.processes.isolated import IsolatedMachine
    from vmm.processes.jailed import Jailed
    from vmm.virtio.blk import DiskConfig
    from vmm.virtio.fs import ShareConfig
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
_SECONDS_MAX = 86400
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
    :ivar since: when it was not any more
    :ivar is_ended: it has given way to another one
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
    :param below: where disks may be opened that are plugged in; None: none may
    :param shares: the same of the directories of shares
    :raises ConfigError: the socket cannot be made
    """

    def __init__(
        self,
        machine: Machine | Jailed,
        path: str | Listening,
        below: Below | None = None,
        shares: Below | None = None,
    ) -> None:
        self.machine = machine
        self._below = below
        self._below_shares = shares
        self._disks: dict[str, Any] = {}
        self._shares: dict[str, tuple[str, Any]] = {}
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
        """Whether another connection of this user may be served; one that is idle gives way to it."""
        living = [each for each in self._connections if not each.is_ended]
        own = [each for each in living if each.uid == uid]
        if len(own) < CONNECTIONS_MAX and len(living) < _ALL_MAX:
            return True
        return self._end_idle(own)

    def _end_idle(self, connections: list[_Connection]) -> bool:
        """End the one that has been idle for longest; False: none is."""
        idle = [each for each in connections if not each.busy and not each.is_ended]
        if not idle:
            return False
        found = min(idle, key=lambda each: each.since)
        found.is_ended = True
        _shut(found.sock, socket.SHUT_RDWR)
        return True

    def _wait_for_room(self) -> None:
        """This process has no descriptor left, or the host no memory."""
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
            work = COMMANDS.get(name)
            if work is None:
                raise ConfigError(
                    f"no command {name!r:.60}", code="control-command", hint="there are: " + ", ".join(COMMANDS)
                )
            tell({"ok": work(self, Arguments(name, request), tell) or {}})
        except VmmError as error:
            tell(
                {"error": str(error), "code": error.code, "hint": error.hint, "config": isinstance(error, ConfigError)}
            )
        except _Gone:
            raise
        except Exception as error:
            _log.exception("a request to the control socket failed")
            text = f"{name}: {type(error).__name__}: {error}"
            tell({"error": text, "code": "control-failed", "hint": "it is a fault of pyvmm: report it"})
        return True

    def add_disk(self, config: DiskConfig) -> None:
        """Plug in a disk.

        :raises ConfigError: it is none that may be plugged in here; or as :meth:`Machine.plug`
        """
        from vmm.virtio.blk.device import DiskFiles

        if self._below is None:
            raise ConfigError(
                "add-disk: the machine takes no disks while it runs",
                code="disk-not-below",
                hint="start it with --disks-from DIR: it takes those below that directory",
            )
        known = self._disks.get(config.path)
        if known is not None and not known.wait_gone(0):
            raise ConfigError(
                f"disk {config.path}: it was added already",
                code="already-attached",
                hint="each is known by its path: remove it first, or give a hard link to the file",
            )
        if config.has_overlay:
            raise ConfigError(f"disk {config.path}: one that is added has no overlay", code="disk-cow")
        files = DiskFiles.open(config, self._below.open)
        machine = self.machine
        self._disks[config.path] = machine.plug(config, files)

    def remove_disk(self, path: str, seconds: float, *, force: bool) -> bool:
        """Unplug one that was plugged in; whether it is removed.  The end of the machine, or of this, is awaited no
        longer than a second.

        :raises ConfigError: it was not; or as :meth:`Machine.unplug`
        """
        attached = self._disks.get(path)
        if attached is None:
            raise ConfigError(f"disk {path}: it was not added", code="not-attached", hint="pyvmm disk add")
        gone = self._remove(attached, seconds, force=force)
        if gone:
            self._disks.pop(path, None)
        return gone

    def _remove(self, attached: Any, seconds: float, *, force: bool) -> bool:
        machine: Any = self.machine
        deadline = time.monotonic() + seconds
        gone = machine.unplug(attached, 0)
        while not gone and time.monotonic() < deadline and not self._stopping and machine.state == "running":
            gone = attached.wait_gone(min(1.0, max(0.0, deadline - time.monotonic())))
        if not gone and force:
            gone = machine.unplug(attached, 0, force=True)
        return bool(gone)

    def add_share(self, config: ShareConfig) -> str:
        """Plug in a share; its tag.

        :raises ConfigError: it is none that may be plugged in here; or as :meth:`Machine.plug`
        """
        from vmm.faststart.record import replace
        from vmm.processes.jailed import Jailed

        if self._below_shares is None:
            raise ConfigError(
                "add-share: the machine takes no shares while it runs",
                code="share-not-below",
                hint="start it with --shares-from DIR: it takes those below that directory",
            )
        self._shares = {path: each for path, each in self._shares.items() if not each[1].wait_gone(0)}
        machine: Any = self.machine
        used = {tag for tag, _ in machine.config.tagged_shares()} | {tag for tag, _ in self._shares.values()}
        if config.path in self._shares or config.tag in used:
            raise ConfigError(
                f"share {config.path}: the machine has it, or another one of that tag",
                code="already-attached",
                hint="remove that first, or give another directory and tag",
            )
        tag = config.tag or next(f"share{n or ''}" for n in range(len(used) + 1) if f"share{n or ''}" not in used)
        config = replace(config, tag=tag)
        try:
            fd = self._below_shares.open(config.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"share {config.path}: {error.strerror}", code="share-directory") from error
        try:
            if isinstance(machine, Jailed):
                attached: Any = machine.plug(config, directory=fd)
            else:
                attached = machine.plug(replace(config, path=f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)
        self._shares[config.path] = tag, attached
        return tag

    def remove_share(self, path: str, seconds: float, *, force: bool) -> bool:
        """As :meth:`remove_disk`."""
        _, attached = self._shares.get(path, ("", None))
        if attached is None:
            raise ConfigError(f"share {path}: it was not added", code="not-attached", hint="pyvmm share add")
        gone = self._remove(attached, seconds, force=force)
        if gone:
            self._shares.pop(path, None)
        return gone

    def resize_disk(self, path: str) -> None:
        """Tell the guest how large a disk is now.

        :raises ConfigError: the machine does not have it; or as :meth:`Machine.resize_disk`
        """
        from os.path import abspath

        from vmm.processes.jailed import Jailed

        machine: Any = self.machine
        attached, is_jailed = self._disks.get(path), isinstance(machine, Jailed)
        if attached is not None:
            if is_jailed:
                machine.resize_plugged(attached)
            else:
                attached.device.resize()
            return
        paths = [abspath(disk.path) for disk in machine.config.disk_configs()]
        if path not in paths:
            raise ConfigError(f"disk {path}: the machine does not have it", code="disk-none")
        if is_jailed and self._below is None:
            raise ConfigError(
                f"disk {path}: in its jail the machine writes no file beyond the size that it had at the start",
                code="disk-size",
                hint="start it on PCI and with --disks-from DIR, or with --jail=off",
            )
        machine.resize_disk(paths.index(path))

    def fork(self, n: int) -> list[dict[str, str]]:
        """Fork the machine into *n* children, each with a control socket.  They end at :meth:`close` at the latest.

        :returns: the paths of each child's sockets
        """
        from vmm.lifecycle import check_children
        from vmm.processes.jailed import Jailed

        check_children(n)
        with self._lock:
            first = self._forked + 1
            self._forked += n
        machine = self.machine
        if isinstance(machine, Jailed):
            return machine.fork(n, first)
        numbers = range(first, first + n)
        children = machine.fork(n, each=lambda index: own_devices(machine.config, numbers[index]), start=False)
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
    :param server: who serves that, if not another process does
    """

    def __init__(self, machine: Machine | IsolatedMachine, path: str, server: ControlServer | None = None) -> None:
        self._machine = machine
        self._path = path
        self._server = server
        self._thread = Thread(self._wait, "forked")
        self._thread.start()

    @property
    def lives(self) -> bool:
        """Whether it is not closed yet."""
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


class Arguments:
    """The arguments of a request; each is checked when it is taken."""

    def __init__(self, command: str, values: dict[str, Any]) -> None:
        self._command = command
        self._values = values

    def take(self, name: str, kind: type, default: Any = None) -> Any:
        """The argument *name*.

        :raises ConfigError: it is missing and has no default, or it has another type
        """
        value = self._values.pop(name, default)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
            raise ConfigError(f"{self._command}: {name} is no {kind.__name__}", code="control-argument")
        if isinstance(value, str) and not _is_word(value):
            raise ConfigError(
                f"{self._command}: {name} has a character that no path can have: {value!r:.60}",
                code="control-argument",
                hint="leave out NUL and halves of surrogate pairs",
            )
        if value is None and default is None and name not in _OPTIONAL:
            raise ConfigError(f"{self._command}: {name} is missing", code="control-argument")
        return value

    def end(self) -> None:
        """Check that all arguments were taken.

        :raises ConfigError: the command does not have one of them
        """
        if self._values:
            raise ConfigError(f"{self._command}: no argument {next(iter(self._values))!r:.60}", code="control-argument")


_OPTIONAL = {"base"}


def _is_word(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _status(server: ControlServer, arguments: Arguments, tell: Tell) -> dict[str, Any]:
    arguments.end()
    machine = server.machine
    config = machine.config
    return {
        "state": machine.state,
        "cpus": machine.cpus,
        "max_cpus": config.all_cpus(),
        "memory": config.memory.size,
        "transport": config.transport,
        "kernel": config.boot.kernel,
        "devices": [device.name for device in machine.devices],
    }


def _pause(server: ControlServer, arguments: Arguments, tell: Tell) -> None:
    arguments.end()
    server.machine.pause()


def _resume(server: ControlServer, arguments: Arguments, tell: Tell) -> None:
    arguments.end()
    server.machine.resume()


def _press_power_button(server: ControlServer, arguments: Arguments, tell: Tell) -> None:
    arguments.end()
    server.machine.press_power_button()


def _stop(server: ControlServer, arguments: Arguments, tell: Tell) -> None:
    arguments.end()
    server.machine.stop()


def _resize_memory(server: ControlServer, arguments: Arguments, tell: Tell) -> None:
    size = arguments.take("size", int)
    arguments.end()
    server.machine.resize_memory(size)


def _resize_cpus(server: ControlServer, arguments: Arguments, tell: Tell) -> None:
    count = arguments.take("count", int)
    arguments.end()
    server.machine.resize_cpus(count)


def _snapshot(server: ControlServer, arguments: Arguments, tell: Tell) -> None:
    path, base = arguments.take("path", str), arguments.take("base", str)
    stop = arguments.take("stop", bool, False)
    arguments.end()
    server.machine.snapshot(
        path, base=base, stop=stop, progress=lambda done, size: tell({"progress": done, "of": size})
    )


def _add_disk(server: ControlServer, arguments: Arguments, tell: Tell) -> None:
    from vmm.virtio.blk import DiskConfig

    text = arguments.take("disk", str)
    arguments.end()
    server.add_disk(DiskConfig.parse(text, "add-disk"))


def _to_remove(arguments: Arguments, command: str) -> tuple[str, int, bool]:
    path, seconds = arguments.take("path", str), arguments.take("seconds", int, 30)
    force = arguments.take("force", bool, False)
    arguments.end()
    if not 0 <= seconds <= _SECONDS_MAX:
        raise ConfigError(f"{command}: seconds is not 0 to {_SECONDS_MAX}", code="control-argument")
    return path, seconds, force


def _remove_disk(server: ControlServer, arguments: Arguments, tell: Tell) -> dict[str, Any]:
    path, seconds, force = _to_remove(arguments, "remove-disk")
    return {"removed": server.remove_disk(path, seconds, force=force)}


def _add_share(server: ControlServer, arguments: Arguments, tell: Tell) -> dict[str, Any]:
    from vmm.virtio.fs import ShareConfig

    text = arguments.take("share", str)
    arguments.end()
    return {"tag": server.add_share(ShareConfig.parse(text, "add-share"))}


def _remove_share(server: ControlServer, arguments: Arguments, tell: Tell) -> dict[str, Any]:
    path, seconds, force = _to_remove(arguments, "remove-share")
    return {"removed": server.remove_share(path, seconds, force=force)}


def _resize_disk(server: ControlServer, arguments: Arguments, tell: Tell) -> None:
    path = arguments.take("path", str)
    arguments.end()
    server.resize_disk(path)


def _fork(server: ControlServer, arguments: Arguments, tell: Tell) -> dict[str, Any]:
    n = arguments.take("n", int, 1)
    arguments.end()
    return {"children": server.fork(n)}


COMMANDS: dict[str, Callable[[ControlServer, Arguments, Tell], dict[str, Any] | None]] = {
    "status": _status,
    "pause": _pause,
    "resume": _resume,
    "press-power-button": _press_power_button,
    "resize-memory": _resize_memory,
    "resize-cpus": _resize_cpus,
    "stop": _stop,
    "snapshot": _snapshot,
    "add-disk": _add_disk,
    "remove-disk": _remove_disk,
    "resize-disk": _resize_disk,
    "add-share": _add_share,
    "remove-share": _remove_share,
    "fork": _fork,
}
"""The commands; docs/control.md describes their arguments and answers."""
