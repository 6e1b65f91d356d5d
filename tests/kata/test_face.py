"""The process whose pid is a container's: what tools of the host find in its namespaces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.errors import HostError
from pyvmm_kata.host.proxy_process import Face, Shown
from pyvmm_kata.pod.console_log import LIMIT, ConsoleLog
from pyvmm_kata.state import write_pid
from tests.kata.oci_runtime import PATIENCE, Runtime, eventually, needs_namespaces, running
from tests.process_memory import pss

pytestmark = needs_namespaces


@pytest.fixture
def launch() -> Iterator[Callable[..., Face]]:
    made: list[Face] = []

    def start(**namespaces: str) -> Face:
        made.append(Face.launch(namespaces, "box"))
        return made[-1]

    yield start
    for face in reversed(made):  # process 1 of a namespace ends after all others of it
        face.close()
        face.reap()


def inside(face: Face, path: str = "") -> Path:
    return Path(f"/proc/{face.pid}/root{path}")


def nsenter(pid: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nsenter", "-t", str(pid), *arguments], capture_output=True, text=True, timeout=PATIENCE)


def files(folder: Path, **content: str) -> Path:
    for name, text in content.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_it_begins_with_nothing(launch: Callable[..., Face]) -> None:
    face = launch()
    assert os.listdir(inside(face)) == []
    with pytest.raises(OSError, match="No space"):
        inside(face, "/x").write_bytes(bytes(1 << 20))
    for kind in ("mnt", "pid", "net", "ipc", "uts"):
        assert os.readlink(face.namespace(kind)) != os.readlink(f"/proc/self/ns/{kind}")


def test_it_shows_files_and_volumes(launch: Callable[..., Face], tmp_path: Path) -> None:
    root = files(tmp_path / "root", etc__name="image", data__hidden="image", dev__x="", run__x="")
    (root / "link").symlink_to("/data")
    volume, single = files(tmp_path / "volume", saved="volume"), files(tmp_path, single="one")
    face = launch()
    face.show(
        Shown("/", str(root)),
        [
            Shown("/link", str(volume)),
            Shown("/dev"),
            Shown("/run"),
            Shown("/run/secrets/it", str(volume), read_only=True),
            Shown("/run/single", str(single / "single")),
        ],
    )
    assert inside(face, "/etc/name").read_text() == "image"
    inside(face, "/etc/new").write_text("new")
    inside(face, "/data/new").write_text("new")
    assert (root / "etc/new").exists()
    assert (volume / "new").exists()
    assert os.listdir(inside(face, "/dev")) == []
    with pytest.raises(OSError, match="Read-only"):
        inside(face, "/dev/made").write_text("")
    assert inside(face, "/run/secrets/it/saved").read_text() == "volume"
    with pytest.raises(OSError, match="Read-only"):
        inside(face, "/run/secrets/it/saved").write_text("")
    inside(face, "/run/single").write_text("two")
    assert (single / "single").read_text() == "two"
    lines = Path(f"/proc/{face.pid}/mountinfo").read_text().splitlines()
    assert all({"nosuid", "nodev", "noexec"} <= set(line.split()[5].split(",")) for line in lines)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_link_of_the_images_leads_into_the_image(launch: Callable[..., Face], tmp_path: Path) -> None:
    """Its root is all that there is, whatever a path in it says."""
    root, volume = files(tmp_path / "root", etc__name="image"), files(tmp_path / "volume", saved="volume")
    (root / "up").symlink_to("../../../../etc")
    face = launch()
    face.show(Shown("/", str(root)), [Shown("/up", str(volume))])
    assert inside(face, "/etc/saved").read_text() == "volume"


def test_a_view_that_lacks_a_volume_is_none(launch: Callable[..., Face], tmp_path: Path) -> None:
    """Else a file for the volume would be written into the image's folder."""
    root, volume = files(tmp_path / "root", etc__name="image"), files(tmp_path / "volume", saved="")
    face = launch()
    with pytest.raises(HostError, match="No such file"):
        face.show(Shown("/", str(root)), [Shown("/gone/away", str(volume))])
    assert not inside(face, "/etc").exists()
    assert os.listdir(root) == ["etc"]


