"""The guest's agent on this machine, under ASan and UBSan: its calls, its processes and their streams.

A stand-in for crun starts plain processes; everything else is the agent's own. The rest needs a guest:
tests/guest/test_kata_agent.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.bundle import policy
from pyvmm_kata.bundle.checks import check_id
from pyvmm_kata.host.procfs import read_listing
from pyvmm_kata.protocol import protobuf
from pyvmm_kata.protocol.ttrpc import MAX_DATA, Client, RpcError
from tests.native.programs import agent_here, compiler

AGENT = "grpc.AgentService"
PATIENCE = 120.0
FAKE = Path(__file__).with_name("fake_crun.py")
REQUEST, RESPONSE = 1, 2
OUT_OF_RANGE, UNIMPLEMENTED, RESOURCE_EXHAUSTED, INVALID_ARGUMENT, DEADLINE_EXCEEDED = 11, 12, 8, 3, 4

pytestmark = pytest.mark.skipif(compiler("asan") is None, reason="no C compiler")


def end_processes_in(folder: Path) -> None:
    """End those whose working directory it is: what the stand-in for crun has started, whoever its parent is by now."""
    while found := [pid for pid in os.listdir("/proc") if pid.isdigit() and working_directory(pid) == str(folder)]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.01)


def working_directory(pid: str) -> str:
    """Of a process; empty for one that has ended."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


