"""Linux on a shared directory: as a mount, and as its root."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import run_example
from tests.guest.vmfixture import RUN_TIMEOUT, Guest
from tools import guest as recipes
from tools.versions import is_patched
from vmm import ShareConfig


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory to share."""
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture
def patched(guest_kernel: str) -> bool:
    """Whether the guest kernel has guest-kernel's patch: without it files are as right, by more requests."""
    return is_patched(guest_kernel)


def test_a_file_is_read_and_written_on_both_sides(boot: Boot, shared: Path) -> None:
    (shared / "from-host").write_text("made by the host\n")
    guest = boot(shares=[ShareConfig(str(shared))])
    guest.check("mount -t virtiofs share /mnt")
    assert guest.check("cat /mnt/from-host") == "made by the host\n"
    guest.check("mkdir /mnt/d && echo made by the guest >/mnt/d/from-guest && ln -s d/from-guest /mnt/link")
    assert (shared / "d/from-guest").read_text() == "made by the guest\n"
    assert os.readlink(shared / "link") == "d/from-guest"
    listing = guest.check("ls /mnt /mnt/d")
    assert listing.split() == ["/mnt:", "d", "from-host", "link", "/mnt/d:", "from-guest"]
    big = "".join(f"{n:07}\n" for n in range(1 << 18))
    (shared / "big").write_text(big)
    guest.check("cp /mnt/big /mnt/copy && cmp /mnt/big /mnt/copy && umount /mnt")
    assert (shared / "copy").read_text() == big


def test_a_read_only_share(boot: Boot, shared: Path) -> None:
    (shared / "file").write_text("content\n")
    guest = boot(shares=[ShareConfig(str(shared), tag="data", read_only=True)])
    guest.check("mount -t virtiofs data /mnt")
    assert guest.check("cat /mnt/file") == "content\n"
    for command in ("echo x >/mnt/new", "echo x >>/mnt/file", "rm /mnt/file", "mkdir /mnt/d", "touch /mnt/file"):
        status, output = guest.run(command)
        assert status != 0 and "Read-only file system" in output
    assert os.listdir(shared) == ["file"]


def test_boot_from_a_directory(boot: Boot, tmp_path: Path) -> None:
    root = unpack_root(tmp_path / "root")
    guest = boot(rootfs=ShareConfig(str(root)))
    assert " / virtiofs rw" in guest.check("cat /proc/mounts")
    guest.check("echo kept >/root/mark && sync")
    assert guest.power_off().kind == "poweroff"
    assert (root / "root/mark").read_text() == "kept\n"


def unpack_root(folder: Path) -> Path:
    """The guest's root as a directory: the files of the root disk."""
    folder.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump / {folder}", recipes.rootfs()], check=True, capture_output=True)
    shutil.rmtree(folder / "lost+found", ignore_errors=True)
    return folder


def test_the_example_builds_with_the_hosts_compiler(guest_kernel: str, tmp_path: Path) -> None:
    """Its root is this host's, which has mounts in it and file systems that know no file handles."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler on this host")
    work = tmp_path / "work"
    work.mkdir()
    (work / "hello.c").write_text('#include <stdio.h>\nint main(void) { puts("built in a guest"); return 7; }\n')
    script = "cc -o hello hello.c && ./hello; s=$?; touch /etc/mark || echo refused; exit $s"
    done = run_example(guest_kernel, work, script)
    assert "built in a guest\n" in done.stdout, done.stdout + done.stderr
    assert "Read-only file system" in done.stdout and "refused\n" in done.stdout
    assert done.returncode == 7
    assert os.access(work / "hello", os.X_OK)


GIT = """set -e
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git init -q -b main one && cd one
for n in $(seq 40); do echo $n >file$n; done
git add . && git commit -qm first && echo more >>file1 && git commit -qam second
cd .. && git clone -q one two && cd two
git gc -q && git fsck --strict && git status --short && echo "commits: $(git log --oneline | wc -l)"
"""

SQLITE = """
import sqlite3
db = sqlite3.connect("data.db")
assert db.execute("pragma journal_mode=wal").fetchone() == ("wal",)
db.execute("create table t (n integer)")
other = sqlite3.connect("data.db")
for n in range(50):
    with db:
        db.execute("insert into t values (?)", (n,))
    assert other.execute("select count(*) from t").fetchone() == (n + 1,)
