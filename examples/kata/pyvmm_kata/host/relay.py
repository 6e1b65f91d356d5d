"""Copies bytes between two connections, one thread for each direction."""

from __future__ import annotations

import socket
import struct

_PIECE = 64 << 10
_RESET = struct.pack("ii", 1, 0)


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copy until the end of *source*, and then shut *target* down for writing; the other direction stays open."""
    piece = bytearray(_PIECE)
    view = memoryview(piece)
    try:
        while size := source.recv_into(piece):
            target.sendall(view[:size])
    except OSError:
        # One of the two is closed: end both directions
        shut(source, socket.SHUT_RDWR)
        shut(target, socket.SHUT_RDWR)
    else:
        shut(target, socket.SHUT_WR)


def shut(sock: socket.socket, how: int) -> None:
    """Shut a socket down, which wakes the threads that wait for it; a connection that has ended is no error."""
    try:
        sock.shutdown(how)
    except OSError:
        pass  # the connection has ended


def reset_on_close(sock: socket.socket) -> None:
    """Make close(2) send a RST, which is as close to a refusal as possible after the handshake."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass  # the connection has ended