class Agent:
    """The program, with a connection to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "agent").mkdir()
        (folder / "crun").write_text(f"#!{sys.executable} -IS\n{FAKE.read_text()}")
        (folder / "crun").chmod(0o755)
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(PATIENCE)
        stopped, self._stop = os.pipe()
        self.forward = f"\0pyvmm-forward-{os.getpid()}-{folder}"[:107]
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.forward)
        listener.listen(512)
        self._process = subprocess.Popen(
            [str(agent_here()), str(theirs.fileno()), str(stopped), str(listener.fileno())],
            cwd=folder,
            pass_fds=(theirs.fileno(), stopped, listener.fileno()),
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        listener.close()
        os.close(stopped)
        self._client: Client | None = None

    def call(self, method: str, **fields: Any) -> Any:
        """A call that waits for its answer; the connection is a client's from the first one on."""
        if self._client is None:
            self._client = Client(self.sock, "the agent")
        request = protobuf.methods(AGENT)[method][0](**fields)
        return self._client.call(AGENT, method, request, PATIENCE, MAX_DATA)

    def dial(self) -> socket.socket:
        """A connection to where it forwards."""
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(PATIENCE)
        made.connect(self.forward)
        return made

    def create(self, name: str, *args: str, root: str = "/usr", storages: Any = (), **process: Any) -> None:
        spec = {
            "Process": {"Args": args, "Cwd": "/", "Env": [f"PATH={os.environ['PATH']}"], **process},
            "Root": {"Path": root},
        }
        self.call("CreateContainer", container_id=name, OCI=spec, storages=storages)

    def run(self, name: str, *args: str) -> None:
        self.create(name, *args)
        self.call("StartContainer", container_id=name)

    def exec(self, name: str, exec_id: str, *args: str, **fields: Any) -> None:
        process = {"Args": args, "Cwd": "/", "Env": [f"PATH={os.environ['PATH']}"]}
        self.call("ExecProcess", container_id=name, exec_id=exec_id, process=process, **fields)

    def wait(self, name: str, exec_id: str = "") -> int:
        return int(self.call("WaitProcess", container_id=name, exec_id=exec_id).status)

    def read(self, name: str, exec_id: str = "", method: str = "ReadStdout") -> bytes:
        text = b""
        while True:
            try:
                text += self.call(method, container_id=name, exec_id=exec_id, len=1 << 20).data
            except RpcError as error:
                if error.code != "OUT_OF_RANGE":
                    raise
                return text

    def send(self, stream: int, payload: bytes, kind: int = REQUEST) -> None:
        """A frame of the test's own making."""
        self.sock.sendall(struct.pack(">IIBB", len(payload), stream, kind, 0) + payload)

    def request(self, stream: int, method: str, timeout: int = 0, payload: bytes | None = None, **fields: Any) -> None:
        """A call without waiting for its answer; `timeout` in ns."""
        if payload is None:
            payload = protobuf.methods(AGENT)[method][0](**fields).SerializeToString()
        made = protobuf.message("ttrpc.Request")(service=AGENT, method=method, payload=payload, timeout_nano=timeout)
        self.send(stream, made.SerializeToString())

    def answer(self) -> tuple[int, int, bytes]:
        """The next frame: its stream, its status code, its payload."""
        length, stream, kind, _ = struct.unpack(">IIBB", self._receive(10))
        response = protobuf.message("ttrpc.Response").FromString(self._receive(length))
        assert kind == RESPONSE
        return stream, response.status.code, response.payload

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            assert piece, "the agent has closed the connection"
            data += piece
        return data

    def files(self) -> int:
        """How many descriptors it has."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def memory(self) -> int:
        """Bytes of memory that it has in use."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """End it: it must have found nothing wrong with itself."""
        if self._client is not None:
            self._client.close()
        self.sock.close()
        os.close(self._stop)
        try:
            _, words = self._process.communicate(timeout=PATIENCE)
        finally:
            end_processes_in(self.folder)  # in a guest they end with it
        assert self._process.returncode == 0, words


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    try:
        yield agent
    finally:
        agent.close()


@pytest.fixture
def pod(agent: Agent) -> Agent:
    agent.call("CreateSandbox", sandbox_id="s1")
    return agent


def test_a_container_from_its_creation_to_its_removal(pod: Agent) -> None:
    pod.create("c1", "sh", "-c", "echo out; echo err >&2; exit 7")
    with pytest.raises(RpcError, match="exists"):
        pod.create("c1", "true")
    pod.call("StartContainer", container_id="c1")
    assert (pod.read("c1"), pod.read("c1", method="ReadStderr")) == (b"out\n", b"err\n")
    assert pod.wait("c1") == pod.wait("c1", "c1") == 7
    with pytest.raises(RpcError, match="was started"):
        pod.call("StartContainer", container_id="c1")
    pod.call("RemoveContainer", container_id="c1")
    with pytest.raises(RpcError, match="no container c1"):
        pod.wait("c1")
    pod.run("c1", "sh", "-c", "kill -9 $$")
    assert pod.wait("c1") == 137
    assert sorted(os.listdir(pod.folder / "agent" / "containers")) == ["c1"]


def test_the_config_is_the_spec_where_the_host_decides_and_the_agents_where_it_does(pod: Agent) -> None:
    spec = {
        "Version": "1.1.0",
        "Process": {
            "Args": ["true", 'a "quoted" \\ word\n\u00e9'],
            "Cwd": "/",
            "Env": [f"PATH={os.environ['PATH']}"],
            "User": {"UID": 1, "GID": 2, "AdditionalGids": [3, 4]},
            "Capabilities": {"Bounding": ["CAP_KILL"]},
            "Rlimits": [{"Type": "RLIMIT_NOFILE", "Hard": 2**64 - 1, "Soft": 10}],
            "OOMScoreAdj": -5,
            "ApparmorProfile": "docker-default",
        },
        "Root": {"Path": "/usr", "Readonly": True},
        "Mounts": [{"destination": "/m", "source": "/s", "type": "bind", "options": ["ro", "rbind"]}],
        "Annotations": {"k": "v"},
        "Linux": {
            "CgroupsPath": "/elsewhere",
            "Sysctl": {"kernel.domainname": "d", "net.ipv4.ping_group_range": "0 1", "net.ipv4.conf.eth0/1.tag": "7"},
            "Namespaces": [
                {"Type": "network", "Path": "/proc/1/ns/net"},
                *({"Type": kind} for kind in ("pid", "uts", "cgroup")),
            ],
            "Resources": {
                "Devices": [{"Allow": True, "Type": "c", "Major": 1, "Minor": -1, "Access": "rw"}, {"Access": "rwm"}],
                "Memory": {"Limit": 1 << 40},
                "CPU": {"Quota": -1, "Period": 100000, "Cpus": "0"},
                "Pids": {"Limit": 9},
            },
            "Seccomp": {
                "DefaultAction": "SCMP_ACT_ALLOW",
                "Syscalls": [{"Names": ["mount"], "Action": "SCMP_ACT_ERRNO", "errnoret": 0}],
            },
            "MaskedPaths": ["/proc/kcore"],
        },
    }
    parameters = {"ping_group_range": "0 1", "conf/eth0.1/tag": "7"}  # the pod's, not this container's alone
    for name in parameters:
        (pod.folder / "sysctl" / "net" / "ipv4" / name).parent.mkdir(parents=True, exist_ok=True)
        (pod.folder / "sysctl" / "net" / "ipv4" / name).touch()
    pod.call("CreateContainer", container_id="c1", OCI=spec)
    assert {name: (pod.folder / "sysctl/net/ipv4" / name).read_text() for name in parameters} == parameters
    unknown = {**spec, "Linux": {"Sysctl": {"net.no": "1"}}}
    with pytest.raises(RpcError, match=r"sysctl net\.no"):
        pod.call("CreateContainer", container_id="c2", OCI=unknown)
    assert json.loads((pod.folder / "c1.json").read_text()) == {
        "ociVersion": "1.1.0",
        "process": {
            "terminal": False,
            "user": {"uid": 1, "gid": 2, "additionalGids": [3, 4]},
            "args": ["true", 'a "quoted" \\ word\n\u00e9'],
            "env": [f"PATH={os.environ['PATH']}"],
            "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_KILL"],
                "effective": [],
                "inheritable": [],
                "permitted": [],
                "ambient": [],
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 2**64 - 1, "soft": 10}],
            "noNewPrivileges": False,
            "oomScoreAdj": -5,
        },
        "root": {"path": "/usr", "readonly": True},
        "mounts": [{"destination": "/m", "type": "bind", "source": "/s", "options": ["ro", "rbind"]}],
        "annotations": {"k": "v"},
        "linux": {
            "sysctl": {"kernel.domainname": "d"},
            "resources": {
                "devices": [
                    {"allow": True, "type": "c", "major": 1, "access": "rw"},
                    {"allow": False, "access": "rwm"},
                ],
                "memory": {"limit": 1 << 40},
                "cpu": {"quota": -1, "period": 100000, "cpus": "0"},
                "pids": {"limit": 9},
            },
            "cgroupsPath": "/c1",
            "namespaces": [{"type": kind} for kind in ("mount", "uts", "pid", "cgroup")],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0}],
            },
            "maskedPaths": ["/proc/kcore"],
        },
    }
    pod.call("StartContainer", container_id="c1")
    assert pod.wait("c1") == 0


def test_namespaces_of_another_container_are_joined(pod: Agent) -> None:
    def create(name: str, **paths: str) -> list[dict[str, str]]:
        """What crun is told."""
        process = {"Args": ["sleep", "1000"], "Cwd": "/", "Env": [f"PATH={os.environ['PATH']}"]}
        kinds = [{"Type": kind, "Path": path} for kind, path in paths.items()]
        spec = {"Process": process, "Root": {"Path": "/usr"}, "Linux": {"Namespaces": kinds}}
        pod.call("CreateContainer", container_id=name, OCI=spec)
        config = json.loads((pod.folder / f"{name}.json").read_text())
        found: list[dict[str, str]] = config["linux"]["namespaces"]
        return found

    own = [{"type": kind} for kind in ("mount", "pid", "ipc")]
    assert create("c1", pid="", ipc="") == own, "what is not there is the guest's, but for the mounts"
    mount, uts, pid, ipc = create("c2", ipc="container:c1", uts="", pid="container:c1")
    assert (mount, uts) == ({"type": "mount"}, {"type": "uts"})
    number = int(ipc["path"].split("/")[2])
    assert (pid["path"], ipc["path"]) == (f"/proc/{number}/ns/pid", f"/proc/{number}/ns/ipc")
    assert Path(f"/proc/{number}/cwd").exists(), "it is not there"
    for path in ("container:c3", "/proc/1/ns/ipc", "container:"):
        with pytest.raises(RpcError, match="the ipc namespace of"):
            create("c4", ipc=path)
    pod.run("c5", "true")
    pod.wait("c5")
    with pytest.raises(RpcError, match="the pid namespace of container:c5"):
        create("c4", pid="container:c5")


def test_a_config_that_comes_as_text(pod: Agent) -> None:
    """All of it reaches crun, with what only the guest knows filled in."""
    process = {"args": ["sleep", "1000"], "cwd": "/", "env": [f"PATH={os.environ['PATH']}"], "user": {"umask": 23}}
    mark = "0123456789abcdef"

    def create(name: str, **changes: Any) -> dict[str, Any]:
        config = {"process": process, "root": {"path": "/usr"}, "domainname": 'a"@' + mark, "linux": {}, **changes}
        pod.call("CreateContainer", container_id=name, config=json.dumps(config), mark=mark)
        made: dict[str, Any] = json.loads((pod.folder / f"{name}.json").read_text())
        return made

    first = create("c1", linux={"devices": [f"@{mark}:devices"], "unified": {"memory.high": "1"}})
    assert first["process"] == process
    assert (first["domainname"], first["linux"]["unified"]) == ('a"@' + mark, {"memory.high": "1"})
    assert all(isinstance(device["path"], str) for device in first["linux"]["devices"])
    ipc = {"type": "ipc", "path": f"@{mark}:ns:ipc:c1"}
    (joined,) = create("c2", linux={"namespaces": [ipc]})["linux"]["namespaces"]
    assert joined["path"].startswith("/proc/")
    assert joined["path"].endswith("/ns/ipc")
    for word in ("ns:ipc:c3", "ns:../x:c1", "ns:", "frob", "sandbox:pid", "x" * 600):
        with pytest.raises(RpcError, match="create: "):
            create("c4", linux={"namespaces": [{"type": "ipc", "path": f"@{mark}:{word}"}]})
    with pytest.raises(RpcError, match=r"sysctl net\.not_there: No such file"):
        pod.call("CreateContainer", container_id="c5", config="{}", OCI={"Linux": {"Sysctl": {"net.not_there": "1"}}})


def test_a_container_that_may_do_everything_has_all_devices(pod: Agent) -> None:
    process = {"Args": ["true"], "Cwd": "/", "Env": [f"PATH={os.environ['PATH']}"]}
    spec = {"Process": process, "Root": {"Path": "/usr"}, "Linux": {"Devices": [{"Path": "/dev", "Type": "a"}]}}
    pod.call("CreateContainer", container_id="c1", OCI=spec)
    devices = json.loads((pod.folder / "c1.json").read_text())["linux"]["devices"]
    for device in devices:
        status = os.lstat(device["path"])
        assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == (device["major"], device["minor"])
        assert (stat.S_ISBLK if device["type"] == "b" else stat.S_ISCHR)(status.st_mode)
    nodes = [path for path in Path("/dev").iterdir() if not path.is_symlink()]
    here = {str(path) for path in nodes if path.is_char_device() or path.is_block_device()}
    standard = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx")}
    assert {device["path"] for device in devices} >= here - standard
    assert not {device["path"] for device in devices} & standard


def test_ids_are_those_that_the_host_takes(pod: Agent) -> None:
    """What spec.py lets through is not refused after the machine's boot, and the agent trusts nobody."""
    for name in ("a" * 255, "_", "...", "+a", ".a", "a-b_c.d+e"):
        assert check_id(name) == name
        pod.run(name, "true")
        assert pod.wait(name) == 0
        pod.call("RemoveContainer", container_id=name)
    for name in ("a" * 256, "", ".", "..", "-a", "a/b", "a b", "a\n", "\u00e9"):
        with pytest.raises(RpcError, match="container_id"):
            pod.create(name, "true")


