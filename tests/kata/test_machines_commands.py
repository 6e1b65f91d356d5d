"""`pyvmm run -d` and the commands for its machines, which run their programs on this host here."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.machines import cp, kill, logs, ps, rm, stats, stop, top
from pyvmm_kata.machines.keeper import LOG_MOST, Log
from tests.kata.oci_runtime import PATIENCE, Runtime, eventually, needs_namespaces

PROGRAM = Path(__file__).with_name("machines_program.py")
COMMANDS = {"cp": cp, "kill": kill, "logs": logs, "ps": ps, "rm": rm, "stats": stats, "stop": stop, "top": top}
pytestmark = needs_namespaces


class Machines:
    """The commands, with states below *folder*."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.state = folder / "state"
        self._capfd = capfd
        (folder / "rootfs").mkdir()
        (folder / "image").write_bytes(b"an image")
        (folder / "kata.toml").write_text(f'image = "{folder}/image"\nmemory = "64M"\n')

    def words(self, name: str, *arguments: str) -> list[str]:
        return [sys.executable, str(PROGRAM), name, "--root", str(self.state), *arguments]

    def open(self, name: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """As a program."""
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        return subprocess.Popen(self.words(name, *arguments), env=environment, **options)

    def program(self, name: str, *arguments: str, data: bytes = b"") -> tuple[int, str, str]:
        with self.open(
            name, *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as program:
            out, err = program.communicate(data, PATIENCE)
        return program.returncode, out.decode(), err.decode()

    def start(self, name: str, script: str, *options: str) -> None:
        more = ("--network", "none", "--config", str(self.folder / "kata.toml"), "--name", name, *options)
        done = self.program("run", "-d", *more, str(self.folder / "rootfs"), "/bin/sh", "-c", script)
        assert done == (0, f"{name}\n", "")

    def call(self, name: str, *arguments: str) -> tuple[int, str, str]:
        """In this process."""
        self._capfd.readouterr()
        status = COMMANDS[name].main(["--root", str(self.state), *arguments])
        return (status, *self._capfd.readouterr())

    def check(self, name: str, *arguments: str) -> str:
        status, out, err = self.call(name, *arguments)
        assert status == 0, err
        return out

    def all(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in json.loads(self.check("ps", "-a", "--json"))}

    def bundles(self) -> list[Path]:
        return list(self.folder.glob("pyvmm-run-*"))


@pytest.fixture
def machines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Machines]:
    made = Machines(tmp_path, capfd)
    yield made
    made.check("rm", "-f", "none", *made.all())
    eventually(lambda: not made.state.exists() or os.listdir(made.state) == [], "something is left")
    assert made.bundles() == []


def test_the_life_of_a_machine(machines: Machines) -> None:
    machines.start("web-1", 'echo out; echo error >&2; trap "echo told; exit 3" TERM; while :; do sleep 0.05; done')
    found = machines.all()["web-1"]
    assert (found["state"], found["isolation"], found["expires"]) == ("running", "vm", None)
    assert found["image"] == str(machines.folder / "rootfs")
    assert re.search(r"^web-1 +running .* seconds", machines.check("ps"), re.MULTILINE)
    eventually(lambda: machines.call("logs", "web") == (0, "out\n", "error\n"), "no output")
    done = machines.program(
        "exec", "-i", "-e", "A=b", "web", "/bin/sh", "-c", "cat; echo $A >&2; exit 4", data=b"typed\n"
    )
    assert done == (4, "typed\n", "b\n")
    assert machines.check("stop", "web") == "web-1\n"
    assert machines.check("ps", "-q") == ""
    found = machines.all()["web-1"]
    assert (found["state"], found["exit_status"], found["pid"]) == ("stopped", 3, None)
    assert "stopped (3)" in machines.check("ps", "-a")
    assert json.loads(machines.check("stop", "--json", "web-1")) == [{"name": "web-1"}]
    eventually(lambda: machines.check("logs", "web-1") == "out\ntold\n", "its last words are missing")
    assert len(machines.bundles()) == 1
    assert machines.check("rm", "web-1") == "web-1\n"
    assert machines.all() == {}


def test_names_and_states_that_do_not_fit(machines: Machines) -> None:
    machines.start("web-1", "exec sleep 600")
    Runtime(machines.folder).created("web-2", "sleep 600")
    for name in ("kill", "logs", "top", "stats", "stop"):
        status, _, err = machines.call(name, "wbe-1")
        assert (status, "no container 'wbe-1'" in err, "there is web-1" in err) == (125, True, True)
    assert "web-1, web-2" in machines.call("stop", "web")[2]
    assert machines.call("rm", "web")[0] == machines.call("rm", "nosuch")[0] == 1
    assert machines.call("rm", "-f", "nosuch") == (0, "", "")
    status, _, err = machines.call("rm", "web-1")
    assert (status, "web-1 is running, not stopped" in err) == (2, True)
    assert "keeps no log" in machines.call("logs", "web-2")[2]
    assert "web-2 is created, not running or paused" in machines.call("top", "web-2")[2]
    assert machines.call("kill", "-s", "NONE", "web-1")[0] == 125
    assert machines.program("exec", "web-1", "/no/such")[0] == 127
    machines.check("kill", "web-1")
    eventually(lambda: machines.all()["web-1"]["state"] == "stopped", "it runs")
    assert "web-1 is stopped, not running" in machines.program("exec", "web-1", "true")[2]
    assert "web-1 is stopped" in machines.program("attach", "web-1")[2]


def test_a_program_that_ignores_sigterm_is_killed(machines: Machines) -> None:
    machines.start("c1", 'trap "" TERM; trap "echo told" USR1; echo ready; while :; do sleep 0.05; done')
    eventually(lambda: machines.check("logs", "c1") == "ready\n", "it does not start")
    machines.check("kill", "--signal", "USR1", "c1")
    eventually(lambda: machines.check("logs", "c1") == "ready\ntold\n", "it is not told")
    machines.check("stop", "-t", "0.1", "c1")
    assert machines.all()["c1"]["exit_status"] == 137


def test_logs_follow_a_machine_to_its_end(machines: Machines) -> None:
    machines.start("c1", f"echo one; while [ ! -e {machines.folder}/go ]; do sleep 0.05; done; echo two; printf three")
    with machines.open("logs", "-f", "c1", stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"one\n"
        (machines.folder / "go").touch()
        assert program.stdout.read() == b"two\nthree"
        assert program.wait(PATIENCE) == 0
    assert machines.check("logs", "--tail", "2", "c1") == "two\nthree"
    last = json.loads(machines.check("logs", "--tail", "1", "--json", "c1"))
    assert (last["stream"], last["text"]) == ("stdout", "three")
    assert re.fullmatch(r"\d{4}-\S+Z two\n\d{4}-\S+Z three", machines.check("logs", "-t", "-n", "2", "c1"))


def test_a_log_is_limited(machines: Machines) -> None:
    machines.start("c1", "sleep 600")
    folder = machines.state / "c1"
    log = Log(str(folder))
    for number in range(200_000):
        log.write(1, b"line %d\n" % number)
    assert all(os.path.getsize(folder / name) <= LOG_MOST for name in ("log", "log.1"))
    lines = machines.check("logs", "c1").splitlines()
    assert lines == [f"line {number}" for number in range(200_000 - len(lines), 200_000)]
    assert len(lines) > LOG_MOST // 64


def test_attach_until_the_end(machines: Machines) -> None:
    machines.start("c1", 'while read x; do echo "got $x"; [ "$x" = end ] && exit 5; done', "-i", "--rm")
    assert machines.program("attach", "c1", data=b"one\nend\n") == (5, "got one\ngot end\n", "")
    eventually(lambda: machines.all() == {}, "it is not removed")
    eventually(lambda: machines.bundles() == [], "its bundle is not removed")


def test_a_second_ctrl_c_leaves(machines: Machines) -> None:
    machines.start("c1", 'trap "echo told" INT; while :; do echo tick; sleep 0.05; done')
    with machines.open("attach", "c1", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"tick\n"
        program.send_signal(signal.SIGINT)
        while program.stdout.readline() != b"told\n":
            pass
        program.send_signal(signal.SIGINT)
        assert program.wait(PATIENCE) == 0
    assert machines.all()["c1"]["state"] == "running"


def test_attach_to_a_terminal(machines: Machines) -> None:
    script = 'stty size; until [ "$(stty size)" = "40 120" ]; do sleep 0.02; done; echo ready; read x; echo "got $x"'
    machines.start("c1", f"{script}; sleep 600", "-i", "-t")
    eventually(lambda: machines.check("logs", "c1") == "24 80\r\n", "it has no terminal")  # attach resizes it
    ours, its = os.openpty()
    termios.tcsetwinsize(its, (40, 120))
    with machines.open("attach", "c1", stdin=its, stdout=its, stderr=its) as program:
        os.close(its)
        _read_until(ours, b"ready")
        os.write(ours, b"word\r")
        _read_until(ours, b"got word")
        os.write(ours, b"\x10")
        os.write(ours, b"\x11")
        assert program.wait(PATIENCE) == 0
    os.close(ours)
    assert machines.all()["c1"]["state"] == "running"


def _read_until(fd: int, words: bytes) -> None:
    out = b""
    while words not in out:
        out += os.read(fd, 1000)


def test_copies(machines: Machines) -> None:
    inside, outside = machines.folder / "inside", machines.folder / "outside"
    (outside / "tree" / "sub").mkdir(parents=True)
    inside.mkdir()
    (outside / "tree" / "sub" / "file").write_text("data")
    (outside / "tree" / "link").symlink_to("/etc/passwd")
    machines.start("c1", "sleep 600")
    machines.check("cp", f"{outside}/tree", f"c1:{inside}")
    machines.check("cp", f"{outside}/tree", f"c1:{inside}/new")
    machines.check("cp", f"{outside}/tree/.", f"c1:{inside}/new/sub")
    machines.check("cp", f"{outside}/tree/sub/file", f"c1:{inside}/renamed")
    for path in ("tree/sub/file", "new/sub/file", "new/sub/sub/file", "renamed"):
        assert (inside / path).read_text() == "data"
    assert os.readlink(inside / "tree" / "link") == "/etc/passwd"
    (inside / "tree" / "sub" / "file").chmod(0o4755)
    machines.check("cp", f"c1:{inside}/tree", f"{outside}/back")
    machines.check("cp", f"c1:{inside}/tree/.", f"{outside}/back")
    machines.check("cp", f"c1:{inside}/renamed", f"{outside}/back")
    assert stat.S_IMODE((outside / "back" / "sub" / "file").stat().st_mode) == 0o755
    assert sorted(os.listdir(outside / "back")) == ["link", "renamed", "sub"]
    for source, target, words in (
        (f"c1:{inside}/none", str(outside), "none: Cannot stat"),
        (f"{outside}/none", f"c1:{inside}", "no such file"),
        (f"{outside}/tree", f"c1:{inside}/renamed", "is no directory"),
        (f"{outside}/tree", f"c1:{inside}/none/new", "none does not exist"),
        (f"c1:{inside}/tree", f"{outside}/none/new", "no such directory"),
        (str(outside), str(inside), "NAME:PATH"),
    ):
        status, _, err = machines.call("cp", source, target)
        assert (status, words in err) == (125, True), err
    assert not list(machines.folder.rglob(".pyvmm-cp-*"))


EVIL = """#!{python}
import io, sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
    def add(name, kind=tarfile.REGTYPE, link="", mode=0o6777):
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.mode, entry.size = kind, link, mode, 4 * (kind == tarfile.REGTYPE)
        archive.addfile(entry, io.BytesIO(b"evil"))
    for name in ("../escaped", "/escaped", "{folder}/escaped", "beside", "tree/device"):
        add(name, tarfile.CHRTYPE if name == "tree/device" else tarfile.REGTYPE)
    add("tree/out", tarfile.SYMTYPE, "{folder}")
    add("tree/out/escaped")
    add("tree/pipe", tarfile.FIFOTYPE)
    add("tree/keep/file")
    add("tree/.wh.precious")
"""


def test_a_hostile_container_writes_nothing_else(machines: Machines) -> None:
    tools, target = machines.folder / "tools", machines.folder / "target"
    tools.mkdir()
    (tools / "tar").write_text(EVIL.format(python=sys.executable, folder=machines.folder))
    (tools / "tar").chmod(0o755)
    (target / "tree").mkdir(parents=True)
    (target / "tree" / "precious").write_text("mine")
    (target / "tree" / "keep").symlink_to(machines.folder)  # of an earlier copy
    machines.start("c1", "sleep 600", "-e", f"PATH={tools}:/usr/bin:/bin")
    status, _, err = machines.call("cp", "c1:/tree", str(target))
    assert (status, "keep" in err) == (125, True), err
    (target / "tree" / "keep").unlink()
    machines.check("cp", "c1:/tree", str(target))
    assert os.listdir(target) == ["tree"]
    assert sorted(os.listdir(target / "tree")) == ["keep", "out", "precious"]
    assert (target / "tree" / "precious").read_text() == "mine"
    assert stat.S_IMODE((target / "tree" / "keep" / "file").stat().st_mode) == 0o777
    assert not list(machines.folder.glob("escaped")) and not os.path.exists("/escaped")


def test_what_a_machine_runs_and_uses(machines: Machines) -> None:
    machines.start("c1", "sleep 600")
    first, second = json.loads(machines.check("top", "--json", "c1"))
    assert (first["pid"], second["pid"], second["parent"]) == (1, 7, 1)
    assert "sleep 3600" in machines.check("top", "c1")
    assert json.loads(machines.check("stats", "--no-stream", "--json"))[0]["memory"] == 4096
    assert "4.0 KiB" in machines.check("stats", "--no-stream", "c1")
    with machines.open("stats", "--json", "--interval", "0.1", stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        lines = [json.loads(program.stdout.readline()) for _ in range(2)]
        program.send_signal(signal.SIGINT)
        assert [line[0]["name"] for line in lines] == ["c1", "c1"]
        assert program.wait(PATIENCE) != 0


def test_an_image_of_a_detached_machine_stays_in_use(machines: Machines) -> None:
    """The process with its log holds the lock on the file that the store respects."""
    disk = machines.folder / "rootfs"
    disk.rmdir()
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(disk), "4M"], check=True)
    machines.start("c1", "sleep 600")
    with open(disk, "rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        machines.check("rm", "-f", "c1")
        fcntl.flock(file, fcntl.LOCK_EX)  # as a machine has it that writes to its disk
        machines.start("c2", "sleep 600")
