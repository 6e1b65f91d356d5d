"""virtio-vsock with Linux's own driver and programs of both sides."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import INSTALL_PROGRAMS, programs_disk
from tests.guest.vmfixture import Guest
from vmm import VsockConfig

TIMEOUT = 30.0


@pytest.fixture
def guest(boot: Boot, tmp_path: Path) -> Guest:
    """A guest with a socket device, and the tool in it."""
    guest = boot(disks=[programs_disk()], vsock=VsockConfig(3, str(tmp_path / "v.sock")))
    guest.check(INSTALL_PROGRAMS)
    return guest


def serve(guest: Guest, port: int, mode: str = "echo", kind: str = "stream") -> None:
    guest.check(
        f"vsocktool serve {kind} {port} {mode} >/tmp/serve{port} 2>&1 & "
        f"while ! grep -q listening /tmp/serve{port}; do sleep 0.01; done"
    )


def send_all(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def read_to_end(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(1 << 16):
        data += piece
    return data


def test_the_host_connects_and_is_answered(guest: Guest) -> None:
    serve(guest, 5000)
    with guest.machine.vsock.connect(5000, timeout=TIMEOUT) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
        payload = bytes(range(256)) * 8192
        sender = threading.Thread(target=send_all, args=(sock, payload))
        sender.start()
        assert read_to_end(sock) == payload
        sender.join()
