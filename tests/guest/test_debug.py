"""Debian's gdb on a Linux guest that runs, with the names of its kernel's functions."""

from __future__ import annotations

import re
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.filesystems import sparse_copy
from tests.guest.shared import show
from tests.guest.vmfixture import Guest, boot_guest
from tools import guest as recipes
from tools.where import PYVMM, ROOT
from vmm.debug import GdbServer, GdbTarget
from vmm.debug.kernel import open_machine

TIMEOUT = 200.0
BUSY = "taskset 2 sh -c 'while :; do sync; sleep 0.1; done' >/dev/null 2>&1 &"
"""A process of the guest that comes by `__x64_sys_sync` again and again, on one CPU: what waits in a call may return
from it on another, and gdb's `finish` waits for the thread, which here is the CPU, that it was called on."""
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_EXEC, _X86_64 = 2, 62
_SYMTAB, _STRTAB, _NOBITS = 2, 3, 8
_ALLOC_EXECUTE = 2 | 4
_GLOBAL_FUNCTION = 1 << 4 | 2


def write_symbols(system_map: Path, output: Path) -> dict[str, int]:
    """Write an ELF file that has the functions of `system_map` and no code, for gdb: our vmlinux is stripped, its
    System.map is not.  Returns them by name."""
    rows = [line.split() for line in system_map.read_text().splitlines()]
    functions = {name: int(address, 16) for address, kind, name in rows if kind in "tT"}
    functions = {name: address for name, address in functions.items() if address >> 31 == (1 << 33) - 1}
    start, end = min(functions.values()), max(functions.values()) + 4096
    names, symbols = bytearray(b"\0"), bytearray(_SYMBOL.size)
    for name, address in functions.items():
        symbols += _SYMBOL.pack(len(names), _GLOBAL_FUNCTION, 0, 1, address, 0)
        names += name.encode() + b"\0"
    titles = b"\0.text\0.symtab\0.strtab\0"
    at = _HEADER.size
    sections = [
        bytes(_SECTION.size),
        _SECTION.pack(1, _NOBITS, _ALLOC_EXECUTE, start, 0, end - start, 0, 0, 16, 0),
        _SECTION.pack(7, _SYMTAB, 0, 0, at, len(symbols), 3, 1, 8, _SYMBOL.size),
        _SECTION.pack(15, _STRTAB, 0, 0, at + len(symbols), len(names), 0, 0, 1, 0),
        _SECTION.pack(15, _STRTAB, 0, 0, at + len(symbols) + len(names), len(titles), 0, 0, 1, 0),
    ]
    table = at + len(symbols) + len(names) + len(titles)
    header = _HEADER.pack(
        b"\x7fELF\2\1\1".ljust(16, b"\0"), _EXEC, _X86_64, 1, start, 0, table, 0, _HEADER.size, 56, 0, _SECTION.size,
        len(sections), len(sections) - 1,
    )  # fmt: skip
    output.write_bytes(header + symbols + names + titles + b"".join(sections))
    return functions


