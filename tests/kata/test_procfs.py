"""The processes of a container as files of the host: what tools read, mounted, and a guest that lies about them."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm_kata.errors import AgentTimeout, GuestError
from pyvmm_kata.host import procfs
from pyvmm_kata.host.procfs import read_listing
from pyvmm_kata.host.proxy_process import Face, Shown
from tests.kata.fake_agent import Made, files_of, listing, record
from tests.kata.oci_runtime import PATIENCE, Runtime, eventually, needs_namespaces

pytestmark = [
    needs_namespaces,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="this kernel has no FUSE"),
]


class Bench:
    """A face with a /proc, and what the guest says there."""

    def __init__(self, folder: Path, volumes: list[Shown]) -> None:
        self.face = Face.launch({})
        self.asked = 0
        self.says: bytes | Exception = listing([Made((40, 1)), Made((43, 7), parent=40)])
        self.face.show(Shown("/", str(folder)), [Shown("/proc", processes=True), *volumes])
        self.root = Path(f"/proc/{self.face.pid}/root")
        self.proc = self.root / "proc"
        self.watcher = threading.Thread(target=self.face.watch, args=(lambda _number: None, self._answer))
        self.watcher.start()

    def _answer(self) -> bytes:
        self.asked += 1
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def close(self) -> None:
        self.face.end(0)
        self.face.reap()
        self.watcher.join(PATIENCE)
        self.face.close()


Make = Callable[..., Bench]


@pytest.fixture
def show(tmp_path: Path) -> Iterator[Make]:
    made: list[Bench] = []
    (tmp_path / "root/proc").mkdir(parents=True)

    def make(*volumes: Shown) -> Bench:
        made.append(Bench(tmp_path / "root", list(volumes)))
        return made[-1]

    yield make
    for one in made:
        one.close()
    eventually(lambda: not any(t.name == "processes" for t in threading.enumerate()), "a thread is left")


def look(path: Path) -> None:
    os.listdir(path) if stat.S_ISDIR(path.stat().st_mode) else path.read_bytes()


def failure(path: Path) -> int:
    """The errno of looking at it."""
    try:
        look(path)
    except OSError as error:
        return error.errno or 0
    return 0


def test_it_shows_the_containers_processes_by_its_own_numbers(show: Make) -> None:
    made = show()
    assert made.asked == 0
    assert sorted(os.listdir(made.proc)) == ["1", "7", "stat", "uptime"]
    assert (made.proc / "uptime").read_text() == "12.00 3.00\n"
    assert "btime 1700000000\n" in (made.proc / "stat").read_text()
    assert (made.proc / "7/stat").read_text() == "7 (sh) S 1 7 7 34816 7 4194560 90 0 0 0 1 2 0 0 20 0 1 0 250\n"
    assert (made.proc / "1/stat").read_text().startswith("1 (sh) S 0 1 1 ")
    assert (made.proc / "7/cmdline").read_bytes() == b"sh\0-c\0sleep 3600\0"
    status = dict(line.split(":\t") for line in (made.proc / "7/status").read_text().splitlines())
    assert {key: status[key] for key in ("Tgid", "Pid", "PPid", "NSpid", "NSsid", "Name")} == {
        "Tgid": "7", "Pid": "7", "PPid": "1", "NSpid": "7", "NSsid": "7", "Name": "sh"
    }  # fmt: skip
    assert os.readlink(made.proc / "1/ns/pid") == os.readlink(f"/proc/{made.face.pid}/ns/pid")
    assert sorted(os.listdir(made.proc / "1")) == ["cmdline", "ns", "stat", "status"]


def test_each_look_is_at_what_there_is_now(show: Make) -> None:
    made = show()
    assert "7" in os.listdir(made.proc)
    made.says = listing([Made((40, 1)), Made((50, 9), parent=40)])
    assert "9" in os.listdir(made.proc)
    assert not (made.proc / "7").exists()
    assert (made.proc / "9/cmdline").read_bytes().startswith(b"sh")


def test_more_processes_than_one_answer_of_the_file_system_holds(show: Make) -> None:
    made = show()
    made.says = listing([Made((number + 100, number)) for number in range(1, 1001)])
    assert sorted(os.listdir(made.proc)) == sorted([*map(str, range(1, 1001)), "stat", "uptime"])
    assert (made.proc / "1000/stat").read_text().startswith("1000 (sh)")


def test_nothing_can_be_changed_and_nothing_else_is_there(show: Make) -> None:
    made = show()
    for path in ("0", "01", "8388607", "self", "1/exe", "1/ns/mnt", "1/ns/pid/x", "stat/x", "1\n", "x" * 200):
        with pytest.raises(OSError, match=r"No such file|Not a directory"):
            os.lstat(made.proc / path)
    for path in ("new", "1/stat", "1/new"):
        with pytest.raises(OSError, match=r"Read-only|Permission denied"):
            (made.proc / path).write_text("x")
    with pytest.raises(OSError, match="Read-only"):
        os.unlink(made.proc / "1/stat")
    with pytest.raises(OSError, match="No such file"):
        (made.proc / "1/ns/pid").read_bytes()
    assert os.statvfs(made.proc).f_flag & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)


def test_a_reader_has_one_text_whatever_the_guest_says_meanwhile(show: Make) -> None:
    made = show()
    with (made.proc / "1/status").open("rb", buffering=0) as file:
        begin = file.read(10)
        made.says = listing([Made((40, 1), name="other")])
        os.listdir(made.proc)
        rest = file.read()
    assert begin + rest == b"Name:\tsh\n" + (begin + rest).partition(b"\n")[2]


def test_open_files_have_a_limit(show: Make) -> None:
    made = show()
    held: list[int] = []
    while failure(made.proc / "1/stat") == 0 and len(held) < 1000:
        held.append(os.open(made.proc / "1/stat", os.O_RDONLY))
    assert failure(made.proc / "1/stat") == errno.ENFILE
    for fd in held:
        os.close(fd)
    assert len(held) == procfs.MAX_OPEN
    eventually(lambda: failure(made.proc / "1/stat") == 0, "no room after all were closed")


GOOD = listing([Made((40, 1))])
BAD = [
    b"",
    b"first 40\n",
    b"first 40\nend\n",
    b"first 41\n" + GOOD.partition(b"\n")[2],
    GOOD[:-4],
    GOOD.replace(b"first", b"frist"),
    GOOD.replace(b"40/stat ", b"40/../stat "),
    GOOD.replace(b"40/stat ", b"0/stat "),
    GOOD.replace(b"uptime 11", b"uptime 99999"),
    GOOD.replace(b"uptime 11", b"uptime 12"),
    GOOD.replace(b"uptime 11", b"uptime -1"),
    GOOD.replace(b"NSpid:\t40\t1", b"NSpid:\t"),
    GOOD.replace(b"(sh) S", b"sh"),
    b"first 1\n" + b"".join(record(f"{n}/stat", b"1") for n in range(1, 9999)) + b"end\n",
    b"\xff" * 100_000,
]


@pytest.mark.parametrize("answer", BAD, ids=range(len(BAD)))
def test_a_guest_that_lies(show: Make, answer: bytes) -> None:
    made = show()
    made.says = answer
    with pytest.raises(GuestError, match="list of processes is invalid"):
        read_listing(answer)
    assert failure(made.proc) == errno.EIO
    asked = made.asked
    for path in ("", "1", "1/stat", "stat"):
        with pytest.raises(OSError, match="Input/output"):
            look(made.proc / path)
    assert made.asked == asked, "a guest that lies is asked again and again"


def test_a_guest_that_does_not_answer(show: Make) -> None:
    made = show()
    made.says = AgentTimeout("no answer")
    assert failure(made.proc) == errno.EIO


@pytest.mark.parametrize("name", ["a) S 1 2", "))))", "a b", "new\nline", "", "\x1b[2J"])
def test_names_that_processes_give_themselves(name: str) -> None:
    found = read_listing(listing([Made((40, 1), name=name), Made((43, 7), parent=40, name=name)]))
    assert found.processes[7]["stat"].startswith(f"7 ({name}) S 1 7 7 ".encode())
    assert b"\nPid:\t7\n" in found.processes[7]["status"]


def test_numbers_that_the_guest_makes_up() -> None:
    """Whatever they are: the result has no more than names that are numbers, and no number of a host's."""
    strange = [Made((40, 1)), Made((41, 0)), Made((42, 9_999_999)), Made((44,)), Made((45, 1)), Made((46, 5, 1))]
    found = read_listing(listing([*strange, Made((47, 8), parent=999)]))
    assert sorted(found.processes) == [1, 5, 8]
    assert b" S 0 8 8 " in found.processes[8]["stat"]
    assert b"NSpid:\t5\t1\n" in found.processes[5]["status"]
    everything = record("50/status", b"NSpid:\t50\t" + b"1\t" * 4000 + b"\n") + record("50/stat", b"50 (x) S")
    found = read_listing(GOOD.replace(b"end\n", everything + b"end\n"))
    assert sorted(found.processes) == [1]
    assert re.search(rb"^Pid:\t1$", found.processes[1]["status"], re.MULTILINE)
    assert files_of(Made((40, 1)))["cmdline"] == found.processes[1]["cmdline"]


