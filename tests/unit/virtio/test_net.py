"""virtio-net: what a guest and the other end of its cable see of each other."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.net_driver import MAC, NetGuest, Wire, frame, from_stream, header, to_stream
from tests.netns import ip, own_network
from vmm.errors import ConfigError, HostError
from vmm.native import lib
from vmm.options.limit import LimitConfig
from vmm.virtio import spec
from vmm.virtio.net import Publish
from vmm.virtio.net import device as net_spec
from vmm.virtio.net.device import Net, stable_mac
from vmm.virtio.net.passt import Passt
from vmm.virtio.net.tap import Tap
from vmm.virtio.vhost import Vhost

pytestmark = pytest.mark.usefixtures("virtqueues")

PLAIN = spec.F_VERSION_1 | net_spec.NET_F_MAC
MERGED = PLAIN | net_spec.NET_F_MRG_RXBUF
SEGMENTED = (
    MERGED | net_spec.NET_F_CSUM | net_spec.NET_F_HOST_TSO4 | net_spec.NET_F_GUEST_CSUM | net_spec.NET_F_GUEST_TSO4
)


@pytest.fixture
def guest() -> Iterator[NetGuest]:
    with NetGuest() as guest:
        yield guest


@pytest.fixture
def stream() -> Iterator[NetGuest]:
    with NetGuest(Wire(lib.NET_STREAM, mtu=65520)) as guest:
        yield guest


# -- what the driver sees --------------------------------------------------------------------------------------


def test_the_configuration_space(guest: NetGuest) -> None:
    assert guest.read(spec.MMIO_DEVICE_ID) == spec.ID_NET
    assert guest.config(0, 4).to_bytes(4, "little") + guest.config(4, 2).to_bytes(2, "little") == MAC
    assert (guest.config(6, 2), guest.config(8, 2), guest.config(10, 2)) == (net_spec.NET_S_LINK_UP, 1, 1500)


def test_the_cable_is_pulled_and_put_in_again(guest: NetGuest) -> None:
    guest.net.set_link(False)
    assert guest.wait_irq() & spec.INT_CONFIG
    assert guest.config(6, 2) == 0
    guest.net.set_link(True)
    assert guest.wait_irq() & spec.INT_CONFIG
    assert guest.config(6, 2) == net_spec.NET_S_LINK_UP


def test_another_address_is_that_of_the_next_driver(guest: NetGuest) -> None:
    guest.net.set_mac(bytes.fromhex("020000000077"))
    assert guest.config(0, 4).to_bytes(4, "little") + guest.config(4, 2).to_bytes(2, "little") == MAC
    guest.write(spec.MMIO_STATUS, 0)
    assert (guest.config(0, 4), guest.config(4, 2)) == (0x02, 0x7700)


def test_an_address_stays_the_same_and_is_a_local_one() -> None:
    first = stable_mac("tap a")
    assert first == stable_mac("tap a") != stable_mac("tap b")
    assert first[0] & 3 == 2, "locally administered, of one host"


@pytest.mark.parametrize(
    ("features", "accepted"),
    [
        (PLAIN, True),
        (SEGMENTED, True),
        (PLAIN | net_spec.NET_F_HOST_TSO4, False),
        (PLAIN | net_spec.NET_F_GUEST_TSO6, False),
        (PLAIN | net_spec.NET_F_CSUM | net_spec.NET_F_HOST_ECN, False),
        (PLAIN | net_spec.NET_F_CTRL_MAC_ADDR, False),
    ],
)
def test_features_that_need_others(features: int, accepted: bool) -> None:
    with NetGuest(start=False) as guest:
        assert guest.negotiate(features) == accepted


# -- frames ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [PLAIN, MERGED, None], ids=["plain", "merged", "all"])
def test_frames_both_ways(features: int | None) -> None:
    with NetGuest(features=features) as guest:
        for length in (17, 60, 1514):
            guest.send(frame(b"out", length))
            assert guest.far.recv(1 << 17) == header() + frame(b"out", length)
            guest.far.send(header() + frame(b"in", length))
            got = guest.receive()
            assert got.frame == frame(b"in", length)
            assert got.num_buffers == 1
        assert (guest.stat("rx_frames"), guest.stat("tx_frames")) == (3, 3)
        assert guest.stat("rx_bytes") == guest.stat("tx_bytes") == 17 + 60 + 1514


def test_the_header_and_the_frame_in_pieces(guest: NetGuest) -> None:
    whole = header() + frame(b"pieces", 300)
    cuts = [0, 1, 5, 12, 13, 100, len(whole)]
    guest.send_buffers(*(guest.data(whole[a:b]) for a, b in itertools.pairwise(cuts)))
    assert guest.far.recv(1 << 17) == whole


def test_a_large_frame_in_many_buffers(guest: NetGuest) -> None:
    guest.post(20)
    guest.far.send(header(gso_type=net_spec.NET_HDR_GSO_TCPV4, gso_size=1448) + frame(b"large", 65000))
    got = guest.receive()
    assert got.frame == frame(b"large", 65000)
    assert got.num_buffers == len(got.written) == -(-65012 // guest.size)
    assert got.written[:-1] == [guest.size] * (got.num_buffers - 1)
    assert got.gso_type == net_spec.NET_HDR_GSO_TCPV4


def test_a_large_frame_of_the_guest_is_passed_on_with_its_header(guest: NetGuest) -> None:
    head = header(1, net_spec.NET_HDR_GSO_TCPV4, 54, 1448, 34, 16)
    guest.send(frame(b"large", 60000), head)
    assert guest.far.recv(1 << 17) == head + frame(b"large", 60000)


def test_a_frame_waits_for_buffers() -> None:
    with NetGuest(buffers=0) as guest:
        guest.far.send(header() + frame(b"late", 200))
        guest.wait_stat("rx_starved")
        guest.post()
        assert guest.receive().frame == frame(b"late", 200)


def test_a_frame_waits_for_the_rest_of_its_buffers() -> None:
    """It has been read by then: the first part is in the guest's buffers, the other in the device."""
    with NetGuest(buffers=2) as guest:
        guest.far.send(header() + frame(b"long", 9000))
        guest.wait_stat("rx_starved")
        guest.post(1)
        guest.post(3)
        got = guest.receive()
        assert (got.num_buffers, got.frame) == (5, frame(b"long", 9000))
        guest.far.send(header() + frame(b"next", 100))
        assert guest.receive().frame == frame(b"next", 100)


