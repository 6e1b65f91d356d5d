"""A guest that breaks the rules of virtio-vsock: packets, their layout, credit."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Buffer
from tests.vsock_driver import BUF_ALLOC, CID, VsockGuest, header, resident, works
from vmm.virtio import spec
from vmm.virtio.vsock import device as vsock_spec
from vmm.virtio.vsock.device import RX

SEQ = vsock_spec.VSOCK_TYPE_SEQPACKET
STREAM = vsock_spec.VSOCK_TYPE_STREAM


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[VsockGuest]:
    with VsockGuest(tmp_path) as guest:
        yield guest
        assert not guest.status & spec.DEVICE_NEEDS_RESET, "a bad packet is no broken ring"


# -- packets that are not understood ------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [0, 8, 9, 255, 0xFFFF])
def test_unknown_operations(guest: VsockGuest, op: int) -> None:
    program, port, src = guest.from_guest()
    guest.send(op, port, src)
    assert guest.expect(vsock_spec.VSOCK_OP_RST).src_port == port
    assert program.recv(10) == b""
    guest.send(op, port, src)
    guest.expect(vsock_spec.VSOCK_OP_RST)
    works(guest)


@pytest.mark.parametrize("kind", [0, 3, 0xFFFF])
def test_unknown_types(guest: VsockGuest, kind: int) -> None:
    with guest.listen(1000):
        guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, 5, kind=kind)
        assert guest.expect(vsock_spec.VSOCK_OP_RST).type == kind
    works(guest)


def test_the_type_changes_in_a_connection(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"x", kind=SEQ)
    guest.expect(vsock_spec.VSOCK_OP_RST)
    assert program.recv(10) == b""


@pytest.mark.parametrize(
    "op",
    [
        vsock_spec.VSOCK_OP_RESPONSE,
        vsock_spec.VSOCK_OP_SHUTDOWN,
        vsock_spec.VSOCK_OP_RW,
        vsock_spec.VSOCK_OP_CREDIT_UPDATE,
        vsock_spec.VSOCK_OP_CREDIT_REQUEST,
    ],
)
def test_packets_of_no_connection(guest: VsockGuest, op: int) -> None:
    guest.send(op, 1000, 5, b"data")
    packet = guest.expect(vsock_spec.VSOCK_OP_RST)
    assert (packet.src_port, packet.dst_port) == (1000, 5)


def test_a_reset_is_not_answered_by_a_reset(guest: VsockGuest) -> None:
    guest.send(vsock_spec.VSOCK_OP_RST, 1000, 5)
    guest.quiet()


def test_a_request_for_a_connection_that_there_is(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_REQUEST, port, src)
    guest.expect(vsock_spec.VSOCK_OP_RST)
    assert program.recv(10) == b""


def test_a_response_that_nobody_asked_for(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_RESPONSE, port, src)
    guest.expect(vsock_spec.VSOCK_OP_RST)
    assert program.recv(10) == b""


def test_data_before_the_response(guest: VsockGuest) -> None:
    client = guest.client(b"CONNECT 2000\n")
    request = guest.expect(vsock_spec.VSOCK_OP_REQUEST)
    guest.send(vsock_spec.VSOCK_OP_RW, request.src_port, 2000, b"early")
    guest.expect(vsock_spec.VSOCK_OP_RST)
    assert client.recv(10) == b"", "not even an OK"


def test_data_after_the_guest_has_shut_down(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_SHUTDOWN, port, src, flags=vsock_spec.VSOCK_SHUTDOWN_SEND)
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"more")
    guest.expect(vsock_spec.VSOCK_OP_RST)
    assert program.recv(10) == b""


@pytest.mark.parametrize("src_cid", [0, 1, 2, 4, 0xFFFF_FFFF, 3 | 1 << 32, (1 << 64) - 1])
def test_a_source_that_is_not_the_guest(guest: VsockGuest, src_cid: int) -> None:
    program, port, src = guest.from_guest()
    for op in (vsock_spec.VSOCK_OP_RW, vsock_spec.VSOCK_OP_RST, vsock_spec.VSOCK_OP_REQUEST):
        guest.send(op, port, src, b"forged", src_cid=src_cid)
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"true")
    assert program.recv(100) == b"true"
    assert guest.vsock.stats()["malformed"] == 3


@pytest.mark.parametrize("dst_cid", [0, 1, 3, 4, 0xFFFF_FFFF, 2 | 1 << 32])
def test_a_destination_that_is_not_the_host(guest: VsockGuest, dst_cid: int) -> None:
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"astray", dst_cid=dst_cid)
    (packet,) = guest.receive()
    assert (packet.op, packet.src_cid, packet.dst_cid) == (vsock_spec.VSOCK_OP_RST, dst_cid, CID)
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"true")
    assert program.recv(100) == b"true"


# -- lengths and layouts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [6, 4096, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_length_larger_than_the_buffer(guest: VsockGuest, length: int) -> None:
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"short", length=length)
    guest.expect(vsock_spec.VSOCK_OP_RST)
    assert program.recv(10) == b""
    works(guest)


def test_a_length_smaller_than_the_buffer(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"longer", length=4)
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"!", length=1)
    assert program.recv(5, socket.MSG_WAITALL) == b"long!"


def test_a_header_that_is_not_whole(guest: VsockGuest) -> None:
    for size in (1, 43):
        guest.send_buffers(guest.data(header(vsock_spec.VSOCK_OP_RW, 1, 2)[:size]))
    guest.send_buffers(guest.room(100))  # nothing to read at all
    assert guest.vsock.stats()["malformed"] == 3
    works(guest)


@pytest.mark.parametrize("cut", [1, 7, 20, 43, 44, 45])
def test_packets_split_over_several_descriptors(guest: VsockGuest, cut: int) -> None:
    program, port, src = guest.from_guest()
    packet = header(vsock_spec.VSOCK_OP_RW, port, src, length=6) + b"pieces"
    guest.send_buffers(*[guest.data(packet[at : at + cut]) for at in range(0, len(packet), cut)])
    assert program.recv(10) == b"pieces"


def test_buffers_of_the_guest_in_pieces(tmp_path: Path) -> None:
    with VsockGuest(tmp_path, buffers=0) as guest:
        for _ in range(8):
            guest.post_buffers([guest.room(size) for size in (1, 20, 22, 3, 500)])
        guest.queues[RX].kick()
        program, _, _ = guest.from_guest()
        payload = os.urandom(3000)
        program.sendall(payload)
        assert guest.receive_data(3000) == payload


def test_buffers_without_room_for_data(tmp_path: Path) -> None:
    """A header fits into some, a byte behind it into none: they come back empty, and the next are used."""
    with VsockGuest(tmp_path, buffers=0) as guest:
        for size in (1, 43, 44):
            guest.post(4, size)
        guest.post(8)
        program, _, _ = guest.from_guest()
        program.sendall(b"fits")
        assert guest.expect(vsock_spec.VSOCK_OP_RW).data == b"fits"
        assert guest.vsock.stats()["malformed"] >= 12


def test_a_packet_where_buffers_of_the_guest_overlap(guest: VsockGuest) -> None:
    """The same memory is to be sent, and to be written: whatever comes of it, nothing breaks."""
    program, port, src = guest.from_guest()
    gpa = guest.alloc(4096)
    guest.memory.write(gpa, header(vsock_spec.VSOCK_OP_RW, port, src, length=4) + b"self")
    guest.post_buffers([Buffer(gpa, 4096, writable=True)])
    guest.send_buffers(Buffer(gpa, 48))
    assert program.recv(10) == b"self"
    program.sendall(b"x" * 200_000)
    guest.receive_data(100_000)


# -- credit -------------------------------------------------------------------------------------------------------


def test_more_than_the_credit_at_once(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest()
    guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"x" * (BUF_ALLOC + 1))
    guest.expect(vsock_spec.VSOCK_OP_RST)
    assert program.recv(10) == b""
    assert guest.vsock.stats()["waiting_bytes"] == 0


@pytest.mark.parametrize("kind", [STREAM, SEQ])
def test_more_than_the_credit_bit_by_bit_while_nobody_reads(guest: VsockGuest, kind: int) -> None:
    program, port, src = guest.from_guest(kind=kind)
    for _ in range(200):
        guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"y" * 8192, kind=kind, flags=vsock_spec.VSOCK_SEQ_EOM)
        assert guest.vsock.stats()["waiting_bytes"] <= 2 * BUF_ALLOC
        if guest.vsock.stats()["resets"]:
            break
    while guest.receive()[0].op != vsock_spec.VSOCK_OP_RST:
        pass
    assert guest.vsock.stats()["resets"] == 1
    assert guest.vsock.stats()["waiting_bytes"] == 0
    program.close()


def test_a_message_that_never_ends(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest(kind=SEQ)
    for _ in range(BUF_ALLOC // 16384 + 1):
        guest.send(vsock_spec.VSOCK_OP_RW, port, src, b"z" * 16384, kind=SEQ)
    guest.expect(vsock_spec.VSOCK_OP_RST)
    assert guest.vsock.stats()["waiting_bytes"] == 0
    assert program.recv(10) == b""


def test_messages_without_bytes_cost_nothing(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest(kind=SEQ)
    for _ in range(1000):
        guest.send(vsock_spec.VSOCK_OP_RW, port, src, kind=SEQ, flags=vsock_spec.VSOCK_SEQ_EOM)
    assert guest.vsock.stats()["waiting_bytes"] == 0
    program.send(b"")
    program.send(b"x")
    assert guest.expect(vsock_spec.VSOCK_OP_RW).data == b"x"


@pytest.mark.parametrize("fwd_cnt", [1, 5, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_credit_for_what_was_never_sent(guest: VsockGuest, fwd_cnt: int) -> None:
    """fwd_cnt ahead of what there is: no room comes of it (CVE-2026-23069)."""
    program, port, src = guest.from_guest(buf_alloc=1000)
    guest.send(vsock_spec.VSOCK_OP_CREDIT_UPDATE, port, src, buf_alloc=1000, fwd_cnt=fwd_cnt)
    program.sendall(b"w" * 5000)
    assert guest.receive_data(1000) == b"w" * 1000
    guest.expect(vsock_spec.VSOCK_OP_CREDIT_REQUEST)
    guest.send(vsock_spec.VSOCK_OP_CREDIT_UPDATE, port, src, buf_alloc=1000, fwd_cnt=1001 + fwd_cnt // 2)
    guest.quiet()
    guest.send(vsock_spec.VSOCK_OP_CREDIT_UPDATE, port, src, buf_alloc=1000, fwd_cnt=1000)
    assert guest.receive_data(1000) == b"w" * 1000


def test_an_older_count_takes_no_credit_back(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest(buf_alloc=1000)
    program.sendall(b"w" * 3000)
    guest.receive_data(1000)
    guest.expect(vsock_spec.VSOCK_OP_CREDIT_REQUEST)
    guest.send(vsock_spec.VSOCK_OP_CREDIT_UPDATE, port, src, buf_alloc=1000, fwd_cnt=1000)
    guest.receive_data(1000)
    guest.expect(vsock_spec.VSOCK_OP_CREDIT_REQUEST)
    guest.send(vsock_spec.VSOCK_OP_CREDIT_UPDATE, port, src, buf_alloc=1000, fwd_cnt=500)
    guest.quiet()
    guest.send(vsock_spec.VSOCK_OP_CREDIT_UPDATE, port, src, buf_alloc=1000, fwd_cnt=2000)
    assert guest.receive_data(1000) == b"w" * 1000


def test_room_that_shrinks_in_flight(guest: VsockGuest) -> None:
    program, port, src = guest.from_guest(buf_alloc=10000)
    program.sendall(b"v" * 30000)
    guest.receive_data(10000)
    guest.expect(vsock_spec.VSOCK_OP_CREDIT_REQUEST)
    for buf_alloc in (5000, 1, 0, 9999):
        guest.send(vsock_spec.VSOCK_OP_CREDIT_UPDATE, port, src, buf_alloc=buf_alloc, fwd_cnt=0)
    guest.quiet()
    guest.send(vsock_spec.VSOCK_OP_CREDIT_UPDATE, port, src, buf_alloc=4000, fwd_cnt=8000)
    assert guest.receive_data(2000) == b"v" * 2000


def test_counts_that_wrap(guest: VsockGuest) -> None:
    """More than 4 GiB cannot go through a test: the guest's counts start where they wrap instead."""
    program, port, src = guest.from_guest(buf_alloc=0xFFFF_FFFF)
    program.sendall(b"u" * 100)
    assert guest.receive_data(100) == b"u" * 100
    guest.send(vsock_spec.VSOCK_OP_CREDIT_UPDATE, port, src, buf_alloc=0xFFFF_FFFF, fwd_cnt=0xFFFF_FFFF)
    program.sendall(b"t" * 100)
    assert guest.receive_data(100) == b"t" * 100


