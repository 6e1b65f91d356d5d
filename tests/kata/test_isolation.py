"""pyvmm-oci --isolation sentry, without KVM: a container on the Sentry, from bundle to removal."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installed import wait_for_image
from tests.jail_processes import descendants
from tests.kata.oci_runtime import eventually
from tests.netns import ip, own_network
from vmm import kvm_verdict

PIPE = subprocess.PIPE
PR_SET_CHILD_SUBREAPER = 36
PROGRAM = Path(sys.executable).parent / "pyvmm-oci"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts of a container need root"),
    pytest.mark.skipif(kvm_verdict().usable, reason="with KVM, the Sentry is the kernel of a machine"),
]


SPACES = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]


class Bundle:
    """A bundle with busybox, and the commands for one container of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bundle"
        self.root = self.path / "rootfs"
        (self.root / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", self.root / "bin" / "busybox")
        for applet in ("sh", "cat", "echo", "ip", "nc", "grep"):
            (self.root / "bin" / applet).symlink_to("busybox")
        self._state = folder / "state"
        subprocess.run([PROGRAM, "spec"], cwd=self.path, check=True)

    def write(self, *args: str, **more: Any) -> None:
        """Its config.json."""
        path = self.path / "config.json"
        spec = json.loads(path.read_text())
        spec["process"] |= {"args": args, "terminal": False}
        path.write_text(json.dumps({**spec, **more}))

    def command(self, *words: str, isolation: str = "sentry") -> list[str]:
        return [str(PROGRAM), "--root", str(self._state), "--isolation", isolation, *words]

    def call(self, *words: str, isolation: str = "sentry", **options: Any) -> subprocess.CompletedProcess[str]:
        command = self.command(*words, isolation=isolation)
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.run(command, text=True, timeout=120, cwd=self.path, **{**streams, **options})

    def expect_refusal(self, missing: str) -> None:
        """It cannot run, for want of that, and nothing is left."""
        done = self.call("run", "c1")
        assert (done.returncode, f"a Sentry has no {missing}" in done.stderr) == (1, True), done.stderr
        assert self.call("list", "--quiet").stdout == ""

    def status(self) -> str:
        return str(json.loads(self.call("state", "c1").stdout)["status"])


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    made = Bundle(tmp_path)
    yield made
    made.call("delete", "--force", "c1")


def test_a_container_runs_and_leaves_nothing(bundle: Bundle) -> None:
    bundle.write("sh", "-c", 'read line; echo "got $line"; echo wrong >&2; exit 3')
    done = bundle.call("run", "c1", stdin=None, input="input\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "got input\n", "wrong\n")
    assert bundle.call("list", "--quiet").stdout == ""


def test_a_container_starts_from_a_process_image(bundle: Bundle, tmp_path: Path) -> None:
    """The command and the monitor continue from the memory of a Python that had imported what the Sentry needs."""
    environment = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "PYVMM_WARM")}
    environment["HOME"] = str(tmp_path)
    cache = tmp_path / ".cache" / "pyvmm"
    bundle.write("sh", "-c", "while :; do :; done")
    programs = []
    for _ in range(2):
        assert bundle.call("create", "c1", stdout=None, stderr=None, env=environment).returncode == 0
        monitor = json.loads((tmp_path / "state" / "c1" / "state.json").read_text())["monitor"]
        programs.append(os.path.basename(os.readlink(f"/proc/{monitor}/exe")))
        wait_for_image(cache)
        assert bundle.call("delete", "--force", "c1").returncode == 0
    assert programs == [os.path.basename(os.path.realpath(sys.executable)), "pyvmm-warm"]
    (image,) = cache.glob("warm-pyvmm-oci-sentry-*[!k]")
    assert b"pyvmm_sentry/controlled.py" in image.read_bytes()


