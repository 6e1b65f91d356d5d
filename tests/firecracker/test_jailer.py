"""The jailer: its directory, what the program has in it, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_firecracker.jailer.groups import GroupError, Groups, place
from pyvmm_firecracker.jailer.root import Root
from tests import tiny
from tests.firecracker.program import PATIENCE, Connection
from tests.netns import ip, own_network
from tools.where import ROOT

USER, GROUP = 61234, 61235
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the jailer needs root")
needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
PATHS = [str(ROOT), str(ROOT / "examples" / "firecracker")]


class Jail:
    """A program for the jailer, and the jail of one machine."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())  # pytest's has a name that is too long for a socket
        self.folder.chmod(0o755)
        self.program = self.folder / "firecracker"
        start = f"sys.path[:0] = {PATHS!r}\nfrom pyvmm_firecracker.program import main\nsys.exit(main())\n"
        self.program.write_text(f"#!{sys.executable}\nimport sys\n{start}")
        self.root = self.folder / "base" / "firecracker" / "one" / "root"
        self.root.mkdir(parents=True)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *flags: str) -> list[str]:
        fixed = ["--exec-file", str(self.program), "--uid", str(USER), "--gid", str(GROUP)]
        module = [sys.executable, "-m", "pyvmm_firecracker.jailer.program"]
        return [*module, "--id", "one", *fixed, "--chroot-base-dir", str(self.folder / "base"), *flags]

    def start(self, *flags: str) -> int:
        """The number of the program's process, when it serves its socket."""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
        with open(self.folder / "output", "wb") as output:
            self.process = subprocess.Popen(
                self.command(*flags), env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        until(self._serves)
        return self.pid()

    def _serves(self) -> bool:
        assert self.process is not None and self.process.poll() in (None, 0), self.output()
        found = self.root / "firecracker.pid"
        return (self.root / "run" / "firecracker.socket").is_socket() and found.exists() and bool(found.read_text())

    def pid(self) -> int:
        return int((self.root / "firecracker.pid").read_text())

    def output(self) -> str:
        return (self.folder / "output").read_text()

    def put(self, path: str, **body: Any) -> None:
        connection = Connection(self.root / "run" / "firecracker.socket")
        connection.request("PUT", path, json.dumps(body))
        answer = connection.getresponse()
        assert answer.status == 204, answer.read()
        connection.close()

    def boot(self) -> None:
        """A guest that writes a character and spins."""
        os.chmod(tiny.make(self.root, tiny.say(">"), tiny.SPIN), 0o644)
        self.put("/boot-source", kernel_image_path="/tiny.elf")
        self.put("/machine-config", vcpu_count=1, mem_size_mib=32)
        self.put("/serial", serial_out_path="/console")
        self.put("/actions", action_type="InstanceStart")
        until(lambda: (self.root / "console").read_bytes() == b">")

    def end(self, pid: int) -> None:
        os.kill(pid, signal.SIGTERM)
        until(lambda: not alive(pid))

    def close(self) -> None:
        if (self.root / "firecracker.pid").exists() and alive(self.pid()):
            os.kill(self.pid(), signal.SIGKILL)
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.02)


def alive(pid: int) -> bool:
    try:
        return status(pid)["State"][0] != "Z"
    except FileNotFoundError:
        return False


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def jail() -> Iterator[Jail]:
    made = Jail()
    yield made
    made.close()


@needs_root
@needs_kvm
@pytest.mark.parametrize("more", [(), ("--no-seccomp",)], ids=["jail", "no-jail"])
def test_a_guest_boots_in_a_jail(jail: Jail, more: tuple[str, ...]) -> None:
    pid = jail.start("--resource-limit", "fsize=300000000", "--", *more)
    jail.boot()
    rights = status(pid)
    assert (rights["Uid"].split(), rights["Gid"].split()) == ([str(USER)] * 4, [str(GROUP)] * 4)
    assert rights["Groups"] == ""
    assert int(rights["CapEff"], 16) == int(rights["CapPrm"], 16) == 0
    assert jail.process is not None and jail.process.pid == pid
    inside = Path(f"/proc/{pid}/root")
    assert not (inside / "etc").exists() and not (inside / "home").exists()
    assert os.statvfs(inside / "usr").f_flag & os.ST_RDONLY
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search("Max open files +2048 +2048", limits)
    assert re.search("Max file size +300000000 +300000000", limits)
    for name in ("dev/kvm", "dev/net/tun", "run", "run/firecracker.socket"):
        found = (jail.root / name).lstat()
        assert (found.st_uid, found.st_gid) == (USER, GROUP), name
    jail.end(pid)
    assert not (jail.root / "run" / "firecracker.socket").exists()
    assert not any(str(jail.folder) in line for line in Path("/proc/self/mounts").read_text().splitlines())


