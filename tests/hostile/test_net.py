"""What a driver must not do to a network card (virtio 1.2, 5.1), and what the other end of its cable must not."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

from tests.driver import Buffer
from tests.net_driver import MAC, NetGuest, Wire, frame, header, to_stream
from vmm.native import lib
from vmm.virtio import spec
from vmm.virtio.net import device as net_spec

CSUM, GSO4, GSO6 = net_spec.NET_HDR_F_NEEDS_CSUM, net_spec.NET_HDR_GSO_TCPV4, net_spec.NET_HDR_GSO_TCPV6
UFO, USO, ECN = net_spec.NET_HDR_GSO_UDP, net_spec.NET_HDR_GSO_UDP_L4, net_spec.NET_HDR_GSO_ECN
PLAIN = spec.F_VERSION_1 | net_spec.NET_F_MRG_RXBUF | net_spec.NET_F_CTRL_VQ
SUMS = PLAIN | net_spec.NET_F_CSUM
LENGTH = 1000


@pytest.fixture
def guest() -> Iterator[NetGuest]:
    """A card that goes on working, whatever the test did, and has sent nothing that it should not."""
    with NetGuest() as guest:
        yield guest
        still_works(guest)


def still_works(guest: NetGuest) -> None:
    assert not guest.status & spec.DEVICE_NEEDS_RESET
    guest.send(frame(b"still here", 100))
    assert guest.far.recv(1 << 17) == header() + frame(b"still here", 100), "and nothing before it"
    guest.far.send(header() + frame(b"you too", 100))
    assert guest.receive().frame == frame(b"you too", 100)


BAD_HEADERS = {
    "a checksum that starts behind the end": header(CSUM, csum_start=LENGTH),
    "a checksum over the end by a byte": header(CSUM, csum_start=LENGTH - 17, csum_offset=16),
    "start and offset wrap 16 bits": header(CSUM, csum_start=0xFFFF, csum_offset=0xFFFF),
    "segments without checksums": header(0, GSO4, 54, 1448, 34, 16),
    "segments of no bytes": header(CSUM, GSO4, 54, 0, 34, 16),
    "an unknown kind of segments": header(CSUM, 2, 54, 1448, 34, 16),
    "another unknown kind": header(CSUM, 6, 54, 1448, 34, 16),
    "congestion of nothing": header(CSUM, ECN, 54, 1448, 34, 16),
    "congestion of UDP": header(CSUM, ECN | UFO, 42, 1448, 34, 6),
    "every bit": b"\xff" * 12,
}


@pytest.mark.parametrize("head", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_bad_headers_do_not_reach_the_host(guest: NetGuest, head: bytes) -> None:
    guest.send(frame(b"bad", LENGTH), head)
    assert guest.stat("tx_malformed") == 1


NOT_NEGOTIATED = {
    "a checksum": (PLAIN, header(CSUM, csum_start=34, csum_offset=16)),
    "TCP segments": (SUMS, header(CSUM, GSO4, 54, 1448, 34, 16)),
    "TCP segments over IPv6": (SUMS | net_spec.NET_F_HOST_TSO4, header(CSUM, GSO6, 74, 1428, 54, 16)),
    "congestion": (SUMS | net_spec.NET_F_HOST_TSO4, header(CSUM, GSO4 | ECN, 54, 1448, 34, 16)),
    "UDP fragments": (SUMS | net_spec.NET_F_HOST_TSO4, header(CSUM, UFO, 42, 1448, 34, 6)),
    "UDP segments": (SUMS | net_spec.NET_F_HOST_UFO, header(CSUM, USO, 42, 1448, 34, 6)),
}


@pytest.mark.parametrize("features, head", NOT_NEGOTIATED.values(), ids=NOT_NEGOTIATED.keys())
def test_what_was_not_negotiated_does_not_reach_the_host(features: int, head: bytes) -> None:
    with NetGuest(features=features) as guest:
        guest.send(frame(b"bad", LENGTH), head)
        assert guest.stat("tx_malformed") == 1
        still_works(guest)


def test_what_means_nothing_is_cleared(guest: NetGuest) -> None:
    """Flags of the other direction, a number of buffers, and places without their flag: the host never sees them."""
    guest.send(frame(b"x", LENGTH), header(0xFE, 0, 99, 98, 97, 96, 95))
    assert guest.far.recv(1 << 17) == header() + frame(b"x", LENGTH)


def test_a_header_length_is_a_hint(guest: NetGuest) -> None:
    guest.send(frame(b"x", LENGTH), header(CSUM, GSO4, 0xFFFF, 500, 34, 16))
    assert guest.far.recv(1 << 17)[:12] == header(CSUM, GSO4, LENGTH, 500, 34, 16)


@pytest.mark.parametrize("length", [1, 11, 12, 13, 25])
def test_chains_that_hold_no_frame(guest: NetGuest, length: int) -> None:
    guest.send_buffers(guest.data(bytes(length)))
    assert guest.stat("tx_dropped") == 1


def test_a_chain_to_send_that_is_to_be_written(guest: NetGuest) -> None:
    """There is nothing in it to send, and nothing is written to it."""
    room = guest.room(2000)
    guest.send_buffers(room)
    assert guest.content(room) == b"\xee" * 2000
    assert guest.stat("tx_dropped") == 1


@pytest.mark.parametrize("length", [65556, 200000, 4 << 20])
def test_frames_larger_than_any(guest: NetGuest, length: int) -> None:
    guest.send_buffers(guest.data(header()), *[Buffer(0x100000, length // 4)] * 4)
    assert guest.stat("tx_malformed") == 1


def test_a_frame_in_a_thousand_pieces(guest: NetGuest) -> None:
    """More than one system call takes."""
    piece = guest.data(b"p" * 64)
    queue = guest.tx()
    head = queue.chain([guest.data(header()), *[piece] * 1023], indirect=True)
    queue.offer(head)
    queue.kick()
    assert guest.far.recv(1 << 17) == header() + b"p" * 64 * 1023
    guest.wait_for("it is taken", lambda: queue.take_used() != [])


def test_a_header_that_changes_while_it_is_read() -> None:
    """Either the good one or none: a header that was checked is the one that is sent."""
    with NetGuest(features=SUMS) as guest:
        good, bad = header(CSUM, csum_start=34, csum_offset=16), header(CSUM, csum_start=LENGTH, csum_offset=0)
        buffer = guest.data(good + frame(b"x", LENGTH))
        with guest.rewriting((buffer.gpa, (bad, good))):
            for _ in range(300):
                guest.send_buffers(buffer)
        for _ in range(guest.stat("tx_frames")):
            assert guest.far.recv(1 << 17)[:12] == good
        assert guest.stat("tx_frames") + guest.stat("tx_malformed") == 300


# -- buffers to receive into -----------------------------------------------------------------------------------


def test_buffers_of_a_byte(guest: NetGuest) -> None:
    with NetGuest(buffers=0) as guest:
        for _ in range(200):
            guest.post_buffers([guest.room(1)])
        guest.rx().kick()
        guest.far.send(header() + frame(b"tiny", 100))
        got = guest.receive(repost=False)
        # 12 bytes of header lie in 12 buffers: a driver that does this cannot even read num_buffers of the first
        assert got.written[0] == 1
        assert not guest.status & spec.DEVICE_NEEDS_RESET


def test_a_buffer_in_a_thousand_pieces() -> None:
    with NetGuest(buffers=0) as guest:
        pieces = [guest.room(7) for _ in range(1024)]
        queue = guest.rx()
        for _ in range(2):
            head = queue.chain(pieces, indirect=True)
            guest._room[0, head] = pieces
            queue.offer(head)
        queue.kick()
        guest.far.send(header() + frame(b"cut", 7000))
        assert guest.receive(repost=False).frame == frame(b"cut", 7000)


def test_a_buffer_that_is_to_be_read_is_a_broken_queue() -> None:
    with NetGuest(buffers=0) as guest:
        queue = guest.rx()
        queue.offer(queue.chain([guest.data(bytes(2000))]))
        queue.kick()
        guest.far.send(header() + frame(b"x", 60))
        guest.wait_needs_reset()
        assert guest.transport.failures == 1
        guest.begin()
        guest.far.send(header() + frame(b"y", 60))
        assert guest.receive().frame in (frame(b"x", 60), frame(b"y", 60))


@pytest.mark.parametrize("size", [1, 11, 12, 13, 25])
def test_buffers_too_small_for_any_frame_without_merging(size: int) -> None:
    with NetGuest(features=PLAIN & ~net_spec.NET_F_MRG_RXBUF, size=size, buffers=8) as guest:
        for _ in range(20):
            guest.far.send(header() + frame(b"x", 60))
        guest.wait_stat("rx_dropped", 20)
        assert guest.stat("rx_frames") == 0
        assert not guest.status & spec.DEVICE_NEEDS_RESET


def test_nothing_is_written_behind_a_frame(guest: NetGuest) -> None:
    """Buffers that a large frame could have needed are left as they were."""
    with NetGuest(buffers=0, size=64) as guest:
        rooms = [guest.room(64) for _ in range(60)]
        for room in rooms:
            guest.post_buffers([room])
        guest.rx().kick()
        guest.far.send(header() + frame(b"x", 100))
        assert guest.receive(repost=False).num_buffers == 2
        assert guest.content(rooms[1])[112 - 64 :] == b"\xee" * 16
        assert all(guest.content(room) == b"\xee" * 64 for room in rooms[2:])


@pytest.mark.parametrize("index", [0, 1], ids=["to the guest", "from the guest"])
def test_a_broken_queue_of_either_direction_stops_the_card(index: int) -> None:
    with NetGuest() as guest:
        guest.queues[index].write_avail_idx(40000)
        guest.queues[index].kick()
        guest.far.send(header() + frame(b"x", 60))
        guest.wait_needs_reset()
        guest.begin()
        guest.far.send(header() + frame(b"end", 60))
        frames = [guest.receive().frame]
        if frames[0] != frame(b"end", 60):  # the one before was not lost
            frames.append(guest.receive().frame)
        assert frames[-1] == frame(b"end", 60)


# -- commands --------------------------------------------------------------------------------------------------

BAD_COMMANDS = {
    "nothing": b"",
    "half of one": b"\x04",
    "an unknown class": b"\x63\x00",
    "an unknown command": b"\x04\x63\x01\x00",
    "no number of pairs": b"\x04\x00",
    "half a number": b"\x04\x00\x01",
    "too much of a number": b"\x04\x00\x01\x00\x00",
    "an address of a group": b"\x01\x01\x01abcde",
    "an address of nothing": b"\x01\x01" + bytes(6),
    "half an address": b"\x01\x01\x02ab",
    "a table of addresses without end": b"\x01\x00" + b"\xff" * 60000,
    "offloads that were not negotiated": b"\x05\x00" + b"\xff" * 8,
    "promiscuity, which was not offered": b"\x00\x00\x01",
}


@pytest.mark.parametrize("command", BAD_COMMANDS.values(), ids=BAD_COMMANDS.keys())
def test_bad_commands(guest: NetGuest, command: bytes) -> None:
    queue = guest.queues[2]
    answer = guest.room(1)
    queue.send(*([guest.data(command)] if command else []), answer)
    assert guest.content(answer) == bytes([net_spec.NET_ERR])
    assert guest.config(0, 4).to_bytes(4, "little") == MAC[:4]


def test_a_command_without_room_for_its_answer() -> None:
    with NetGuest() as guest:
        queue = guest.queues[2]
        queue.offer(queue.chain([guest.data(b"\x04\x00\x01\x00")]))
        queue.kick()
        guest.wait_needs_reset()


def test_pairs_of_queues_that_were_not_set_up() -> None:
    with NetGuest(Wire(pairs=4), start=False) as guest:
        assert guest.negotiate()
        for index in (0, 1, 2, 8):
            guest.add_queue(index)
        guest.driver_ok()
        set_pairs = (net_spec.NET_CTRL_MQ, net_spec.NET_CTRL_MQ_VQ_PAIRS_SET)
        assert guest.command(*set_pairs, b"\x04\x00") == net_spec.NET_ERR
        assert guest.command(*set_pairs, b"\x02\x00") == net_spec.NET_ERR
        still_works_without_buffers(guest)


def still_works_without_buffers(guest: NetGuest) -> None:
    guest.post(4)
    still_works(guest)


def test_only_a_control_queue() -> None:
    with NetGuest(start=False) as guest:
        assert guest.negotiate()
        guest.add_queue(2)
        guest.driver_ok()
        guest.far.send(header() + frame(b"x", 60))
        assert guest.command(net_spec.NET_CTRL_MQ, net_spec.NET_CTRL_MQ_VQ_PAIRS_SET, b"\x01\x00") == net_spec.NET_ERR


def test_resets_under_load() -> None:
    rng = random.Random(5)
    with NetGuest(Wire(pairs=2)) as guest:
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                try:
                    for far in guest.wire.far:
                        far.settimeout(0.05)
                        far.send(header() + frame(b"f", rng.randrange(60, 60000)))
                except OSError:
                    pass

        flooder = threading.Thread(target=flood)
        flooder.start()
        try:
            for turn in range(40):
                guest.begin(buffers=rng.randrange(64))
                if turn % 2:
                    guest.command(net_spec.NET_CTRL_MQ, net_spec.NET_CTRL_MQ_VQ_PAIRS_SET, b"\x02\x00")
                guest._free = 0x100000
        finally:
            stop.set()
            flooder.join()
        assert not guest.status & spec.DEVICE_NEEDS_RESET


# -- the other end ---------------------------------------------------------------------------------------------


def test_datagrams_that_are_no_frames(guest: NetGuest) -> None:
    """Shorter than a header: nothing that a tap device ever gives, and nothing for the guest."""
    for length in (1, 11, 12):
        guest.far.send(bytes(length))


def test_garbage_over_a_stream() -> None:
    rng = random.Random(6)
    for _ in range(30):
        with NetGuest(Wire(lib.NET_STREAM)) as guest:
            guest.far.sendall(to_stream(frame(b"good", 60)) + rng.randbytes(rng.randrange(4, 3000)))
            assert guest.receive().frame == frame(b"good", 60)
            guest.send(frame(b"x", 60))
            assert not guest.status & spec.DEVICE_NEEDS_RESET
