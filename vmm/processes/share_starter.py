"""A process that starts servers of shares on behalf of one that may start no programs."""

from __future__ import annotations

import posix
import select
import struct

from vmm.errors import HostError, VmmError
from vmm.faststart.builtin import socket
from vmm.processes.helpers import REQUEST_MAX, answered, leave_others, receive, refusal_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.virtio.fs import ShareConfig


class Starter:
    """A process that starts servers of shares on behalf of one that may start no programs. It ends with its parent."""

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
            data, fds = receive(self._sock, REQUEST_MAX)
        except OSError:
            data = b""
        if not data:
            raise HostError("the process that starts servers of shares has ended", code="share-server")
        return Started(tuple(fds), answered(data))


class Started:
    """A server that a :class:`Starter` has started: the counterpart of a :class:`~vmm.virtio.fs.process.FsProcess` for
    the process that passes it on."""

    def __init__(self, fds: tuple[int, ...], about: dict[str, Any]) -> None:
        self.fds = fds
        self.about = about

    def hand_over(self) -> None:
        """Another process has the descriptors."""
        self.close()

    def close(self) -> None:
        """Release it: it ends if no other process has it. May be called again."""
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
                data, fds = receive(self._sock, REQUEST_MAX)
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
            self._sock.send(refusal_of(error))
        else:
            rights = struct.pack(f"={len(server.fds)}i", *server.fds)
            about = json.dumps(server.about).encode()
            self._sock.sendmsg([about], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL)
            server.let_go()
        finally:
            for fd in fds:
                posix.close(fd)