# -- where it is mounted ---------------------------------------------------------------------------------------------


def test_a_volume_in_proc_is_shown_instead(show: Make, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("made up")
    made = show(Shown("/proc/meminfo", str(tmp_path / "meminfo")))
    assert os.listdir(made.proc) == ["meminfo"]
    assert (made.proc / "meminfo").read_text() == "made up"


def test_a_link_of_the_images_to_it_makes_nobody_wait(show: Make, tmp_path: Path) -> None:
    (tmp_path / "root/link").symlink_to("/proc")
    (tmp_path / "volume").mkdir()
    made = show(Shown("/link/1", str(tmp_path / "volume")))
    assert "7" in os.listdir(made.proc)


def test_it_ends_with_the_mount(show: Make) -> None:
    made = show()
    held = os.open(made.proc, os.O_RDONLY | os.O_DIRECTORY)
    assert "1" in os.listdir(held)
    made.close()
    os.close(held)


# -- as part of a container ------------------------------------------------------------------------------------------

PROC = [{"destination": "/proc", "type": "proc", "source": "proc"}]


def monitor_of(runtime: Runtime, container_id: str) -> int:
    return int(json.loads((runtime.root / container_id / "state.json").read_text())["monitor"])


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_the_pid_of_a_container_has_them(runtime: Runtime) -> None:
    runtime.started("c1", "sleep 600", mounts=PROC)
    monitor, proc = monitor_of(runtime, "c1"), Path(f"/proc/{runtime.state('c1')['pid']}/root/proc")
    runtime.check("exec", "c1", "/bin/true")
    before = threads(monitor)
    assert sorted(os.listdir(proc)) == ["1", "7", "stat", "uptime"]
    assert (proc / "7/stat").read_text().startswith("7 (sh) S 1 ")
    assert threads(monitor) <= before + 1
    runtime.check("delete", "--force", "c1")
    assert not proc.exists()


def test_a_look_when_the_monitor_is_killed(runtime: Runtime) -> None:
    runtime.started("c1", "sleep 600", mounts=PROC)
    held = os.open(f"/proc/{runtime.state('c1')['pid']}/root/proc", os.O_RDONLY | os.O_DIRECTORY)
    os.kill(monitor_of(runtime, "c1"), signal.SIGKILL)
    script = f"import os; os.listdir({held})"

    def looks() -> str:
        return subprocess.run(
            ["python3", "-c", script], pass_fds=(held,), capture_output=True, text=True, timeout=PATIENCE
        ).stderr

    eventually(lambda: "Transport endpoint is not connected" in looks(), "a dead file system goes on")
    os.close(held)
    runtime.check("delete", "--force", "c1")
    assert not any(path.name == "c1" for path in runtime.root.iterdir())
