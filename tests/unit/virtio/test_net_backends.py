"""What a network card is connected to: real tap devices, and passt."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net_driver import MAC, NetGuest, from_stream, to_stream
from tests.netns import ip, own_network
from vmm.errors import ConfigError, HostError
from vmm.virtio import spec
from vmm.virtio.net.config import Publish
from vmm.virtio.net.device import Net
from vmm.virtio.net.passt import Passt
from vmm.virtio.net.tap import Tap

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
        for feature in (spec.NET_F_CSUM, spec.NET_F_HOST_TSO4, spec.NET_F_GUEST_TSO6, spec.NET_F_MRG_RXBUF):
            assert guest.offered() & feature
        assert not guest.offered() & spec.NET_F_MQ


GUEST_BITS = (
    spec.NET_F_GUEST_CSUM, spec.NET_F_GUEST_TSO4, spec.NET_F_GUEST_TSO6, spec.NET_F_GUEST_ECN, spec.NET_F_GUEST_USO4,
    spec.NET_F_GUEST_USO6,
)  # fmt: skip


def test_no_choice_of_offloads_ends_the_machine(tap: None) -> None:
    """5.1.3.1 allows more than TUNSETOFFLOAD does: USO4 without USO6, for one."""
    plain = spec.F_VERSION_1 | spec.NET_F_CTRL_VQ | spec.NET_F_CTRL_GUEST_OFFLOADS
    command = (spec.NET_CTRL_GUEST_OFFLOADS, spec.NET_CTRL_GUEST_OFFLOADS_SET)
    with TapGuest() as guest:
        choices = [sum(bit for at, bit in enumerate(GUEST_BITS) if chosen >> at & 1) for chosen in range(64)]
        offered = guest.offered()
        for choice in choices:
            if choice & ~offered or (choice and not choice & spec.NET_F_GUEST_CSUM):
                continue  # refused before the device has it
            if choice & spec.NET_F_GUEST_ECN and not choice & (spec.NET_F_GUEST_TSO4 | spec.NET_F_GUEST_TSO6):
                continue
            guest.begin(plain | choice)
        guest.begin(plain | offered & sum(GUEST_BITS))
        for choice in choices:
            refused = choice & ~offered or (choice and not choice & spec.NET_F_GUEST_CSUM)
            lonely = choice & spec.NET_F_GUEST_ECN and not choice & (spec.NET_F_GUEST_TSO4 | spec.NET_F_GUEST_TSO6)
            answer = guest.command(*command, choice.to_bytes(8, "little"))
            assert answer == (spec.NET_ERR if refused or lonely else spec.NET_OK), hex(choice)


def test_several_queues_of_a_tap_device() -> None:
    with own_network():
        ip("tuntap add dev t0 mode tap multi_queue; addr add 10.0.7.1/24 dev t0; link set t0 up")
        with TapGuest(3) as guest:
            assert guest.config(8, 2) == 3
            for pairs in (3, 1, 2):
                command = (spec.NET_CTRL_MQ, spec.NET_CTRL_MQ_VQ_PAIRS_SET, pairs.to_bytes(2, "little"))
                assert guest.command(*command) == spec.NET_OK
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


def test_a_frame_that_the_host_refuses_is_dropped(tap: None) -> None:
    with TapGuest() as guest:
        ip("link set t0 down")
        guest.send(ask_for("10.0.7.1"))
        assert guest.stat("tx_dropped") == 1
        ip("link set t0 up")
        guest.send(ask_for("10.0.7.1"))
        assert guest.stat("tx_frames") == 1


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
    far.settimeout(10)
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


def test_a_passt_that_takes_long_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A busy host is none without networks; and whoever waits knows for what."""
    from vmm.virtio.net import passt as net_passt

    real = shutil.which("passt")
    for name, rest in (("slow", f'sleep 1; exec {real} "$@"'), ("never", "exec sleep 600")):
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