def test_nobody_listens_to_a_guest_without_buffers() -> None:
    """The device does not wake up for what comes."""
    with NetGuest(buffers=0) as guest:
        guest.far.send(header() + frame(b"first", 60))
        guest.wait_stat("rx_starved")
        guest.send(frame())  # now it has been around once
        before = guest.stat("wakeups")
        for _ in range(50):
            guest.far.send(header() + frame(b"more", 60))
        assert guest.stat("wakeups") <= before + 1


def test_without_merging_a_frame_that_does_not_fit_is_dropped() -> None:
    with NetGuest(features=PLAIN, size=600) as guest:
        guest.far.send(header() + frame(b"long", 700))
        guest.far.send(header() + frame(b"short", 500))
        assert guest.receive().frame == frame(b"short", 500)
        assert guest.stat("rx_dropped") == 1


def test_a_frame_larger_than_all_buffers_is_dropped() -> None:
    """Every head of the queue is with the device: waiting would be for ever."""
    with NetGuest(buffers=8, size=256, queue_size=8) as guest:
        guest.far.send(header() + frame(b"long", 4000))
        guest.wait_stat("rx_dropped")
        guest.far.send(header() + frame(b"short", 200))
        assert guest.receive().frame == frame(b"short", 200)


@pytest.mark.parametrize("kind", [lib.NET_TAP, lib.NET_STREAM], ids=["tap", "stream"])
def test_frames_survive_a_guest_that_is_short_of_buffers(kind: int) -> None:
    """They end in the guest's buffers or in the device, wherever the buffers ended, and come out whole."""
    rng = random.Random(8)
    wire = Wire(kind, mtu=9000, features=None if kind == lib.NET_TAP else 0)
    with NetGuest(wire, buffers=0, size=1526) as guest:
        contents = [frame(b"%d." % at, rng.choice((60, 1514, 9000, 30000, 65000))) for at in range(150)]

        def flood() -> None:
            for content in contents:
                guest.far.sendall(header() + content if kind == lib.NET_TAP else to_stream(content))

        flooder = threading.Thread(target=flood)
        flooder.start()
        spare = [guest.room(rng.choice((700, 1526, 4096))) for _ in range(90)]
        posted = 0
        for content in contents:
            # A few more buffers than this frame needs at the least, in pieces of time
            while spare and posted < len(content) + 12:
                for buffer in spare[:3]:
                    guest.post_buffers([buffer])
                    posted += buffer.length
                del spare[:3]
                guest.rx().kick()
            got, buffers = guest.receive_from(guest.rx())
            assert got.frame == content
            posted -= sum(buffer.length for buffer in buffers)
            for buffer in buffers:
                guest.memory.write(buffer.gpa, b"\xee" * buffer.length)
            spare += buffers
        flooder.join()
        assert guest.stat("rx_starved") > 20
        assert guest.stat("rx_dropped") == 0


