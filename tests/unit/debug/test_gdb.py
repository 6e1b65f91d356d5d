"""Debian's gdb on the stub, with guests of a few instructions (32-bit protected mode, no page tables)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tiny
from tools.where import PYVMM
from vmm import ConfigError, HostError, Machine
from vmm.debug import GdbServer, GdbTarget
from vmm.debug.client import PhysicalMemory
from vmm.debug.kernel import open_program
from vmm.debug.registers import LAYOUT

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
    deadline = time.monotonic() + 30
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
    with pytest.raises(HostError, match=str(none)) as caught:
        PhysicalMemory(f"unix:{none}")
    assert "--gdb" in caught.value.hint
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