def test_what_crun_says_is_what_the_host_reads(pod: Agent) -> None:
    with pytest.raises(RpcError, match="no root /no/such") as error:
        pod.create("c1", "true", root="/no/such")
    assert error.value.code == "INTERNAL"
    wrongs: tuple[dict[str, Any], ...] = ({"root": "relative"}, {"root": "/a/../b"}, {"Cwd": "x"}, {"Args": []})
    for wrong in wrongs:
        with pytest.raises(RpcError) as error:
            pod.create("c1", "true", **wrong)
        assert error.value.code == "INVALID_ARGUMENT"
    assert os.listdir(pod.folder / "agent" / "containers") == []
    pod.run("c1", "true")
    assert pod.wait("c1") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may add to the kernel's random numbers")
def test_a_copy_gets_another_line_and_readers_see_whole_ones(agent: Agent) -> None:
    """The file stays the same one, which containers have mounted and whose changes they wait for."""
    file, seen = agent.folder / "generation", list[str]()
    agent.call("ReseedRandomDev", data=os.urandom(64))
    stopped = threading.Event()

    def read() -> None:
        while not stopped.is_set():
            seen.append(file.read_text())

    before, reader = file.stat().st_ino, threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        agent.call("ReseedRandomDev", data=os.urandom(64))
    stopped.set()
    reader.join()
    assert all(re.fullmatch(r"[0-9a-f-]{36}\n", text) for text in seen) and len(set(seen)) > 1
    assert (file.stat().st_ino, file.stat().st_mode & 0o777) == (before, 0o444)


