"""virtio-vsock in the library, and the paths of its sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import TIMEOUT
from tests.vsock_driver import VsockGuest
from vmm import ConfigError, VsockConfig
from vmm.virtio import spec
from vmm.virtio.vsock import client as vsock_client
from vmm.virtio.vsock import client_aio as vsock_aio
from vmm.virtio.vsock.device import Vsock

pytestmark = pytest.mark.usefixtures("virtqueues")

SEQ = spec.VSOCK_TYPE_SEQPACKET
KINDS = pytest.mark.parametrize("kind", [spec.VSOCK_TYPE_STREAM, SEQ], ids=["stream", "seqpacket"])


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[VsockGuest]:
    with VsockGuest(tmp_path) as guest:
        yield guest


# -- the library --------------------------------------------------------------------------------------------------


def accept(guest: VsockGuest) -> tuple[int, int]:
    """The guest accepts the next connection; returns both ports."""
    request = guest.expect(spec.VSOCK_OP_REQUEST)
    guest.send(spec.VSOCK_OP_RESPONSE, request.src_port, request.dst_port, kind=request.type)
    return request.src_port, request.dst_port


@pytest.mark.parametrize("seqpacket", [False, True])
def test_connect(guest: VsockGuest, seqpacket: bool) -> None:
    made: list[socket.socket] = []
    thread = threading.Thread(
        target=lambda: made.append(guest.vsock.connect(2000, seqpacket=seqpacket, timeout=TIMEOUT))
    )
    thread.start()
    local, port = accept(guest)
    thread.join()
    guest.send(spec.VSOCK_OP_RW, local, port, b"hi", kind=SEQ if seqpacket else 1, flags=spec.VSOCK_SEQ_EOM)
    with made[0] as sock:
        assert sock.recv(10) == b"hi"


def test_connect_refused(guest: VsockGuest) -> None:
    errors: list[BaseException] = []

    def connect() -> None:
        try:
            guest.vsock.connect(2000, timeout=TIMEOUT)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    request = guest.expect(spec.VSOCK_OP_REQUEST)
    guest.send(spec.VSOCK_OP_RST, request.src_port, 2000)
    thread.join()
    assert isinstance(errors[0], ConnectionRefusedError)


def test_connect_gives_up(tmp_path: Path) -> None:
    with VsockGuest(tmp_path, start=False) as guest, pytest.raises(TimeoutError):
        guest.vsock.connect(2000, timeout=0.05)


def test_listen(guest: VsockGuest) -> None:
    with guest.vsock.listen(1000) as listener:
        listener.settimeout(TIMEOUT)
        guest.send(spec.VSOCK_OP_REQUEST, 1000, 5)
        program, _ = listener.accept()
        guest.expect(spec.VSOCK_OP_RESPONSE)
        with program:
            guest.send(spec.VSOCK_OP_RW, 1000, 5, b"hi")
            assert program.recv(10) == b"hi"
        with pytest.raises(ConfigError, match="another program listens"):
            guest.vsock.listen(1000)
        umask = os.umask(0)
        try:
            with guest.vsock.listen(1001):
                assert Path(f"{guest.uds}_1001").stat().st_mode & 0o777 == 0o600
        finally:
            os.umask(umask)
    assert not Path(f"{guest.uds}_1000").exists()


def test_asyncio(guest: VsockGuest) -> None:
    async def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(2)).upper())
        await writer.drain()
        writer.close()

    async def main() -> tuple[bytes, bytes]:
        async with await vsock_aio.serve(guest.vsock, 1000, on_client):
            await asyncio.to_thread(guest.send, spec.VSOCK_OP_REQUEST, 1000, 5)
            await asyncio.to_thread(guest.expect, spec.VSOCK_OP_RESPONSE)
            await asyncio.to_thread(guest.send, spec.VSOCK_OP_RW, 1000, 5, b"hi")
            answer = await asyncio.to_thread(guest.expect, spec.VSOCK_OP_RW)
            await asyncio.to_thread(guest.expect, spec.VSOCK_OP_SHUTDOWN)
        connecting = asyncio.create_task(vsock_aio.connect(guest.vsock, 2000))
        local, port = await asyncio.to_thread(accept, guest)
        reader, writer = await connecting
        await asyncio.to_thread(guest.send, spec.VSOCK_OP_RW, local, port, b"yo")
        read = await reader.readexactly(2)
        writer.close()
        await writer.wait_closed()
        return answer.data, read

    assert asyncio.run(main()) == (b"HI", b"yo")


def test_two_machines_with_the_same_cid(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with VsockGuest(tmp_path / "a") as one, VsockGuest(tmp_path / "b") as two:
        first, port, src = one.from_guest()
        second, _, _ = two.from_guest()
        one.send(spec.VSOCK_OP_RW, port, src, b"one")
        two.send(spec.VSOCK_OP_RW, port, src, b"two")
        assert (first.recv(10), second.recv(10)) == (b"one", b"two")


# -- paths --------------------------------------------------------------------------------------------------------


def test_the_sockets_are_gone_with_the_device(tmp_path: Path) -> None:
    device = Vsock(VsockConfig(3, str(tmp_path / "v.sock")))
    listener = device.listen(7)
    assert {path.name for path in tmp_path.iterdir()} == {"v.sock", "v.sock.seqpacket", "v.sock_7"}
    device.close()
    assert list(tmp_path.iterdir()) == []
    listener.close()


def test_the_socket_of_a_machine_that_was_killed_is_replaced(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "v.sock"))
    stale.close()
    with VsockGuest(tmp_path) as guest:
        guest.from_host()
    assert list(tmp_path.iterdir()) == []


def test_a_path_without_room_for_ports(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long"):
        Vsock(VsockConfig(3, str(tmp_path / ("x" * 100))))


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot make the socket"):
        Vsock(VsockConfig(3, str(tmp_path / "no" / "v.sock")))


def test_ports_that_cannot_be(guest: VsockGuest) -> None:
    for port in (-1, 0xFFFF_FFFF):
        with pytest.raises(ConfigError, match="port"):
            guest.vsock.listen(port)
        with pytest.raises(ConfigError, match="port"):
            vsock_client.connect(str(guest.uds), port)


def test_statistics(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    guest.send(spec.VSOCK_OP_RW, port, src, b"12345")
    program.sendall(b"123")
    guest.expect(spec.VSOCK_OP_RW)
    stats = guest.transport.stats()
    assert stats["name"] == "vsock 3"
    assert (stats["connections"], stats["opened"], stats["from_guest_bytes"], stats["to_guest_bytes"]) == (1, 1, 5, 3)
    assert stats["connect_us_50"]
