"""A share served by a process of its own, seen from Linux in the guest: while it lives, and after its death."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.guest.conftest import Boot
from tests.guest.vmfixture import Guest
from vmm import ShareConfig


def server(guest: Guest) -> int:
    """The process id of its (only) share's server."""
    (pid,) = [stats["server"] for stats in (a.transport.stats() for a in guest.machine.attached) if "server" in stats]
    return int(pid)


def test_the_mount_gives_eio_after_the_death_of_its_server(boot: Boot, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (share / "hello").write_text("from the host\n")
    guest = boot(shares=[ShareConfig(str(share), isolation="process")])
    guest.check("mount -t virtiofs share /mnt")
    assert guest.check("cat /mnt/hello") == "from the host\n"
    guest.check("echo from the guest >/mnt/reply; mkdir /mnt/dir; sync")
    assert (share / "reply").read_text() == "from the guest\n"

    guest.check("(dd if=/dev/zero of=/mnt/big bs=64k count=100000; echo $? >/tmp/dd) 2>/dev/null &")
    guest.check("while ! [ -s /mnt/big ]; do :; done")
    os.kill(server(guest), signal.SIGKILL)
    status, output = guest.run("ls /mnt/ 2>&1; cat /mnt/hello 2>&1")
    assert status != 0
    assert "I/O error" in output or "Input/output error" in output
    guest.check("while ! [ -s /tmp/dd ]; do :; done; [ $(cat /tmp/dd) != 0 ]")
    assert server(guest) == 0
    assert guest.check("echo alive >/root/file; cat /root/file") == "alive\n"
    guest.check("umount -l /mnt")
    assert guest.power_off().kind == "poweroff"


def test_many_files_by_two_cpus(boot: Boot, tmp_path: Path) -> None:
    """Many files at once, by two CPUs."""
    share = tmp_path / "share"
    share.mkdir()
    guest = boot(shares=[ShareConfig(str(share), isolation="process", cache="none")], cpus=2)
    guest.check("mount -t virtiofs share /mnt; cd /mnt; for d in a b; do mkdir $d; done")
    guest.check("for d in a b; do (for n in $(seq 50); do echo $d$n >$d/$n; done) & done; wait")
    assert guest.check("cat a/* b/* | sort | uniq | wc -l").strip() == "100"
    assert len(os.listdir(share / "a")) == 50
    assert (share / "b" / "7").read_text() == "b7\n"
    guest.check("cd /; umount /mnt; mount -t virtiofs share /mnt; rm -r /mnt/a; umount /mnt")
    assert os.listdir(share) == ["b"]
