"""A program that answers frames for one address in the place of a network: a metadata service.

It listens at a unix socket of the type ``SOCK_SEQPACKET``. A message is a frame behind a ``struct virtio_net_hdr`` of
12 bytes (virtio 1.2, 5.1.6.1), in both directions, as with a tap device.
"""

from __future__ import annotations

import posix

from vmm.errors import ConfigError

FRAMES_SIZE = 1 << 18
"""Bytes of frames that wait for the program; more are dropped."""


class Responder:
    """The connection to the program.

    :param path: of its socket
    :param address: IPv4
    :ivar fd: non-blocking
    :ivar address: the four bytes as they are in a frame
    :raises ConfigError: nobody listens there, or it is no address
    """

    def __init__(self, path: str, address: str) -> None:
        from vmm.faststart.builtin import socket

        try:
            self.address = int.from_bytes(socket.inet_aton(address), "little")
        except OSError as error:
            raise ConfigError(f"net: {address!r:.60} is not an IPv4 address", code="net-responder") from error
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, FRAMES_SIZE)
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise ConfigError(
                f"net: responder {path}: {posix.strerror(error.errno or 0)}",
                code="net-responder",
                hint="start the program that answers before the machine",
            ) from error
        self.fd = sock.detach()
        posix.set_blocking(self.fd, False)

    def close(self) -> None:
        """Disconnect.  A second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            posix.close(fd)
