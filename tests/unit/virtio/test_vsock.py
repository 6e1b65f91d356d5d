"""virtio-vsock over unix sockets: what a guest and the programs of the host see of each other."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import TIMEOUT
from tests.vsock_driver import BUF_ALLOC, VsockGuest, header, is_asleep, works
from vmm import ConfigError, VsockConfig
from vmm.virtio import spec
from vmm.virtio.vsock import client as vsock_client
from vmm.virtio.vsock import client_aio as vsock_aio
from vmm.virtio.vsock import device as vsock_spec
from vmm.virtio.vsock.device import EVENT, TX, Vsock

pytestmark = pytest.mark.usefixtures("virtqueues")

SEQ = vsock_spec.VSOCK_TYPE_SEQPACKET
KINDS = pytest.mark.parametrize("kind", [vsock_spec.VSOCK_TYPE_STREAM, SEQ], ids=["stream", "seqpacket"])


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[VsockGuest]:
    with VsockGuest(tmp_path) as guest:
        yield guest


def ends(sock: socket.socket) -> bytes:
    """Read to the end."""
    data = b""
    while piece := sock.recv(1 << 20):
        data += piece
    return data


# -- who connects to whom ----------------------------------------------------------------------------------------


def test_the_configuration_space_is_the_cid(guest: VsockGuest) -> None:
    assert guest.config(0, 8) == 3
    assert guest.read(spec.MMIO_DEVICE_ID) == spec.ID_VSOCK


def test_a_guest_connects_to_a_program(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"hello")
    assert program.recv(100) == b"hello"
    program.sendall(b"world")
    packet = guest.expect(vsock_spec.VSOCK_OP_RW)
    assert (packet.src_port, packet.dst_port, packet.data) == (port, src, b"world")
    assert packet.fwd_cnt == 5, "what the program's socket has taken"
    program.close()


def test_a_program_connects_to_the_guest(guest: VsockGuest) -> None:
    client, local, port = guest.from_host()
    client.sendall(b"hello")
    assert guest.expect(vsock_spec.VSOCK_OP_RW).data == b"hello"
    guest.send(vsock_spec.VSOCK_OP_RW, local, port, b"world")
    assert client.recv(100) == b"world"
    client.close()


def test_nobody_listens_in_the_guest(guest: VsockGuest) -> None:
    client = guest.client(b"CONNECT 2000\n")
    request = guest.expect(vsock_spec.VSOCK_OP_REQUEST)
    guest.send(vsock_spec.VSOCK_OP_RST, request.src_port, 2000)
    assert client.recv(10) == b""
    assert guest.vsock.stats()["connections"] == 0


def test_nobody_listens_on_the_host(guest: VsockGuest) -> None:
    guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 5)
    packet = guest.expect(vsock_spec.VSOCK_OP_RST)
    assert (packet.src_port, packet.dst_port) == (1000, 5)


def test_a_listener_that_has_gone(guest: VsockGuest) -> None:
    guest.listen(1000).close()  # the path stays
    guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 5)
    guest.expect(vsock_spec.VSOCK_OP_RST)


def test_what_a_client_writes_behind_its_line_is_the_guests(guest: VsockGuest) -> None:
    client = guest.client(b"CONNECT 2000\nearly")
    request = guest.expect(vsock_spec.VSOCK_OP_REQUEST)
    guest.send(vsock_spec.VSOCK_OP_RESPONSE, request.src_port, 2000)
    assert guest.expect(vsock_spec.VSOCK_OP_RW).data == b"early"
    assert client.recv(64) == b"OK %d\n" % request.src_port


def test_a_line_in_pieces(guest: VsockGuest) -> None:
    client = guest.client()
    for piece in (b"CONN", b"ECT 20", b"00", b"\n"):
        client.sendall(piece)
        guest.turn_loop(1)
    assert guest.expect(vsock_spec.VSOCK_OP_REQUEST).dst_port == 2000


def test_a_client_that_gives_up(guest: VsockGuest) -> None:
    client = guest.client(b"CONNECT 2000\n")
    request = guest.expect(vsock_spec.VSOCK_OP_REQUEST)
    client.close()
    packet = guest.expect(vsock_spec.VSOCK_OP_RST)
    assert (packet.src_port, packet.dst_port) == (request.src_port, 2000)


def test_clients_wait_for_the_driver(tmp_path: Path) -> None:
    with VsockGuest(tmp_path, start=False) as guest:
        client = guest.client(b"CONNECT 2000\n")
        guest.begin()
        request = guest.expect(vsock_spec.VSOCK_OP_REQUEST)
        guest.send(vsock_spec.VSOCK_OP_RESPONSE, request.src_port, 2000)
        assert client.recv(64).startswith(b"OK ")


def test_local_ports_differ(guest: VsockGuest) -> None:
    clients = [guest.from_host() for _ in range(20)]
    assert len({local for _, local, _ in clients}) == 20


# -- data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 4096, 65536])
def test_a_lot_to_the_guest(tmp_path: Path, size: int) -> None:
    with VsockGuest(tmp_path, size=size) as guest:
        program, _port, _src = guest.from_guest(buf_alloc=1 << 31)
        payload = os.urandom(size << 9)
        sender = threading.Thread(target=lambda: program.sendall(payload))
        sender.start()
        assert guest.receive_data(len(payload)) == payload
        sender.join()
        assert guest.vsock.stats()["to_guest_bytes"] == len(payload)


def test_a_lot_from_the_guest(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    payload = os.urandom(2 << 20)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(ends(program)))
    reader.start()
    sent, fwd = 0, 0
    while sent < len(payload):
        while sent - fwd > BUF_ALLOC - 60000:
            fwd = guest.receive()[-1].fwd_cnt
        guest.send(vsock_spec.VSOCK_OP_RW, port, src, payload[sent : sent + 60000])
        sent = min(sent + 60000, len(payload))
    guest.send(vsock_spec.VSOCK_OP_SHUTDOWN, port, src, flags=vsock_spec.VSOCK_SHUTDOWN_SEND)
    reader.join()
    assert got[0] == payload


def test_the_program_reads_slowly(guest: VsockGuest) -> None:
    """Back-pressure: what its socket does not take waits, up to the credit, and is passed on when it reads."""
    program, port, src = guest.from_guest()
    payload = os.urandom(2 * BUF_ALLOC)
    for at in range(0, len(payload), 8192):
        guest.send(vsock_spec.VSOCK_OP_RW, port, src, payload[at : at + 8192])
    assert guest.vsock.stats()["waiting_bytes"] > 0
    got = b""
    while len(got) < len(payload):
        got += program.recv(1 << 16)
    assert got == payload
    guest.wait_for("nothing waits", lambda: guest.vsock.stats()["waiting_bytes"] == 0)
    fwd = 0
    while len(payload) - fwd >= BUF_ALLOC // 2:
        fwd = guest.expect(vsock_spec.VSOCK_OP_CREDIT_UPDATE).fwd_cnt


def test_the_guest_hears_that_its_packet_was_taken(guest: VsockGuest) -> None:
    """By an interrupt, though there is nothing for it."""
    program, port, src = guest.from_guest()
    while guest.irq.clear():
        pass
    guest.send_buffers(guest.data(header(vsock_spec.VSOCK_OP_RW, port, src, length=5) + b"alone"), wait=False)
    assert program.recv(100) == b"alone"
    guest.queues[TX].wait()


def test_the_guest_reads_slowly(guest: VsockGuest) -> None:
    """The guest gets no more than it has room for, and the rest when it makes room."""
    program, port, src = guest.from_guest(buf_alloc=10000)
    program.sendall(b"x" * 25000)
    assert guest.receive_data(10000) == b"x" * 10000
    request = guest.expect(vsock_spec.VSOCK_OP_CREDIT_REQUEST)
    assert (request.src_port, request.dst_port) == (port, src)
    guest.quiet()
    guest.send(vsock_spec.VSOCK_OP_CREDIT_UPDATE, port, src, buf_alloc=10000, fwd_cnt=10000)
    assert guest.receive_data(10000) == b"x" * 10000
    guest.expect(vsock_spec.VSOCK_OP_CREDIT_REQUEST)
    guest.send(vsock_spec.VSOCK_OP_CREDIT_UPDATE, port, src, buf_alloc=10000, fwd_cnt=20000)
    assert guest.receive_data(5000) == b"x" * 5000
    guest.quiet()


def test_a_guest_without_buffers_gets_all_when_it_has_some(tmp_path: Path) -> None:
    with VsockGuest(tmp_path, buffers=1) as guest:
        program, _port, _src = guest.from_guest()
        program.sendall(b"y" * 20000)
        assert guest.receive_data(20000) == b"y" * 20000


def test_credit_is_told_on_request(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"12345")
    assert program.recv(10) == b"12345"
    guest.send(vsock_spec.VSOCK_OP_CREDIT_REQUEST, port, src)
    packet = guest.expect(vsock_spec.VSOCK_OP_CREDIT_UPDATE)
    assert (packet.buf_alloc, packet.fwd_cnt) == (BUF_ALLOC, 5)


# -- the end ------------------------------------------------------------------------------------------------------


@KINDS
def test_the_guest_closes(guest: VsockGuest, kind: int) -> None:
    program, port, src = guest.from_guest(kind=kind)
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"last", kind=kind, flags=vsock_spec.VSOCK_SEQ_EOM)
    guest.send(vsock_spec.VSOCK_OP_SHUTDOWN, port, src, kind=kind, flags=3)
    guest.expect(vsock_spec.VSOCK_OP_RST)
    assert ends(program) == b"last"
    assert guest.vsock.stats()["connections"] == 0


@KINDS
def test_the_program_closes(guest: VsockGuest, kind: int) -> None:
    program, port, src = guest.from_guest(kind=kind)
    program.sendall(b"last")
    program.close()
    assert guest.expect(vsock_spec.VSOCK_OP_RW).data == b"last"
    assert guest.expect(vsock_spec.VSOCK_OP_SHUTDOWN).flags == 3
    guest.send(vsock_spec.VSOCK_OP_RST, port, src, kind=kind)
    guest.quiet()
    assert guest.vsock.stats()["connections"] == 0


@KINDS
def test_the_program_closes_one_half(guest: VsockGuest, kind: int) -> None:
    program, port, src = guest.from_guest(kind=kind)
    program.sendall(b"question")
    program.shutdown(socket.SHUT_WR)
    assert guest.expect(vsock_spec.VSOCK_OP_RW).data == b"question"
    assert guest.expect(vsock_spec.VSOCK_OP_SHUTDOWN).flags == vsock_spec.VSOCK_SHUTDOWN_SEND
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"answer", kind=kind, flags=vsock_spec.VSOCK_SEQ_EOM)
    assert program.recv(100) == b"answer"
    guest.send(vsock_spec.VSOCK_OP_SHUTDOWN, port, src, kind=kind, flags=3)
    guest.expect(vsock_spec.VSOCK_OP_RST)
    assert program.recv(100) == b""


@KINDS
def test_the_guest_closes_one_half(guest: VsockGuest, kind: int) -> None:
    program, port, src = guest.from_guest(kind=kind)
    guest.send(vsock_spec.VSOCK_OP_SHUTDOWN, port, src, kind=kind, flags=vsock_spec.VSOCK_SHUTDOWN_SEND)
    assert program.recv(100) == b""
    program.sendall(b"answer")
    assert guest.expect(vsock_spec.VSOCK_OP_RW).data == b"answer"
    program.close()
    assert guest.expect(vsock_spec.VSOCK_OP_SHUTDOWN).flags == 3


def test_the_guest_stops_reading(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_SHUTDOWN, port, src, flags=vsock_spec.VSOCK_SHUTDOWN_RCV)
    with pytest.raises(BrokenPipeError):
        program.sendall(b"x")
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"still")
    assert program.recv(100) == b"still"


def test_the_program_stops_reading(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    program.shutdown(socket.SHUT_RD)
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"nobody reads this")
    assert guest.expect(vsock_spec.VSOCK_OP_SHUTDOWN).flags == vsock_spec.VSOCK_SHUTDOWN_RCV
    program.sendall(b"but")
    assert guest.expect(vsock_spec.VSOCK_OP_RW).data == b"but"


def test_what_the_guest_sent_last_arrives_after_it_has_closed(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    payload = os.urandom(2 * BUF_ALLOC)
    for at in range(0, len(payload), 16384):
        guest.send(vsock_spec.VSOCK_OP_RW, port, src, payload[at : at + 16384])
    guest.send(vsock_spec.VSOCK_OP_SHUTDOWN, port, src, flags=3)
    while guest.receive()[0].op != vsock_spec.VSOCK_OP_RST:
        pass
    assert guest.vsock.stats()["waiting_bytes"] > 0
    assert ends(program) == payload
    guest.wait_for("all is gone", lambda: guest.vsock.stats()["connections"] == 0)


def test_the_guest_cuts_a_connection(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_RST, port, src)
    assert program.recv(100) == b""
    guest.quiet()


def test_a_reset_of_the_device_ends_connections_and_a_new_driver_starts_afresh(guest: VsockGuest) -> None:
    program, _, _ = guest.from_guest()
    client, _, _ = guest.from_host()
    guest.reset()
    assert program.recv(1) == client.recv(1) == b""
    guest.begin()
    (guest.uds.parent / "v.sock_1000").unlink()
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"again")
    assert program.recv(100) == b"again"


def test_connections_survive_a_pause(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    guest.transport.pause()
    program.sendall(b"meanwhile")
    guest.transport.resume()
    assert guest.expect(vsock_spec.VSOCK_OP_RW).data == b"meanwhile"
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"after")
    assert program.recv(100) == b"after"


def restore(guest: VsockGuest) -> None:
    """What a driver finds whose machine was restored: its queues, and another process's device."""
    guest.transport.pause()
    guest.transport.runner.stop()  # as one that has not been activated
    guest.vsock.restore(guest.vsock.save())
    guest.transport.resume()


