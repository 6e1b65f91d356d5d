"""pyvmm-oci, and programs that call it, in the lab: a root file system with busybox, settings, bundles."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.bundle.default_spec import default_spec
from tests.command import links_of, of_threads
from tests.guest.vmfixture import RUN_TIMEOUT
from tests.netns import Outside, own_network
from tools import documents
from tools import guest as recipes

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".venv" / "bin"
PATIENCE = RUN_TIMEOUT
COUNTER = """
n=0; exec 3>>/log; echo kept >/dev/shm/kept 2>/dev/null; echo pid $$
trap 'echo asked $n; exit 7' TERM
while :; do n=$((n + 1)); echo $n; echo $n >&3; sleep 0.1; done"""
"""Counts on its output and in a file."""
BEFORE_BALLOONS = """
import sys
from pyvmm_kata.oci.main import main
from pyvmm_kata.pod import linux_guest, sentry_guest

linux_guest.BalloonConfig = sentry_guest.BalloonConfig = lambda **_: None
sys.exit(main())
"""
"""pyvmm-oci as it was when the machines of containers had no balloon."""


def make_rootfs(path: Path) -> Path:
    """A root file system with busybox under all of its names."""
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var"):
        (path / name).mkdir(parents=True)
    busybox = shutil.which("busybox") or "/bin/busybox"
    shutil.copy(busybox, path / "bin" / "busybox")
    for applet in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            (path / "bin" / applet).symlink_to("busybox")
    return path


def write_settings(path: Path) -> Path:
    """The administrator's file, with the kernel and the image of the tests."""
    path.write_text(f'kernel = "{recipes.kernel()}"\nimage = "{recipes.kata_image()}"\n')
    return path


class Oci:
    """pyvmm-oci with a root of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "state"
        self.rootfs = make_rootfs(folder / "rootfs")
        self.settings = write_settings(folder / "kata.toml")
        self.bundles = 0
        self.program = [str(BIN / "pyvmm-oci")]

    def command(self, *arguments: str) -> list[str]:
        return [*self.program, "--config", str(self.settings), "--root", str(self.root), *arguments]

    def run(self, *arguments: str, text: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), input=text, capture_output=True, text=True, timeout=PATIENCE, **options
        )

    def check(self, *arguments: str, text: str = "") -> str:
        done = self.run(*arguments, text=text)
        assert done.returncode == 0, f"{done.stderr}\n{self.console()}"
        return done.stdout

    def bundle(self, script: str, **changes: Any) -> str:
        """A bundle that runs a script of the shell's; *changes* are of config.json, ``linux__x`` of its part linux."""
        self.bundles += 1
        path = self.folder / f"bundle{self.bundles}"
        path.mkdir()
        spec = default_spec(["sh", "-c", script], terminal=False, root=str(self.rootfs))
        for key, value in changes.items():
            if key == "mounts":
                spec["mounts"] += value
            elif key.startswith("linux__"):
                spec["linux"][key.removeprefix("linux__")] = value
            else:
                spec[key] = value
        (path / "config.json").write_text(json.dumps(spec))
        return str(path)

    def start(self, container_id: str, script: str, **changes: Any) -> None:
        """Create and start; its output goes to a file."""
        with open(self.folder / f"{container_id}.out", "wb") as out:
            command = self.command("create", "--bundle", self.bundle(script, **changes), container_id)
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=PATIENCE)
        assert done.returncode == 0, (self.folder / f"{container_id}.out").read_text() + self.console()
        self.check("start", container_id)

    def restore(self, container_id: str, image: Path, bundle: str) -> Path:
        """Restore a container from a checkpoint; the file of its output."""
        out = self.folder / f"{container_id}.restored"
        with open(out, "wb") as file:
            command = self.command("restore", "--detach", "--image-path", str(image), "--bundle", bundle, container_id)
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=PATIENCE)
        assert done.returncode == 0, out.read_text() + self.console()
        return out

    def check_older_checkpoint(self, folder: Path) -> None:
        """A checkpoint of a container whose machine has no balloon goes on."""
        program, self.program = self.program, [str(BIN / "python"), "-c", BEFORE_BALLOONS]
        try:
            self.start("c1", COUNTER)
        finally:
            self.program = program
        bundle, before = self.state("c1")["bundle"], self.folder / "c1.out"
        eventually(lambda: len(numbers(before)) > 3, "it does not count")
        self.check("checkpoint", "--image-path", str(folder), "c1")
        (manifest,) = folder.glob("machine-*/manifest.json")
        devices = {each["kind"] for each in json.loads(manifest.read_text())["devices"]}
        assert "virtio-fs" in devices and "virtio-balloon" not in devices
        after = self.restore("c2", folder, bundle)
        eventually(lambda: len(numbers(after)) > 3, "it does not go on")
        assert numbers(after)[0] == numbers(before)[-1] + 1, "each number once"
        self.check("delete", "--force", "c2")
        eventually(lambda: leftovers(self.folder) == [], "something is left")

    def state(self, container_id: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.check("state", container_id))
        return state

    def output(self, container_id: str) -> str:
        """What one that was started has printed."""
        return (self.folder / f"{container_id}.out").read_text()

    def console(self) -> str:
        """What the machines that are still there have printed, and the ends of what containers have."""
        outputs = [path.read_text(errors="replace")[-1000:] for path in self.folder.glob("*.out")]
        return "\n".join([*outputs, *(path.read_text(errors="replace") for path in self.root.glob("*/console.log"))])

    def close(self) -> None:
        """Remove what a test has left."""
        for name in os.listdir(self.root) if self.root.exists() else ():
            self.run("delete", "--force", name)