def test_programs_of_the_guest_do_not_run_on_the_host(launch: Callable[..., Face], tmp_path: Path) -> None:
    root = files(tmp_path / "root", etc__name="image")
    (root / "bin").mkdir()
    (root / "bin" / "sh").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin" / "sh").chmod(0o755)
    face = launch()
    face.show(Shown("/", str(root)), [])
    assert "Permission denied" in nsenter(face.pid, "-m", "/bin/sh", "-c", "true").stderr
    assert nsenter(face.pid, "-u", "hostname").stdout == "box\n"


def test_it_has_no_rights_and_little_memory(launch: Callable[..., Face], tmp_path: Path) -> None:
    face = launch()
    face.show(Shown("/", str(files(tmp_path / "root", x=""))), [])
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{face.pid}/status").read_text().splitlines())

    def limited() -> bool:
        return "Seccomp:\t2" in Path(f"/proc/{face.pid}/status").read_text()

    eventually(limited, "no seccomp filter")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{face.pid}/status").read_text().splitlines())
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert pss(face.pid) < 1 << 20
    assert len(os.listdir(f"/proc/{face.pid}/fd")) == 5  # standard ones, its socket, its signals


def test_signals_and_ends(launch: Callable[..., Face]) -> None:
    face = launch()
    heard: list[int] = []
    watcher = threading.Thread(target=face.watch, args=(heard.append,))
    watcher.start()
    os.kill(face.pid, signal.SIGUSR1)
    eventually(lambda: heard == [signal.SIGUSR1], "no signal")
    face.end(7)
    assert os.waitstatus_to_exitcode(os.waitpid(face.pid, 0)[1]) == 7
    watcher.join(PATIENCE)
    assert not watcher.is_alive()


def test_it_ends_with_whoever_holds_the_machine(launch: Callable[..., Face]) -> None:
    face = launch()
    face.close()
    assert os.waitstatus_to_exitcode(os.waitpid(face.pid, 0)[1]) == 137


def test_namespaces_that_it_cannot_enter(launch: Callable[..., Face]) -> None:
    with pytest.raises(HostError, match="net=/nowhere: No such file"):
        launch(network="/nowhere")
    with pytest.raises(HostError, match="net=/etc/hostname: Invalid argument"):
        launch(network="/etc/hostname")


def test_it_shares_namespaces(launch: Callable[..., Face]) -> None:
    one = launch()
    two = launch(**{kind: one.namespace(name) for kind, name in (("network", "net"), ("ipc", "ipc"), ("pid", "pid"))})
    for kind in ("net", "ipc", "pid"):
        assert os.readlink(two.namespace(kind)) == os.readlink(one.namespace(kind))
    assert os.readlink(two.namespace("uts")) != os.readlink(one.namespace("uts"))


# -- as part of a container ------------------------------------------------------------------------------------------


def test_the_pid_has_the_containers_files(runtime: Runtime, tmp_path: Path) -> None:
    volume = files(tmp_path / "volume", saved="volume")
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": str(volume), "options": ["bind", "ro"]},
    ]
    runtime.started("c1", "sleep 600", mounts=mounts)
    pid = runtime.state("c1")["pid"]
    root = Path(f"/proc/{pid}/root")
    assert sorted(os.listdir(root)) == ["data", "dev", "proc"]  # a bundle without /dev gets one
    assert (root / "data/saved").read_text() == "volume"
    with pytest.raises(OSError, match="Read-only"):
        (root / "data/new").write_text("")
    (root / "new").write_text("in the container")
    assert (tmp_path / "bundle1/rootfs/new").read_text() == "in the container"
    runtime.check("delete", "--force", "c1")
    assert not running(pid)


def test_the_network_namespace_is_there_for_hooks(runtime: Runtime, tmp_path: Path) -> None:
    """As nerdctl fills it: a hook that joins the namespace of the pid in its state."""
    hook = tmp_path / "hook.py"
    hook.write_text(
        f"#!{sys.executable}\nimport json, os, subprocess, sys\npid = json.load(sys.stdin)['pid']\n"
        "subprocess.run(['nsenter', '-t', str(pid), '-n', 'ip', 'link', 'set', 'lo', 'up'], check=True)\n"
    )
    hook.chmod(0o755)
    before = Path("/sys/class/net/lo/flags").read_text()
    runtime.created("c1", "true", hooks={"createRuntime": [{"path": str(hook)}]})
    pid = str(runtime.state("c1")["pid"])
    assert "UP" in nsenter(int(pid), "-n", "ip", "link", "show", "lo").stdout
    assert Path("/sys/class/net/lo/flags").read_text() == before


