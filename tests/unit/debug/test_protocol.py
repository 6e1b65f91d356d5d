"""The remote serial protocol without gdb: framing, what each packet answers, and packets that no gdb would send."""

from __future__ import annotations

import os
import random
import socket
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from vmm import ConfigError, Machine
from vmm.debug import GdbServer, GdbTarget
from vmm.debug.packet import INTERRUPT, MAX_PACKET, Packet, Reader, escape, frame, unescape
from vmm.debug.registers import LAYOUT, SIZE, target_xml

KVM = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")


def packets(data: bytes, piece: int = 1 << 20) -> list[bytes | None]:
    reader = Reader()
    found: list[bytes | None] = []
    for at in range(0, len(data), piece):
        for item in reader.feed(data[at : at + piece]):
            found.append(item.data if isinstance(item, Packet) else item)
    return found


@given(st.binary())
def test_escaping(data: bytes) -> None:
    assert unescape(escape(data)) == data
    assert not any(byte in escape(data) for byte in b"#$*")


@given(st.lists(st.binary(max_size=50)), st.integers(1, 7))
def test_packets_come_out_as_they_went_in(contents: list[bytes], piece: int) -> None:
    stream = b"+".join(frame(escape(content)) for content in contents)
    assert packets(stream, piece) == [escape(content) for content in contents]


@given(st.binary(max_size=400), st.integers(1, 30))
def test_any_bytes_are_read(data: bytes, piece: int) -> None:
    packets(data, piece)
    assert packets(data + b"#00#00" + frame(b"g"), piece)[-1] == b"g", "it finds the next good packet"


def test_damaged_and_overlong_packets_are_told_apart_from_good_ones() -> None:
    assert packets(b"$g#00$g#67") == [None, b"g"]
    assert packets(frame(b"x" * (MAX_PACKET + 1)) + frame(b"g"), 1000) == [None, b"g"]
    assert packets(b"\x03$g#67\x03\x03") == [INTERRUPT, b"g", INTERRUPT, INTERRUPT]
    assert packets(b"$m0,\x03#" + b"%02x" % (sum(b"m0,\x03") & 255)) == [b"m0,\x03"], "no interrupt inside of a packet"


def test_the_target_description_is_what_the_packets_hold() -> None:
    root = ElementTree.fromstring(target_xml().decode())
    registers = list(root.iter("reg"))
    assert [int(reg.attrib["regnum"]) for reg in registers] == list(range(len(LAYOUT)))
    assert sum(int(reg.attrib["bitsize"]) for reg in registers) == 8 * SIZE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:/tmp/x", GdbTarget(path="/tmp/x")),
        ("/tmp/x,wait", GdbTarget(path="/tmp/x", wait=True)),
        ("tcp:1234", GdbTarget(port=1234)),
        ("tcp:0.0.0.0:1,wait", GdbTarget(port=1, host="0.0.0.0", wait=True)),
        ("tcp:[::1]:1", GdbTarget(port=1, host="::1")),
    ],
)
def test_places(text: str, expected: GdbTarget) -> None:
    assert GdbTarget.parse(text) == expected