def test_the_life_of_a_container(bundle: Bundle, tmp_path: Path) -> None:
    """Created, running with one more process, paused, killed, deleted; its volume is the host's directory."""
    volume = tmp_path / "volume"
    volume.mkdir()
    mounts = json.loads((bundle.path / "config.json").read_text())["mounts"]
    mounts.append({"destination": "/volume", "type": "bind", "source": str(volume), "options": ["rbind", "rw"]})
    unified = {"memory.high": "12345678", "memory.oom.group": "1"}
    linux = {"namespaces": SPACES, "resources": {"unified": unified}}
    bundle.write("sh", "-c", "trap 'exit 5' TERM; while :; do :; done", mounts=mounts, linux=linux)
    assert bundle.call("create", "c1", stdout=None, stderr=None).returncode == 0
    assert bundle.status() == "created"
    assert bundle.call("start", "c1").returncode == 0
    done = bundle.call("exec", "c1", "sh", "-c", "echo from inside >/volume/file; cat /proc/1/comm; exit 4")
    assert (done.returncode, done.stdout) == (4, "sh\n")
    assert (volume / "file").read_text() == "from inside\n"
    assert bundle.call("exec", "c1", "cat", "/sys/fs/cgroup/memory.high").stdout == "12345678\n"
    assert bundle.call("update", "--memory", "64M", "--pids-limit", "44", "c1").returncode == 0
    done = bundle.call("exec", "c1", "sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max")
    assert (done.returncode, done.stdout) == (0, f"{64 << 20}\n44\n")
    assert json.loads(bundle.call("events", "--stats", "c1").stdout)["data"]["memory"]["usage"]["limit"] == 64 << 20
    assert bundle.call("pause", "c1").returncode == 0
    assert bundle.status() == "paused"
    assert bundle.call("resume", "c1").returncode == 0
    assert bundle.call("kill", "c1", "KILL").returncode == 0
    while bundle.status() != "stopped":
        pass
    assert bundle.call("delete", "c1").returncode == 0
    assert bundle.call("list", "--quiet").stdout == ""


def test_a_program_sees_what_the_host_wrote_before_its_start(bundle: Bundle, tmp_path: Path) -> None:
    """Engines write /etc/hosts between create and start, and kubelet replaces ConfigMaps right before an exec."""
    (bundle.root / "bin" / "sleep").symlink_to("busybox")
    hosts, maps, output = tmp_path / "hosts", tmp_path / "maps", tmp_path / "output"
    hosts.write_text("old\n")

    def publish(version: str) -> None:
        (maps / version).mkdir(parents=True)
        (maps / version / "key").write_text(f"{version}\n")
        (maps / "new").symlink_to(version)
        (maps / "new").rename(maps / "data")

    publish("v1")
    mounts = json.loads((bundle.path / "config.json").read_text())["mounts"]
    mounts.append({"destination": "/etc/hosts", "type": "bind", "source": str(hosts), "options": ["rbind", "ro"]})
    mounts.append({"destination": "/maps", "type": "bind", "source": str(maps), "options": ["rbind", "ro"]})
    bundle.write("sh", "-c", "cat /etc/hosts /maps/data/key; exec sleep 100000", mounts=mounts)
    with output.open("wb") as file:
        assert bundle.call("create", "c1", stdout=file, stderr=file).returncode == 0
    hosts.write_text("127.0.0.1 localhost\n10.0.0.2 the name of the container\n")
    assert bundle.call("start", "c1").returncode == 0
    show = ("exec", "c1", "cat", "/etc/hosts", "/maps/data/key")
    assert bundle.call(*show).stdout == f"{hosts.read_text()}v1\n"
    eventually(lambda: output.read_text() == f"{hosts.read_text()}v1\n", output.read_text())
    for number in range(2, 5):
        hosts.write_text(f"{number}\n" * number)
        publish(f"v{number}")
        assert bundle.call(*show).stdout == f"{hosts.read_text()}v{number}\n"


