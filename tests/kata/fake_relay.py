"""Connections from the host to servers in a machine of :mod:`tests.kata.fake_agent`, whose programs run here."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import threading

from pyvmm_kata.errors import VmmError
from pyvmm_kata.pod.network import enter
from pyvmm_kata.pod.sandbox import Sandbox
from tests.kata.fake_agent import FakeVm

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def install() -> None:
    """Use it for all machines of this process, and of processes that it forks."""
    FakeVm.dial = dial  # type: ignore[method-assign, assignment]
    # The programs run in the network namespace that would forward its loopback addresses to itself
    Sandbox._take_loopback = lambda self, vm: None  # type: ignore[method-assign]


def dial(vm: FakeVm) -> socket.socket:
    """As the agent's relay (linux-guest/agent/relay.h).  Copies of a machine share the servers of the first one."""
    ours, its = socket.socketpair()
    threading.Thread(target=_serve, args=(its, vm.network), daemon=True).start()
    return ours


def _serve(client: socket.socket, namespace: str) -> None:
    with client, contextlib.suppress(OSError, VmmError):
        if namespace and os.path.exists(namespace):  # the first machine of a saved one has ended
            enter(namespace)
        _loopback_up()
        request = client.recv(6, socket.MSG_WAITALL)
        try:
            server = socket.create_connection((socket.inet_ntoa(request[:4]), int.from_bytes(request[4:], "big")))
        except OSError as error:
            client.sendall(bytes([error.errno or errno.EIO]))
            return
        with server:
            client.sendall(b"\0")
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()


def _loopback_up() -> None:
    """As a guest's loopback interface is."""
    with socket.socket() as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def _copy(source: socket.socket, target: socket.socket) -> None:
    how = socket.SHUT_RDWR
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        how = socket.SHUT_WR
    for each in (target,) if how == socket.SHUT_WR else (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(how)