@pytest.mark.parametrize("count", [130, pytest.param(640, marks=pytest.mark.long)])
def test_more_processes_than_are_remembered(pod: Agent, count: int) -> None:
    """The agent keeps 64 of those that have ended, with their streams (ENDED_MAX in process.c)."""
    pod.run("c1", "sleep", "1000")

    def run(number: int) -> None:
        pod.exec("c1", f"e{number}", "sh", "-c", f"exit {number % 100}")
        assert pod.wait("c1", f"e{number}") == number % 100

    for number in range(70):
        run(number)
    files = pod.files()
    for number in range(70, 70 + count):
        run(number)
    assert pod.files() <= files


def test_statuses_of_processes_that_end_at_once(pod: Agent) -> None:
    pod.run("c1", "sleep", "1000")
    statuses: dict[int, int] = {}

    def run(number: int) -> None:
        pod.exec("c1", f"e{number}", "sh", "-c", f"exit {number}")
        statuses[number] = pod.wait("c1", f"e{number}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {number: number for number in range(1, 25)}
    pod.call("SignalProcess", container_id="c1", exec_id="c1", signal=15)
    assert pod.wait("c1") == 128 + 15


def test_a_process_has_a_file_of_the_host_as_a_further_descriptor(pod: Agent, tmp_path: Path) -> None:
    pod.run("c1", "sleep", "1000")
    (tmp_path / "window").write_bytes(b"from the host")
    pod.exec("c1", "e1", "cat", "/dev/fd/3", window=str(tmp_path / "window"))
    assert (pod.read("c1", "e1"), pod.wait("c1", "e1")) == (b"from the host", 0)
    os.symlink("window", tmp_path / "link")
    for path in (tmp_path / "link", tmp_path / "none", "window", f"{tmp_path}/../window"):
        with pytest.raises(RpcError, match="exec: "):
            pod.exec("c1", "e3", "true", window=str(path))


def test_the_id_of_an_exec_can_be_used_again_when_its_end_is_known(pod: Agent) -> None:
    pod.run("c1", "sleep", "1000")
    pod.exec("c1", "e1", "sh", "-c", "echo first; exit 3")
    assert pod.wait("c1", "e1") == 3
    pod.exec("c1", "e1", "sleep", "1000")
    for taken in ("e1", "c1"):
        with pytest.raises(RpcError, match="File exists"):
            pod.exec("c1", taken, "true")
    pod.call("SignalProcess", container_id="c1", exec_id="e1", signal=9)
    assert pod.wait("c1", "e1") == 128 + 9
    assert pod.read("c1", "e1") == b""


SMALL_CRUN = """#!/bin/sh
for word; do
	case $word in
	--pid-file=*) pid=${word#*=} ;;
	--*) ;;
	*) command=${command:-$word} name=$word ;;
	esac
done
case $command in
create)
	mkdir -p cgroup/$name
	printf 'oom 0\\noom_kill 0\\n' >cgroup/$name/memory.events
	sleep 1000 &
	echo $! >$pid
	;;
exec)
	exec 3<&0
	cat <&3 3<&- &
	echo $! >$pid
	;;
delete) rm -r cgroup/$name ;;
esac
"""


def test_a_pod_does_not_wear_out(pod: Agent) -> None:
    """Ten times as many execs as are remembered, in containers that come and go: no descriptor and no file is left.
    That no memory is lost either, the sanitizer sees at its end."""
    (pod.folder / "crun").write_text(SMALL_CRUN)  # Python takes long to start so often
    pod.run("first", "sleep", "1000")

    def live(number: int) -> None:
        name = f"c{number}"
        pod.run(name, "sleep", "1000")
        for exec_id in range(40):
            run_exec(name, f"e{exec_id}")
        pod.call("SignalProcess", container_id=name, exec_id=name, signal=9)
        assert pod.wait(name) == 137
        pod.call("RemoveContainer", container_id=name)

    def run_exec(name: str, exec_id: str) -> None:
        pod.exec(name, exec_id, "cat")
        pod.call("CloseStdin", container_id=name, exec_id=exec_id)
        assert pod.wait(name, exec_id) == 0
        assert pod.read(name, exec_id) == b""

    def exec_in_first(number: int) -> None:
        run_exec("first", f"e{number}")

    def left() -> tuple[int, list[str]]:
        return pod.files(), sorted(os.listdir(pod.folder / "agent" / "containers" / "first"))

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(exec_in_first, range(72)))  # those that are remembered, and one for each thread
        exec_in_first(72)
        before = left()
        list(workers.map(live, range(8)))
        list(workers.map(exec_in_first, range(73, 400)))
        exec_in_first(400)
    assert left() == before
    assert os.listdir(pod.folder / "agent" / "containers") == ["first"]


