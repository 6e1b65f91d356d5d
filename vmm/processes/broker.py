"""The processes that a jailed machine has outside of its jail: its broker, and the one that serves its control socket.

The broker, ``pyvmm-broker`` (``vsock/broker.c``), does for a running machine what the machine's process no longer can.
It is a C program that shares no memory with the machine.  It is started only if the configuration needs it, just before
the machine's process enters the jail.  At its start it is told what it may do; later it checks each request of the
machine's process against that.

* When a guest connects to a port of the host, the broker connects to the unix socket ``<uds>_PORT``, and to no other,
  and answers with a descriptor or an errno.
* When the machine's process has ended, for whatever reason, the broker removes the names of its sockets.

Each of the two processes ends with the other: the broker ends at the end of file on its socket, or when it reads an
invalid request; the machine ends with an error when the broker ends.
"""

from __future__ import annotations

import os
import posix
import select
import struct

from vmm import native
from vmm.errors import ConfigError, HostError, VmmError
from vmm.faststart.builtin import socket
from vmm.faststart.thread import Thread, allocate_lock
from vmm.machine.interface import CALLS, INSIDE
from vmm.native import ffi, lib
from vmm.virtio.vsock.path import STREAM, listen, unlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from vmm.board.slots import Attached
    from vmm.config import MachineConfig
    from vmm.control.server import Child
    from vmm.machine.machine import Machine
    from vmm.processes.isolated import Process
    from vmm.processes.jailed import Jailed
    from vmm.processes.parent import Parent
    from vmm.virtio.blk import DiskConfig
    from vmm.virtio.fs import ShareConfig
    from vmm.virtio.image import Below
    from vmm.virtio.vsock.device import Vsock
    from vmm.virtio.vsock.path import Listening

    Name = tuple[str, tuple[int, int]]
    """The name of a socket: its path, and the device and inode number that :func:`vmm.virtio.vsock.path.unlink`
    compares."""

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(native.__file__)), "pyvmm-broker")
_PATIENCE = 5
"""Seconds to wait for the other process."""
_ENCODING = "utf-8", "surrogateescape"
_CAPABILITIES = ("dac_override", "dac_read_search", "fowner", "kill")
"""Capabilities of the process that serves the control socket: it writes snapshots in any directory, and kills a machine
that does not answer."""
_GO = b"g"
_END_S = 10
"""Seconds that a child has to end when who started it has."""
_REQUEST_MAX = 32 << 10
_FDS_MAX = 64
_RUN_FD, _PARENT_FD = 3, 4
"""The numbers of the descriptors of a program that a :class:`Runner` runs: its socket, and what its parent is."""
_NO_PROGRAM = struct.pack("=2i", 0, 32)  # EPIPE: it has ended


class Broker:
    """Starts the broker of a machine that is about to enter its jail.  No guest has run in this process yet.

    :param vsock: the socket device whose guest connects through the broker; its worker is not running
    :param names: further sockets to remove at the end, beside those of *vsock*
    :ivar pid: the broker's process id
    :raises HostError: the broker cannot be started
    """

    def __init__(self, vsock: Vsock | None, names: Iterable[Name] = ()) -> None:
        sock, pid = ffi.new("int *"), ffi.new("int *")
        self._pidfd = lib.fsd_spawn(os.fsencode(PROGRAM), sock, pid)
        if self._pidfd < 0:
            raise self._error(-self._pidfd)
        self.pid = int(pid[0])
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, sock[0])
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
            # Timeouts of the machine's requests.  The broker answers at once: its connect() does not block
            limit = struct.pack("=qq", _PATIENCE, 0)
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self._sock.setsockopt(socket.SOL_SOCKET, option, limit)
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
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", folder))] if folder >= 0 else []
        self._sock.sendmsg([bytes(ffi.buffer(message))], rights, socket.MSG_NOSIGNAL)

    def _on_end(self, machine: Machine) -> None:
        machine.loop.remove(self._pidfd)
        machine.stop("error", "its broker has ended")

    def close(self) -> None:
        """Have the broker end, and wait for that.  Called when the machine is closed; may be called again."""
        if self._pidfd < 0:
            return
        self._sock.close()
        _wait(self.pid, self._pidfd)
        self._pidfd = -1


# -- a control socket that is served outside ---------------------------------------------------------------------------