def test_many_frames_in_order(guest: NetGuest) -> None:
    for turn in range(300):
        guest.far.send(header() + frame(b"%d" % turn, 100))
        if turn % 7 == 0:
            guest.send(frame(b"%d" % turn, 100))
            assert guest.far.recv(4096)[26:].startswith(b"%d" % turn)
        assert guest.receive().frame == frame(b"%d" % turn, 100)


def test_the_host_takes_nothing_for_a_while(guest: NetGuest) -> None:
    """Frames stay with the guest until the other end takes them; none is lost."""
    count = 200
    buffers = [guest.data(header() + frame(b"%d." % at, 30000)) for at in range(4)]
    sent = 0
    queue = guest.tx()
    while sent < count:
        free = min(len(queue.free), count - sent)
        queue.offer(*(queue.chain([buffers[(sent + at) % 4]]) for at in range(free)))
        queue.kick()
        sent += free
        if sent == count or not queue.free:
            break
    for at in range(sent):
        assert guest.far.recv(1 << 17)[26:].startswith(b"%d." % (at % 4))
    assert guest.stat("tx_dropped") == 0


# -- pause, reset, the end ---------------------------------------------------------------------------------------


def test_pause_and_resume(guest: NetGuest) -> None:
    guest.far.send(header() + frame(b"one", 60))
    assert guest.receive().frame == frame(b"one", 60)
    guest.transport.pause()
    guest.far.send(header() + frame(b"two", 60))
    guest.transport.resume()
    assert guest.receive().frame == frame(b"two", 60)
    guest.send(frame(b"three", 60))
    assert guest.far.recv(4096) == header() + frame(b"three", 60)


def test_state_goes_to_another_device(guest: NetGuest) -> None:
    assert guest.command(net_spec.NET_CTRL_MAC, net_spec.NET_CTRL_MAC_ADDR_SET, b"\x02abcde") == net_spec.NET_OK
    state = guest.transport.save()
    assert state.payload["device"] == guest.device.save().plain()
    guest.net.set_link(False)
    assert state.payload["device"]["payload"]["link"]
    with NetGuest(start=False) as other:
        other.transport.restore(state)
        assert other.config(0, 4).to_bytes(4, "little") == b"\x02abc"


def test_a_reset_forgets_what_the_driver_set(guest: NetGuest) -> None:
    assert guest.command(net_spec.NET_CTRL_MAC, net_spec.NET_CTRL_MAC_ADDR_SET, b"\x02abcde") == net_spec.NET_OK
    guest.begin()
    assert guest.config(0, 4).to_bytes(4, "little") == MAC[:4]
    guest.far.send(header() + frame(b"again", 60))
    assert guest.receive().frame == frame(b"again", 60)