def test_input_waits_for_its_reader_and_output_for_the_host(pod: Agent) -> None:
    pod.run("c1", "cat")
    data = bytes(range(256)) * (3 << 12)

    def write() -> None:
        assert pod.call("WriteStdin", container_id="c1", data=data).len == len(data)
        pod.call("CloseStdin", container_id="c1")

    writer = threading.Thread(target=write)
    writer.start()
    assert pod.read("c1") == data
    writer.join()
    assert pod.wait("c1") == 0
    with pytest.raises(RpcError, match="closed"):
        pod.call("WriteStdin", container_id="c1", data=b"more")
    with pytest.raises(RpcError):
        pod.call("TtyWinResize", container_id="c1", row=1, column=1)


def test_an_update_has_what_the_host_changes(pod: Agent) -> None:
    pod.run("c1", "cat")
    pod.call("UpdateContainer", container_id="c1", resources={"Memory": {"Limit": 4096}})
    assert json.loads((pod.folder / "c1.resources.json").read_text()) == {"memory": {"limit": 4096}}
    pod.call("CloseStdin", container_id="c1")
    assert pod.wait("c1") == 0


def test_all_processes_of_a_container_are_those_below_it_too(pod: Agent) -> None:
    pod.run("c1", "cat")
    others = [subprocess.Popen(["sleep", "1000"]) for _ in range(2)]
    (pod.folder / "cgroup" / "c1" / "made" / "inside").mkdir(parents=True)
    (pod.folder / "cgroup" / "c1" / "cgroup.procs").write_text(f"{others[0].pid}\n")
    (pod.folder / "cgroup" / "c1" / "made" / "cgroup.procs").write_text("0\n")
    (pod.folder / "cgroup" / "c1" / "made" / "inside" / "cgroup.procs").write_text(f"{others[1].pid}\n")
    found = json.loads(pod.call("ListProcesses", container_id="c1").process_list)
    assert sorted(found) == sorted(one.pid for one in others)
    pod.call("SignalProcess", container_id="c1", signal=15)
    assert [one.wait(PATIENCE) for one in others] == [-15, -15]


