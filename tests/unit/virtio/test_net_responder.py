"""virtio-net: a program that answers for one address in the place of the network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import TIMEOUT
from tests.net_driver import MAC, NetGuest, Wire, frame, header
from vmm import ConfigError, NetConfig
from vmm.virtio.net.device import Net
from vmm.virtio.net.responder import Responder

ADDRESS = "169.254.169.254"
US, OTHER = socket.inet_aton(ADDRESS), socket.inet_aton("169.254.169.253")
HEAD = b"\xff" * 6 + MAC


def arp(target: bytes, oper: int = 1) -> bytes:
    return HEAD + b"\x08\x06\0\x01\x08\0\x06\x04" + oper.to_bytes(2, "big") + MAC + bytes(10) + target


def ip(destination: bytes, protocol: int = 6) -> bytes:
    return HEAD + b"\x08\0\x45" + bytes(8) + bytes((protocol,)) + bytes(6) + destination + bytes(20)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[NetGuest, socket.socket]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        side = Responder(str(tmp_path / "s"), ADDRESS)
        program, _ = listener.accept()
    program.settimeout(TIMEOUT)
    with program, NetGuest(card=Net(Wire(), mac=MAC, side=side)) as guest:
        yield guest, program
    side.close()


def test_frames_for_the_address_go_to_the_program_and_no_others(service: tuple[NetGuest, socket.socket]) -> None:
    guest, program = service
    for each in (arp(US), ip(US)):
        guest.send(each)
        assert program.recv(1 << 17) == header() + each
    for each in (arp(OTHER), arp(US, 2), ip(OTHER), ip(US, 17), frame(length=60), frame(), ip(US)[:41]):
        guest.send(each)
        assert guest.far.recv(1 << 17) == header() + each


def test_a_frame_in_pieces_is_recognized(service: tuple[NetGuest, socket.socket]) -> None:
    guest, program = service
    whole = header() + ip(US)
    with guest.scratch():
        guest.send_buffers(*(guest.data(whole[at : at + 7]) for at in range(0, len(whole), 7)))
    assert program.recv(1 << 17) == whole


def test_the_guest_receives_from_both(service: tuple[NetGuest, socket.socket]) -> None:
    guest, program = service
    for sender, content in ((program, b"first"), (guest.far, b"second"), (program, b"third")):
        sender.send(header() + frame(content))
        assert guest.receive().frame == frame(content)


def test_more_answers_than_buffers_arrive_in_order(service: tuple[NetGuest, socket.socket]) -> None:
    guest, program = service
    frames = [frame(str(number).encode(), 900) for number in range(100)]
    sender = threading.Thread(target=lambda: [program.send(header() + each) for each in frames])
    sender.start()
    assert [guest.receive().frame for _ in frames] == frames
    sender.join()


def test_the_network_works_without_the_program(service: tuple[NetGuest, socket.socket]) -> None:
    """Also while it takes nothing: what it does not take is dropped."""
    guest, program = service
    for _ in range(600):
        guest.send(ip(US) + bytes(1000))
    assert guest.stat("tx_dropped")
    program.close()
    guest.send(ip(US))
    guest.send(frame(b"out"))
    assert guest.far.recv(1 << 17) == header() + frame(b"out")
    guest.far.send(header() + frame(b"in"))
    assert guest.receive().frame == frame(b"in")
    assert guest.net.link


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"responder": "/s"}, "a path and an address"),
        ({"responder": "/s", "responder_address": ADDRESS, "queues": 2}, "one pair of queues"),
        ({"responder": "/s", "responder_address": ADDRESS, "backend": "vhost"}, "backend=worker"),
    ],
)
def test_wrong_records(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetConfig("tap", "tap0", **fields)  # type: ignore[arg-type]


def test_no_program_and_no_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"responder .*: No such file") as caught:
        Responder(str(tmp_path / "missing"), ADDRESS)
    assert "start the program" in caught.value.hint
    with pytest.raises(ConfigError, match="not an IPv4 address"):
        Responder(str(tmp_path / "missing"), "nowhere")


def test_children_have_no_responder() -> None:
    record = NetConfig("tap", "tap0", responder="/s", responder_address=ADDRESS)
    assert record.of_child(1) == NetConfig("tap", "tap0")
