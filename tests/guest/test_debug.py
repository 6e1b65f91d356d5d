"""Debian's gdb, and drgn, on a Linux guest.  The guest's vmlinux is stripped; addresses are those of its System.map."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.vmfixture import Guest, boot_guest, sparse_copy
from vmm.debug import GdbServer, GdbTarget

ROOT = Path(__file__).parents[2]


class Session:
    """A guest and gdb."""

    def __init__(self, guest: Guest, kernel: str, socket: Path) -> None:
        self.guest = guest
        self.server = GdbServer(guest.machine, GdbTarget(path=str(socket)))
        text = Path(kernel).with_name("System.map").read_text()
        self.symbols = {name: int(address, 16) for address, _, name in map(str.split, text.splitlines())}

    def gdb(self, *commands: str) -> str:
        """What gdb prints when it runs *commands*."""
        words = ["gdb", "-nx", "-batch", "-ex", f"target remote {self.server.address}"]
        words += [word for command in commands for word in ("-ex", command)]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False)
        return done.stdout + done.stderr


@pytest.fixture
def session(boot: Boot, guest_kernel: str, tmp_path: Path) -> Iterator[Session]:
    if shutil.which("gdb") is None:
        pytest.skip("gdb is not installed: apt-get install gdb")
    session = Session(boot(cpus=2), guest_kernel, tmp_path / "gdb")
    yield session
    session.server.close()


def values(text: str) -> list[str]:
    """What gdb's `print` printed."""
    return re.findall(r"\$\d+ = (\S+)", text)


def test_gdb_reads_the_kernel(session: Session) -> None:
    banner = session.symbols["linux_banner"]
    out = session.gdb(
        "info threads", f"x/s {banner:#x}", "p/x $cr3 != 0", "p/x $efer & 0x500", "thread 2", "p $rip != 0"
    )
    assert "vCPU 0" in out and "vCPU 1" in out
    assert '"Linux version 6.' in out
    assert values(out) == ["0x1", "0x500", "1"], out
    assert session.guest.check("nproc") == "2\n", "it runs again"


@pytest.mark.parametrize("kind", ["break", "hbreak"])
def test_gdb_stops_at_a_function_of_the_kernel_and_steps(session: Session, kind: str) -> None:
    place = session.symbols["__x64_sys_getpriority"]
    session.guest.check("(while :; do nice -n 1 true; done) >/dev/null 2>&1 &")
    out = session.gdb(
        f"{kind} *{place:#x}", "continue", "p/x $rip", "continue", "p/x $rip", "delete", "stepi", "p/x $rip", "detach"
    )
    found = values(out)
    assert found[:2] == [hex(place)] * 2, out
    assert place < int(found[2], 16) < place + 16, "one instruction further, and not in an interrupt's handler"
    assert session.guest.check("echo on") == "on\n"


def test_gdb_watches_a_variable_of_the_kernel(session: Session) -> None:
    place = session.symbols["jiffies_64"]
    out = session.gdb(f"watch *(unsigned long *){place:#x}", "continue", "detach")
    old, new = re.findall(r"value = (\d+)", out)
    assert int(new) > int(old), out
    assert session.guest.check("echo on") == "on\n"


def test_a_debugger_for_a_while_is_no_lockup(session: Session) -> None:
    session.gdb("shell sleep 3", "detach")
    assert session.guest.check("dmesg | grep -ciE 'soft lockup|stall' || true") == "0\n"
    assert session.guest.power_off().kind == "poweroff"


@pytest.fixture(scope="session")
def debug_kernel() -> Path:
    """vmlinux.debug, of a kernel built with guest-kernel/debug.config; a test's own build would take many minutes."""
    sys.path.insert(0, str(ROOT / "guest-kernel"))
    import build
    import kconfig

    file = ROOT / "guest-kernel" / "debug.config"
    options = kconfig.read_fragments(ROOT / "guest-kernel" / "config")
    options |= kconfig.parse_config(file.read_text(), str(file), strict=True)
    path: Path = build.kernel_entry(options, build.find_source(None, None)) / "vmlinux.debug"
    if not path.exists():
        pytest.skip('no kernel with types here: make guest-kernel ARGS="--config guest-kernel/debug.config"')
    return path


def test_drgn_lists_the_guests_processes_while_it_runs(debug_kernel: Path, guest_disk: Path, tmp_path: Path) -> None:
    pytest.importorskip("drgn")
    kernel = str(debug_kernel.with_name("vmlinux"))
    guest = boot_guest(kernel, rootfs=sparse_copy(guest_disk, tmp_path / "root.ext4"), cpus=2)
    try:
        guest.start_shell()
        guest.check("sleep 12345 & sleep 54321 &")
        where = f"unix:{tmp_path}/gdb"
        with GdbServer(guest.machine, GdbTarget.parse(where)):
            command = [str(ROOT / ".venv" / "bin" / "pyvmm"), "debug", "--vm", where, "--vmlinux", str(debug_kernel)]
            command += ["--script", str(ROOT / "examples" / "guest_processes.py")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
            assert done.returncode == 0, done.stderr
            rows = [line.split() for line in done.stdout.splitlines()]
            theirs = guest.check("ps -o pid,comm | tail -n +2").split("\n")
        assert [row[3] for row in rows].count("sleep") == 2
        assert rows[0][:2] == ["1", "0"]
        pids = {int(row[0]) for row in rows}
        assert {int(line.split()[0]) for line in theirs if line and "ps" not in line and "tail" not in line} <= pids
        assert guest.power_off().kind == "poweroff"
    finally:
        guest.close()