def test_containers_of_a_pod(bundle: Bundle) -> None:
    """One that joins the network of another runs in its sandbox, with processes and a name of its own, unless it joins
    these, too. Both share a CPU by their weights, which an update changes."""
    (bundle.root / "bin" / "ps").symlink_to("busybox")
    for applet in ("hostname", "sleep", "true"):
        (bundle.root / "bin" / applet).symlink_to("busybox")
    names = ("c1", "c2", "c3")

    def start(name: str, namespaces: list[dict[str, str]], **more: Any) -> None:
        bundle.write(
            "sh", "-c", f"echo {name}; sleep 100000; true", linux={"namespaces": namespaces, **more}, hostname=name
        )
        assert bundle.call("create", name, stdout=None, stderr=None).returncode == 0
        assert bundle.call("start", name).returncode == 0

    def show(name: str, *words: str) -> str:
        done = bundle.call("exec", name, *words)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    try:
        start("c1", SPACES, resources={"unified": {"cpu.weight": "200", "cpu.max": "90000 100000"}})
        path = f"/proc/{json.loads(bundle.call('state', 'c1').stdout)['pid']}/ns"
        network = {"type": "network", "path": f"{path}/net"}
        start("c2", [each for each in SPACES if each["type"] != "network"] + [network])
        shared = [{"type": "pid", "path": f"{path}/pid"}, {"type": "ipc", "path": f"{path}/ipc"}, {"type": "uts"}]
        start("c3", [{"type": "mount"}, network, *shared])
        listed = {name: show(name, "sh", "-c", "ps; hostname; cat /sys/fs/cgroup/cpu.weight") for name in names}
        assert [name for name in names if "echo c1" in listed[name]] == ["c1", "c3"]
        assert [name for name in names if "echo c2" in listed[name]] == ["c2"]
        assert [text.split()[-2:] for text in listed.values()] == [["c1", "200"], ["c2", "100"], ["c3", "100"]]
        assert show("c1", "cat", "/sys/fs/cgroup/cpu.max") == "90000 100000\n"
        assert bundle.call("update", "--cpu-share", "26216", "c2").returncode == 0
        assert show("c2", "cat", "/sys/fs/cgroup/cpu.weight") == "1000\n"
        pids = {name: json.loads(bundle.call("ps", "--format", "json", name).stdout) for name in ("c1", "c2")}
        assert pids["c1"][0] == pids["c2"][0] == 1
    finally:
        for name in reversed(names):
            bundle.call("delete", "--force", name)
    assert bundle.call("list", "--quiet").stdout == ""


COUNT = "i=0; trap 'exit 6' TERM; while :; do i=$((i + 1)); echo $i >/dev/shm/count; done"