def test_the_files_of_a_containers_processes(pod: Agent) -> None:
    pod.run("c1", "sh", "-c", "echo up; sleep 1000; exit")
    assert pod.call("ReadStdout", container_id="c1", exec_id="c1", len=3).data == b"up\n"  # crun has become sh
    listing = pod.call("ListProcesses", container_id="c1", format="files").process_list
    first = int(listing.split()[1])
    found = read_listing(listing).processes[first]
    assert found["cmdline"] == Path(f"/proc/{first}/cmdline").read_bytes() == b"sh\0-c\0echo up; sleep 1000; exit\0"
    assert b"Name:\tsh\n" in found["status"]
    assert found["stat"].split()[1] == b"(sh)"
    assert listing.endswith(b"end\n")
    assert b"\nbtime " in read_listing(listing).top["stat"]
    pod.call("SignalProcess", container_id="c1", exec_id="c1", signal=9)
    pod.wait("c1")
    with pytest.raises(RpcError, match="has ended"):
        pod.call("ListProcesses", container_id="c1", format="files")


def test_lists_of_processes_that_nobody_waits_for(agent: Agent) -> None:
    """Those that come too late, and too many at once: each is answered, and the agent goes on."""
    spec = {"Process": {"Args": ["sleep", "1000"], "Cwd": "/", "Env": [f"PATH={os.environ['PATH']}"]}}
    agent.request(1, "CreateSandbox", sandbox_id="s1")
    assert agent.answer()[:2] == (1, 0)
    agent.request(1, "CreateContainer", container_id="c1", OCI={**spec, "Root": {"Path": "/usr"}})
    assert agent.answer()[:2] == (1, 0)
    streams = range(3, 63, 2)
    for stream in streams:
        late = stream % 4 == 3
        agent.request(stream, "ListProcesses", timeout=late, container_id="c1", format="files")
    answers = dict(agent.answer()[:2] for _ in streams)
    assert sorted(answers) == list(streams)
    assert {DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED} <= set(answers.values())
    assert set(answers.values()) <= {0, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED}
    deadline = time.monotonic() + PATIENCE
    status = RESOURCE_EXHAUSTED
    while status == RESOURCE_EXHAUSTED and time.monotonic() < deadline:
        agent.request(65, "ListProcesses", container_id="c1", format="files")
        _, status, payload = agent.answer()
    assert status == 0
    answer = protobuf.message("grpc.ListProcessesResponse").FromString(payload)
    assert read_listing(answer.process_list).processes