class Session:
    """A guest with two CPUs, and gdb."""

    def __init__(self, guest: Guest, system_map: Path, folder: Path) -> None:
        self.guest = guest
        self.server = GdbServer(guest.machine, GdbTarget(path=str(folder / "gdb")))
        self.file = folder / "kernel.symbols"
        self.functions = write_symbols(system_map, self.file)
        self.banner = next(
            int(line.split()[0], 16) for line in system_map.read_text().splitlines() if line.endswith(" linux_banner")
        )

    def command(self, *commands: str) -> list[str]:
        whole = ("set pagination off", "set confirm off", f"target remote {self.server.address}", *commands)
        return ["gdb", "-nx", "-q", str(self.file), *(word for command in whole for word in ("-ex", command))]

    def gdb(self, *commands: str) -> str:
        """What gdb prints when it runs *commands*."""
        done = subprocess.run(
            [*self.command(*commands), "-batch"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def shared(guest_kernel: str, guest_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    if shutil.which("gdb") is None:
        pytest.skip("gdb is not installed: apt-get install gdb")
    folder = tmp_path_factory.mktemp("gdb")
    guest = boot_guest(guest_kernel, rootfs=sparse_copy(guest_disk, folder / "root.ext4"), cpus=2)
    try:
        guest.start_shell()
        session = Session(guest, Path(guest_kernel).with_name("System.map"), folder)
        guest.check(BUSY)
        yield session
        session.server.close()
    finally:
        guest.close()


@pytest.fixture
def session(request: pytest.FixtureRequest, shared: Session) -> Session:
    show(request, shared.guest)
    return shared


def values(text: str) -> list[str]:
    """What gdb's `print` printed."""
    return re.findall(r"\$\d+ = (\S+)", text)


def test_gdb_reads_the_kernel(session: Session) -> None:
    out = session.gdb(
        "info threads", f"x/s {session.banner:#x}", "p/x $cr3 != 0", "p/x $efer & 0x500", "thread 2", "p $rip != 0"
    )
    assert "vCPU 0" in out and "vCPU 1" in out
    assert '"Linux version 6.' in out
    assert values(out) == ["0x1", "0x500", "1"], out
    assert session.guest.check("nproc") == "2\n", "it runs again"


@pytest.mark.parametrize("kind", ["hbreak", "break"])
def test_a_breakpoint_in_a_system_call(session: Session, kind: str) -> None:
    """It is hit as often as the guest comes by, steps go on from there, and the callers have their names."""
    start = session.functions["__x64_sys_sync"]
    out = session.gdb(
        f"{kind} *__x64_sys_sync", "continue", "p/x $rip", "backtrace 2", "info threads", "stepi", "p/x $rip",
        "continue", "p/x $rip", "delete", "stepi", "stepi", "detach",
    )  # fmt: skip
    first, stepped, again = (int(value, 16) for value in values(out))
    assert (first, again) == (start, start) and stepped != start, out
    # Two names of one address
    assert re.search(r"#0 .* in __(x64|do)_sys_sync \(\)\n#1 .* in (do_syscall_64|x64_sys_call) \(\)", out), out
    assert len(re.findall(r"^[* ] +\d+ +Thread \d \(vCPU \d\)", out, re.MULTILINE)) == 2, out
    assert session.guest.check("echo it runs") == "it runs\n", "no breakpoint is left"


def test_a_breakpoint_by_the_name_of_a_function_and_its_return(session: Session) -> None:
    out = session.gdb("break ksys_sync", "continue", "delete", "finish", "detach")
    assert re.search(r"hit Breakpoint 1, 0x\w+ in ksys_sync \(\)", out), out
    assert re.search(r"^0x\w+ in __(x64|do)_sys_sync \(\)", out, re.MULTILINE), out
    assert session.guest.check("echo it runs") == "it runs\n"


def test_ctrl_c_stops_a_guest_that_runs(session: Session) -> None:
    process = subprocess.Popen(
        session.command("continue"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin and process.stdout
    text = ""
    while "Continuing." not in text:
        letter = process.stdout.read(1)
        assert letter, text
        text += letter
    session.guest.check("true")  # it runs
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate("p/x $efer & 0x500\ninfo threads\ndetach\n", timeout=TIMEOUT)
    assert "SIGINT" in out and values(out) == ["0x500"] and "vCPU 1" in out, out
    assert session.guest.check("echo it runs") == "it runs\n"


# -- drgn on a guest that runs, by its kernel's own types: `make test-drgn` builds the kernel that has them ----------


def debug_kernel() -> Path:
    """Our kernel with its types beside it, when it has been built."""
    if path := recipes.cached_kernel("--config", str(ROOT / "guest-kernel" / "debug.config")):
        return Path(path)
    pytest.skip("the kernel with debug information is not in the cache: make test-drgn builds it")


def test_the_processes_of_a_guest_are_seen_from_outside(fresh_disk: Path, tmp_path: Path) -> None:
    pytest.importorskip("drgn")
    kernel = debug_kernel()
    types = str(kernel.with_name("vmlinux.debug"))
    guest = boot_guest(str(kernel), rootfs=fresh_disk, cpus=2)
    try:
        guest.start_shell()
        guest.check("sleep 4321 & echo $! >/tmp/pid")
        pid = int(guest.check("cat /tmp/pid"))

        program = open_machine(guest.machine, types)
        from drgn.helpers.linux.fs import for_each_mount, mount_dst
        from drgn.helpers.linux.printk import get_printk_records

        assert program["init_uts_ns"].name.nodename.string_() == b"pyvmm"
        assert b"/proc" in [mount_dst(mount) for mount in for_each_mount(program)]
        assert any(b"Linux version 6." in record.text for record in get_printk_records(program))

        with_gdb = GdbServer(guest.machine, GdbTarget(path=str(tmp_path / "gdb")))
        command = [PYVMM, "debug", "--vm", f"unix:{tmp_path}/gdb", "--vmlinux", types]
        command += ["--script", str(ROOT / "examples" / "guest_processes.py")]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        with_gdb.close()
        assert done.returncode == 0, done.stderr
        found = {int(row[0]): row[1:] for row in map(str.split, done.stdout.splitlines())}
        assert found[1][0] == "0" and found[1][2] in ("init", "sh", "busybox"), done.stdout
        assert found[pid][2] == "sleep" and found[2][2] == "kthreadd", done.stdout
        assert guest.check("echo it runs all the time") == "it runs all the time\n"
    finally:
        guest.close()
