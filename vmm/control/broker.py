"""What a machine in a jail has outside: its broker, and the process that serves its control socket.

The broker, ``pyvmm-broker``, does what a machine that runs still has to have done there.

It is a program of its own, without Python and without anything of the machine's memory (``vsock/broker.c``), started
only where the configuration needs one, just before the machine's process goes into the jail.  It is told what it may
do, and trusts nobody afterwards: whatever the process of the machine asks for is checked against that.

* A guest connects to a port of the host: the broker connects to the socket ``<uds>_PORT``, no other, and answers with a
  descriptor or an errno.
* At the end, whatever it was, sockets lose their names.

Each of the two processes ends with the other: the broker when it reads no more, or something that is no request; the
machine, by an error, when the broker ends.
"""

from __future__ import annotations

import _socket
import os
import posix
import select
import struct

from vmm import native
from vmm.errors import ConfigError, HostError, VmmError
from vmm.faststart.thread import Thread
from vmm.native import ffi, lib
from vmm.virtio.vsock.path import STREAM, listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from vmm.machine.config import MachineConfig
    from vmm.machine.machine import Machine
    from vmm.virtio.vsock.device import Vsock
    from vmm.virtio.vsock.path import Listening

    Name = tuple[str, tuple[int, int]]
    """Of a socket: its path, and what :func:`vmm.virtio.vsock.path.unlink` wants to know."""

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(native.__file__)), "pyvmm-broker")
_PATIENCE = 5
"""Seconds that one of the two waits for the other."""
_ENCODING = "utf-8", "surrogateescape"
_CAPABILITIES = ("dac_override", "dac_read_search", "fowner", "kill")
"""Of who serves the control socket: snapshots are anywhere; a machine that does not listen is killed."""
_GO = b"g"
_REQUEST_MAX = 32 << 10
_FDS_MAX = 64


class Broker:
    """Starts it, for a machine that is about to go into its jail: before any guest has run in this process.

    :param vsock: a socket device whose guest connects through it; no worker of it runs
    :param names: what else is to be removed at the end, beside the sockets of *vsock*
    :ivar pid: of the broker
    :raises HostError: it cannot be started
    """

    def __init__(self, vsock: Vsock | None, names: Iterable[Name] = ()) -> None:
        sock, pid = ffi.new("int *"), ffi.new("int *")
        self._pidfd = lib.fsd_spawn(os.fsencode(PROGRAM), sock, pid)
        if self._pidfd < 0:
            raise self._error(-self._pidfd)
        self.pid = int(pid[0])
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, sock[0])
        try:
            self._tell(vsock, list(names))
        except OSError as error:
            self.close()
            raise self._error(error.errno or 0) from error
        except BaseException:
            self.close()
            raise

    def watch(self, machine: Machine) -> None:
        """End *machine* when the broker ends."""
        machine.loop.add(self._pidfd, lambda _events: self._on_end(machine))

    @staticmethod
    def _error(number: int) -> HostError:
        return HostError(
            f"cannot run {PROGRAM}: {os.strerror(number)}",
            code="broker",
            hint="it is built with the package; --jail=off does without it",
            errno=number,
        )

    def _tell(self, vsock: Vsock | None, names: list[Name]) -> None:
        folder, prefix = -1, b""
        if vsock is not None:
            # For the machine's asking; an answer takes as long as a connect() that does not wait
            limit = struct.pack("=qq", _PATIENCE, 0)
            for option in (_socket.SO_RCVTIMEO, _socket.SO_SNDTIMEO):
                self._sock.setsockopt(_socket.SOL_SOCKET, option, limit)
            folder, prefix, sockets = vsock.use_broker(self._sock)
            names += sockets
        try:
            for path, (device, inode) in names:
                self._send(lib.BROKER_NAME, path.encode(*_ENCODING), device, inode)
            self._send(lib.BROKER_GO, prefix, folder=folder)
        finally:
            if folder >= 0:
                posix.close(folder)

    def _send(self, op: int, text: bytes, device: int = 0, inode: int = 0, folder: int = -1) -> None:
        message = ffi.new("struct broker_msg *", {"op": op, "dev": device, "ino": inode})
        if len(text) >= len(message.text):
            raise ConfigError(f"{text.decode(*_ENCODING)}: too long a path for a machine in a jail", code="broker-path")
        message.text = text
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", folder))] if folder >= 0 else []
        self._sock.sendmsg([bytes(ffi.buffer(message))], rights, _socket.MSG_NOSIGNAL)

    def _on_end(self, machine: Machine) -> None:
        machine.loop.remove(self._pidfd)
        machine.stop("error", "its broker has ended")

    def close(self) -> None:
        """Let it end, and wait until it has: when the machine is closed.  Harmless when done twice."""
        if self._pidfd < 0:
            return
        self._sock.close()
        _wait(self.pid, self._pidfd)
        self._pidfd = -1


