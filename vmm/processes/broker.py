"""The broker of a jailed machine: ``pyvmm-broker`` (``vsock/broker.c``).

It does for a running machine what the machine's process no longer can.  It is a C program that shares no memory with
the machine.  It is started only if the configuration needs it, just before the machine's process enters the jail.  At
its start it receives what it may do; later it checks each request of the machine's process against that.

* When a guest connects to a port of the host, the broker connects to the unix socket ``<uds>_PORT``, and to no other,
  and answers with a descriptor or an errno.
* When the machine's process has ended, for whatever reason, the broker removes the names of its sockets.

Each of the two processes ends with the other: the broker ends at the end of file on its socket, or when it reads an
invalid request; the machine ends with an error when the broker ends.
"""

from __future__ import annotations

import os
import posix
import struct

from vmm import native
from vmm.errors import ConfigError, HostError
from vmm.faststart.builtin import socket
from vmm.native import ffi, lib
from vmm.processes.helpers import PATIENCE_S, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmm.machine.machine import Machine
    from vmm.virtio.vsock.device import Vsock

    Name = tuple[str, tuple[int, int]]
    """The name of a socket: its path, and the device and inode number that :func:`vmm.virtio.vsock.path.unlink`
    compares."""

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(native.__file__)), "pyvmm-broker")
_ENCODING = "utf-8", "surrogateescape"


class Broker:
    """Starts the broker of a machine that is about to enter its jail.  No guest has run in this process yet.

    :param vsock: the socket device whose guest connects through the broker; its worker is not running
    :param names: further sockets to remove at the end, beside those of *vsock*
    :ivar pid: the broker's process id
    :raises HostError: the broker cannot be started
    """

    def __init__(self, vsock: Vsock | None, names: Iterable[Name] = ()) -> None:
        sock, pid = ffi.new("int *"), ffi.new("int *")
        self._pidfd = lib.process_spawn(os.fsencode(PROGRAM), sock, pid)
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
            limit = struct.pack("=qq", PATIENCE_S, 0)
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
            raise ConfigError(
                f"{text.decode(*_ENCODING)}: the path is too long for a jailed machine", code="broker-path"
            )
        message.text = text
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", folder))] if folder >= 0 else []
        self._sock.sendmsg([bytes(ffi.buffer(message))], rights, socket.MSG_NOSIGNAL)

    def _on_end(self, machine: Machine) -> None:
        machine.loop.remove(self._pidfd)
        machine.stop("error", "its broker has ended")

    def close(self) -> None:
        """End the broker, and wait for it. Called when the machine is closed; may be called again."""
        if self._pidfd < 0:
            return
        self._sock.close()
        wait_for(self.pid, self._pidfd)
        self._pidfd = -1