class Requests:
    """Serves, in the process of a jailed machine, the requests of a process outside of the jail.

    Each request is a message at *sock*, with the descriptors of a socket for its answers, and of files to write.

    :ivar takes_disks: one of them may be to plug in a disk; to be set before :meth:`hand_over`
    :ivar takes_shares: the same of a share
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._machine: Machine | None = None
        self.takes_disks = self.takes_shares = False
        self._plugged: dict[int, Attached] = {}
        self._numbers = 0

    def hand_over(self, machine: Machine) -> None:
        """Set the machine; :meth:`start` may be called afterwards."""
        import json  # now: a jailed process cannot open the module's file

        assert json
        if self.takes_disks:
            import fcntl

            from vmm.saving import records
            from vmm.virtio.blk import device

            assert fcntl and records and device
        if self.takes_shares:
            from vmm.saving import records
            from vmm.virtio.fs import process

            assert records and process
        machine.open_for_saving()
        self._machine = machine

    def start(self) -> None:
        """Begin to serve; each request gets a thread of its own."""
        Thread(self._take, "control").start()

    def take(self, most: int = _REQUEST_MAX) -> tuple[bytes, list[int]] | None:
        """Wait for the next request: up to *most* bytes, and its descriptors; None: the other end is closed."""
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
                pass  # the reader has closed its end

        request = json.loads(data)
        try:
            tell({"ok": self._plugs(machine, request, fds) or _do(machine, request, fds, tell)})
        except VmmError as error:
            is_config = isinstance(error, ConfigError)
            tell({"error": str(error), "code": error.code, "hint": error.hint, "config": is_config})
        finally:
            for fd in (answer, *fds):
                posix.close(fd)
        if request["command"] == "stop":
            machine.stop(request["kind"], request["detail"])

    def _plugs(self, machine: Machine, request: dict[str, Any], fds: list[int]) -> dict[str, Any] | None:
        """Do it if it is about devices that come and go; the answer, or None: it is about something else."""
        if request["command"] == "plug":
            try:
                attached = _plug(machine, request, fds)
            except OSError as error:
                what = error.strerror or str(error)
                raise HostError(f"it cannot be plugged in: {what}", code="host-limit") from error
            self._plugged = {number: each for number, each in self._plugged.items() if not each.wait_gone(0)}
            self._numbers += 1
            self._plugged[self._numbers] = attached
            return {"number": self._numbers}
        if request["command"] not in ("unplug", "wait-gone", "resize-plugged"):
            return None
        found = self._plugged.get(request["number"])
        if request["command"] == "wait-gone":
            return {"gone": found is None or found.wait_gone(request["timeout"])}
        if found is None:
            raise ConfigError("it is not attached to this machine", code="not-attached")
        if request["command"] == "resize-plugged":
            disk: Any = found.device
            disk.resize()
            return {"resized": True}
        return {"gone": machine.unplug(found, request["timeout"], force=request["force"])}

    def close(self) -> None:
        """Accept no more requests.  May be called again."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)  # a thread may be waiting there
        except OSError:
            pass
        self._sock.close()


class ControlProcess(Requests):
    """A process outside of the jail that serves the control socket of a jailed machine.

    It is forked before the machine is made, so it has no part of the machine.  The process of the machine does not have
    the control socket, and does not see the clients' requests: it is told what to do, and gets the descriptors of the
    files to write.  Each of the two processes ends with the other.

    :param config: the machine's configuration
    :param path: the path of the control socket
    :param below: where disks may be opened that are plugged in, or None; closed here
    :param shares: the same of the directories of shares
    :param jail: as of ``--jail``, for children of the machine
    :param until: a pidfd, closed here: when that process has ended the machine does, too, or is killed; -1: none
    :ivar pid: the process id of the process that serves it
    :raises ConfigError: the socket cannot be made
    :raises HostError: fork(2) failed
    """

    def __init__(
        self,
        config: MachineConfig,
        path: str,
        below: Below | None = None,
        shares: Below | None = None,
        *,
        jail: str = "auto",
        until: int = -1,
    ) -> None:
        listening = listen(path, STREAM)
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            machine = posix.pidfd_open(posix.getpid())
            self.pid = posix.fork()
        except OSError as error:
            listening.close()
            raise HostError(f"control: {error.strerror}", code="control-process", errno=error.errno or 0) from error
        if self.pid == 0:
            _serve_outside(theirs, machine, listening, config, below, shares, jail, until)
        posix.close(machine)
        if until >= 0:
            posix.close(until)
        theirs.close()
        listening.give_name()
        listening.sock.close()
        self._pidfd = posix.pidfd_open(self.pid)
        super().__init__(ours)
        self.takes_disks, self.takes_shares = below is not None, shares is not None
        for each in (below, shares):
            if each is not None:
                each.close()

    def hand_over(self, machine: Machine) -> None:
        """Set the machine, and tell the other process to restrict itself and to serve."""
        super().hand_over(machine)
        self._sock.send(_GO)
        machine.loop.add(self._pidfd, lambda _events: self._on_end(machine))

    def _on_end(self, machine: Machine) -> None:
        machine.loop.remove(self._pidfd)
        machine.stop("error", "the process of its control socket has ended")

    def close(self) -> None:
        """Have the process end, and wait for that.  Called when the machine is closed; may be called again."""
        if self._pidfd < 0:
            return
        super().close()
        _wait(self.pid, self._pidfd)
        self._pidfd = -1