@pytest.mark.parametrize("kind", [lib.NET_TAP, lib.NET_STREAM], ids=["tap", "stream"])
def test_the_other_end_goes_away(kind: int, caplog: pytest.LogCaptureFixture) -> None:
    with NetGuest(Wire(kind)) as guest:
        guest.far.close()
        bits = 0
        while not bits & spec.INT_CONFIG:
            bits = guest.wait_irq()
        assert guest.config(6, 2) == 0
        guest.send(frame(b"to nobody", 60))  # is taken all the same
        assert guest.stat("tx_dropped") == 1
        assert guest.status & spec.DEVICE_NEEDS_RESET == 0
    assert "the network is gone" in caplog.text


# -- the control queue, several pairs --------------------------------------------------------------------------


def test_pairs_of_queues() -> None:
    with NetGuest(Wire(pairs=3)) as guest:
        assert guest.config(8, 2) == 3
        assert guest.wire.pairs == 1
        guest.post(4, pair=2)
        assert guest.command(net_spec.NET_CTRL_MQ, net_spec.NET_CTRL_MQ_VQ_PAIRS_SET, b"\x03\x00") == net_spec.NET_OK
        assert guest.wire.pairs == 3
        for pair in range(3):
            guest.send(frame(b"%d" % pair, 60), pair=pair)
            assert guest.wire.far[pair].recv(4096) == header() + frame(b"%d" % pair, 60)
        guest.wire.far[2].send(header() + frame(b"third", 60))
        assert guest.receive(pair=2).frame == frame(b"third", 60)
        assert guest.command(net_spec.NET_CTRL_MQ, net_spec.NET_CTRL_MQ_VQ_PAIRS_SET, b"\x01\x00") == net_spec.NET_OK
        guest.send(frame(b"still", 60))
        assert guest.far.recv(4096) == header() + frame(b"still", 60)
        assert guest.stat("tx_frames") == 4, "counted on, whoever sent them"


@pytest.mark.parametrize("pairs", [0, 4, 0x8000])
def test_no_more_pairs_than_there_are(pairs: int) -> None:
    with NetGuest(Wire(pairs=3)) as guest:
        command = guest.command(net_spec.NET_CTRL_MQ, net_spec.NET_CTRL_MQ_VQ_PAIRS_SET, pairs.to_bytes(2, "little"))
        assert command == net_spec.NET_ERR
        assert guest.wire.pairs == 1


def test_without_mq_the_control_queue_is_the_third() -> None:
    with NetGuest(Wire(pairs=3), features=PLAIN | net_spec.NET_F_CTRL_VQ | net_spec.NET_F_CTRL_MAC_ADDR) as guest:
        assert guest.command(net_spec.NET_CTRL_MAC, net_spec.NET_CTRL_MAC_ADDR_SET, b"\x02abcde") == net_spec.NET_OK


def test_offloads_are_those_that_were_negotiated(guest: NetGuest) -> None:
    assert guest.wire.offloads & net_spec.NET_F_GUEST_TSO4
    set_offloads = (net_spec.NET_CTRL_GUEST_OFFLOADS, net_spec.NET_CTRL_GUEST_OFFLOADS_SET)
    assert guest.command(*set_offloads, net_spec.NET_F_GUEST_CSUM.to_bytes(8, "little")) == net_spec.NET_OK
    assert guest.wire.offloads == net_spec.NET_F_GUEST_CSUM
    assert guest.command(*set_offloads, (1 << 40).to_bytes(8, "little")) == net_spec.NET_ERR
    guest.begin(MERGED)
    assert guest.wire.offloads == 0


# -- limits ----------------------------------------------------------------------------------------------------


def test_a_limit_of_frames_in_each_direction() -> None:
    """What goes beyond the burst waits, and comes all the same; nobody spins meanwhile."""
    with NetGuest(limit=LimitConfig(ops=400, ops_burst=4)) as guest:
        began = time.monotonic()
        for at in range(54):
            guest.send(frame(b"%d" % at, 60))
        for at in range(54):
            guest.far.send(header() + frame(b"%d" % at, 60))
        for at in range(54):
            assert guest.far.recv(4096) == header() + frame(b"%d" % at, 60)
            assert guest.receive().frame == frame(b"%d" % at, 60)
        assert time.monotonic() - began > 0.2, "50 and 50 of them at 400 a second"
        assert guest.stat("limit_waits") > 10
        assert guest.stat("wakeups") < 2000