# -- a control socket that is served outside ---------------------------------------------------------------------------


class Requests:
    """Does what is asked of a machine in a jail by whoever is outside, at the other end of *sock*: each request comes
    with a socket for its answers, and descriptors of files that are to be written."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._machine: Machine | None = None

    def hand_over(self, machine: Machine) -> None:
        """*machine* can be served from now on, by :meth:`start`."""
        import json

        assert json
        machine.open_for_saving()
        self._machine = machine

    def start(self) -> None:
        """Do what is asked for, on a thread of its own for each request."""
        Thread(self._take, "control").start()

    def take(self, most: int = _REQUEST_MAX) -> tuple[bytes, list[int]] | None:
        """The next request, of *most* bytes, and its descriptors; None: nobody asks any more."""
        try:
            data, fds = _receive(self._sock, most)
        except OSError:
            return None
        return (data, fds) if data and fds else None

    def _take(self) -> None:
        while taken := self.take():
            Thread(self._worker(*taken), "control").start()

    def _worker(self, data: bytes, fds: list[int]) -> Callable[[], None]:
        return lambda: self._do(data, fds)

    def _do(self, data: bytes, fds: list[int]) -> None:
        import json

        answer = fds.pop(0)
        machine = self._machine
        assert machine is not None

        def tell(what: dict[str, Any]) -> None:
            try:
                posix.write(answer, json.dumps(what).encode())  # one message
            except OSError:
                pass  # nobody wants to know any more

        request = json.loads(data)
        try:
            tell({"ok": _do(machine, request, fds, tell)})
        except VmmError as error:
            is_config = isinstance(error, ConfigError)
            tell({"error": str(error), "code": error.code, "hint": error.hint, "config": is_config})
        finally:
            for fd in (answer, *fds):
                posix.close(fd)
        if request["command"] == "stop":
            machine.stop(request["kind"], request["detail"])

    def close(self) -> None:
        """Take no request any more.  Harmless when done twice."""
        try:
            self._sock.shutdown(_socket.SHUT_RDWR)  # a thread may be waiting there
        except OSError:
            pass
        self._sock.close()


class ControlProcess(Requests):
    """Serves the control socket of a machine in a jail from outside.  Forked before the machine is made, it has nothing
    of it.  The process of the machine never sees the socket, nor who speaks there and what they ask for: it is
    told what to do, and given descriptors of the files that it is to write.

    Each of the two processes ends with the other.

    :param config: of the machine
    :param path: of the control socket
    :ivar pid: of the process
    :raises ConfigError: the socket cannot be made
    :raises HostError: the host has no process left
    """

    def __init__(self, config: MachineConfig, path: str) -> None:
        listening = listen(path, STREAM)
        try:
            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
            machine = posix.pidfd_open(posix.getpid())
            self.pid = posix.fork()
        except OSError as error:
            listening.close()
            raise HostError(f"control: {error.strerror}", code="control-process", errno=error.errno or 0) from error
        if self.pid == 0:
            _serve_outside(theirs, machine, listening, config)
        posix.close(machine)
        theirs.close()
        listening.give_name()
        listening.sock.close()
        self._pidfd = posix.pidfd_open(self.pid)
        super().__init__(ours)

    def hand_over(self, machine: Machine) -> None:
        """*machine* can be served from now on, by :meth:`start`; nobody is trusted any more."""
        super().hand_over(machine)
        self._sock.send(_GO)
        machine.loop.add(self._pidfd, lambda _events: self._on_end(machine))

    def _on_end(self, machine: Machine) -> None:
        machine.loop.remove(self._pidfd)
        machine.stop("error", "the process of its control socket has ended")

    def close(self) -> None:
        """Let it end, and wait until it has: when the machine is closed.  Harmless when done twice."""
        if self._pidfd < 0:
            return
        super().close()
        _wait(self.pid, self._pidfd)
        self._pidfd = -1


def _do(machine: Machine, request: dict[str, Any], fds: list[int], tell: Callable[[dict[str, Any]], None]) -> Any:
    """What a request asks for, and what it answers."""
    command = request["command"]
    if command == "status":
        return {"state": machine.state, "devices": [device.name for device in machine.devices]}
    if command == "pause":
        machine.pause()
    elif command == "resume":
        machine.resume()
    elif command == "press-power-button":
        machine.press_power_button()
    elif command == "input":
        return {"taken": machine.console_input(request["data"].encode("latin-1"))}
    elif command == "save":
        from vmm.machine.snapshot import Files

        memory, state, *others = fds
        fds.clear()  # they are closed with these
        pages, than = (others.pop(0), others.pop(0)) if request["diff"] else (-1, -1)
        with Files(memory, state, pages, than, tuple(others)) as files:
            saved = machine.save(
                files, stop=request["stop"], progress=lambda done, size: tell({"progress": done, "of": size})
            )
        return {
            "devices": saved.devices,
            "cpuid": saved.cpuid,
            "disks": saved.disks,
            "memory_bytes": saved.memory_bytes,
        }
    return {}


def _receive(sock: _socket.socket, most: int) -> tuple[bytes, list[int]]:
    data, rights, _, _ = sock.recvmsg(most, _socket.CMSG_SPACE(_FDS_MAX * 4), _socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for _, _, each in rights:
        fds += struct.unpack(f"={len(each) // 4}i", each[: len(each) // 4 * 4])
    return data, fds


def _serve_outside(sock: _socket.socket, machine: int, listening: Listening, config: MachineConfig) -> None:
    """All that the forked process does; does not return."""
    status = 1
    try:
        _leave_others({sock.fileno(), machine, listening.sock.fileno()})
        if sock.recv(1) == _GO:
            from vmm.jail.restrict import keep_calls, restrict_process, seal_process

            restrict_process(_CAPABILITIES)
            seal_process()
            poll = select.poll()
            for each in (sock, listening.sock):
                poll.register(each, select.POLLIN)
            # What serves is a third of this process: most machines are never asked for anything
            if not any(fd == sock.fileno() for fd, _ in poll.poll()):
                from vmm.control.server import ControlServer, import_the_rest
                from vmm.machine.jailed import Jailed

                import_the_rest()  # which maps code
                # Nobody's word has been read so far
                keep_calls()
                with ControlServer(Jailed(sock, machine, config), listening):
                    sock.recv(1)  # nothing comes but the end
        listening.close()
        status = 0
    finally:
        posix._exit(status)


def _leave_others(kept: set[int]) -> None:
    """No terminal, no signals that are for the machine, no descriptors of others but stderr."""
    import _signal  # type: ignore[import-not-found]

    posix.setsid()
    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT):
        _signal.signal(number, _signal.SIG_IGN)
    lib.thread_set_name(b"pyvmm-control")
    null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
    for fd in (0, 1):
        posix.dup2(null, fd)
    last = 2
    for fd in (*sorted(kept), 1 << 30):
        posix.closerange(last + 1, fd)
        last = fd


def _wait(pid: int, pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if poll.poll(_PATIENCE * 1000):
        posix.waitpid(pid, 0)
    posix.close(pidfd)
