"""The guest's agent with the real crun, in namespaces of this machine's kernel: what both make of a host's spec.

It needs root and a kernel that lets it make namespaces; everything that needs a machine of its own is in
tests/guest/test_kata_agent.py.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.protocol import protobuf
from pyvmm_kata.protocol.ttrpc import Client, RpcError
from tests.native.programs import agent_here, compiler

AGENT = "grpc.AgentService"
PATIENCE = 120.0
UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--net", "--cgroup", "--kill-child", "sh", "-ec"]
# The agent's directories on a tmpfs, a proc and a cgroup2 of its own.
PREPARE = """
mount -t tmpfs tmpfs /run
mount -t proc proc /proc
if mountpoint -q /sys/fs/cgroup; then umount -l /sys/fs/cgroup; fi
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /run/pyvmm-agent/containers
"""
APPLETS = ("sh", "cat", "echo", "id", "ls", "mkdir", "mknod", "ps", "sleep", "stty")
CAPABILITIES = ["CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN", "CAP_MKNOD"]


BUILD = Path(__file__).parents[2] / "examples" / "kata" / "linux-guest" / "image" / "build.py"
TOOLS = ("crun", "mkfs.erofs", "nanopb_generator")


def why_not() -> str:
    """Why the tests cannot run here, or nothing."""
    busybox = shutil.which("busybox")
    if os.geteuid() or not busybox or not shutil.which("crun") or compiler("asan") is None:
        return "needs root, crun, busybox and a C compiler"
    done = subprocess.run([*UNSHARE, PREPARE], capture_output=True, text=True)
    return f"no namespaces here: {done.stderr.strip()}" if done.returncode else ""


class Pod:
    """The agent as process 1 of a pid namespace, and a root file system for its containers."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "rootfs"
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            (self.root / name).mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "", self.root / "bin" / "busybox")
        for applet in APPLETS:
            (self.root / "bin" / applet).symlink_to("busybox")
        sock, theirs = socket.socketpair()
        stopped, self._stop = os.pipe()
        start = f"{PREPARE}exec {agent_here(())} {theirs.fileno()} {stopped}"
        self._process = subprocess.Popen([*UNSHARE, start], pass_fds=(theirs.fileno(), stopped))
        theirs.close()
        os.close(stopped)
        self._client = Client(sock, "the agent")

    def close(self) -> None:
        os.close(self._stop)
        assert self._process.wait(PATIENCE) == 0
        self._client.close()

    def call(self, method: str, **fields: Any) -> Any:
        return self._client.call(AGENT, method, protobuf.methods(AGENT)[method][0](**fields), PATIENCE)

    def process(self, *args: str, **fields: Any) -> dict[str, Any]:
        sets = dict.fromkeys(("Bounding", "Effective", "Permitted"), CAPABILITIES)
        return {"Args": args, "Env": ["PATH=/bin"], "Cwd": "/", "Capabilities": sets, **fields}

    def spec(self, *args: str, **fields: Any) -> dict[str, Any]:
        devices = {"Devices": [{"Allow": False, "Access": "rwm"}]}
        return {
            "Process": self.process(*args, **fields),
            "Root": {"Path": str(self.root)},
            "Mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
            ],
            "Linux": {"Namespaces": [{"Type": "pid"}, {"Type": "mount"}], "Resources": devices},
        }

    def run(self, name: str, spec: dict[str, Any], **fields: Any) -> None:
        self.call("CreateContainer", container_id=name, OCI=spec, **fields)
        self.call("StartContainer", container_id=name)

    def read(self, name: str, method: str = "ReadStdout") -> str:
        text = b""
        while True:
            try:
                text += self.call(method, container_id=name, len=4096).data
            except RpcError as error:
                if error.code != "OUT_OF_RANGE":
                    raise
                return text.decode()

    def wait(self, name: str, exec_id: str = "") -> int:
        return int(self.call("WaitProcess", container_id=name, exec_id=exec_id).status)


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    if reason := why_not():
        pytest.skip(reason)
    pod = Pod(tmp_path_factory.mktemp("pod"))
    try:
        pod.call("CreateSandbox", sandbox_id="s1", sandbox_pidns=True)
        yield pod
    finally:
        pod.close()