assert db.execute("pragma integrity_check").fetchone() == ("ok",)
print("rows", db.execute("select sum(n) from t").fetchone()[0])
"""


@pytest.mark.long  # 80 seconds; of its parts each has a test here, and test_kata_software.py has more programs
def test_git_on_a_share(guest_kernel: str, tmp_path: Path) -> None:
    if not shutil.which("git"):
        pytest.skip("no git on this host")
    done = run_example(guest_kernel, tmp_path / "work", GIT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "commits: 2\n" in done.stdout
    assert (tmp_path / "work/two/file1").read_text() == "1\nmore\n"


def test_sqlite_with_a_write_ahead_log_on_a_share(guest_kernel: str, tmp_path: Path) -> None:
    done = run_example(guest_kernel, tmp_path / "work", f"exec {sys.executable} -c '{SQLITE}'")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows 1225" in done.stdout
    with sqlite3.connect(tmp_path / "work/data.db") as database:
        assert database.execute("select count(*) from t").fetchone() == (50,)


# -- a share served by a process of its own, seen from Linux in the guest: while it lives, and after its death -------


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


@contextmanager
def file_system(folder: Path) -> Iterator[Path]:
    """One of the host's own, in memory, on a new directory."""
    if os.getuid() != 0:
        pytest.skip("only root mounts")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", folder.name, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_mount_ends_while_a_file_is_read_ahead(boot: Boot, shared: Path, patched: bool) -> None:
    """A file system of the host below the share is one of its own in the guest: it ends with the last mount of it."""
    if not patched:
        pytest.skip("Linux panics here; guest-kernel's patch mends it")
    with file_system(shared / "inner") as inner:
        (inner / "first").write_text("x")
        (inner / "file").write_bytes(os.urandom(1 << 20))
        guest = boot(shares=[ShareConfig(str(shared), isolation="process", locks="guest")])
        guest.check("mount -t virtiofs share /mnt; mkfifo /tmp/go")
        # the request is on its way then: the server, which could tell, is stopped
        last = "read x </tmp/go; dd bs=4k count=1 <&3 >/dev/null & sleep 2; kill -9 $!; wait; echo >/tmp/left"
        inside = f"cat /mnt/inner/first; exec 3</mnt/inner/file; echo >/tmp/ready; {last}"
        away = f"(unshare -m sh -c '{inside}'; echo >/tmp/ended) >/dev/null 2>&1"
        guest.check(f"{away} & until [ -e /tmp/ready ]; do :; done")
        # the server stands still, so the answer to what is read comes when nobody waits for it
        pid = server(guest)
        os.kill(pid, signal.SIGSTOP)
        guest.check("echo >/tmp/go; until [ -e /tmp/left ]; do sleep 1; done; sleep 2")
        os.kill(pid, signal.SIGCONT)
        guest.check("until [ -e /tmp/ended ]; do sleep 1; done; cat /mnt/inner/file >/dev/null")
        assert "Busy inodes" not in guest.check("dmesg")
        assert guest.power_off().kind == "poweroff"