def test_a_limit_of_bytes() -> None:
    with NetGuest(limit=LimitConfig(bytes=1 << 20, bytes_burst=1500)) as guest:
        began = time.monotonic()
        for at in range(5):
            guest.send(frame(b"%d" % at, 60000))
        assert time.monotonic() - began > 0.15, "four of 60000 bytes at 1 MiB a second"


def test_a_limited_card_without_traffic_sleeps() -> None:
    with NetGuest(limit=LimitConfig(bytes=1, bytes_burst=1)) as guest:
        guest.send(frame(b"all that is allowed for a minute", 60))
        before = guest.stat("wakeups")
        for _ in range(20):
            guest.far.send(header() + frame(b"in", 60))
        guest.turn_loop()
        assert guest.stat("wakeups") <= before + 4


# -- over a stream ---------------------------------------------------------------------------------------------


def test_frames_over_a_stream(stream: NetGuest) -> None:
    stream.post(40)
    for length in (14, 60, 1514, 65534):
        stream.send(frame(b"out", length))
        assert from_stream(stream.far) == frame(b"out", length)
        stream.far.sendall(to_stream(frame(b"in", length)))
        got = stream.receive()
        assert got.frame == frame(b"in", length)
        assert got.flags == net_spec.NET_HDR_F_DATA_VALID, "whoever sends them has checked them"


def test_a_stream_in_pieces(stream: NetGuest) -> None:
    data = b"".join(to_stream(frame(b"%d" % at, 40 + at)) for at in range(20))
    for at in range(0, len(data), 7):
        stream.far.sendall(data[at : at + 7])
    for at in range(20):
        assert stream.receive().frame == frame(b"%d" % at, 40 + at)


def test_a_slow_reader_of_a_stream(stream: NetGuest) -> None:
    """A frame is cut where the socket is full, and goes on there."""
    stream.far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    buffers = [stream.data(header() + frame(b"%d." % at, 60000 + at)) for at in range(8)]
    queue = stream.tx()
    for at in range(80):
        queue.offer(queue.chain([buffers[at % 8]]))
    queue.kick()
    for at in range(80):
        assert from_stream(stream.far) == frame(b"%d." % (at % 8), 60000 + at % 8)
    stream.wait_for("all are taken", lambda: len(queue.take_used()) >= 0 and len(queue.free) == queue.size)
    assert stream.stat("tx_dropped") == 0


@pytest.mark.parametrize("length", [0, 13, 70000, 0xFFFFFFFF])
def test_a_stream_that_is_none_of_frames(stream: NetGuest, length: int, caplog: pytest.LogCaptureFixture) -> None:
    stream.far.sendall(length.to_bytes(4, "big") + bytes(100))
    stream.wait_for("the link is down", lambda: not stream.net.link)
    assert "the network is gone" in caplog.text


# -- what a network card is connected to: real tap devices, and passt ------------------------------------------------


ARP = bytes.fromhex("ffffffffffff") + MAC + bytes.fromhex("08060001080006040001") + MAC


def ask_for(address: str, sender: str = "10.0.7.2") -> bytes:
    """The ARP request of the guest for *address*."""
    return ARP + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(address)


class TapGuest(NetGuest):
    """A driver with a card at the tap device t0."""

    def __init__(self, queues: int = 1) -> None:
        self._tap = Tap("t0", queues)
        super().__init__(self._tap)  # type: ignore[arg-type]


@pytest.fixture
def tap() -> Iterator[None]:
    with own_network():
        ip("tuntap add dev t0 mode tap; addr add 10.0.7.1/24 dev t0; link set t0 up mtu 1400")
        yield


def test_the_host_answers_at_a_tap_device(tap: None) -> None:
    with TapGuest() as guest:
        assert guest.config(10, 2) == 1400
        got = b""
        # The host introduces itself, too; and what it sends before it has seen the carrier is lost
        while got[12:14] != b"\x08\x06":
            guest.send(ask_for("10.0.7.1"))
            got = guest.receive_soon(0.2)
        assert got[:6] == MAC and got[28:32] == socket.inet_aton("10.0.7.1")