def test_memory_does_not_follow_the_guests_buf_alloc(guest: VsockGuest) -> None:
    """CVE-2026-23086: a guest that promises 4 GiB of room makes nobody keep 4 GiB for it."""
    program, _, _ = guest.from_guest(buf_alloc=0xFFFF_FFFF)
    before = resident()
    stop = threading.Event()

    def write() -> None:
        program.settimeout(0.05)
        while not stop.is_set():
            try:
                program.send(b"s" * 65536)
            except TimeoutError:
                pass

    writer = threading.Thread(target=write)
    writer.start()
    queue = guest.queues[RX]
    guest.wait_for("every buffer is used", lambda: queue.read_used_idx() == queue.next_avail)
    time.sleep(0.2)  # the program writes as much as is taken from it
    stop.set()
    writer.join()
    assert resident() - before < 16 << 20


def test_promises_have_a_budget(tmp_path: Path) -> None:
    """The more connections there are, the less room each new one gets; all of them together have a bound."""
    with VsockGuest(tmp_path, buffers=64) as guest, guest.listen(1000) as listener:
        promised, programs = [], []
        for src in range(600):
            guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, src)
            programs.append(listener.accept()[0])
            promised.append(guest.expect(vsock_spec.VSOCK_OP_RESPONSE).buf_alloc)
        assert promised[0] == BUF_ALLOC
        assert promised[-1] < BUF_ALLOC
        assert sum(promised) <= (64 << 20) + 4096 * len(promised)
        for program in programs:
            program.close()