def _plug(machine: Machine, request: dict[str, Any], fds: list[int]) -> Attached:
    """Plug in a disk whose files are *fds*, or a share whose server they lead to; they are taken out."""
    from vmm.saving.records import made

    if "share" in request:
        from vmm.virtio.fs import ShareConfig
        from vmm.virtio.fs.process import FsProcess

        share: ShareConfig = made(request["share"], "ShareConfig", {"ShareConfig": ShareConfig}, "the share")
        device = FsProcess.given(share, fds, request["about"], cpus=machine.config.cpus)
        try:
            return machine.plug(device)  # which closes it from now on
        except BaseException:
            device.close()
            raise
    from vmm.options.limit import LimitConfig
    from vmm.virtio.blk import DiskConfig
    from vmm.virtio.blk.device import DiskFiles

    kinds: dict[str, type] = {"DiskConfig": DiskConfig, "LimitConfig": LimitConfig}
    config: DiskConfig = made(request["disk"], "DiskConfig", kinds, "the disk")
    return machine.plug(config, DiskFiles.given(config, fds, request["about"]))


def _do(machine: Machine, request: dict[str, Any], fds: list[int], tell: Callable[[dict[str, Any]], None]) -> Any:
    """Do what a request asks for; returns the answer."""
    command = request["command"]
    if command == "status":
        return {
            "state": machine.state,
            "cpus": machine.cpus,
            "devices": [device.name for device in machine.devices],
        }
    row = CALLS.get(command)
    if row is not None and row.jailed == INSIDE:
        result = getattr(machine, command)(**{name: request[name] for name in row.names if name in request})
        return {} if result is None else {"result": result}
    if command == "set-mac":
        machine.nets[request["net"]].set_mac(bytes.fromhex(request["mac"]))
    elif command == "stale-shares":
        return {"ms": int(machine.stale_shares() * 1000 + 0.999)}
    elif command == "phases":
        return {"phases": [(name, int(at * 1e9)) for name, at in machine.phases_within()]}
    elif command == "figures":
        return machine.figures()
    elif command == "input":
        return {"taken": machine.console_input(request["data"].encode("latin-1"))}
    elif command == "save":
        from vmm.saving.snapshot import Files

        memory, state, *others = fds
        fds.clear()  # Files closes them
        pages = others.pop(0) if request["diff"] or request.get("children") else -1
        than = others.pop(0) if request["diff"] else -1
        with Files(memory, state, pages, than, tuple(others), children=request.get("children", 0)) as files:
            saved = machine.save(
                files, stop=request["stop"], progress=lambda done, size: tell({"progress": done, "of": size})
            )
        return {
            "devices": saved.devices,
            "cpuid": saved.cpuid,
            "disks": saved.disks,
            "memory_bytes": saved.memory_bytes,
            "areas": saved.areas,
        }
    return {}