@pytest.mark.parametrize("text", ["", "1234", "tcp:", "tcp:x", "tcp:99999", "unix:", "tcp:1,now", "udp:1"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--gdb") as caught:
        GdbTarget.parse(text)
    assert caught.value.code == "gdb-syntax"


class Client:
    """The other end of the protocol."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(30)
        self._reader = Reader()
        self._items: list[bytes | None] = []

    def send(self, content: bytes) -> None:
        self.socket.sendall(frame(content))

    def ask(self, content: bytes) -> bytes | None:
        """Send a packet; the next packet that comes."""
        self.send(content)
        return self.receive()

    def receive(self) -> bytes | None:
        while not self._items:
            data = self.socket.recv(1 << 16)
            assert data, "the stub hung up"
            self._items += [item.data for item in self._reader.feed(data) if isinstance(item, Packet)]
        return self._items.pop(0)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    path = str(tmp_path / "gdb")
    with Machine(tiny.config(tiny.make(tmp_path, tiny.SPIN), cpus=2)) as machine:
        with GdbServer(machine, GdbTarget(path=path, wait=True)):
            machine.start()
            client = Client(path)
            yield client
            client.socket.close()


@KVM
@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (b"vMustReplyEmpty", b""),
        (b"?", b"T05thread:1;"),
        (b"qfThreadInfo", b"m1,2"),
        (b"qsThreadInfo", b"l"),
        (b"qAttached", b"1"),
        (b"Hg2", b"OK"),
        (b"Hg3", b"E01"),
        (b"T2", b"OK"),
        (b"T0", b"E01"),
        (b"m1000000,2", b"ebfe"),
        (b"md0000000,2", b"E14"),
        (b"mffffffffffffffff,2", b"E14"),
        (b"m1000000", b"E01"),
        (b"mx,1", b"E01"),
        (b"m1000000,ffffffffffffffff", None),
        (b"M1000010,2:abc", b"E01"),
        (b"M1000010,2:abcd", b"OK"),
        (b"X1000010,1:\x7d\x03", b"OK"),
        (b"p10", b"0000000100000000"),
        (b"pff", b"E01"),
        (b"P10=00", b"E01"),
        (b"Pffff=00", b"E01"),
        (b"G00", b"E01"),
        (b"Z0,1000000,1", b"OK"),
        (b"z0,1000000,1", b"E14"),
        (b"Z0,d0000000,1", b"E14"),
        (b"Z1,1000000,1", b"OK"),
        (b"Z2,1000001,4", b"E14"),
        (b"Z3,1000000,4", b""),
        (b"Z9,1000000,4", b"E01"),
        (b"z1,1000000,1", b"E14"),
        (b"vCont;", b"E01"),
        (b"vCont;x", b"E01"),
        (b"vCont;c:77", b"E01"),
        (b"qXfer:features:read:other.xml:0,100", b"E00"),
        (b"qXfer:features:read:target.xml:fffffff,100", b"l"),
        (b"qXfer:memory-map:read::0,100", b""),
        (b"\xff\xfe", b""),
    ],
)
def test_replies(client: Client, command: bytes, reply: bytes | None) -> None:
    answer = client.ask(command)
    if reply is not None:
        assert answer == reply
    assert client.ask(b"Hg1") == b"OK"
    assert client.ask(b"p10") == b"0000000100000000"


@KVM
def test_more_hardware_breakpoints_than_registers_are_refused(client: Client) -> None:
    answers = [client.ask(b"Z1,%x,1" % (0x1000000 + n)) for n in range(5)]
    assert answers == [b"OK"] * 4 + [b"E14"]


@KVM
def test_software_breakpoints_are_int3s_only_when_the_registers_are_taken(client: Client) -> None:
    places = [0x1000000 + n for n in range(8)]
    code = client.ask(b"m1000000,8") or b""
    assert [client.ask(b"Z0,%x,1" % place) for place in places] == [b"OK"] * 8
    assert client.ask(b"qPyvmm.Physical:1000000,8") == client.ask(b"m1000000,8") == code, "nobody sees them"
    assert [client.ask(b"Z1,%x,1" % place) for place in places] == [b"OK"] * 4 + [b"E14"] * 4, "they make room"
    assert client.ask(b"M1000000,2:9090") == b"OK"
    assert client.ask(b"m1000000,8") == b"9090" + code[4:]
    assert [client.ask(b"z0,%x,1" % place) for place in places] == [b"OK"] * 8
    assert client.ask(b"z0,1000000,1") == b"E14"
    assert client.ask(b"m1000000,8") == b"9090" + code[4:]


@KVM
@pytest.mark.parametrize(
    "packet", [b"g", b"p10", b"P10=0000000000000000", b"m1000000,4", b"c", b"s", b"vCont;c", b"Z1,1000000,1"]
)
def test_what_needs_a_guest_that_stands_is_refused_while_it_runs(client: Client, packet: bytes) -> None:
    client.send(b"c")
    assert client.ask(packet) == b"E01"
    assert client.ask(b"Hg1") == b"OK"
    client.socket.sendall(b"\x03")
    assert client.receive() == b"T02thread:1;"
    assert client.ask(b"p10") == b"0000000100000000"


@KVM
def test_random_packets_and_random_bytes_neither_crash_nor_hang(tmp_path: Path) -> None:
    path = str(tmp_path / "gdb")
    rng = random.Random(7)
    words = (
        b"g",
        b"G",
        b"p",
        b"P",
        b"m",
        b"M",
        b"X",
        b"H",
        b"Z0",
        b"z1",
        b"Z2",
        b"v",
        b"vCont;",
        b"q",
        b"Q",
        b"T",
        b"s",
        b"c",
    )
    with Machine(tiny.config(tiny.make(tmp_path, tiny.SPIN), cpus=2)) as machine:
        with GdbServer(machine, GdbTarget(path=path)):
            machine.start()
            for _ in range(25):
                client = Client(path)
                for _ in range(40):
                    if rng.random() < 0.3:
                        client.socket.sendall(rng.randbytes(rng.randrange(60)))
                    else:
                        tail = bytes(rng.choice(b"0123456789abcdef,:;=-xsc#$}") for _ in range(rng.randrange(20)))
                        client.send(escape(rng.choice(words) + tail))
                client.socket.close()
            client = Client(path)
            client.socket.sendall(b"#00#00")
            assert client.ask(b"qAttached") == b"1", "the next debugger is served"
            # Some of the packets set registers, which may be the guest's end, but must not be the machine's
            assert machine.end is None or machine.end.kind == "triple-fault", machine.end
