"""A share served by a process of its own: that it serves, and what it can reach."""

from __future__ import annotations

import errno
import os
import random
import select
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.command import links_of, one_cpu, python_is_for_all
from tests.driver import RAM, Buffer
from tests.fs_driver import FsGuest
from vmm.errors import ConfigError
from vmm.memory import GuestMemory
from vmm.saving.memory_file import open_ram
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


def test_it_serves_on_one_cpu(tmp_path: Path) -> None:
    with one_cpu(), process(tmp_path) as guest:
        for number in range(40):
            guest.create(str(number))
        assert len(os.listdir(tmp_path)) == 40


def test_ram_around_the_hole(tmp_path: Path) -> None:
    """Two regions, one memfd."""
    (tmp_path / "file").write_bytes(b"content")
    with process(tmp_path, memory=GuestMemory((3 << 30) + (1 << 20), shared=True)) as guest:
        guest._free = 0x1_0000_0000  # all buffers from now on are above 4 GiB
        assert guest.read_file(guest.open(guest.lookup("file").node)) == b"content"


# -- a clone: RAM is filled from a template when either side touches it ------------------------------------------------

PAGE = 4096
AREA = 4 << 20


def pattern(start: int, size: int) -> bytes:
    """Of a template: every eight bytes say where they are."""
    return b"".join(at.to_bytes(8, "little") for at in range(start, start + size, 8))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RAM of 16 MiB with bytes of its own from 4 MiB on, in which nothing else is."""
    path = tmp_path_factory.mktemp("template") / "memory"
    with path.open("wb") as file:
        file.truncate(RAM)
        file.seek(AREA)
        file.write(pattern(AREA, RAM - AREA))
    return path


def clone_of(template: Path) -> GuestMemory:
    memory = open_ram(RAM, [str(template)], huge_pages="auto", shared=True, prefault=False, on_demand=True)
    assert memory.on_demand
    return memory


def start_write(guest: FsGuest, fh: int, size: int, at: int, offset: int) -> None:
    """Begin to write what is in RAM at *at*, which this side does not touch."""
    queue = guest.queues[1]
    body = struct.pack("<QQIIQII", fh, offset, size, 0, 0, 0, 0)
    head = guest.data(guest.header(f.WRITE, f.ROOT, len(body) + size) + body)
    queue.offer(queue.chain([head, Buffer(at, size), guest.room(f.OUT.size + 8)]))
    queue.kick()


def test_a_server_gets_pages_that_nobody_has_touched(tmp_path: Path, template: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(250)) * 40)
    with process(tmp_path, memory=clone_of(template)) as guest:
        fh = guest.open(guest.lookup("file").node, os.O_RDWR)
        # What it writes to is the template's before and behind
        body = guest.data(guest.header(f.READ, f.ROOT, 40) + struct.pack("<QQIIQII", fh, 0, 6000, 0, 0, 0, 0))
        answer = [guest.room(f.OUT.size), Buffer(AREA + 100, 6000, writable=True)]
        assert guest.queues[1].send(body, *answer).written == f.OUT.size + 6000
        wanted = bytearray(pattern(AREA, 3 * PAGE))
        wanted[100:6100] = (tmp_path / "file").read_bytes()[:6000]
        assert guest.memory.read(AREA, 3 * PAGE) == wanted
        # What it reads
        start_write(guest, fh, 256 << 10, AREA + (2 << 20), 0)
        guest.queues[1].wait()
        assert (tmp_path / "file").read_bytes() == pattern(AREA + (2 << 20), 256 << 10)
        assert guest.memory.fill_stats()["filled"] < 1 << 20, "and nothing of the rest"


def test_a_request_in_pages_that_nobody_has_touched(tmp_path: Path) -> None:
    (tmp_path / "name").touch()
    request = f.HEADER.pack(f.HEADER.size + 5, f.LOOKUP, 7, f.ROOT, 0, 0, 1, 0, 0) + f.cstr("name")
    template = tmp_path / "memory"
    with template.open("wb") as file:
        file.truncate(RAM)
        file.seek(AREA + PAGE - 10)
        file.write(request)
    with process(tmp_path, memory=clone_of(template)) as guest:
        answer = [Buffer(AREA + (3 << 20), f.OUT.size, writable=True), Buffer(AREA + (5 << 20), 200, writable=True)]
        used = guest.queues[1].send(Buffer(AREA + PAGE - 10, len(request)), *answer)
        number, unique, payload = guest.answer(answer, used.written)
        assert (number, unique) == (0, 7)
        assert f.Entry.of(payload).attr.ino == (tmp_path / "name").stat().st_ino


def test_a_clone_with_ram_around_the_hole(tmp_path: Path) -> None:
    size, above = (3 << 30) + (1 << 20), 0x1_0000_0000
    template = tmp_path / "memory"
    with template.open("wb") as file:
        file.truncate(size)
        file.seek(3 << 30)
        file.write(pattern(0, 1 << 20))
    memory = open_ram(size, [str(template)], huge_pages="auto", shared=True, prefault=False, on_demand=True)
    with process(tmp_path, memory=memory) as guest:
        _, fh = guest.create("copy")
        start_write(guest, fh, 512 << 10, above + (256 << 10), 0)
        guest.queues[1].wait()
        assert (tmp_path / "copy").read_bytes() == pattern(256 << 10, 512 << 10)


def test_both_sides_touch_the_same_pages_at_once(tmp_path: Path, template: Path) -> None:
    size, step = RAM - AREA, 256 << 10
    with process(tmp_path, memory=clone_of(template), cpus=2) as guest:
        _, fh = guest.create("copy")
        bad: list[int] = []

        def look(seed: int) -> None:
            pages = list(range(AREA, RAM, PAGE))
            random.Random(seed).shuffle(pages)
            bad.extend(at for at in pages if guest.memory.read(at + 8, 8) != (at + 8).to_bytes(8, "little"))

        threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for at in range(0, size, step):
            with guest.scratch():
                start_write(guest, fh, step, AREA + at, at)
                guest.queues[1].wait()
        for thread in threads:
            thread.join()
        assert bad == []
        assert (tmp_path / "copy").read_bytes() == pattern(AREA, size)


def test_pages_of_a_clone_after_its_server_was_stopped_or_killed(tmp_path: Path, template: Path) -> None:
    with process(tmp_path, memory=clone_of(template)) as guest:
        _, fh = guest.create("copy")
        # Maps its RAM anew, elsewhere
        guest.transport.pause()
        guest.transport.resume()
        start_write(guest, fh, PAGE, AREA, 0)
        guest.queues[1].wait()
        assert (tmp_path / "copy").read_bytes() == pattern(AREA, PAGE)
        start_write(guest, fh, 1 << 20, AREA + (4 << 20), 0)
        os.kill(pid_of(guest), signal.SIGKILL)
        guest.queues[1].wait()
        assert guest.memory.read(AREA, RAM - AREA) == pattern(AREA, RAM - AREA)


def test_a_server_that_cannot_take_part_finds_all_there(tmp_path: Path, template: Path) -> None:
    with process(tmp_path, memory=clone_of(template), mount=False) as guest:
        os.close(guest.share._faults)  # type: ignore[attr-defined]
        guest.share._faults = -1  # type: ignore[attr-defined]
        guest.start()
        guest.mount()
        assert not guest.memory.on_demand
        _, fh = guest.create("copy")
        start_write(guest, fh, 1 << 20, AREA, 0)
        guest.queues[1].wait()
        assert (tmp_path / "copy").read_bytes() == pattern(AREA, 1 << 20)


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
                for target in links_of(pid).values():
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
@pytest.mark.skipif(not python_is_for_all(), reason="other users cannot run this Python")
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