def test_a_container_that_runs_out_of_memory_is_told(pod: Agent) -> None:
    pod.run("c1", "cat")
    (pod.folder / "cgroup" / "c1" / "memory.events").write_text("oom 1\noom_kill 1\n")
    assert pod.call("GetOOMEvent").container_id == "c1"


def test_frames_that_are_none(agent: Agent) -> None:
    agent.send(1, b"\xff\xff\xff")
    assert agent.answer()[:2] == (1, INVALID_ARGUMENT)
    agent.request(3, "WaitProcess", payload=b"\x0a\xff\xff\xff\xff\x0f")
    assert agent.answer()[:2] == (3, INVALID_ARGUMENT)
    agent.send(5, b"whatever", kind=3)  # a stream's data: nobody waits for it
    agent.send(7, bytes((4 << 20) + 1))
    assert agent.answer()[:2] == (7, RESOURCE_EXHAUSTED)
    agent.send(9, protobuf.message("ttrpc.Request")(service=AGENT, method="ResizeVolume").SerializeToString())
    assert agent.answer()[:2] == (9, UNIMPLEMENTED)
    agent.request(11, "GetGuestDetails")
    assert agent.answer()[:2] == (11, 0)


def test_a_wait_ends_with_its_time_and_takes_nothing_with_it(agent: Agent) -> None:
    agent.request(1, "CreateSandbox")
    process = {"Args": ["cat"], "Cwd": "/", "Env": [f"PATH={os.environ['PATH']}"]}
    agent.request(3, "CreateContainer", container_id="c1", OCI={"Process": process, "Root": {"Path": "/usr"}})
    assert [agent.answer()[1], agent.answer()[1]] == [0, 0]
    agent.request(5, "StartContainer", container_id="c1")
    assert agent.answer()[1] == 0
    agent.request(7, "ReadStdout", timeout=1000000, container_id="c1", len=10)
    assert agent.answer()[:2] == (7, DEADLINE_EXCEEDED)
    agent.request(9, "WaitProcess", timeout=1000000, container_id="c1")
    assert agent.answer()[:2] == (9, DEADLINE_EXCEEDED)
    agent.request(11, "ReadStdout", container_id="c1", len=10)
    agent.request(13, "WriteStdin", container_id="c1", data=b"text")
    answers = {stream: (code, payload) for stream, code, payload in (agent.answer(), agent.answer())}
    assert answers[13][0] == 0
    assert protobuf.message("grpc.ReadStreamResponse").FromString(answers[11][1]).data == b"text"