def test_a_container_continues_from_a_checkpoint(bundle: Bundle, tmp_path: Path) -> None:
    """Which ends it, or leaves it running; the record of a damaged one is refused."""
    saved = tmp_path / "saved"
    bundle.write("sh", "-c", COUNT)
    assert bundle.call("run", "--detach", "c1", stdout=None, stderr=None).returncode == 0
    reach(bundle, 3)
    done = bundle.call("checkpoint", "--image-path", str(saved), "--leave-running", "c1")
    assert (done.returncode, done.stderr) == (0, "")
    before = count_of(bundle)
    reach(bundle, before + 100)
    done = bundle.call("checkpoint", "--image-path", str(saved), "c1")
    assert (done.returncode, done.stderr) == (0, "")
    assert bundle.call("list", "--quiet").stdout == ""
    restore = ["restore", "--image-path", str(saved), "--detach", "c1"]
    assert bundle.call(*restore, stdout=None, stderr=None).returncode == 0
    reach(bundle, before + 101)
    assert bundle.call("kill", "c1", "TERM").returncode == 0
    eventually(lambda: bundle.status() == "stopped", "the container has ended")
    assert bundle.call("delete", "c1").returncode == 0
    (machine,) = saved.glob("machine-*")
    for name in ("memory", "state"):
        (machine / name).rename(machine / "kept")
        subprocess.run(["cp", "--sparse=always", "kept", name], cwd=machine, check=True)
        with open(machine / name, "r+b") as file:
            file.seek(file.seek(0, os.SEEK_END) // 2)
            file.write(b"\x55")
        done = bundle.call(*restore)
        assert (done.returncode, f"{name} was changed" in done.stderr) == (1, True), done.stderr
        (machine / "kept").rename(machine / name)
    assert bundle.call("list", "--quiet").stdout == ""
    assert bundle.call(*restore, stdout=None, stderr=None).returncode == 0


def count_of(bundle: Bundle) -> int:
    """What the program has counted; the file is empty for a moment each time."""
    while not (done := bundle.call("exec", "c1", "cat", "/dev/shm/count")).stdout:
        assert done.returncode == 0, done.stderr
    return int(done.stdout)


def reach(bundle: Bundle, number: int) -> None:
    """Wait until it has counted so far."""
    while count_of(bundle) < number:
        pass


def test_copies_of_a_container_run_beside_it(bundle: Bundle, tmp_path: Path) -> None:
    bundle.write("sh", "-c", COUNT)
    assert bundle.call("run", "--detach", "c1", stdout=None, stderr=None).returncode == 0
    reach(bundle, 3)
    words = ("fork", "--bundles", str(tmp_path), "c1", "c2", "c3")
    assert bundle.call(*words, stdout=None, stderr=None).returncode == 0
    try:
        for name in ("c2", "c3"):
            first = int(bundle.call("exec", name, "cat", "/dev/shm/count").stdout or 0)
            until = f"until read n </dev/shm/count && [ $n -gt {first} ]; do :; done"
            assert bundle.call("exec", name, "sh", "-c", until).returncode == 0
            assert bundle.call("exec", name, "cat", "/proc/1/cmdline").stdout.startswith("sh\0-c\0i=0")
        reach(bundle, count_of(bundle) + 1)
    finally:
        for name in ("c2", "c3"):
            assert bundle.call("delete", "--force", name).returncode == 0


def test_what_it_cannot_do_fails_before_anything_is_made(bundle: Bundle) -> None:
    bundle.write("true")
    done = bundle.call("run", "c1", isolation="none")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--isolation: 'none' is not one of vm, sentry" in done.stderr
    bundle.write("true", annotations={"io.pyvmm.isolation": "vm"})
    assert "annotation io.pyvmm.isolation may not be set by containers" in bundle.call("run", "c1").stderr
    bundle.write("nothing", annotations={})
    done = bundle.call("run", "c1")
    assert done.returncode != 0
    assert "executable file `nothing` not found in $PATH: No such file or directory" in done.stderr
    for more, missing in (
        ({"namespaces": [*SPACES, {"type": "time"}]}, "time namespace"),
        ({"namespaces": SPACES, "resources": {"unified": {"memory.none": "1"}}}, "such limit"),
        ({"namespaces": SPACES, "resources": {"unified": {"pids.max": "9" * 5000}}}, "such limit"),
        ({"namespaces": SPACES, "resources": {"unified": {"cpu.max": "max 0"}}}, "such limit"),
    ):
        bundle.write("true", linux=more)
        bundle.expect_refusal(missing)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(bundle.root / "socket"))
        mount = {"destination": "/s", "type": "bind", "source": str(bundle.root / "socket"), "options": ["bind"]}
        bundle.write("true", linux={"namespaces": SPACES}, mounts=[mount])
        bundle.expect_refusal("way to a unix socket of the host")
    assert bundle.call("list", "--quiet").stdout == ""


SHOW = (
    "ip -o addr show dev net0 | grep -o 'inet [^ ]*'; ip route; cat /sys/class/net/net0/address /sys/class/net/net0/mtu"
)


