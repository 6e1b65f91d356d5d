"""The broker of a machine in a jail: ``pyvmm-broker``, a process outside that does what has to be done there.

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
from vmm.errors import ConfigError, HostError
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmm.machine.machine import Machine
    from vmm.virtio.vsock.device import Vsock

    Name = tuple[str, tuple[int, int]]
    """Of a socket: its path, and what :func:`vmm.virtio.vsock.path.unlink` wants to know."""

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(native.__file__)), "pyvmm-broker")
_PATIENCE = 5
"""Seconds that one of the two waits for the other."""
_ENCODING = "utf-8", "surrogateescape"


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
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if poll.poll(_PATIENCE * 1000):
            posix.waitpid(self.pid, 0)
        posix.close(self._pidfd)
        self._pidfd = -1
