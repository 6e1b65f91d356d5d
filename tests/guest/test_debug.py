"""Debian's gdb on a Linux guest.  The guest's vmlinux is stripped; addresses are those of its System.map."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.vmfixture import Guest
from vmm.debug import GdbServer, GdbTarget


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