def test_a_container_has_the_interface_of_its_network_namespace(bundle: Bundle) -> None:
    """Its address, gateway and MAC: it reaches a server behind the gateway, and serves itself."""
    with own_network():
        ip("link add out type veth peer name in; addr add 10.9.0.1/24 dev out; link set out up; link set in name net0")
        holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=PIPE, stdout=PIPE)
        assert holder.stdout is not None
        assert holder.stdin is not None
        holder.stdout.readline()
        ip(f"link set net0 netns {holder.pid}")
        inside = f"nsenter --net=/proc/{holder.pid}/ns/net ip"
        for words in ("addr add 10.9.0.2/24 dev net0", "link set net0 mtu 1400 up", "route add default via 10.9.0.1"):
            subprocess.run([*inside.split(), *words.split()], check=True)
        ip("addr add 10.8.0.1/32 dev lo")  # behind the gateway
        spaces = [each for each in SPACES if each["type"] != "network"]
        spaces.append({"type": "network", "path": f"/proc/{holder.pid}/ns/net"})
        serve = "nc -l -p 80 -e echo from inside"
        try:
            with socket.create_server(("10.8.0.1", 99)) as server:
                bundle.write("sh", "-c", f"{SHOW}; nc 10.8.0.1 99; {serve}", linux={"namespaces": spaces})
                process = subprocess.Popen(bundle.command("run", "c1"), cwd=bundle.path, stdout=PIPE, text=True)
                with server.accept()[0] as peer:
                    assert peer.getpeername()[0] == "10.9.0.2"
                    peer.sendall(b"from outside\n")
            assert read_from("10.9.0.2", 80) == b"from inside\n"
            text, _ = process.communicate(timeout=60)
        finally:
            holder.stdin.close()
            holder.wait()
    lines = text.splitlines()
    mac = lines.pop(3)
    assert lines == [
        "inet 10.9.0.2/24",
        "default via 10.9.0.1 dev net0 ",
        "10.9.0.0/24 dev net0 scope link  src 10.9.0.2 ",
        "1400",
        "from outside",
    ]
    assert len(mac) == 17


def read_from(address: str, port: int) -> bytes:
    """What a server sends; it may not listen yet."""
    while True:
        try:
            with socket.create_connection((address, port), timeout=30) as sock:
                return sock.makefile("rb").read()
        except ConnectionRefusedError:
            pass


def test_a_second_interface_is_refused(bundle: Bundle) -> None:
    with own_network():
        ip("link add one type veth peer name two; link set one up; link set two up")
        spaces = [each for each in SPACES if each["type"] != "network"]
        namespace = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
        bundle.write("true", linux={"namespaces": [*spaces, {"type": "network", "path": namespace}]})
        done = bundle.call("run", "c1")
    assert (done.returncode, "a Sentry has no second network interface" in done.stderr) == (1, True), done.stderr
    assert bundle.call("list", "--quiet").stdout == ""


KILLS = int(os.environ.get("PYVMM_TEST_KILLS", "4"))


@pytest.fixture
def adopted() -> Iterator[Callable[[], list[int]]]:
    """The living processes that this one has started, directly or not; those whose parents end become its children."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)

    def living() -> list[int]:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return descendants(os.getpid())

    yield living
    prctl(PR_SET_CHILD_SUBREAPER, 0)


def test_whoever_of_a_container_is_killed_nothing_is_left_and_nothing_lost(
    bundle: Bundle, adopted: Callable[[], list[int]], tmp_path: Path
) -> None:
    """kill -9 of one of its processes, at some moment. What a program has said to be written is in its volume."""
    volume, chance = tmp_path / "volume", random.Random(5)
    volume.mkdir()
    mounts = json.loads((bundle.path / "config.json").read_text())["mounts"]
    mounts.append({"destination": "/volume", "type": "bind", "source": str(volume), "options": ["rbind", "rw"]})
    bundle.write("sh", "-c", "n=0; while n=$((n + 1)); do echo $n >>/volume/log && echo $n; done", mounts=mounts)
    before = set(adopted())
    for _ in range(KILLS):
        ours, its = os.pipe()
        try:
            assert bundle.call("create", "c1", stdout=its, stderr=subprocess.DEVNULL).returncode == 0
            os.close(its)
            assert bundle.call("start", "c1").returncode == 0
            with open(ours, closefd=False) as said:
                lines = [next(said) for _ in range(chance.randrange(1, 500))]
                victim = chance.choice([pid for pid in adopted() if pid not in before])
                name = Path(f"/proc/{victim}/comm").read_text().strip()
                os.kill(victim, signal.SIGKILL)
                assert bundle.call("delete", "--force", "c1").returncode == 0
                eventually(lambda: set(adopted()) <= before, f"processes are left after the end of {name}")
                lines += [line for line in said if line.endswith("\n")]
        finally:
            os.close(ours)
        assert (volume / "log").read_text().startswith("".join(lines)), f"{name} was killed"
        assert bundle.call("list", "--quiet").stdout == ""
        (volume / "log").unlink()