@pytest.mark.parametrize("others", [0, 7])
def test_a_restored_driver_hears_that_its_connections_are_gone_before_any_packet(
    guest: VsockGuest, others: int
) -> None:
    """Linux ends every connection that it knows when it handles the event, new ones too."""
    rooms = [guest.event_room() for _ in range(others + 1)]
    restore(guest)
    guest.wait_for("the event is there", lambda: guest.queues[EVENT].take_used() != [])
    assert guest.content(rooms[0]) == bytes(4)
    client = guest.client(b"CONNECT 2000\n")
    guest.send(vsock_spec.VSOCK_OP_RW, 9, 9)  # of a connection that is gone
    guest.wait_for("the worker has nothing to do", is_asleep)
    assert guest.packets() == []
    guest.event_room()
    guest.queues[EVENT].kick()
    assert {guest.receive()[0].op for _ in range(2)} == {vsock_spec.VSOCK_OP_REQUEST, vsock_spec.VSOCK_OP_RST}
    client.close()


def test_a_pause_does_not_send_what_waits_for_the_driver(guest: VsockGuest) -> None:
    guest.event_room()
    restore(guest)
    guest.wait_for("the event is there", lambda: guest.queues[EVENT].take_used() != [])
    client = guest.client(b"CONNECT 2000\n")
    for _ in range(2):
        guest.transport.pause()
        guest.transport.resume()
    guest.wait_for("the worker has nothing to do", is_asleep)
    assert guest.packets() == []
    guest.transport.pause()
    guest.event_room()
    guest.transport.resume()
    assert guest.expect(vsock_spec.VSOCK_OP_REQUEST).dst_port == 2000
    client.close()