def numbers(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().splitlines() if line.isdigit()]


def eventually(what: Callable[[], object], words: str) -> None:
    """Wait until it is so; the test fails with *words* when it never is."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, words
        time.sleep(0.05)


VICTIMS = ("command", "monitor", "machine", "face", "server")
"""Whom a test of deaths kills: who was asked to do something, and those that :func:`members` tells."""


def members(states: Path) -> dict[str, list[int]]:
    """The processes of the containers whose states are in a folder, by what they are; none that is not there yet.

    ``machine`` is that of the guest, ``server`` of the share, ``face`` the process whose pid is told.
    """
    found: dict[str, list[int]] = {"monitor": [], "machine": [], "face": [], "server": []}
    for path in states.glob("*/state.json"):
        try:
            known = json.loads(path.read_text())
        except FileNotFoundError:  # deleted just now
            continue
        if pid := known.get("pid"):
            found["face"].append(int(pid))
        if pid := known.get("monitor"):
            found["monitor"].append(int(pid))
            machines = [child for child in children(int(pid)) if comm(child) == "pyvmm-machine"]
            found["machine"] += machines
            for each in machines:
                found["server"] += [child for child in children(each) if words(child)[0] == b"pyvmm-fsd"]
    return found


def comm(pid: int) -> str:
    """The name of a process's first thread; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def check_jail(monitor: int) -> None:
    """The process of a monitor's (or a shim's) guest is nobody, may do nothing and sees no file; the monitor has no
    part of the guest's memory."""
    (machine,) = (child for child in children(monitor) if comm(child) == "pyvmm-machine")
    assert "anon_inode:kvm-vm" in links_of(machine).values()
    for thread, text in of_threads("status", machine).items():
        status = dict(line.split(":\t", 1) for line in text.splitlines())
        assert "0" not in status["Uid"].split() + status["Gid"].split() and not status["Groups"].strip(), thread
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}, thread
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), thread
    assert os.listdir(f"/proc/{machine}/root") == []
    for kind in ("net", "ipc", "uts", "mnt"):
        assert os.readlink(f"/proc/{machine}/ns/{kind}") != os.readlink(f"/proc/{monitor}/ns/{kind}")
    assert not [link for link in links_of(monitor).values() if "kvm" in link or "memfd:" in link]
    assert "memfd:" not in Path(f"/proc/{monitor}/maps").read_text()


def children(pid: int) -> list[int]:
    """Of a process's first thread; none of one that has ended."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def words(pid: int) -> list[bytes]:
    """The command line of a process; that of one that has ended is one empty word."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return [b""]


def kill_all(pids: Iterable[int]) -> None:
    """kill -9 of those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_orphan(pid: str) -> bool:
    """Whether the process has lost its parent; another test's has one."""
    try:
        return int(Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1]) <= 1
    except OSError:
        return False


def leftovers(folder: Path) -> list[str]:
    """What is still there of machines whose state is in *folder*: processes, mounts, control groups, files."""
    found = [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]
    for name in os.listdir("/proc"):
        try:
            line = Path("/proc", name, "cmdline").read_bytes() if name.isdigit() else b""
        except OSError:
            continue
        if os.fsencode(folder) in line or (line.startswith(b"pyvmm-fsd") and is_orphan(name)):
            found.append(f"process {name} {line!r}")
    found += [str(path) for path in Path("/sys/fs/cgroup").glob("pyvmm*")]
    return found + [str(path) for path in folder.glob("state/*")]


# -- the commands that the user's guide of the container runtime shows, run as they are there ------------------------


GUIDE = documents.CONTAINERS_GUIDE
ANSWER_S = 100.0


def commands(wanted: Callable[[str], bool]) -> list[tuple[str, str]]:
    """(command, output) of those lines ``$ COMMAND`` that are wanted."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            elif found:
                found[-1][1].append(line)
    return [(command, "".join(f"{line}\n" for line in lines)) for command, lines in found if wanted(command)]


def environment(folder: Path) -> dict[str, str]:
    """Of a reader of the guide whose settings' file is in *folder*."""
    settings = write_settings(folder / "kata.toml")
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYVMM_KATA_CONFIG": str(settings)}


def run_as_shown(command: str, output: str, folder: Path) -> None:
    """Run a command that comes to an end by itself, in *folder*."""
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (0, output), f"{command}\n{done.stderr}"
    eventually(lambda: not list(Path("/run/pyvmm-oci").glob("*")), "something is left")


def serve_as_shown(command: str, folder: Path, end: signal.Signals) -> tuple[str, int]:
    """Run a web server, ask it from the host, and send it *end* until it ends; the page and the exit status."""
    with own_network():
        other = Outside("192.0.2.2/24", "192.0.2.1/24")  # what a default route leads to
        try:
            with subprocess.Popen(
                f"exec {command}", shell=True, cwd=folder, env=environment(folder),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ) as server:  # fmt: skip
                return _reach(server, end)
        finally:
            other.close()


def _reach(server: subprocess.Popen[str], end: signal.Signals) -> tuple[str, int]:
    deadline = time.monotonic() + ANSWER_S
    page = ""
    while not page:
        try:
            with urllib.request.urlopen("http://127.0.0.1:8080/", timeout=10) as answer:
                page = answer.read().decode()
        except (OSError, urllib.error.URLError):
            assert server.poll() is None, server.communicate()[0]
            if time.monotonic() > deadline:
                server.kill()
                pytest.fail("nobody answers")
            time.sleep(0.2)
    while server.poll() is None:
        assert time.monotonic() < deadline, "it does not end"
        server.send_signal(end)
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            pass
    server.communicate(timeout=PATIENCE)
    return page, server.returncode
