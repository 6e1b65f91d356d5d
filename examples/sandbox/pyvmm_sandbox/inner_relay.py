"""Connections to servers in a sandbox that no other way leads to: each is a command inside, and its pipes.

The Sentry has no sockets of the host for its guests, so this is how the host reaches a port there.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import select
import signal
import socket
import threading
from subprocess import PIPE
from typing import TYPE_CHECKING

from pyvmm_kata.errors import VmmError
from pyvmm_kata.host.relay import shut
from pyvmm_sandbox import guest, isolations

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata import Container, Process

_CHUNK = 64 << 10
_CONNECT_S = 30.0


def dial_of(isolation: str, container: Container) -> Callable[[int], socket.socket]:
    """How the host connects to servers inside a sandbox: through its machine, or by a command inside."""
    return container.connect if isolations.can_forward(isolation) else functools.partial(dial, container)


def dial(container: Container, port: int) -> socket.socket:
    """A connection to a port of the loopback addresses inside.

    :raises ConnectionRefusedError: nothing listens there
    :raises OSError: likewise another reason
    :raises VmmError: the container does not run
    """
    process = container.exec([guest.PATH, "relay", str(port)], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        _await(process)
        ours, its = socket.socketpair()
    except BaseException:
        _end(process)
        raise
    threading.Thread(target=_serve, args=(process, its), name=f"port {port}", daemon=True).start()
    return ours


def _await(process: Process) -> None:
    """Until it is connected."""
    assert process.stdout is not None
    ready = select.poll()
    ready.register(process.stdout, select.POLLIN)
    if not ready.poll(_CONNECT_S * 1000):
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    if not os.read(process.stdout.fileno(), 1):
        number = process.wait(_CONNECT_S)
        raise OSError(number, os.strerror(number))


def _serve(process: Process, client: socket.socket) -> None:
    """Copy both directions until both have ended."""
    assert process.stdout is not None
    forth = threading.Thread(target=_copy_forth, args=(client, process), daemon=True)
    forth.start()
    with client:
        try:
            while data := os.read(process.stdout.fileno(), _CHUNK):
                client.sendall(data)
        except OSError:
            shut(client, socket.SHUT_RDWR)  # it is closed
        else:
            shut(client, socket.SHUT_WR)
        forth.join()
    _end(process)


def _copy_forth(client: socket.socket, process: Process) -> None:
    stdin = process.stdin
    assert stdin is not None
    with contextlib.suppress(OSError, ValueError):
        while data := client.recv(_CHUNK):
            left = memoryview(data)
            while left:
                left = left[stdin.write(left) :]
    with contextlib.suppress(OSError):
        stdin.close()


def _end(process: Process) -> None:
    with contextlib.suppress(VmmError, TimeoutError):
        process.kill(signal.SIGKILL)
        process.wait(_CONNECT_S)
    process.close()
