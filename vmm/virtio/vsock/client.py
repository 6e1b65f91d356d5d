"""How a program of the host connects to a guest through a vsock device's unix socket.

:func:`connect` and :func:`listen` need only the path, so programs other than the one that runs the machine can use
them. The asyncio versions are in :mod:`vmm.virtio.vsock.client_aio`.
"""

from __future__ import annotations

import os
import socket

from vmm.errors import ConfigError
from vmm.virtio.vsock import path as vsock_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ANSWER_MAX = 32


def greeting(port: int) -> bytes:
    """What a client writes first."""
    if not 0 <= port < 0xFFFF_FFFF:
        raise ConfigError(f"vsock: port {port} is not 0 to 4294967294", code="vsock-port")
    return b"CONNECT %d\n" % port


def refused(uds: str, port: int) -> ConnectionRefusedError:
    """The device has closed the connection instead of answering."""
    return ConnectionRefusedError(f"nobody in the guest of {uds} listens on vsock port {port}")


def connect(uds: str, port: int, *, seqpacket: bool = False, timeout: float | None = None) -> socket.socket:
    """Connect to *port* of the guest whose device has the socket *uds*; see
    :meth:`vmm.virtio.vsock.device.Vsock.connect`.
    """
    line = greeting(port)
    path = uds + vsock_path.SEQPACKET_SUFFIX if seqpacket else uds
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if seqpacket else socket.SOCK_STREAM)
    try:
        made.settimeout(timeout)
        made.connect(path)
        made.sendall(line)
        answer = made.recv(ANSWER_MAX) if seqpacket else _read_line(made)
        if not answer.startswith(b"OK "):
            raise refused(uds, port)
    except (ConnectionResetError, BrokenPipeError) as error:
        made.close()
        raise refused(uds, port) from error
    except BaseException:
        made.close()
        raise
    return made


def _read_line(sock: socket.socket) -> bytes:
    """Read the answer and nothing after it: the guest's data follow."""
    answer = b""
    while not answer.endswith(b"\n") and len(answer) < ANSWER_MAX:
        byte = sock.recv(1)
        if not byte:
            break
        answer += byte
    return answer


class Listener(socket.socket):
    """A listening unix socket that removes its path when it is closed."""

    path: str = ""
    identity: tuple[int, int] = (0, 0)

    def close(self) -> None:
        """Close it.  A second call does nothing."""
        if self.path and self.fileno() >= 0:
            vsock_path.unlink(self.path, self.identity)
        super().close()

    def __exit__(self, *_: Any) -> None:
        self.close()


def listen(path: str, *, seqpacket: bool = False, backlog: int = 128) -> Listener:
    """Listen at *path*, which is ``<uds>_<port>``; see :meth:`vmm.virtio.vsock.device.Vsock.listen`."""
    made = Listener(socket.AF_UNIX, socket.SOCK_SEQPACKET if seqpacket else socket.SOCK_STREAM)
    try:
        made.identity = vsock_path.bind(made, path)
        made.path = os.path.abspath(path)
        socket.socket.listen(made, backlog)
    except BaseException:
        made.close()
        raise
    return made