@needs_root
@needs_kvm
def test_namespaces_and_a_session_of_its_own(jail: Jail) -> None:
    with own_network():
        ip("tuntap add t0 mode tap")
        network = os.readlink("/proc/thread-self/ns/net")
        place = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
        pid = jail.start("--netns", place, "--new-pid-ns", "--daemonize")
        jail.put("/network-interfaces/eth0", iface_id="eth0", host_dev_name="t0")
        jail.boot()
    assert jail.process is not None and jail.process.wait(PATIENCE) == 0
    assert status(pid)["NSpid"].split()[1:] == ["1"]
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert any(re.fullmatch(r"--start-time-cpu-us=[0-9]+", word) for word in words)
    assert os.readlink(f"/proc/{pid}/ns/net") == network != os.readlink("/proc/self/ns/net")
    assert os.getsid(pid) not in (0, os.getsid(0))
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
    jail.end(pid)


@needs_root
def test_a_control_group(jail: Jail) -> None:
    try:
        top = place(Path("/proc/mounts").read_text(), 1, "pids")
    except GroupError:
        pytest.skip("no control groups of version 1 here")
    if not os.access(top, os.W_OK):
        pytest.skip(f"{top} is not writable")
    parent = f"pyvmm-test-{os.getpid()}"
    pid = jail.start("--cgroup", "pids.max=321", "--parent-cgroup", parent)
    try:
        assert f"pids:/{parent}/one" in Path(f"/proc/{pid}/cgroup").read_text()
        assert Path(f"{top}/{parent}/one/pids.max").read_text().strip() == "321"
        jail.end(pid)
        assert jail.process is not None
        jail.process.wait()
    finally:
        os.rmdir(f"{top}/{parent}/one")
        os.rmdir(f"{top}/{parent}")


def test_groups_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    mounts = f"x / ext4 rw 0 0\ncgroup2 {tmp_path} cgroup2 rw 0 0\n"
    Groups(2, [("memory.max", "1M"), ("cpu.weight", "7")], "a/b", "one", mounts).join(5)
    assert (tmp_path / "a/b/one/memory.max").read_text() == "1M"
    assert (tmp_path / "a/b/one/cpu.weight").read_text() == "7"
    assert (tmp_path / "a/b/one/cgroup.procs").read_text() == "5"
    assert (tmp_path / "a/b/cgroup.subtree_control").read_text() == "+cpu"
    Groups(2, [], "a", "one", mounts).join(6)
    assert (tmp_path / "a/cgroup.procs").read_text() == "6"
    (tmp_path / "a/one").mkdir()
    (tmp_path / "a/one/cpu.weight").symlink_to("/dev/full")
    with pytest.raises(GroupError, match=r"a/one/cpu.weight: 8 was refused: No space left on device"):
        Groups(2, [("cpu.weight", "8")], "a", "one", mounts).join(5)
    with pytest.raises(GroupError, match="no controller io"):
        Groups(2, [("io.max", "1")], "a", "one", mounts).join(5)
    with pytest.raises(GroupError, match="no cgroup mount of version 1 has memory"):
        Groups(1, [("memory.max", "1M")], "a", "one", mounts).join(5)