def test_what_a_new_file_asks_of_the_server(boot: Boot, shared: Path, patched: bool) -> None:
    """Made with O_EXCL, by `tar`, which removes one of that name before; also in a file system of the host below."""
    with file_system(shared / "inner") as inner:
        guest = boot(shares=[ShareConfig(str(shared))])
        guest.check("mount -t virtiofs share /mnt; echo >/mnt/inner/first; mkdir /tmp/f; cd /tmp/f")
        guest.check("for i in $(seq 40); do echo new >$i; done; tar cf /tmp/files .")
        for folder in ("/mnt", "/mnt/inner"):
            before = requests(guest)
            guest.check(f"tar xf /tmp/files -C {folder}")
            count = since(guest, before)
            assert count["create"] == count["write"] == 40
            # What is known of the folder expires after a second
            few = count["lookup"] < 60 and count.get("getattr", 0) < 30 and count.get("getxattr", 0) < 20
            assert few or not patched, count
            before = requests(guest)
            guest.check(f"dd if=/dev/zero of={folder}/written bs=1 count=40")
            count = since(guest, before)
            assert count["write"] == 40, count
            # A file system below the share has no SB_NOSEC without the patch: each write asks for capabilities
            assert count.get("getxattr", 0) < 10 or (folder != "/mnt" and not patched), count
        assert (inner / "40").read_text() == (shared / "40").read_text() == "new\n"


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_files_of_the_guest_alone(boot: Boot, shared: Path, mode: str, patched: bool) -> None:
    """What a container has in its page cache of its root is read without a request; all else is as in other files."""
    with file_system(shared / "rootfs") as inner:
        guest = boot(shares=[ShareConfig(str(shared), sole="rootfs", cache=mode)])
        guest.check("mount -t virtiofs share /mnt; cd /mnt/rootfs; mkdir new")
        guest.check("for i in $(seq 20); do (echo $i; head -c 5000 /dev/zero) >new/$i; done")
        assert not patched or any(asks_little_of_a_new_directory(guest, f"new{n}") for n in range(5))
        before = requests(guest)
        said = guest.check("cat new/* | tr -d '\\0'; cat new/7 | wc -c").split()
        assert said == [*sorted(map(str, range(1, 21))), "5002"]
        count = since(guest, before)
        asked = sum(count.get(name, 0) for name in ("open", "read", "release"))
        assert (asked == 0) == patched, count

        before = requests(guest)
        guest.check("echo 3 >/proc/sys/vm/drop_caches")
        assert guest.check("head -n 1 new/8").split() == ["8"]
        guest.check("exec 3<new/10; rm new/10; echo 3 >/proc/sys/vm/drop_caches")
        assert guest.check("head -n 1 <&3; exec 3<&-").split() == ["10"]
        count = since(guest, before)
        assert count["open"] == 2 or not patched, count

        guest.check("cat new/11 new/12 >/dev/null")
        (inner / "new" / "11").write_text("longer\n" * 1000)
        (inner / "new" / "12").write_bytes(b"other\n" + bytes(4997))
        (inner / "new" / "of the host").touch()
        if mode == "auto":
            guest.check("sleep 1.2; test -e 'new/of the host'")  # attributes are valid for a second
            assert guest.check("tail -n 1 new/11; head -n 1 new/12").split() == ["longer", "other"]
        deadline = time.monotonic() + RUN_TIMEOUT
        while (now := requests(guest))["release"] != now["open"] + now["create"]:  # nobody in the guest waits for it
            assert time.monotonic() < deadline, f"not all are closed here: {now}"
            time.sleep(0.01)


def test_a_mode_and_an_owner_that_a_file_has_already(boot: Boot, shared: Path) -> None:
    """Of a file of the guest alone its time of change is all that they change, which nobody waits for."""
    with file_system(shared / "rootfs") as inner:
        guest = boot(shares=[ShareConfig(str(shared), sole="rootfs")])
        guest.check("mount -t virtiofs share /mnt; cd /mnt/rootfs; umask 022; echo 1 >file; echo 1 >program")

        def changes(command: str) -> None:
            """Its time of change is another after the command, at some time."""
            before = (inner / "file").stat().st_ctime_ns
            guest.check(f"sleep 0.1; {command}")  # a tick of the host's clock
            deadline = time.monotonic() + RUN_TIMEOUT
            while (inner / "file").stat().st_ctime_ns <= before:
                assert time.monotonic() < deadline, command
                time.sleep(0.01)

        changes("chmod 644 file")
        changes("chown 0:0 file")
        assert guest.check("stat -c %Z file").strip() == str(int((inner / "file").stat().st_ctime))

        # the second one, for which nobody waits, may do no harm late
        guest.check("chmod 4755 program; chmod 4755 program; sleep 0.1")
        assert (inner / "program").stat().st_mode & 0o7777 == 0o4755
        guest.check("chown 0:0 program")
        assert (inner / "program").stat().st_mode & 0o7777 == 0o755
        guest.check("chown 3:4 file; chmod 600 file")
        status = (inner / "file").stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (3, 4, 0o600)
        (inner / "file").chmod(0o640)
        guest.check("sleep 1.2; chmod 600 file")  # attributes are valid for a second
        assert (inner / "file").stat().st_mode & 0o7777 == 0o600, "what the host has changed is known a second later"


def asks_little_of_a_new_directory(guest: Guest, name: str) -> bool:
    """Nobody else has put anything into it, for a second: so much time may pass on a loaded host."""
    before = requests(guest)
    guest.check(f"mkdir {name}; for i in $(seq 20); do test -e {name}/$i; done; rmdir {name}")
    return since(guest, before).get("lookup", 0) < 10


def since(guest: Guest, before: dict[str, int]) -> dict[str, int]:
    """How many of each kind its share has had since then, where there were any."""
    more = {name: number - before.get(name, 0) for name, number in requests(guest).items()}
    return {name: number for name, number in more.items() if number}


def requests(guest: Guest) -> dict[str, int]:
    """How many of each kind its share has had."""
    (share,) = (each.device.stats() for each in guest.machine.attached if each.device.name == "share share")
    return {name: op["count"] for name, op in share["ops"].items()}


@pytest.mark.long  # half a minute; test_fs_suites.py has its operations
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
