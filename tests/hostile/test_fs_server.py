"""What somebody who has taken over ``pyvmm-fsd`` could go on with; its system calls: tests/native/src/test_fsd.c."""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.command import of_threads
from tests.fs_driver import ROOT, FsGuest, cstr
from tools import calls
from vmm.events import EventFd
from vmm.memory import GuestMemory
from vmm.virtio.fs.process import FsProcess

CAP_DAC_READ_SEARCH, CAP_MKNOD = 2, 27
MOST_CALLS = 85

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's server has no privileges to keep")


def capabilities(guest: FsGuest) -> set[int]:
    """All that any thread of the server has, or could have."""
    found = 0
    for text in of_threads("status", guest.transport.stats()["server"]).values():
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if line.startswith("Cap"))
        found |= int(fields["CapPrm"], 16) | int(fields["CapBnd"], 16)
    return {bit for bit in range(64) if found >> bit & 1}


@as_root
def test_no_file_is_opened_by_handle_unless_asked_for(share: Path) -> None:
    """A handle with inode 2 is the root of the file system, above every share."""
    with FsGuest(share, isolation="process") as guest:
        guest.lookup("file")
        assert CAP_DAC_READ_SEARCH not in capabilities(guest)
    with FsGuest(share, isolation="process", handles=True) as guest:
        guest.lookup("file")
        assert CAP_DAC_READ_SEARCH in capabilities(guest)


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_no_device_is_made(share: Path, isolation: str) -> None:
    """But a whiteout, which is a device by its type only."""
    with FsGuest(share, isolation=isolation) as guest:
        for kind, number in ((stat.S_IFCHR, 0x103), (stat.S_IFBLK, 0x700), (stat.S_IFBLK, 0), (stat.S_IFCHR, 1 << 20)):
            body = struct.pack("<4I", kind | 0o666, number, 0, 0)
            assert guest.errno_of(f.MKNOD, ROOT, body, cstr("device")) == errno.EPERM
        guest.call(f.MKNOD, ROOT, struct.pack("<4I", stat.S_IFCHR, 0, 0, 0), cstr("whiteout"))
        if isolation == "process":
            assert CAP_MKNOD not in capabilities(guest)
    assert sorted(os.listdir(share)) == ["dir", "file", "whiteout"]


def test_its_limits(share: Path) -> None:
    with FsGuest(share, isolation="process") as guest:
        lines = Path(f"/proc/{guest.transport.stats()['server']}/limits").read_text().splitlines()
        limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}
        assert limits["Max core file size"] == ["0", "0"]
        soft, hard = limits["Max open files"]
        assert soft == hard and int(hard) <= 2 * 65536 + 8192


@pytest.mark.parametrize("isolation", ["process", "thread"])
@pytest.mark.parametrize("handles", [False, True], ids=["names", "handles"])
def test_what_it_remembers_has_a_limit_in_bytes(share: Path, isolation: str, handles: bool) -> None:
    """Names of 255 bytes take more than the nodes that have them."""
    for n in range(400):
        (share / f"{n:0255}").touch()
    with FsGuest(share, isolation=isolation, handles=handles, node_bytes=32 << 10) as guest:
        nodes = []
        for n in range(400):
            if (full := guest.errno_of(f.LOOKUP, ROOT, cstr(f"{n:0255}"))) != 0:
                break
            nodes.append(guest.lookup(f"{n:0255}").node)
        assert full == errno.ENFILE
        assert 50 < len(nodes) < 400, "32 KiB"
        for node in nodes:
            guest.getattr(node)
        for node in nodes:
            guest.forget(node, 2)
        guest.wait_for("the nodes to go", lambda: guest.share.stats()["nodes"] == 0)
        for n in range(400 - len(nodes), 400):
            guest.lookup(f"{n:0255}")


def test_its_list_of_system_calls_is_short_and_in_the_docs() -> None:
    names = calls.names_of(calls.SERVER)
    assert len(names) < MOST_CALLS, "one more with handles"
    assert not names & {"execve", "open_by_handle_at", "socket", "mount", "ptrace", "ioctl", "setresuid", "chdir"}
    assert calls.page() == calls.PAGE.read_text(), "python -m tools.calls --write"
    assert calls.readme() == calls.README.read_text(), "python -m tools.calls --write"


def test_shared_memory_is_neither_shortened_nor_lengthened(share: Path) -> None:
    """What the server truncates would be a SIGBUS in the VMM: guest RAM, notes about rings, the interrupt status."""
    with FsGuest(share, isolation="process", memory=GuestMemory(32 << 20, shared=True)) as guest:
        server = guest.share
        assert isinstance(server, FsProcess)
        for fd in (guest.memory.fd, server._books_fd, guest.registers.status_place[0]):
            for size in (0, os.fstat(fd).st_size - 4096, os.fstat(fd).st_size + 4096):
                with pytest.raises(PermissionError):
                    os.ftruncate(fd, size)
        assert guest.lookup("file").attr.size == 10000
        guest.memory.clear()  # a reset of the machine still gives the pages back


WAITING = """
import os
from vmm.events import EventFd

event = EventFd()
os.set_blocking(event.fd, True)
assert event.clear() == 0
event.signal()
assert event.clear() == 1
"""


def test_an_event_that_is_made_to_block_holds_nobody_up() -> None:
    """The flag is the open file's, which the server shares."""
    subprocess.run([sys.executable, "-c", WAITING], check=True, timeout=20)


def test_an_event_that_is_full_is_no_error() -> None:
    event = EventFd()
    os.eventfd_write(event.fd, (1 << 64) - 2)
    event.signal()
    assert event.clear() == (1 << 64) - 2
    event.close()


def test_guest_memory_is_not_in_a_core_dump() -> None:
    for shared in (False, True):
        memory = GuestMemory(64 << 20, shared=shared)
        smaps = Path("/proc/self/smaps").read_text().split("VmFlags:")
        at = memory.host_address
        inside = [
            flags.split("\n")[0].split()
            for before, flags in itertools.pairwise(smaps)
            if (span := re.search(r"^([0-9a-f]+)-([0-9a-f]+) ", before, re.M))
            and int(span[1], 16) <= at < int(span[2], 16)
        ]
        assert len(inside) == 1 and "dd" in inside[0]
        memory.close()