def test_a_driver_without_buffers_for_events_gets_packets_at_once(guest: VsockGuest) -> None:
    restore(guest)
    client, _, _ = guest.from_host()
    client.close()


def test_a_reset_forgets_what_the_driver_was_told(guest: VsockGuest) -> None:
    guest.event_room()
    restore(guest)
    guest.wait_for("the event is there", lambda: guest.queues[EVENT].take_used() != [])
    guest.reset()
    guest.begin()
    works(guest)


def test_clients_of_two_devices_have_other_ports(tmp_path: Path) -> None:
    """A restored guest may still have a socket of a connection to the first one."""
    ports = set()
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        with VsockGuest(tmp_path / str(number)) as guest:
            client, port, _ = guest.from_host()
            ports.add(port)
            client.close()
    assert len(ports) == 2


# -- seqpacket ----------------------------------------------------------------------------------------------------


def test_messages_to_the_guest_keep_their_ends(guest: VsockGuest) -> None:
    program, _port, _src = guest.from_guest(kind=SEQ)
    messages = [b"one", b"two" * 5000, b"3", os.urandom(100000)]
    for message in messages:
        program.send(message)
    for message in messages:
        got = b""
        while True:
            packet = guest.expect(vsock_spec.VSOCK_OP_RW)
            got += packet.data
            if packet.flags & vsock_spec.VSOCK_SEQ_EOM:
                break
        assert got == message