def test_more_calls_than_it_takes(agent: Agent) -> None:
    for number in range(1100):
        agent.request(2 * number + 1, "GetOOMEvent")
    refused = [agent.answer() for _ in range(1100 - 1024)]
    assert {code for _, code, _ in refused} == {RESOURCE_EXHAUSTED}


def test_a_policy_says_what_is_served_and_does_not_change(agent: Agent) -> None:
    rules = [f"default {name}Request := true" for name in policy.SERVED if name not in ("CopyFile", "ReadStream")]
    text = "package agent_policy\r\n\n# no rule at all for two of them\n" + "\n".join(rules)
    for bad, words in (
        ("default X = 1", "line 1: no rule like"),
        ("\n\ndefault X := true\tX := true", "line 3: no rule like"),
        ("default X := true\ndefault X := true", "line 2: a second rule"),
        ("\n" * 1000 + "default X := true", "line 1001: too many lines"),
    ):
        with pytest.raises(RpcError, match=f"policy /a: {words}"):
            agent.call("SetPolicy", name="/a", policy=bad)
    text = text.replace("ExecProcessRequest := true", "ExecProcessRequest := false # never")
    agent.call("SetPolicy", name="/b", policy=text.replace("StorageRequest := true", "StorageRequest := false"))
    with pytest.raises(RpcError, match="the policy /b cannot be changed"):
        agent.call("SetPolicy", name="/c", policy=text.replace("false", "true"))
    agent.call("CreateSandbox", sandbox_id="s1")
    agent.run("c1", "sh", "-c", "read word; exit 3")
    refused: dict[str, dict[str, Any]] = {
        "ExecProcess": {"container_id": "c1", "exec_id": "x", "process": {"Args": ["true"], "Cwd": "/"}},
        "ReadStdout": {"container_id": "c1", "len": 10},
        "CopyFile": {"path": "/run/kata-containers/file", "file_size": 1, "file_mode": 0o100644, "data": b"x"},
    }
    for method, fields in refused.items():
        request = protobuf.methods(AGENT)[method][0].DESCRIPTOR.name
        with pytest.raises(RpcError, match=f"^{request} is blocked by the policy /b") as error:
            agent.call(method, **fields)
        assert error.value.code == "PERMISSION_DENIED"
    with pytest.raises(RpcError, match="StorageRequest is blocked by the policy /b"):
        agent.create("c2", "true", storages=[{"driver": "local", "mount_point": "/run/kata-containers/x"}])
    agent.call("WriteStdin", container_id="c1", data=b"word\n")
    assert agent.wait("c1") == 3
    agent.call("RemoveContainer", container_id="c1")


def test_a_policy_comes_before_the_sandbox(pod: Agent) -> None:
    with pytest.raises(RpcError, match="a policy comes before the sandbox"):
        pod.call("SetPolicy", policy="default ExecProcessRequest := false")
    pod.run("c1", "true")
    assert pod.wait("c1") == 0