def test_groups_of_version_1(tmp_path: Path) -> None:
    (tmp_path / "cpuset.cpus").write_text("0-1\n")
    (tmp_path / "cpuset.mems").write_text("0\n")
    for name in ("a", "a/one"):
        (tmp_path / name).mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):
            (tmp_path / name / file).write_text("\n")  # as the kernel makes them
    mounts = f"cgroup {tmp_path} cgroup rw,cpuset 0 0\n"
    Groups(1, [("cpuset.cpus", "1")], "a", "one", mounts).join(5)
    assert (tmp_path / "a/cpuset.cpus").read_text() == "0-1"
    assert (tmp_path / "a/one/cpuset.cpus").read_text() == "1"
    assert (tmp_path / "a/one/cpuset.mems").read_text() == "0"
    assert (tmp_path / "a/one/tasks").read_text() == "5"


def run(jail: Jail, *flags: str) -> tuple[int, str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
    done = subprocess.run(jail.command(*flags), env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stderr


@needs_root
@pytest.mark.parametrize("name", ["firecracker", "dev", "run", "usr", "proc"])
def test_a_link_in_the_directory_is_refused(jail: Jail, name: str) -> None:
    """Whoever owns it could have left one there."""
    target = jail.folder / "target"
    target.mkdir()
    (jail.root / name).symlink_to(target)
    code, errors = run(jail)
    assert code == 1
    assert "is a link" in errors and "Traceback" not in errors
    assert list(target.iterdir()) == []


@needs_root
def test_a_hard_link_and_a_linked_jail_are_refused(jail: Jail) -> None:
    (jail.folder / "precious").write_text("x")
    os.link(jail.folder / "precious", jail.root / "firecracker")
    assert "is a link" in run(jail)[1]
    assert (jail.folder / "precious").read_text() == "x"
    shutil.rmtree(jail.root.parent)
    jail.root.parent.symlink_to(jail.folder)
    assert "one of firecracker/one/root is a link" in run(jail)[1]


@needs_root
def test_no_program_runs_without_a_pid_file(jail: Jail) -> None:
    (jail.root / "firecracker.pid").mkdir()
    code, errors = run(jail, "--new-pid-ns")  # returns when no process has its standard error any more
    (jail.root / "firecracker.pid").rmdir()
    assert (code, errors) == (1, "pyvmm-jailer: Is a directory: firecracker.pid\n")


@needs_root
def test_a_device_that_is_replaced_keeps_its_owner(jail: Jail, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that owns the directory is faster than the jailer."""
    precious = jail.folder / "precious"
    precious.write_text("x")

    def replace(name: str, _mode: int, _number: int, *, dir_fd: int) -> None:
        os.link(precious, name, dst_dir_fd=dir_fd)

    monkeypatch.setattr(os, "mknod", replace)
    root = Root(str(jail.folder / "base"), "firecracker", "one")
    with contextlib.closing(root), pytest.raises(OSError, match="null was replaced meanwhile"):
        root._make_device("dev/null", "/dev/null", USER, GROUP)
    assert precious.stat().st_uid == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--id", "a/b"), "--id: 1 to 64 letters"),
        (("--id", "x" * 65), "--id: 1 to 64 letters"),
        (("--uid", "-1"), "--uid"),
        (("--exec-file", "/missing/firecracker"), "is no file"),
        (("--exec-file", sys.executable), "must contain firecracker"),
        (("--cgroup", "../x=1"), "FILE=VALUE"),
        (("--cgroup", "cpu"), "FILE=VALUE"),
        (("--cgroup", "pids.max=\u0663"), "FILE=VALUE"),
        (("--cgroup-version", "3"), "--cgroup-version"),
        (("--parent-cgroup", "../x"), "a relative path"),
        (("--resource-limit", "core=1"), "fsize=BYTES or no-file=COUNT"),
    ],
)
def test_wrong_flags(jail: Jail, flags: tuple[str, ...], message: str) -> None:
    code, errors = run(jail, *flags)
    assert code == 2
    assert message in errors


@needs_root
def test_what_does_not_exist(jail: Jail) -> None:
    code, errors = run(jail, "--netns", "/missing/ns")
    assert (code, errors) == (1, "pyvmm-jailer: No such file or directory: /missing/ns\n")
    assert "no cgroup mount" in run(jail, "--cgroup", "nothing.max=1")[1]