def test_messages_from_the_guest_keep_their_ends(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest(kind=SEQ)
    for data, flags in ((b"whole", 1), (b"in ", 0), (b"three ", 0), (b"pieces", 1), (b"x" * 50000, 0), (b"end", 1)):
        guest.send(vsock_spec.VSOCK_OP_RW, port, src, data, kind=SEQ, flags=flags)
    assert [program.recv(1 << 20) for _ in range(3)] == [b"whole", b"in three pieces", b"x" * 50000 + b"end"]


def test_messages_wait_for_a_slow_program(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest(kind=SEQ)
    sent = [b"%d" % n * 40 for n in range(1500)]
    for message in sent:
        guest.send(vsock_spec.VSOCK_OP_RW, port, src, message, kind=SEQ, flags=1)
    assert guest.vsock.stats()["waiting_bytes"] > 0
    assert [program.recv(1 << 16) for _ in sent] == sent
    guest.wait_for("nothing waits", lambda: guest.vsock.stats()["waiting_bytes"] == 0)


def test_a_message_longer_than_the_guests_credit_now_waits_for_it(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest(kind=SEQ, buf_alloc=10000)
    program.send(b"a" * 6000)
    program.send(b"b" * 6000)
    got = guest.receive_data(10000)
    guest.send(vsock_spec.VSOCK_OP_CREDIT_UPDATE, port, src, kind=SEQ, buf_alloc=10000, fwd_cnt=6000)
    assert got + guest.receive_data(2000) == b"a" * 6000 + b"b" * 6000


def test_a_program_connects_for_messages(guest: VsockGuest) -> None:
    client, _local, _port = guest.from_host(kind=SEQ)
    client.send(b"hello")
    packet = guest.expect(vsock_spec.VSOCK_OP_RW)
    assert (packet.data, packet.flags, packet.type) == (b"hello", vsock_spec.VSOCK_SEQ_EOM, SEQ)


def test_a_stream_listener_is_none_for_messages(guest: VsockGuest) -> None:
    with guest.listen(1000):
        guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 5, kind=SEQ)
        guest.expect(vsock_spec.VSOCK_OP_RST)


def test_messages_only_when_negotiated(tmp_path: Path) -> None:
    with VsockGuest(tmp_path, features=spec.F_VERSION_1) as guest:
        with guest.listen(1000, socket.SOCK_SEQPACKET):
            guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 5, kind=SEQ)
            guest.expect(vsock_spec.VSOCK_OP_RST)


# -- virtio-vsock in the library, and the paths of its sockets -------------------------------------------------------


# -- the library --------------------------------------------------------------------------------------------------


def accept(guest: VsockGuest) -> tuple[int, int]:
    """The guest accepts the next connection; returns both ports."""
    request = guest.expect(vsock_spec.VSOCK_OP_REQUEST)
    guest.send(vsock_spec.VSOCK_OP_RESPONSE, request.src_port, request.dst_port, kind=request.type)
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
    guest.send(vsock_spec.VSOCK_OP_RW, local, port, b"hi", kind=SEQ if seqpacket else 1, flags=vsock_spec.VSOCK_SEQ_EOM)
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
    request = guest.expect(vsock_spec.VSOCK_OP_REQUEST)
    guest.send(vsock_spec.VSOCK_OP_RST, request.src_port, 2000)
    thread.join()
    assert isinstance(errors[0], ConnectionRefusedError)


def test_connect_gives_up(tmp_path: Path) -> None:
    with VsockGuest(tmp_path, start=False) as guest, pytest.raises(TimeoutError):
        guest.vsock.connect(2000, timeout=0.05)


def test_listen(guest: VsockGuest) -> None:
    with guest.vsock.listen(1000) as listener:
        listener.settimeout(TIMEOUT)
        guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 5)
        program, _ = listener.accept()
        guest.expect(vsock_spec.VSOCK_OP_RESPONSE)
        with program:
            guest.send(vsock_spec.VSOCK_OP_RW, 1000, 5, b"hi")
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
            await asyncio.to_thread(guest.send, vsock_spec.VSOCK_OP_REQUEST, 1000, 5)
            await asyncio.to_thread(guest.expect, vsock_spec.VSOCK_OP_RESPONSE)
            await asyncio.to_thread(guest.send, vsock_spec.VSOCK_OP_RW, 1000, 5, b"hi")
            answer = await asyncio.to_thread(guest.expect, vsock_spec.VSOCK_OP_RW)
            await asyncio.to_thread(guest.expect, vsock_spec.VSOCK_OP_SHUTDOWN)
        connecting = asyncio.create_task(vsock_aio.connect(guest.vsock, 2000))
        local, port = await asyncio.to_thread(accept, guest)
        reader, writer = await connecting
        await asyncio.to_thread(guest.send, vsock_spec.VSOCK_OP_RW, local, port, b"yo")
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
        one.send(vsock_spec.VSOCK_OP_RW, port, src, b"one")
        two.send(vsock_spec.VSOCK_OP_RW, port, src, b"two")
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
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"12345")
    program.sendall(b"123")
    guest.expect(vsock_spec.VSOCK_OP_RW)
    stats = guest.transport.stats()
    assert stats["name"] == "vsock 3"
    assert (stats["connections"], stats["opened"], stats["from_guest_bytes"], stats["to_guest_bytes"]) == (1, 1, 5, 3)
    assert stats["connect_us_50"]
