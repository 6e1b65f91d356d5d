"""A share served by a process of its own: that it serves, and what it can reach."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.fs_driver import FsGuest
from vmm.errors import ConfigError
from vmm.memory import GuestMemory
from vmm.virtio.fs import ShareConfig

pytestmark = pytest.mark.usefixtures("virtqueues")

ROOT = Path(__file__).resolve().parents[3]
CAPS = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "SETGID": 6, "SETUID": 7, "SETFCAP": 31}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="asks for what only root's server has")

# Serves a file as whoever runs it; argv: directory, and the command that takes namespaces away
SERVE_AS = """
import os, sys
from tests.fs_driver import FsGuest

with FsGuest(sys.argv[1], isolation="process") as guest:
    fh = guest.open(guest.lookup("file").node)
    assert guest.read_file(fh) == b"content"
    guest.create("new")
    print(guest.transport.stats()["isolation"])
"""


def process(path: Path, **options: object) -> FsGuest:
    return FsGuest(path, isolation="process", **options)  # type: ignore[arg-type]


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def pid_of(guest: FsGuest) -> int:
    return int(guest.transport.stats()["server"])


def test_it_serves(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with process(tmp_path, cpus=2) as guest:
        fh = guest.open(guest.lookup("file").node, os.O_RDWR)
        assert guest.read_file(fh) == b"content"
        assert guest.write_file(fh, b"changed") == 7
        entry, _ = guest.create("new", mode=0o640)
        assert (tmp_path / "file").read_bytes() == b"changed"
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
        stats = guest.transport.stats()
        assert stats["ops"]["read"]["count"] == 1
        assert stats["write_bytes"] == 7
        assert stats["chains"] >= 6
        assert guest.getattr(entry.node).size == 0


def test_ram_around_the_hole(tmp_path: Path) -> None:
    """Two regions, one memfd."""
    (tmp_path / "file").write_bytes(b"content")
    with process(tmp_path, memory=GuestMemory((3 << 30) + (1 << 20), shared=True)) as guest:
        guest._free = 0x1_0000_0000  # all buffers from now on are above 4 GiB
        assert guest.read_file(guest.open(guest.lookup("file").node)) == b"content"


def test_the_driver_resets_the_device_and_starts_again(tmp_path: Path) -> None:
    with process(tmp_path) as guest:
        pid = pid_of(guest)
        for _ in range(5):
            assert guest.errno_of(f.LOOKUP, f.ROOT, f.cstr("missing")) == errno.ENOENT
            guest.start()
            guest.mount()
        assert pid_of(guest) == pid


def test_pause_and_resume(tmp_path: Path) -> None:
    with process(tmp_path) as guest:
        for index in range(40):
            guest.create(f"file{index}")
            guest.transport.pause()
            guest.transport.resume()
        assert len(os.listdir(tmp_path)) == 40
        guest.transport.pause()
        head, answer = guest.submit(f.GETATTR, f.ROOT, bytes(16))
        assert guest.queues[1].take_used() == []
        guest.transport.resume()
        (used,) = guest.queues[1].wait()
        assert used.head == head
        assert guest.answer(answer, used.written)[0] == 0


def test_it_ends_with_the_share(tmp_path: Path) -> None:
    with process(tmp_path) as guest:
        pidfd = os.pidfd_open(pid_of(guest))
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(0)
    os.close(pidfd)


@as_root
def test_what_it_can_reach(tmp_path: Path) -> None:
    (tmp_path / "only").write_text("this")
    with process(tmp_path) as guest:
        pid = pid_of(guest)
        own = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "pid", "net", "ipc", "uts", "cgroup")}
        for name, link in own.items():
            assert os.readlink(f"/proc/{pid}/ns/{name}") != link, name
        assert os.listdir(f"/proc/{pid}/root") == ["only"]
        (mount,) = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        assert {"nosuid", "nodev", "noexec"} <= set(mount.split()[5].split(","))
        assert Path(f"/proc/{pid}/net/dev").read_text().count(":") == 1, "only a loopback that is down"
        assert {"mount-ns", "pid-ns", "net-ns", "ipc-ns", "seccomp"} <= set(
            guest.transport.stats()["isolation"].split()
        )


@as_root
def test_its_privileges(tmp_path: Path) -> None:
    with process(tmp_path) as guest:
        status = status_of(pid_of(guest))
        mask = sum(1 << bit for bit in CAPS.values())
        for name in ("CapPrm", "CapEff", "CapBnd"):
            assert int(status[name], 16) == mask, name
        assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"


def test_its_descriptors(tmp_path: Path) -> None:
    """Nothing of ours has come along: an open file of this process, for one."""
    with open(tmp_path / "ours", "w") as ours, process(tmp_path) as guest:
        os.set_inheritable(ours.fileno(), True)
        with process(tmp_path) as other:
            for pid in (pid_of(guest), pid_of(other)):
                kinds: dict[str, int] = {}
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    target = os.readlink(f"/proc/{pid}/fd/{fd}")
                    kinds[target.split(":[")[0]] = kinds.get(target.split(":[")[0], 0) + 1
                assert set(kinds) <= {"/dev/null", "socket", "/", "anon_inode", str(tmp_path), f"/proc/{pid}/fd"}, kinds
                assert kinds["socket"] == 1
                assert kinds["/dev/null"] == 3


def test_its_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    with process(tmp_path, cpus=4) as guest:
        fh = guest.open(guest.lookup("file").node)
        for offset in range(0, 1 << 20, 65536):
            guest.read_file(fh, offset, 65536)
        status = status_of(pid_of(guest))
        own = sum(int(status[name].split()[0]) for name in ("RssAnon", "RssFile"))
        assert own < 2048, "KiB, guest RAM aside"


@as_root
def test_a_read_only_share_is_a_read_only_mount(tmp_path: Path) -> None:
    with process(tmp_path, read_only=True) as guest:
        (mount,) = Path(f"/proc/{pid_of(guest)}/mountinfo").read_text().splitlines()
        assert "ro" in mount.split()[5].split(",")


def serve_as(directory: Path, prefix: list[str], **options: object) -> set[str]:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", SERVE_AS, str(directory)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    assert done.returncode == 0
    return set(done.stdout.split())


@as_root
def test_without_privileges(tmp_path: Path) -> None:
    """A user namespace, or Landlock where there are none."""
    (tmp_path / "file").write_text("content")
    os.chown(tmp_path, 65534, 65534)
    for parent in tmp_path.parents[:3]:  # of one worker of several there is one folder more
        if parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o555)
    isolation = serve_as(tmp_path, [], user=65534, group=65534, extra_groups=[])
    assert "seccomp" in isolation
    assert {"mount-ns", "user-ns"} <= isolation or "landlock" in isolation
    assert (tmp_path / "new").stat().st_uid == 65534


@as_root
def test_without_namespaces(tmp_path: Path) -> None:
    """Where even those are forbidden, Landlock does it."""
    (tmp_path / "file").write_text("content")
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set -sys_admin "$@"'
    isolation = serve_as(tmp_path, ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh"])
    assert isolation - {"user-ns"} == {"landlock", "seccomp"}  # the user namespace is the test's own


# -- what a share may be asked for: who serves it, and its window ----------------------------------------------------


MIB = 1 << 20


def test_a_process_serves_unless_told_otherwise() -> None:
    assert ShareConfig.parse("/srv").isolation == "process"
    assert ShareConfig("/srv").isolation == "process"
    assert ShareConfig.parse("/srv,isolation=thread").isolation == "thread"
    assert ShareConfig.parse("/srv,isolation=process,ro").isolation == "process"


def test_the_window() -> None:
    assert ShareConfig.parse("/srv").dax == 0
    assert ShareConfig.parse("/srv,dax=1G").dax == 1 << 30


@pytest.mark.parametrize(
    "option",
    ["isolation=jail", "isolation=", "isolation", "locks=", "locks=none", "dax", "dax=", "dax=1", "dax=3M", "dax=1T"],
)
def test_what_is_refused(option: str) -> None:
    with pytest.raises(ConfigError):
        ShareConfig.parse(f"/srv,{option}")