def test_what_a_tap_device_offers(tap: None) -> None:
    with TapGuest() as guest:
        for feature in (
            net_spec.NET_F_CSUM,
            net_spec.NET_F_HOST_TSO4,
            net_spec.NET_F_GUEST_TSO6,
            net_spec.NET_F_MRG_RXBUF,
        ):
            assert guest.offered() & feature
        assert not guest.offered() & net_spec.NET_F_MQ


GUEST_BITS = (
    net_spec.NET_F_GUEST_CSUM, net_spec.NET_F_GUEST_TSO4, net_spec.NET_F_GUEST_TSO6, net_spec.NET_F_GUEST_ECN,
    net_spec.NET_F_GUEST_USO4, net_spec.NET_F_GUEST_USO6,
)  # fmt: skip


def test_no_choice_of_offloads_ends_the_machine(tap: None) -> None:
    """5.1.3.1 allows more than TUNSETOFFLOAD does: USO4 without USO6, for one."""
    plain = spec.F_VERSION_1 | net_spec.NET_F_CTRL_VQ | net_spec.NET_F_CTRL_GUEST_OFFLOADS
    command = (net_spec.NET_CTRL_GUEST_OFFLOADS, net_spec.NET_CTRL_GUEST_OFFLOADS_SET)
    with TapGuest() as guest:
        choices = [sum(bit for at, bit in enumerate(GUEST_BITS) if chosen >> at & 1) for chosen in range(64)]
        offered = guest.offered()
        for choice in choices:
            if choice & ~offered or (choice and not choice & net_spec.NET_F_GUEST_CSUM):
                continue  # refused before the device has it
            if choice & net_spec.NET_F_GUEST_ECN and not choice & (
                net_spec.NET_F_GUEST_TSO4 | net_spec.NET_F_GUEST_TSO6
            ):
                continue
            guest.begin(plain | choice)
        guest.begin(plain | offered & sum(GUEST_BITS))
        for choice in choices:
            refused = choice & ~offered or (choice and not choice & net_spec.NET_F_GUEST_CSUM)
            lonely = choice & net_spec.NET_F_GUEST_ECN and not choice & (
                net_spec.NET_F_GUEST_TSO4 | net_spec.NET_F_GUEST_TSO6
            )
            answer = guest.command(*command, choice.to_bytes(8, "little"))
            assert answer == (net_spec.NET_ERR if refused or lonely else net_spec.NET_OK), hex(choice)


def test_several_queues_of_a_tap_device() -> None:
    with own_network():
        ip("tuntap add dev t0 mode tap multi_queue; addr add 10.0.7.1/24 dev t0; link set t0 up")
        with TapGuest(3) as guest:
            assert guest.config(8, 2) == 3
            for pairs in (3, 1, 2):
                command = (net_spec.NET_CTRL_MQ, net_spec.NET_CTRL_MQ_VQ_PAIRS_SET, pairs.to_bytes(2, "little"))
                assert guest.command(*command) == net_spec.NET_OK
            before = guest.stat("tx_frames")
            guest.send(ask_for("10.0.7.1"), pair=1)
            assert guest.stat("tx_frames") == before + 1
        Tap("t0").close()  # one queue of a device that could have several


def test_tap_devices_that_cannot_be(tap: None) -> None:
    with pytest.raises(ConfigError, match="No such device") as missing:
        Tap("nowhere")
    assert "ip tuntap add dev nowhere" in missing.value.hint
    with pytest.raises(ConfigError) as wrong:
        Tap("lo")
    assert "no tap device" in wrong.value.hint
    with pytest.raises(ConfigError, match="Invalid"):
        Tap("t0", queues=2)
    first = Tap("t0")
    with pytest.raises(ConfigError) as busy:
        Tap("t0")
    assert "another program" in busy.value.hint
    first.close()
    assert "nowhere" not in ip("link show")