def test_a_container_and_the_parameters_of_its_pod(pod: Pod) -> None:
    spec = pod.spec("sh", "-c", "echo out; echo err >&2; cat /proc/sys/net/ipv4/ping_group_range; exit 7")
    spec["Linux"]["Sysctl"] = {"net.ipv4.ping_group_range": "0 1"}
    pod.run("c1", spec)
    assert pod.read("c1").split() == ["out", "0", "1"]
    assert pod.read("c1", "ReadStderr") == "err\n"
    assert pod.wait("c1") == 7
    pod.call("RemoveContainer", container_id="c1")


def test_a_terminal_of_the_size_that_was_asked_for(pod: Pod) -> None:
    size = {"Height": 11, "Width": 22}
    script = "stty size; read line; echo got $line; stty size"
    pod.run("tty", pod.spec("sh", "-c", script, Terminal=True, ConsoleSize=size))
    text = b""
    while b"11 22" not in text:
        text += pod.call("ReadStdout", container_id="tty", len=100).data
    pod.call("TtyWinResize", container_id="tty", row=33, column=44)
    pod.call("WriteStdin", container_id="tty", data=b"words\r")
    rest = pod.read("tty")
    assert "got words\r\n" in rest and "33 44\r\n" in rest
    assert pod.wait("tty") == 0
    pod.call("RemoveContainer", container_id="tty")


def test_the_walls_inside(pod: Pod) -> None:
    spec = pod.spec("sh", "-c", "mknod /dev/k c 1 11; cat /dev/k; mkdir /tmp/x; cat /dev/null && id -u; id -G")
    rule = {"Names": ["mkdir"], "Action": "SCMP_ACT_ERRNO", "errnoret": 28}
    spec["Linux"]["Seccomp"] = {"DefaultAction": "SCMP_ACT_ALLOW", "Syscalls": [rule]}
    spec["Process"]["User"] = {"UID": 0, "GID": 0, "AdditionalGids": [7]}
    pod.run("wall", spec)
    errors = pod.read("wall", "ReadStderr")
    assert "Operation not permitted" in errors  # the device cgroup
    assert "No space left on device" in errors  # seccomp's errno
    assert pod.read("wall") == "0\n0 7\n"
    pod.call("RemoveContainer", container_id="wall")


def test_processes_of_their_own_or_shared(pod: Pod) -> None:
    pod.run("one", pod.spec("sleep", "1111"), sandbox_pidns=True)
    seen = []
    for shared in (True, False):
        pod.run("two", pod.spec("ps"), sandbox_pidns=shared)
        seen.append("sleep 1111" in pod.read("two"))
        pod.call("RemoveContainer", container_id="two")
    assert seen == [True, False]
    pod.call("ExecProcess", container_id="one", exec_id="e1", process=pod.process("sh", "-c", "exit 3"))
    assert pod.wait("one", "e1") == 3
    assert len(pod.call("ListProcesses", container_id="one").process_list.split(b",")) == 1
    pod.call("SignalProcess", container_id="one", exec_id="", signal=15)
    assert pod.wait("one") == 128 + 15
    pod.call("RemoveContainer", container_id="one")


def test_one_that_runs_is_ended_by_its_removal(pod: Pod) -> None:
    pod.run("c1", pod.spec("sleep", "1000"))
    pod.call("RemoveContainer", container_id="c1")
    with pytest.raises(RpcError, match="crun ended with status 1"):
        pod.call("CreateContainer", container_id="c1", OCI={**pod.spec("ls"), "Root": {"Path": "/no/such"}})


# -- the image with both, the same bytes wherever and whenever it is made -------------------------------------------


def build(cache: Path) -> Path:
    done = subprocess.run(
        [sys.executable, str(BUILD)],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return Path(done.stdout.strip())


@pytest.mark.skipif(
    not all(shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") for tool in TOOLS),
    reason=f"needs {', '.join(TOOLS)}: tools/deps.py kata",
)
def test_two_builds_are_the_same_bytes_and_a_third_is_found(tmp_path: Path) -> None:
    first, second = (build(tmp_path / name) for name in ("a", "another-place"))
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size <= 8 << 20
    before = first.stat().st_mtime_ns
    assert build(tmp_path / "a") == first and first.stat().st_mtime_ns == before