@pytest.mark.parametrize("started", [False, True])
def test_killing_it_ends_the_container(runtime: Runtime, started: bool) -> None:
    (runtime.started if started else runtime.created)("c1", "sleep 600")
    monitor = json.loads((runtime.root / "c1/state.json").read_text())["monitor"]
    os.kill(runtime.state("c1")["pid"], signal.SIGKILL)
    runtime.wait("c1", "stopped")
    eventually(lambda: not running(monitor), "the monitor lives on")
    runtime.check("delete", "c1")


# -- containers that share a machine ---------------------------------------------------------------------------------


def joined(**paths: str) -> dict[str, Any]:
    """The changes of a config.json that share namespaces of a container."""
    kinds = ("pid", "network", "ipc", "uts", "mount")
    entries = [{"type": kind, **({"path": paths[kind]} if kind in paths else {})} for kind in kinds]
    return {"linux": {"namespaces": entries, "resources": {}}}


def of_container(runtime: Runtime, container_id: str) -> dict[str, str]:
    pid = runtime.state(container_id)["pid"]
    return {kind: f"/proc/{pid}/ns/{name}" for kind, name in (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))}


def monitor_of(runtime: Runtime, container_id: str) -> int:
    return int(json.loads((runtime.root / container_id / "state.json").read_text())["monitor"])


def test_a_pod_is_one_machine(runtime: Runtime) -> None:
    runtime.started("infra", "sleep 600")
    runtime.started("one", "echo one; sleep 600", **joined(**of_container(runtime, "infra")))
    runtime.started("two", "echo two; exit 5", **joined(**of_container(runtime, "infra")))
    runtime.wait("two", "stopped")
    eventually(lambda: runtime.output("two") == "two\n", "no output")
    assert len({monitor_of(runtime, name) for name in ("infra", "one", "two")}) == 1
    assert runtime.check("exec", "one", "/bin/echo", "more") == "more\n"
    runtime.check("delete", "two")
    # The first container may go before the others
    runtime.check("kill", "infra", "KILL")
    runtime.wait("infra", "stopped")
    runtime.check("delete", "infra")
    assert runtime.state("one")["status"] == "running"
    assert runtime.check("exec", "one", "/bin/echo", "more") == "more\n"
    runtime.check("delete", "--force", "one")
    eventually(lambda: os.listdir(runtime.root) == [], "a folder is left")


def test_the_status_of_each_container_of_a_pod(runtime: Runtime) -> None:
    runtime.started("infra", "sleep 600")
    changes = joined(**of_container(runtime, "infra"))
    for number in range(3):
        done = runtime.run("run", "-b", runtime.bundle(f"exit {number}", **changes), f"c{number}")
        assert (done.returncode, done.stderr) == (number, "")
    assert runtime.run("run", "-b", runtime.bundle("kill -9 $$", **changes), "c9").returncode == 137


def test_namespaces_of_two_machines_are_refused(runtime: Runtime) -> None:
    runtime.started("a", "sleep 600")
    runtime.started("b", "sleep 600")
    paths = {**of_container(runtime, "a"), "ipc": of_container(runtime, "b")["ipc"]}
    done = runtime.run("create", "-b", runtime.bundle("true", **joined(**paths)), "c")
    assert (done.returncode, "different virtual machines" in done.stderr) == (1, True)
    paths = {"ipc": of_container(runtime, "a")["ipc"]}
    done = runtime.run("create", "-b", runtime.bundle("true", **joined(**paths)), "c")
    assert (done.returncode, "whose virtual machine has one network" in done.stderr) == (1, True)
    paths = {"ipc": "/proc/self/ns/ipc"}
    done = runtime.run("create", "-b", runtime.bundle("true", **joined(**paths)), "c")
    assert (done.returncode, "the ipc namespace is the host's" in done.stderr) == (1, True)