def test_a_host_without_vhost(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"net tap t0: .*No such file") as missing:
        Vhost(f"{tmp_path}/vhost-net", "net tap t0", "net-vhost", "backend=worker")
    assert "modprobe vhost_net" in missing.value.hint and "backend=worker" in missing.value.hint


def test_a_frame_that_the_host_refuses_is_dropped(tap: None) -> None:
    with TapGuest() as guest:
        ip("link set t0 down")
        guest.send(ask_for("10.0.7.1"))
        assert guest.stat("tx_dropped") == 1
        ip("link set t0 up")
        guest.send(ask_for("10.0.7.1"))
        assert guest.stat("tx_frames") == 1


STEPS = ("_await_ready", "_read_frame", "_read")
TraceFunction = Callable[[FrameType, str, Any], Any]
needs_passt = pytest.mark.skipif(shutil.which("passt") is None, reason="no passt")


def free_port() -> int:
    with socket.create_server(("", 0)) as taken:
        return int(taken.getsockname()[1])


@needs_passt
def test_passt_knows_its_guest_and_ends_when_told() -> None:
    backend = Passt(MAC, (Publish(free_port(), 80),))
    pid = backend.pid
    device = Net(backend, mac=MAC)
    assert device.mac == MAC
    far = socket.socket(fileno=os.dup(backend.fds[0]))
    far.setblocking(True)
    far.sendall(to_stream(ask_for("169.254.1.1", "0.0.0.0")))
    while (answer := from_stream(far))[12:14] != b"\x08\x06":
        pass
    assert answer[28:32] == socket.inet_aton("169.254.1.1")
    far.close()
    device.close()
    assert backend.pid == 0 and not Path(f"/proc/{pid}").exists()


@needs_passt
def test_a_port_that_is_in_use() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)) as caught:
            Passt(MAC, (Publish(port, 80),))
    assert "another program listens" in caught.value.hint


def test_without_passt_there_is_a_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vmm.virtio.net import passt as net_passt

    monkeypatch.setattr(net_passt, "PROGRAM", "passt-that-is-not-there")
    with pytest.raises(ConfigError) as caught:
        Passt(MAC)
    assert "apt-get install passt" in caught.value.hint


def test_a_signal_at_any_moment_of_its_start_is_all_that_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler's exception comes between any two instructions; what was opened is closed once."""
    from vmm.virtio.net import passt as net_passt

    monkeypatch.setattr(net_passt, "PROGRAM", "true")  # it ends at once
    before = sorted(os.listdir("/proc/self/fd"))
    left = 0

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        nonlocal left
        if not frame.f_code.co_filename.endswith("passt.py") or frame.f_code.co_name not in STEPS:
            return None
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if left < 0:
            sys.settrace(None)
            raise SystemExit(130)
        return trace

    for moment in itertools.count():
        left = moment
        try:
            sys.settrace(trace)
            Passt(MAC)
        except SystemExit:
            pass
        except ConfigError:
            break
        finally:
            sys.settrace(None)
        assert sorted(os.listdir("/proc/self/fd")) == before, moment
    assert moment > 50


def test_a_passt_that_takes_long_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A busy host is none without networks; and whoever waits knows for what."""
    from vmm.virtio.net import passt as net_passt

    real = shutil.which("passt")
    for name, rest in (("slow", f'sleep 1; exec {real} "$@"'), ("never", "exec sleep 600")):  # a passt that takes long
        (tmp_path / name).write_text(f"#!/bin/sh\n{rest}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(net_passt, "NOTICE_AFTER", 0.1)
    if real:
        monkeypatch.setattr(net_passt, "PROGRAM", "slow")
        Passt(bytes(6)).close()
        assert "takes long to start" in caplog.text
    monkeypatch.setattr(net_passt, "PROGRAM", "never")
    monkeypatch.setattr(net_passt, "START_TIMEOUT", 0.5)
    monkeypatch.setattr(net_passt, "END_TIMEOUT", 0.1)
    with pytest.raises(HostError, match=r"does not answer after 0\.5 s") as caught:
        Passt(bytes(6))
    assert "busy" in caught.value.hint