def _receive(sock: socket.socket, most: int) -> tuple[bytes, list[int]]:
    data, rights, _, _ = sock.recvmsg(most, socket.CMSG_SPACE(_FDS_MAX * 4), socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for _, _, each in rights:
        fds += struct.unpack(f"={len(each) // 4}i", each[: len(each) // 4 * 4])
    return data, fds


def _serve_outside(
    sock: socket.socket,
    machine: int,
    listening: Listening,
    config: MachineConfig,
    below: Below | None,
    shares: Below | None,
    jail: str,
    until: int,
) -> None:
    """The main function of the forked process; does not return."""
    status = 1
    try:
        folders = [fd for each in (below, shares) if each is not None for fd in each.fds]
        ends = [sock.fileno(), *({until} - {-1})]
        leave_others({*ends, machine, listening.sock.fileno(), *folders}, b"pyvmm-control")
        starter = None if shares is None else Starter()
        forks = Forks(sock, machine, config, listening, jail)
        if sock.recv(1) == _GO:
            from vmm.processes.jail.restrict import keep_calls, restrict_process, seal_process

            restrict_process(_CAPABILITIES)
            seal_process()
            poll = select.poll()
            for each in (*ends, listening.sock.fileno()):
                poll.register(each, select.POLLIN)
            # Import the server at the first connection: it takes a third of the memory of this process, and most
            # machines never get a request
            if not any(fd in ends for fd, _ in poll.poll()):
                from vmm.control.server import ControlServer, import_the_rest
                from vmm.processes.jailed import Jailed

                # The filter allows no code to be mapped
                import_the_rest(disks=below is not None, shares=shares is not None)
                keep_calls()  # before anything that a client sent is read
                starts = None if starter is None else starter.start
                jailed = Jailed(sock, machine, config, starts)
                poll.unregister(listening.sock)
                with ControlServer(jailed, listening, below, shares, forks.fork):
                    poll.poll()  # the machine's process sends nothing: this waits for its end
            if until >= 0:
                _see_it_end(sock, machine)
        forks.close()
        listening.close()
        status = 0
    finally:
        posix._exit(status)


def _see_it_end(sock: socket.socket, machine: int) -> None:
    """Kill a machine that does not end, though it has to: a guest may have its process."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if not poll.poll(_END_S * 1000):
        from signal import SIGKILL, pidfd_send_signal

        pidfd_send_signal(machine, SIGKILL)


class Starter:
    """A process that starts servers of shares, for one that may start no programs.  It ends with whoever made it."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        if posix.fork() == 0:
            _Starting(theirs).run()
        theirs.close()

    def start(self, config: ShareConfig, directory: int, *, cpus: int, ram: int, machine: int) -> Started:
        """As :func:`vmm.processes.jailed.start_server`."""
        import json

        from vmm.saving.records import plain

        request = json.dumps({"share": plain(config), "cpus": cpus, "ram": ram}).encode()
        rights = struct.pack("=2i", directory, machine)
        try:
            self._sock.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL)
            data, fds = _receive(self._sock, _REQUEST_MAX)
        except OSError:
            data = b""
        if not data:
            raise HostError("the process that starts servers of shares has ended", code="share-server")
        return Started(tuple(fds), _answered(data))


def _answered(data: bytes) -> dict[str, Any]:
    """
    :raises VmmError: that is what was answered
    """
    import json

    answer: dict[str, Any] = json.loads(data)
    if "error" in answer:
        kind = ConfigError if answer["config"] else HostError
        raise kind(answer["error"], code=answer["code"], hint=answer["hint"])
    return answer


def _refusal(error: VmmError) -> bytes:
    """The answer that has :func:`_answered` raise it."""
    import json

    is_config = isinstance(error, ConfigError)
    return json.dumps({"error": str(error), "code": error.code, "hint": error.hint, "config": is_config}).encode()


class Started:
    """A server that a :class:`Starter` has started: what a :class:`~vmm.virtio.fs.process.FsProcess` is for whoever
    hands it over."""

    def __init__(self, fds: tuple[int, ...], about: dict[str, Any]) -> None:
        self.fds = fds
        self.about = about

    def hand_over(self) -> None:
        """Another process has the descriptors."""
        self.close()

    def close(self) -> None:
        """Let go of it: it ends if nobody else has it.  May be called again."""
        fds, self.fds = self.fds, ()
        for fd in fds:
            posix.close(fd)


class _Starting:
    """The process of a :class:`Starter`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def run(self) -> None:
        """Does not return."""
        from vmm.faststart.builtin import signal
        from vmm.processes.jail.restrict import restrict_helper

        status = 1
        try:
            leave_others({self._sock.fileno()}, b"pyvmm-shares")
            restrict_helper()
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the servers
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            poll.poll()  # as with the server of the control socket: most machines never get a request
            import json

            from vmm.processes import jailed
            from vmm.processes.jail.restrict import restrict_starter
            from vmm.saving import records
            from vmm.virtio.fs import process

            assert json and jailed and records and process
            restrict_starter()  # before anything that was sent is read
            while True:
                data, fds = _receive(self._sock, _REQUEST_MAX)
                if not data:
                    break
                self._start(data, fds)
            status = 0
        finally:
            posix._exit(status)

    def _start(self, data: bytes, fds: list[int]) -> None:
        import json

        from vmm.processes.jailed import start_server
        from vmm.saving.records import made
        from vmm.virtio.fs import ShareConfig

        request = json.loads(data)
        share: ShareConfig = made(request["share"], "ShareConfig", {"ShareConfig": ShareConfig}, "the share")
        directory, machine = fds
        try:
            server = start_server(share, directory, cpus=request["cpus"], ram=request["ram"], machine=machine)
        except VmmError as error:
            self._sock.send(_refusal(error))
        else:
            rights = struct.pack(f"={len(server.fds)}i", *server.fds)
            about = json.dumps(server.about).encode()
            self._sock.sendmsg([about], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL)
            server.let_go()
        finally:
            for fd in fds:
                posix.close(fd)


class Runner:
    """A process that runs machines' processes for one that may run no program: for whoever makes it, and makes no
    other process.  It has the files of the user, and takes a byte and a descriptor; it ends with its maker.  The
    programs that it runs make children of *parent*, and no other machine."""

    def __init__(self, parent: Parent) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._lock = allocate_lock()
        if posix.fork() == 0:
            try:
                from vmm.processes.isolated import program
                from vmm.processes.jail.restrict import restrict_helper

                words = [ffi.new("char[]", os.fsencode(word)) for word in program(_RUN_FD, _PARENT_FD)]
                told = parent.write()
                leave_others({theirs.fileno(), told}, b"pyvmm-runner")
                restrict_helper()
                lib.spawn_serve(theirs.fileno(), told, ffi.new("char *[]", [*words, ffi.NULL]))
            finally:
                posix._exit(0)
        theirs.close()

    def run(self, fd: int) -> Process:
        """As *run* of :meth:`vmm.processes.isolated.IsolatedMachine.of_fork`.

        :raises OSError: it cannot be run
        """
        from vmm.processes.isolated import Process

        with self._lock:
            rights = struct.pack("=i", fd)
            self._sock.sendmsg([b"r"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL)
            pid, error = struct.unpack("=2i", self._sock.recv(8) or _NO_PROGRAM)
        if error:
            if pid > 0:
                posix.waitpid(pid, 0)
            raise OSError(error, os.strerror(error))
        return Process(pid)


class Forks:
    """A process that forks the machine for one that may start no programs: it has the machine's process write what the
    children are made of, and starts theirs.  It ends, and they with it, with whoever made it.

    :param machine: where the machine's process takes requests
    :param process: a pidfd of that
    :param listening: the machine's control socket, whose name is removed at the end, however its server ends
    :param jail: as of ``--jail``
    """

    def __init__(
        self, machine: socket.socket, process: int, config: MachineConfig, listening: Listening, jail: str
    ) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._lock = allocate_lock()
        if posix.fork() == 0:
            _Forking(theirs, machine, process, config, listening, jail).run()
        theirs.close()

    def fork(self, n: int, first: int) -> list[dict[str, str]]:
        """As :meth:`vmm.processes.jailed.Jailed.fork`."""
        import json

        with self._lock:
            try:
                self._sock.send(json.dumps([n, first]).encode(), socket.MSG_NOSIGNAL)
                data = self._sock.recv(_REQUEST_MAX)
            except OSError:
                data = b""
        if not data:
            raise HostError("the process that makes forks has ended", code="fork-process")
        children: list[dict[str, str]] = _answered(data)["children"]
        return children

    def close(self) -> None:
        """Have it end its children and itself, and wait for that a while."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it has ended
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.poll(_PATIENCE * 1000)


class _Forking:
    """The process of a :class:`Forks`."""

    def __init__(
        self,
        sock: socket.socket,
        machine: socket.socket,
        process: int,
        config: MachineConfig,
        listening: Listening,
        jail: str,
    ) -> None:
        self._sock = sock
        self._machine = machine
        self._process = process
        self._config = config
        self._name = listening.give_name()
        self._jail = jail
        self._jailed: Jailed | None = None
        self._parent: Parent
        self._runner: Runner
        self._children: list[Child] = []

    def run(self) -> None:
        """Does not return."""
        from vmm.faststart.builtin import signal
        from vmm.processes.jail.restrict import restrict_helper

        status = 1
        try:
            leave_others({self._sock.fileno(), self._machine.fileno(), self._process}, b"pyvmm-forks")
            restrict_helper()
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            poll.poll()  # as with the server of the control socket: most machines never get a request
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                signal.signal(number, lambda _number, _frame: None)
            self._restrict()  # before anything that was sent is read
            while data := self._sock.recv(_REQUEST_MAX):
                self._fork(data)
            status = 0
        finally:
            for child in self._children:
                child.stop()
            for child in self._children:
                child.close()
            unlink(*self._name)
            posix._exit(status)

    def _restrict(self) -> None:
        import fcntl
        import json
        import resource
        import tempfile

        from vmm.control import server
        from vmm.processes import isolated, jailed
        from vmm.processes.jail.restrict import restrict_forks
        from vmm.processes.parent import Parent
        from vmm.saving import disk_copies as files
        from vmm.saving import manifest, snapshot
        from vmm.virtio.blk import device

        assert fcntl and json and server and isolated and jailed and snapshot and files and manifest and device
        folders = [tempfile.gettempdir(), os.path.dirname(os.path.abspath(self._name[0]))]
        folders += [os.path.dirname(os.path.abspath(disk.overlay or disk.path)) for disk in self._config.disk_configs()]
        self._parent = Parent(self._config, self._name[0], self._jail)
        self._runner = Runner(self._parent)  # it shares the memory of all that
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each child takes three descriptors
        restrict_forks(folders)

    def _fork(self, data: bytes) -> None:
        import json

        from vmm.lifecycle import refusal

        try:
            answer = json.dumps({"children": self._made(*fork_request(data))}).encode()
        except VmmError as error:
            answer = _refusal(error)
        except OSError as error:
            answer = _refusal(HostError(f"fork: {error.strerror}", code="host-limit", errno=error.errno or 0))
        except RuntimeError as error:
            if (refused := refusal(error)) is None:
                raise
            answer = _refusal(refused)
        try:
            self._sock.send(answer, socket.MSG_NOSIGNAL)
        except OSError:
            pass  # nobody is there any more

    def _made(self, n: int, first: int) -> list[dict[str, str]]:
        from vmm.control.server import Child
        from vmm.lifecycle import CHILDREN_MAX, check_children
        from vmm.processes.isolated import IsolatedMachine
        from vmm.processes.jailed import Jailed

        made: list[IsolatedMachine] = []
        children: list[Child] = []
        if self._jailed is None:
            self._jailed = Jailed(self._machine, self._process, self._config)
        check_children(n)
        self._children = [each for each in self._children if each.lives]
        if len(self._children) + n > CHILDREN_MAX:
            raise ConfigError(
                f"a fork into {n} children beside {len(self._children)} that run",
                code="fork-children",
                hint=f"a machine in a jail has {CHILDREN_MAX} at most: end some before",
            )
        point = self._jailed.fork_point(n)
        try:
            for number in range(first, first + n):
                own = self._config.own_devices(number)
                machine = IsolatedMachine.of_fork(point, own, start=False, number=number, run=self._runner.run)
                made.append(machine)
                children.append(Child(machine, self._parent.control(number)))
            for machine in made:
                machine.start()
        except BaseException:
            for machine in made:
                machine.close()
            raise
        finally:
            point.close()
        self._children += children
        return [each.where() for each in children]


def fork_request(data: bytes) -> tuple[int, int]:
    """How many children, and the number of the first, as :meth:`Forks.fork` asks for them.

    :raises ConfigError: these are not two numbers
    """
    import json

    try:
        asked = json.loads(data)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, list) or len(asked) != 2 or any(type(each) is not int or each < 0 for each in asked):
        raise ConfigError("a request for forks that is none", code="fork-request")
    return asked[0], asked[1]


def leave_others(kept: set[int], name: bytes) -> None:
    """In a child that was forked: leave the terminal, ignore the signals that are meant for the machine, close all
    descriptors but stderr and *kept*, and take a name."""
    from vmm.faststart.builtin import signal

    posix.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    lib.thread_set_name(name)
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