def test_the_monitor_of_a_pod_is_killed(runtime: Runtime) -> None:
    runtime.started("infra", "sleep 600")
    runtime.started("one", "sleep 600", **joined(**of_container(runtime, "infra")))
    os.kill(monitor_of(runtime, "one"), signal.SIGKILL)
    for name in ("infra", "one"):
        runtime.wait(name, "stopped")
        runtime.check("delete", name)
    assert os.listdir(runtime.root) == []


# -- what a guest, or another user of the host, could do to the runtime's own files ----------------------------------


def test_the_console_does_not_fill_the_hosts_memory(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    log = ConsoleLog(folder)
    os.write(log.fileno(), b"first\n")
    for _ in range(5 * LIMIT // 4096):
        os.write(log.fileno(), b"x" * 4095 + b"\n")
    os.write(log.fileno(), b"last\n")
    log.close()
    os.close(folder)
    assert sorted(os.listdir(tmp_path)) == ["console.log", "console.log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * LIMIT
    assert (tmp_path / "console.log").read_text().endswith("last\n")


def test_a_guest_has_last_words_but_no_orders_for_a_terminal(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    log = ConsoleLog(folder)
    assert log.last_words() == ""
    lines = (
        b"nothing",
        b"[ 1.2] BUG: a \x1b[2Jscreen",
        b"RIP: 0010:f+0x1/0x2",
        b"RIP: 0010:f+0x1/0x2",
        b"BUG: " + b"x" * 5000,
    )
    os.write(log.fileno(), b"\r\n".join(lines) + b"\n")
    deadline = time.monotonic() + 60
    while not (words := log.last_words()).endswith("x"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert words.startswith("BUG: a ?[2Jscreen; RIP: 0010:f+0x1/0x2; BUG: xxx") and len(words) == 300
    log.close()
    assert log.last_words() == ""
    os.close(folder)


def test_a_pid_file_follows_nobodys_link(tmp_path: Path) -> None:
    target = tmp_path / "of somebody else"
    target.write_text("precious")
    for name in ("pid.new", f"pid.{os.getpid()}.new"):
        (tmp_path / name).symlink_to(target)
    with pytest.raises(HostError, match="File exists"):
        write_pid(str(tmp_path / "pid"), 1)
    (tmp_path / f"pid.{os.getpid()}.new").unlink()
    (tmp_path / "pid").symlink_to(target)
    write_pid(str(tmp_path / "pid"), 1)
    assert (tmp_path / "pid").read_text() == "1"
    assert not (tmp_path / "pid").is_symlink()
    assert target.read_text() == "precious"


LATE_MOUNTS = """
import os, stat, sys
from pyvmm_kata.host import mounts

mounts.enter_namespace()
source, folder = sys.argv[1:]
os.mknod(f"{source}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
os.mkdir(f"{source}/below")
mounts.mount("tmpfs", f"{source}/below", "tmpfs", 0)
os.mknod(f"{source}/below/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
os.symlink("null", f"{source}/link")
os.close(os.open(f"{source}/null", os.O_RDWR))
shared = mounts.SharedDirectory(folder)
shared.make()
shared.bind(source, "c/rootfs")
shared.bind(f"{source}/null", "c/file")
options = [f"lowerdir={source}", f"upperdir={source}/below/up", f"workdir={source}/below/work"]
for name in ("up", "work"):
    os.mkdir(f"{source}/below/{name}")
shared.overlay("c/overlay", options)
for top in (shared.work, shared.path):
    for name in ("rootfs/null", "rootfs/below/null", "rootfs/link", "file", "overlay/null"):
        try:
            os.close(os.open(f"{top}/c/{name}", os.O_RDWR))
            print("opened", name)
        except OSError as error:
            assert error.errno in (13, 40), error  # EACCES: nodev; ELOOP: nosymfollow
with open("/proc/self/mountinfo") as lines:
    late = [line.split() for line in lines if f"{folder}/" in line and "/c/" in line.split()[4]]
print(len(late), sum({"nosuid", "nodev", "noexec"} <= set(line[5].split(",")) for line in late))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes devices and mounts them")
def test_mounts_that_come_later_have_no_devices(tmp_path: Path) -> None:
    """The share's server follows them; what it set for its own tree does not hold for them."""
    for name in ("source", "folder"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LATE_MOUNTS, str(tmp_path / "source"), str(tmp_path / "folder")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("8 8\n", "")
