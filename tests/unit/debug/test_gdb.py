"""Debian's gdb on the stub, with guests of a few instructions (32-bit protected mode, no page tables)."""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.command import links_of
from tools.where import PYVMM
from vmm import ConfigError, HostError, Machine
from vmm.debug import GdbServer, GdbTarget
from vmm.debug.client import PhysicalMemory
from vmm.debug.kernel import open_program
from vmm.debug.packet import INTERRUPT, MAX_PACKET, Packet, Reader, escape, frame, unescape
from vmm.debug.registers import LAYOUT, SIZE, target_xml

pytestmark = [
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here"),
    pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed: apt-get install gdb"),
]

BASE = tiny.BASE
VALUE = BASE + 0x1000
# 0: inc dword [VALUE]; 6: mov eax, 0x1234; 11: mov ebx, eax; 13: nop; 14: jmp 0
CODE = b"\xff\x05" + VALUE.to_bytes(4, "little") + b"\xb8\x34\x12\0\0" + b"\x89\xc3" + b"\x90" + b"\xeb\xf0"


class Gdb:
    """Runs gdb with commands against a machine."""

    def __init__(self, machine: Machine, server: GdbServer) -> None:
        self.machine = machine
        self.server = server

    def __call__(self, *commands: str, timeout: float = 60) -> str:
        whole = ("set pagination off", "set confirm off", f"target remote {self.server.address}", *commands)
        arguments = [word for command in whole for word in ("-ex", command)]
        done = subprocess.run(
            ["gdb", "-nx", "-batch", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.stdout + done.stderr


def make(tmp_path: Path, *code: bytes, cpus: int = 1, wait: bool = True, tcp: bool = False) -> tuple[Machine, Gdb]:
    machine = Machine(tiny.config(tiny.make(tmp_path, *code), cpus=cpus))
    target = GdbTarget(port=0, wait=wait) if tcp else GdbTarget(path=str(tmp_path / "gdb"), wait=wait)
    gdb = Gdb(machine, GdbServer(machine, target))
    machine.start()
    return machine, gdb


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def gdb(tmp_path: Path) -> Iterator[Gdb]:
    machine, gdb = make(tmp_path, CODE, cpus=2)
    yield gdb
    gdb.server.close()
    machine.close()


def test_the_guest_waits_at_its_first_instruction(gdb: Gdb) -> None:
    out = gdb("info registers rip cr0 eflags", "p/x $rsp", "x/2i $rip")
    assert re.search(rf"rip +{BASE:#x}", out), out
    assert re.search(r"cr0 +0x11", out)
    assert "$1 = 0x0" in out


def test_all_registers_have_their_names(gdb: Gdb) -> None:
    out = gdb("info all-registers")
    for _, name, _, _ in LAYOUT:
        assert re.search(rf"^{name} ", out, re.MULTILINE), name


def test_single_steps(gdb: Gdb) -> None:
    out = gdb("stepi", "p/x $rip", "stepi", "p/x $rip", "p/x $rax", "stepi", "p/x $rbx", f"p *(int*){VALUE:#x}")
    assert re.findall(r"\$\d+ = (\S+)", out) == [hex(BASE + 6), hex(BASE + 11), "0x1234", "0x1234", "1"], out


@pytest.mark.parametrize("kind", ["break", "hbreak"])
def test_breakpoints(gdb: Gdb, kind: str) -> None:
    out = gdb(
        f"{kind} *{BASE + 11:#x}", "continue", "p/x $rip", f"p *(int*){VALUE:#x}",
        "continue", "p/x $rip", f"p *(int*){VALUE:#x}", "delete", f"x/2xb {BASE + 11:#x}",
    )  # fmt: skip
    assert re.findall(r"\$\d+ = (\S+)", out) == [hex(BASE + 11), "1", hex(BASE + 11), "2"], out
    assert "0x89\t0xc3" in out, "the guest's own bytes"


@pytest.mark.guest  # a KVM that emulates every instruction looks at breakpoints only
def test_watchpoint(gdb: Gdb) -> None:
    out = gdb(f"watch *(int*){VALUE:#x}", "continue", "continue", "p/x $rip")
    assert "Hardware watchpoint 1" in out
    assert "Old value = 0\nNew value = 1" in out and "Old value = 1\nNew value = 2" in out, out


def test_memory_and_registers_can_be_written(gdb: Gdb) -> None:
    out = gdb(
        f"set *(int*){VALUE:#x} = 41", "set $rbp = 0x77", "set $xmm1 = 5", "stepi",
        f"p *(int*){VALUE:#x}", "p/x $rbp", "p $xmm1", f"set $rip = {BASE + 13:#x}", "stepi", "p/x $rip",
        f"find {BASE:#x}, +16, (char)0x90",
    )  # fmt: skip
    assert re.findall(r"\$\d+ = (\S+)", out) == ["42", "0x77", "5", hex(BASE + 14)], out
    assert f"{BASE + 13:#x}\n1 pattern found" in out


def test_memory_that_is_none_is_an_error(gdb: Gdb) -> None:
    assert "Cannot access memory at address 0xd0000000" in gdb("x/b 0xd0000000")


def test_vcpus_are_threads(gdb: Gdb) -> None:
    out = gdb("info threads", "thread 2", "p/x $rip", "thread 1", "p/x $rip")
    assert "vCPU 0" in out and "vCPU 1" in out
    assert re.findall(r"\$\d+ = (\S+)", out) == ["0xfff0", hex(BASE)], out


def test_after_detach_the_guest_runs_and_can_be_attached_to_again(gdb: Gdb) -> None:
    gdb(f"break *{BASE + 11:#x}", "continue", "detach")
    first = gdb.machine.memory.read_int(VALUE, 4)
    wait_until(lambda: gdb.machine.memory.read_int(VALUE, 4) > first + 10)
    assert gdb.machine.memory.read(BASE, len(CODE)) == CODE, "no breakpoint is left"
    out = gdb("p/x $rip")
    assert int(re.findall(r"\$\d+ = (\S+)", out)[0], 16) in range(BASE, BASE + len(CODE)), out


def test_a_debugger_that_is_killed_leaves_a_guest_that_runs(gdb: Gdb) -> None:
    gdb(f"hbreak *{BASE + 11:#x}", "continue", "shell kill -9 $PPID")
    assert gdb.machine.state == "running"
    wait_until(lambda: gdb.machine.memory.read_int(VALUE, 4) > 10)


def test_who_connects_and_says_nothing_gives_way(gdb: Gdb) -> None:
    """Also whoever sends noise and the beginning of a packet; but no debugger does."""
    silent = []
    for sent in (b"", b"+", b"noise", b"$g"):
        silent.append(socket.socket(socket.AF_UNIX))
        silent[-1].connect(str(gdb.server.address))
        silent[-1].sendall(sent)
    assert "0x1" in gdb("p/x 1", "p/x $rip")
    assert [each.recv(1) for each in silent] == [b""] * 4
    debugger, late = Client(str(gdb.server.address)), socket.socket(socket.AF_UNIX)
    assert debugger.ask(b"qAttached") == b"1"
    late.connect(str(gdb.server.address))
    assert debugger.ask(b"qAttached") == b"1", "whoever comes meanwhile waits"
    for each in (debugger.socket, late, *silent):
        each.close()


def test_ctrl_c(tmp_path: Path) -> None:
    machine, gdb = make(tmp_path, tiny.SPIN, wait=False)
    try:
        process = subprocess.Popen(
            ["gdb", "-nx", "-q", "-ex", f"target remote {gdb.server.address}", "-ex", "continue"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdin and process.stdout
        text = ""
        while "Continuing" not in text:
            text += process.stdout.read(1)
        wait_until(lambda: not gdb.server._target.held)
        process.send_signal(2)
        out, _ = process.communicate("p/x $rip\ndetach\n", timeout=60)
        assert "SIGINT" in out and hex(BASE) in out
    finally:
        gdb.server.close()
        machine.close()


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        (tiny.POWEROFF, "exited normally", "poweroff"),
        (tiny.TRIPLE_FAULT, "Program terminated with signal SIGABRT", "triple-fault"),
    ],
    ids=["power off", "triple fault"],
)
def test_the_end_of_the_run_is_told(tmp_path: Path, code: bytes, words: str, kind: str) -> None:
    machine, gdb = make(tmp_path, code, tcp=True)
    try:
        assert words in gdb("continue")
        assert machine.end is not None and machine.end.kind == kind
    finally:
        gdb.server.close()
        machine.close()


def test_a_breakpoint_outlives_a_reset(gdb: Gdb) -> None:
    machine = gdb.machine
    target = gdb.server._target

    def reset() -> None:
        """Once gdb has written and let the guest run."""
        wait_until(lambda: target.attached and not target.held)
        machine.reset()

    later = threading.Thread(target=reset)
    later.start()
    # Not reached before the reset: the guest runs in a circle that does not pass here
    out = gdb(f"set *(short*){BASE:#x} = 0xfeeb", f"hbreak *{BASE + 11:#x}", "continue", "p/x $rip")
    later.join()
    assert re.findall(r"\$\d+ = (\S+)", out) == [hex(BASE + 11)], out


def test_pause_and_close_while_a_debugger_holds_the_guest(tmp_path: Path) -> None:
    machine, gdb = make(tmp_path, CODE)
    machine.pause()
    machine.resume()
    assert machine.memory.read_int(VALUE, 4) == 0, "the debugger still holds it"
    gdb("stepi", "detach")
    wait_until(lambda: machine.memory.read_int(VALUE, 4) > 3)
    machine.pause()
    before = machine.memory.read_int(VALUE, 4)
    gdb("p/x $rip", "detach")
    assert machine.memory.read_int(VALUE, 4) == before, "it is paused all the same"
    machine.close()
    gdb.server.close()


@pytest.mark.parametrize(("name", "hint"), [("gdb", "remove the file"), ("nowhere/gdb", "make its directory first")])
def test_a_place_where_nobody_can_listen_is_named(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / "gdb").write_text("")
    with Machine(tiny.config(tiny.make(tmp_path))) as machine:
        with pytest.raises(HostError, match=str(tmp_path / name)) as caught:
            GdbServer(machine, GdbTarget(path=str(tmp_path / name)))
    assert hint in caught.value.hint


def test_the_command_waits_for_a_debugger(tmp_path: Path) -> None:
    path = tmp_path / "vm.gdb"
    kernel = tiny.make(tmp_path, tiny.say("hello"), tiny.POWEROFF)
    command = [PYVMM, "boot", "--kernel", kernel, "--memory", "32M", "--gdb", f"unix:{path},wait"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_until(path.is_socket)
        assert path.stat().st_mode & 0o777 == 0o600
        arguments = ["-ex", f"target remote {path}", "-ex", "p/x $rip", "-ex", "continue"]
        done = subprocess.run(["gdb", "-nx", "-batch", *arguments], capture_output=True, text=True, timeout=60)
        assert f"$1 = {BASE:#x}" in done.stdout and "exited normally" in done.stdout
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, b"hello")
        assert f"gdb: target remote {path}" in err.decode()
        assert not path.exists()
    finally:
        process.kill()
        process.communicate()


# -- `pyvmm debug` as far as it goes without Linux: the RAM of a machine that runs, and what is told when it cannot be


KVM = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")


@KVM
def test_another_process_reads_the_ram_of_a_guest_that_goes_on(tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/gdb"
    count = b"\xff\x05" + (tiny.BASE + 0x1000).to_bytes(4, "little") + b"\xeb\xf8"
    with Machine(tiny.config(tiny.make(tmp_path, count))) as machine:
        with GdbServer(machine, GdbTarget.parse(where)):
            machine.start()
            with PhysicalMemory(where) as memory:
                assert memory.regions == [(0, 32 << 20)]
                assert memory.read(tiny.BASE, len(count)) == count
                data = bytes(range(256)) * 256
                machine.memory.write(0x100000, data)
                assert memory.read(0x100000, len(data)) == data, "in several packets"
                assert memory.read(0x100000, 0) == b""
                with pytest.raises(HostError, match="no RAM at 0x1ffffff"):
                    memory.read((32 << 20) - 1, 2)
                before = memory.read(tiny.BASE + 0x1000, 4)
                deadline = time.monotonic() + 60
                while memory.read(tiny.BASE + 0x1000, 4) == before:
                    assert time.monotonic() < deadline, "the guest runs meanwhile"
                assert machine.state == "running"


def test_mistakes_are_told_with_a_way_out(tmp_path: Path) -> None:
    none = tmp_path / "none"
    before = links_of()
    with pytest.raises(HostError, match=str(none)) as caught:
        PhysicalMemory(f"unix:{none}")
    assert "--gdb" in caught.value.hint
    assert links_of() == before, "whoever keeps the error keeps a socket"
    kernel = tiny.make(tmp_path)
    for path, words in ((str(none), "No such file"), (kernel, "has no symbols"), (__file__, "Magic number")):
        with pytest.raises(ConfigError, match=words) as refused:
            open_program(lambda _at, size: bytes(size), [(0, 1 << 20)], path)
        assert path in str(refused.value)


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    command = [PYVMM, "debug", "--vm", f"unix:{tmp_path}/none", "--vmlinux", "vmlinux.debug"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"cannot reach a machine at unix:{tmp_path}/none" in done.stderr and "hint:" in done.stderr
    assert "Traceback" not in done.stderr


# -- the remote serial protocol without gdb: framing, what each packet answers, and packets that no gdb would send


def packets(data: bytes, piece: int = 1 << 20) -> list[bytes | None]:
    reader = Reader()
    found: list[bytes | None] = []
    for at in range(0, len(data), piece):
        for item in reader.feed(data[at : at + piece]):
            found.append(item.data if isinstance(item, Packet) else item)
    return found


@settings(deadline=None)
@given(st.binary())
def test_escaping(data: bytes) -> None:
    assert unescape(escape(data)) == data
    assert not any(byte in escape(data) for byte in b"#$*")


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50)), st.integers(1, 7))
def test_packets_come_out_as_they_went_in(contents: list[bytes], piece: int) -> None:
    stream = b"+".join(frame(escape(content)) for content in contents)
    assert packets(stream, piece) == [escape(content) for content in contents]


@settings(deadline=None)
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
        self.socket.settimeout(60)
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
