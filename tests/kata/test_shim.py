"""The service of the containerd shim: tasks, execs, pods, events, and what is refused."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.bundle.bundle import Bundle
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.pod.container import Container
from pyvmm_kata.pod.process import Process
from pyvmm_kata.pod.stdio import Pumps
from pyvmm_kata.protocol import protobuf, ttrpc
from pyvmm_kata.protocol.protobuf import Message
from pyvmm_kata.shim.bootstrap import Arguments, Place
from pyvmm_kata.shim.main import main
from pyvmm_kata.shim.pod_sandbox import pod_resources
from pyvmm_kata.shim.task import Task, TaskProcess
from pyvmm_kata.state import is_alive
from tests.installed import wait_for_image
from tests.kata.containerd import Collector, need
from tests.kata.containerd_checks import parent_of
from tests.kata.fake_guest import PATIENCE, PID, Pods, Shim, refused, write_shim
from tests.kata.oci_runtime import SHIM_CLIENT, WARM, eventually


def test_a_container_from_create_to_delete(shim: Shim) -> None:
    assert shim.create("c1", "exit", "7").pid == PID
    assert shim.state("c1") == "CREATED"
    assert shim.call("Start", "StartRequest", id="c1").pid == PID
    assert shim.wait("c1") == 7
    assert shim.state("c1") == "STOPPED"
    gone = shim.delete("c1")
    assert (gone.exit_status, gone.pid) == (7, PID)
    assert gone.exited_at.seconds > 0
    assert shim.names() == ["TaskCreate", "TaskStart", "TaskExit", "TaskDelete"]
    exit_event = shim.events[2]
    assert (exit_event.container_id, exit_event.id, exit_event.exit_status) == ("c1", "c1", 7)
    assert refused(lambda: shim.state("c1")) == "NOT_FOUND"


def test_who_deletes_what_somebody_else_deletes_finds_nothing(shim: Shim) -> None:
    """As a containerd that was killed, and the one that is started after it."""
    shim.run("c1", "exit", "7")
    assert shim.wait("c1") == 7
    answers: list[object] = []

    def delete() -> None:
        try:
            answers.append(shim.delete("c1").exit_status)
        except ttrpc.RpcError as error:
            answers.append(error.code)

    callers = [threading.Thread(target=delete) for _ in range(8)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(PATIENCE)
    assert sorted(answers, key=str) == [7] + ["NOT_FOUND"] * 7


def test_a_process_that_ends_at_once_is_not_told_before_its_start(shim: Shim) -> None:
    for number in range(20):
        shim.run(f"c{number}", "exit", "0")
    names = shim.wait_for_events(60)
    for number in range(20):
        mine = [name for name, event in zip(names, shim.events, strict=True) if event.container_id == f"c{number}"]
        assert mine == ["TaskCreate", "TaskStart", "TaskExit"]


def test_execs(shim: Shim) -> None:
    shim.run("c1", "sleep")
    shim.exec("c1", "e1", "exit", "3")
    assert shim.state("c1", "e1") == "CREATED"
    shim.call("Start", "StartRequest", id="c1", exec_id="e1")
    assert shim.wait("c1", "e1") == 3
    assert shim.delete("c1", "e1").exit_status == 3
    assert shim.names()[2:] == ["TaskExecAdded", "TaskExecStarted", "TaskExit", "TaskDelete"]
    assert [event.id for event in shim.events[4:]] == ["e1", "e1"]
    shim.exec("c1", "e1", "exit", "4")  # the id is free again
    assert refused(lambda: shim.exec("c1", "e1", "exit", "4")) == "ALREADY_EXISTS"


def test_an_exec_that_cannot_start_can_be_deleted(shim: Shim) -> None:
    shim.run("c1", "sleep")
    shim.exec("c1", "e1", "no-such-program")
    with pytest.raises(ttrpc.RpcError, match="no-such-program: not found"):
        shim.call("Start", "StartRequest", id="c1", exec_id="e1")
    assert shim.delete("c1", "e1").exit_status == 127


def test_execs_end_before_their_container(shim: Shim) -> None:
    shim.run("c1", "sleep")
    for name in ("e1", "e2"):
        shim.exec("c1", name, "sleep")
        shim.call("Start", "StartRequest", id="c1", exec_id=name)
    shim.call("Kill", "KillRequest", id="c1", signal=9, all=True)
    assert shim.wait("c1") == 137
    exits = [event.id for event in shim.events if event.DESCRIPTOR.name == "TaskExit"]
    assert sorted(exits[:2]) == ["e1", "e2"]
    assert exits[2:] == ["c1"]


def test_pods_share_a_guest(shim: Shim) -> None:
    shim.run("pause", "sleep")
    shim.run("app", "sleep")
    assert len(shim.guests) == 1
    shim.call("Kill", "KillRequest", id="app", signal=15)
    assert shim.wait("app") == 143
    assert shim.state("pause") == "RUNNING"
    shim.delete("app")
    shim.call("Shutdown", "ShutdownRequest", id="app")
    assert not shim.ended.is_set(), "a container is left"
    shim.call("Kill", "KillRequest", id="pause", signal=9)
    shim.wait("pause")
    shim.delete("pause")
    shim.call("Shutdown", "ShutdownRequest", id="pause")
    assert shim.ended.wait(PATIENCE)


def test_a_pod_does_not_wear_out(shim: Shim, tmp_path: Path) -> None:
    """Of containers and execs that were nothing is left: no thread, no descriptor, no entry of a table."""
    shim.run("first", "sleep")

    def live(number: int) -> None:
        name = f"c{number}"
        shim.run(name, "sleep", stdin="", stdout=str(tmp_path / "out"))
        for exec_id in ("e1", "e2"):
            shim.exec(name, exec_id, "exit", "3")
            shim.call("Start", "StartRequest", id=name, exec_id=exec_id)
            assert shim.wait(name, exec_id) == 3
            shim.delete(name, exec_id)
        shim.call("Kill", "KillRequest", id=name, signal=9)
        shim.wait(name)
        shim.delete(name)
        shutil.rmtree(tmp_path / f"bundle-{name}", ignore_errors=True)

    def left() -> dict[str, int]:
        gc.collect()
        counts = {kind.__name__: 0 for kind in (Process, Container, Task, TaskProcess, Pumps)}
        for each in gc.get_objects():
            if type(each).__name__ in counts:
                counts[type(each).__name__] += 1
        return {**counts, "threads": threading.active_count(), "files": len(os.listdir("/proc/self/fd"))}

    (tmp_path / "out").touch()
    for number in range(3):
        live(number)
    before = left()
    for number in range(200):
        live(number)
    # What other tests have left may end meanwhile, so that there is less
    eventually(lambda: all(now <= before[kind] for kind, now in left().items()), "what is left of containers grows")


def test_pause_and_resume(shim: Shim) -> None:
    shim.run("c1", "sleep")
    shim.call("Pause", "PauseRequest", id="c1")
    assert (shim.state("c1"), shim.guest.paused) == ("PAUSED", {"c1"})
    assert refused(lambda: shim.call("Pause", "PauseRequest", id="c1")) == "FAILED_PRECONDITION"
    shim.call("Resume", "ResumeRequest", id="c1")
    assert (shim.state("c1"), shim.guest.paused) == ("RUNNING", set())
    assert shim.names()[2:] == ["TaskPaused", "TaskResumed"]


def test_out_of_memory_is_told_before_the_end(shim: Shim) -> None:
    shim.run("c1", "sleep")
    shim.guest.oom("c1")
    assert shim.wait("c1") == 137
    assert "TaskOOM" in shim.wait_for_events(4)


def test_metrics_are_those_of_the_guests_cgroup(shim: Shim) -> None:
    shim.run("c1", "sleep")
    packed = shim.call("Stats", "StatsRequest", id="c1").stats
    assert packed.type_url == "io.containerd.cgroups.v2.Metrics"
    found = protobuf.parse(protobuf.message(packed.type_url), packed.value)
    assert (found.cpu.usage_usec, found.memory.usage, found.memory.anon) == (7000, 4096, 1024)
    assert (found.memory_events.oom_kill, found.pids.current) == (2, 3)
    assert [(one.major, one.minor, one.rbytes) for one in found.io.usage] == [(254, 1, 512)]


def test_processes_are_listed_with_the_number_they_have_on_the_host(shim: Shim) -> None:
    shim.run("c1", "sleep")
    shim.exec("c1", "e1", "sleep")
    shim.call("Start", "StartRequest", id="c1", exec_id="e1")
    listed = shim.call("Pids", "PidsRequest", id="c1").processes
    assert [one.pid for one in listed] == [PID, PID]
    details = protobuf.parse(protobuf.message(listed[1].info.type_url), listed[1].info.value)
    assert details.exec_id == "e1"


@pytest.mark.parametrize(
    "noted, wanted",
    [
        ({}, {"memory": {"limit": 5}}),
        ({"memory": "0", "cpu-quota": "-1", "cpu-period": "100000"}, {"memory": {"limit": 5}}),
        ({"memory": "1048576"}, {"memory": {"limit": 1048576}}),
        (
            {"cpu-quota": "250000", "cpu-period": "100000"},
            {"memory": {"limit": 5}, "cpu": {"quota": 250000, "period": 100000}},
        ),
    ],
)
def test_a_pods_size_is_the_sum_of_its_limits(noted: dict[str, str], wanted: dict[str, Any], tmp_path: Path) -> None:
    assert pod_resources(bundle_with(tmp_path, noted)) == wanted


@pytest.mark.parametrize("text", ["1G", "", "٣", "9" * 30])
def test_a_pods_size_that_is_no_number(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sandbox-memory"):
        pod_resources(bundle_with(tmp_path, {"memory": text}))


def bundle_with(folder: Path, noted: dict[str, str]) -> Bundle:
    spec = {
        "ociVersion": "1.1.0",
        "root": {"path": "rootfs"},
        "process": {"args": ["x"], "cwd": "/"},
        "linux": {"resources": {"memory": {"limit": 5}}},
        "annotations": {f"io.kubernetes.cri.sandbox-{name}": text for name, text in noted.items()},
    }
    return Bundle(str(folder), spec)


@pytest.mark.parametrize(
    "call, code",
    [
        (lambda shim: shim.state("no"), "NOT_FOUND"),
        (lambda shim: shim.state("c1", "no"), "NOT_FOUND"),
        (lambda shim: shim.delete("c1"), "FAILED_PRECONDITION"),
        (lambda shim: shim.call("Start", "StartRequest", id="c1"), "FAILED_PRECONDITION"),
        (lambda shim: shim.call("Create", "CreateTaskRequest", id="c1", bundle="/nowhere"), "ALREADY_EXISTS"),
        (lambda shim: shim.call("Create", "CreateTaskRequest", id="c2", bundle="/nowhere"), "INVALID_ARGUMENT"),
        (lambda shim: shim.create("c2", "sleep", checkpoint="/nowhere"), "INVALID_ARGUMENT"),
        (lambda shim: shim.call("Checkpoint", "CheckpointTaskRequest", id="c1", path="here"), "INVALID_ARGUMENT"),
        (lambda shim: shim.call("Checkpoint", "CheckpointTaskRequest", id="c2", path="/nowhere"), "NOT_FOUND"),
        (lambda shim: shim.call("Exec", "ExecProcessRequest", id="c1", exec_id="e"), "INVALID_ARGUMENT"),
        (lambda shim: shim.exec("c1", "c1", "exit"), "ALREADY_EXISTS"),
        (lambda shim: shim.create("c3", "sleep", stdin="binary:///bin/log"), "INVALID_ARGUMENT"),
        (lambda shim: shim.create("c3", "sleep", stdout="http://x/y"), "INVALID_ARGUMENT"),
        (lambda shim: shim.create("../c3", "sleep"), "INVALID_ARGUMENT"),
        (lambda shim: shim.call("Update", "UpdateTaskRequest", id="c1"), "INVALID_ARGUMENT"),
    ],
)
def test_what_is_refused(shim: Shim, call: Callable[[Shim], object], code: str) -> None:
    shim.run("c1", "sleep")
    assert refused(lambda: call(shim)) == code
    assert shim.state("c1") == "RUNNING"


def test_a_paused_container_is_not_started_again(shim: Shim) -> None:
    """Only one that goes on from a checkpoint is frozen before its start."""
    shim.run("c1", "sleep")
    shim.call("Pause", "PauseRequest", id="c1")
    assert refused(lambda: shim.call("Start", "StartRequest", id="c1")) == "FAILED_PRECONDITION"
    assert shim.state("c1") == "PAUSED"


def test_a_kill_that_comes_too_late(shim: Shim) -> None:
    shim.run("c1", "exit", "0")
    shim.wait("c1")
    assert refused(lambda: shim.call("Kill", "KillRequest", id="c1", signal=9)) == "NOT_FOUND"


def test_a_container_that_was_never_started(shim: Shim) -> None:
    shim.create("c1", "sleep")
    shim.call("Kill", "KillRequest", id="c1", signal=9)
    assert shim.wait("c1") == 137
    assert shim.delete("c1").exit_status == 137
    assert shim.names() == ["TaskCreate", "TaskExit", "TaskDelete"]
    shim.create("c2", "sleep")
    shim.delete("c2")


def test_the_end_of_the_guest_is_the_end_of_its_containers(shim: Shim, capsys: pytest.CaptureFixture[str]) -> None:
    shim.run("c1", "sleep")
    shim.exec("c1", "e1", "sleep")
    shim.call("Start", "StartRequest", id="c1", exec_id="e1")
    shim.guest.die()
    assert shim.wait("c1") == 255
    assert shim.wait("c1", "e1") == 255
    assert "the pod is lost: the virtual machine ended: " in capsys.readouterr().err
    shim.delete("c1", "e1")
    shim.delete("c1")
    assert shim.pod.is_empty


def test_a_container_that_the_guest_refuses_leaves_nothing(shim: Shim) -> None:
    def refuse(request: Message, call: ttrpc.Call) -> Message:
        raise ttrpc.RpcError("INTERNAL", "the guest has a bad day")

    shim.run("c1", "sleep")
    before = shim.guest.handlers["CreateContainer"]
    shim.guest.handlers["CreateContainer"] = refuse
    with pytest.raises(ttrpc.RpcError, match="the guest has a bad day"):
        shim.create("c2", "sleep")
    shim.guest.handlers["CreateContainer"] = before
    assert shim.names() == ["TaskCreate", "TaskStart"]
    assert refused(lambda: shim.state("c2")) == "NOT_FOUND"
    bundle = str(shim.folder / "bundle-c2")
    shim.call("Create", "CreateTaskRequest", id="c2", bundle=bundle)


def test_the_first_container_of_a_pod_that_fails_ends_the_guest(shim: Shim) -> None:
    with pytest.raises(ttrpc.RpcError):
        shim.create("c1", "sleep", stdout="http://x")
    assert shim.guest.closed.wait(PATIENCE)
    assert shim.pod.is_empty


# -- the standard streams of tasks: FIFOs, files and terminals -------------------------------------------------------


def test_output_and_input_go_through_fifos(shim: Shim, tmp_path: Path) -> None:
    stdin, stdout = tmp_path / "in", tmp_path / "out"
    os.mkfifo(stdin)
    os.mkfifo(stdout)
    reader = os.open(stdout, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    shim.run("c1", "cat", stdin=str(stdin), stdout=str(stdout))
    writer = os.open(stdin, os.O_WRONLY)
    os.write(writer, b"through the guest")
    got = b""
    while len(got) < 17:
        got += os.read(reader, 100)
    assert got == b"through the guest"
    os.close(writer)  # cat ends with its input
    assert shim.wait("c1") == 0
    assert os.read(reader, 100) == b"", "the FIFO has another writer left"
    os.close(reader)


def test_input_that_is_closed_is_read_to_its_end(shim: Shim, tmp_path: Path) -> None:
    stdin, stdout = tmp_path / "in", tmp_path / "out"
    os.mkfifo(stdin)
    shim.run("c1", "cat", stdin=str(stdin), stdout=f"file://{stdout}")
    writer = os.open(stdin, os.O_WRONLY)
    os.write(writer, b"before")
    shim.call("CloseIO", "CloseIORequest", id="c1", stdin=True)
    os.write(writer, b" and after")
    os.close(writer)
    assert shim.wait("c1") == 0
    assert stdout.read_text() == "before and after"


def test_input_that_nobody_ever_writes_can_be_closed(shim: Shim, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in")
    shim.run("c1", "cat", stdin=str(tmp_path / "in"))
    while shim.state("c1") == "RUNNING":  # once the shim reads it
        shim.call("CloseIO", "CloseIORequest", id="c1", stdin=True)
    assert shim.wait("c1") == 0


def test_output_goes_to_a_file(shim: Shim, tmp_path: Path) -> None:
    shim.run("c1", "print", "hello", stdout=f"file://{tmp_path}/logs/out")
    assert shim.wait("c1") == 0
    assert (tmp_path / "logs" / "out").read_text() == "hello"


def test_output_waits_for_its_reader(shim: Shim, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    got: list[bytes] = []
    running = threading.Thread(target=shim.run, args=("c1", "print", "hello"), kwargs={"stdout": str(tmp_path / "out")})
    running.start()
    with (tmp_path / "out").open("rb") as reader:  # opens when there is a writer, which there is not before a reader is
        got.append(reader.read())
    running.join(PATIENCE)
    assert got == [b"hello"]


def test_output_that_nobody_reads(shim: Shim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm_kata.shim.stream_paths.READER_S", 0.05)
    os.mkfifo(tmp_path / "out")
    with pytest.raises(ttrpc.RpcError, match="nobody reads it"):
        shim.create("c1", "print", "hello", stdout=str(tmp_path / "out"))
    assert shim.pod.is_empty


def test_a_terminal_has_a_size(shim: Shim) -> None:
    shim.run("c1", "sleep", terminal=True)
    shim.call("ResizePty", "ResizePtyRequest", id="c1", width=80, height=25)
    assert shim.guest.processes["c1", "c1"].size == (25, 80)


# -- the command that containerd calls: `start` and `delete`, and what it prints -------------------------------------


COMMAND_SECONDS = 60.0


class Caller:
    """Calls the shim as containerd does: in the bundle, and with its environment."""

    def __init__(self, folder: Path) -> None:
        write_shim(folder)
        self.folder = folder
        self.address = str(folder / "containerd.sock")
        self.places: list[Place] = []
        self.pods: Pods | None = None
        self.at_end = contextlib.ExitStack()

    def bundle(self, task_id: str, pod: str = "", **linux: object) -> Path:
        path = self.folder / task_id
        (path / "rootfs").mkdir(parents=True)
        annotations = {"io.kubernetes.cri.sandbox-id": pod} if pod else {}
        spec = {
            "ociVersion": "1.1.0",
            "root": {"path": "rootfs"},
            "process": {"args": ["sleep"], "cwd": "/"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [{"type": "network"}], **linux},
            "annotations": annotations,
        }
        (path / "config.json").write_text(json.dumps(spec))
        os.mkfifo(path / "log")
        self.places.append(Place.of(Arguments(task_id, "test", self.address, str(path), "", 2)))
        return path

    def call(
        self, task_id: str, action: str, version: str = "2", wrap: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        bundle = self.folder / task_id
        flags = ["-namespace", "test", "-address", self.address, "-publish-binary", "/bin/true", "-id", task_id]
        flags += ["-bundle", str(bundle)] if action == "delete" else []
        return subprocess.run(
            [*wrap, str(self.folder / "containerd-shim-fake-v2"), *flags, action],
            cwd=bundle,
            env={
                **(self.pods.environment if self.pods else os.environ),
                "MAX_SHIM_VERSION": version,
                "TTRPC_ADDRESS": "",
            },
            input=b"",
            capture_output=True,
            timeout=COMMAND_SECONDS,
        )

    def start(self, task_id: str, version: str = "2", wrap: Sequence[str] = ()) -> str:
        done = self.call(task_id, "start", version, wrap)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    def pid(self, place: Place) -> int:
        """The shim's number, once it has written it; 0 when it does not live."""
        try:
            pid, began = (int(word) for word in (Path(place.folder) / "pid").read_text().split())
        except (OSError, ValueError):
            return 0
        return pid if is_alive(pid, began) else 0


@pytest.fixture
def caller() -> Iterator[Caller]:
    need()
    with tempfile.TemporaryDirectory(prefix="shim") as name:
        made = Caller(Path(name))
        try:
            yield made
        finally:
            for place in made.places:
                place.kill()
            if made.pods is not None:
                made.pods.kill()
            made.at_end.close()


def connect(address: str) -> ttrpc.Client:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address.removeprefix("unix://"))
    return ttrpc.Client(sock, "the shim")


def task(client: ttrpc.Client, method: str, kind: str, version: str = "v2", **fields: object) -> Message:
    package = f"containerd.task.{version}"
    return client.call(f"{package}.Task", method, protobuf.message(f"{package}.{kind}")(**fields), COMMAND_SECONDS)


def parse_delete(done: subprocess.CompletedProcess[bytes]) -> Message:
    assert (done.returncode, done.stderr) == (0, b"")
    return protobuf.parse(protobuf.message("containerd.task.v2.DeleteResponse"), done.stdout)


def test_the_address_alone_for_containerd_before_2(caller: Caller) -> None:
    bundle = caller.bundle("c1")
    address = caller.start("c1")
    assert address == f"unix://{caller.places[0].socket}"
    assert (bundle / "address").read_text() == address
    client = connect(address)
    connected = task(client, "Connect", "ConnectRequest", id="c1")
    assert connected.shim_pid == caller.pid(caller.places[0])


def test_json_for_containerd_2(caller: Caller) -> None:
    caller.bundle("c1")
    answer = json.loads(caller.start("c1", version="3"))
    assert answer == {"version": 3, "address": f"unix://{caller.places[0].socket}", "protocol": "ttrpc"}
    client = connect(answer["address"])
    assert task(client, "Connect", "ConnectRequest", version="v3", id="c1").shim_pid > 0


def test_containers_of_a_pod_have_one_shim(caller: Caller) -> None:
    for task_id, pod in (("c1", "p1"), ("c2", "p1"), ("c3", "p2")):
        caller.bundle(task_id, pod)
    addresses = [caller.start(task_id) for task_id in ("c1", "c2", "c3")]
    assert addresses[0] == addresses[1] != addresses[2]


def small(caller: Caller, task_id: str, *flags: str, version: str = "2") -> tuple[int, str]:
    """What the small program does alone, and prints: whatever it cannot do fails with 1."""
    command = [
        str(SHIM_CLIENT),
        "",
        "/bin/false",
        "",
        "--",
        "-namespace",
        "test",
        f"--address={caller.address}",
        "-debug",
        *flags,
    ]
    environment = {**os.environ, "MAX_SHIM_VERSION": version}
    command += ["-debug", "-id", task_id, "start"]
    done = subprocess.run(command, cwd=caller.folder / task_id, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", ["pyvmm-shim-client", "pyvmm-oci-client"])
@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({}, "/var/cache" if os.geteuid() == 0 else ""),
        ({"HOME": "/root"}, ""),
        ({"XDG_CACHE_HOME": "/tmp"}, "/tmp"),
    ],
)
def test_services_of_root_have_their_caches_in_var(
    tmp_path: Path, name: str, given: dict[str, str], place: str
) -> None:
    """Under systemd containerd has no home: its pods would have no templates, and no images to start from."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "at $XDG_CACHE_HOME"\n')
    program.chmod(0o755)
    command = [str(SHIM_CLIENT.with_name(name)), "", str(program), "", "--", "--nosuch"]
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"at {place}\n", "")


@pytest.mark.parametrize(
    ("libraries", "left"),
    [
        ("/opt/c/lib:", ""),
        ("/opt/c/lib", ""),
        ("/opt/c/lib:/mine", "/mine"),
        ("/mine:/opt/c/lib", "/mine:/opt/c/lib"),
        ("/opt/c/library", "/opt/c/library"),
        ("/opt/d/lib:", "/opt/d/lib:"),
        ("lib", "lib"),
    ],
)
def test_libraries_of_containerd_s_are_not_for_the_shim(tmp_path: Path, libraries: str, left: str) -> None:
    """Programs for which somebody names libraries do not start from an image; containerd names some for each shim."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "at $LD_LIBRARY_PATH"\n')
    program.chmod(0o755)
    given = {"PATH": "/opt/c/bin:/bin", "LD_LIBRARY_PATH": libraries}
    done = subprocess.run([str(SHIM_CLIENT), "", str(program), "", "--"], env=given, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"at {left}\n", "")


@pytest.mark.parametrize("pod", ["p" * 300, "ä{}\t,:["])
def test_the_small_program_finds_the_shim_of_a_pod(caller: Caller, pod: str) -> None:
    for task_id in ("c1", "c2"):
        path = caller.bundle(task_id, pod) / "config.json"
        text = {"a": [{"b": ']}\\"'}, [], -1.5e3, True, None], **json.loads(path.read_text())}
        path.write_text(json.dumps(text, ensure_ascii=False, indent=1 if task_id == "c2" else None))
    assert small(caller, "c1") == (1, "")
    address = caller.start("c1")
    if "\t" in pod:
        assert small(caller, "c2") == (1, ""), "it takes an escape for the character itself"
        return
    assert small(caller, "c2") == (0, address)
    assert (caller.folder / "c2" / "address").read_text() == address
    assert json.loads(small(caller, "c2", version="3")[1]) == json.loads(caller.start("c2", version="3"))
    assert small(caller, "c2", version="4") == (1, "")
    assert small(caller, "c2", "-frobnicate") == (1, "")


PREFIX = '{"annotations": {"io.kubernetes.cri.sandbox'


def test_the_small_program_leaves_unusual_bundles_to_the_whole(caller: Caller) -> None:
    caller.bundle("c1", "p1")
    caller.start("c1")
    path = caller.bundle("c2") / "config.json"
    path.write_text(PREFIX + '-id": "p1"}}')
    assert small(caller, "c2")[0] == 0
    for text in (
        "",
        "[]",
        "{",
        PREFIX + '-id": "p1"}',
        PREFIX + '-id": "p1"}} x',
        PREFIX + '-id": "p1}}',
        PREFIX + '-id": "\\u0070"}}',
        PREFIX + '\\u002did": "p1"}}',
        PREFIX + '-id": "p1", "io.kubernetes.cri.sandbox-id": "p2"}}',
        PREFIX + '-id": "p1"}, "annotations": null}',
        PREFIX + '-id": 1}}',
        PREFIX + '-id": "p1", "x": ' + "[" * 101 + "]" * 101 + "}}",
    ):
        path.write_text(text)
        assert small(caller, "c2") == (1, ""), text
    path.unlink()
    assert small(caller, "c2") == (1, "")


def test_a_shim_from_an_image(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command and the shim, which is its child, go on from the memory of another process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(caller.folder / "cache"))
    (caller.folder / "cache").mkdir()
    os.utime(caller.folder / "containerd-shim-fake-v2", (1, 1))  # of what has just changed no image is made
    programs = []
    for task_id in ("c1", "c2"):
        caller.bundle(task_id)
        client = connect(caller.start(task_id, wrap=(str(WARM), sys.executable)))
        wait_for_image(caller.folder / "cache" / "pyvmm")
        task(client, "Create", "CreateTaskRequest", id=task_id, bundle=str(caller.folder / task_id))
        task(client, "Start", "StartRequest", id=task_id)
        programs.append(os.readlink(f"/proc/{caller.pid(caller.places[-1])}/exe"))
        task(client, "Kill", "KillRequest", id=task_id, signal=9)
        assert task(client, "Wait", "WaitRequest", id=task_id).exit_status == 137
    assert programs == [os.path.realpath(sys.executable), str(WARM)]


def test_shutdown_leaves_nothing(caller: Caller) -> None:
    caller.bundle("c1")
    client = connect(caller.start("c1"))
    task(client, "Create", "CreateTaskRequest", id="c1", bundle=str(caller.folder / "c1"))
    task(client, "Delete", "DeleteRequest", id="c1")
    pid = caller.pid(caller.places[0])
    task(client, "Shutdown", "ShutdownRequest", id="c1")
    deadline = time.monotonic() + COMMAND_SECONDS
    while os.path.exists(caller.places[0].folder) or os.path.exists(f"/proc/{pid}/exe"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_delete_after_the_shim_was_killed(caller: Caller) -> None:
    caller.bundle("c1")
    client = connect(caller.start("c1"))
    task(client, "Create", "CreateTaskRequest", id="c1", bundle=str(caller.folder / "c1"))
    caller.places[0].kill()
    assert parse_delete(caller.call("c1", "delete")).exit_status == 137
    assert not os.path.exists(caller.places[0].folder)


def test_delete_spares_the_other_containers_of_a_pod(caller: Caller) -> None:
    for task_id in ("c1", "c2"):
        caller.bundle(task_id, "p1")
        client = connect(caller.start(task_id))
        task(client, "Create", "CreateTaskRequest", id=task_id, bundle=str(caller.folder / task_id))
        task(client, "Start", "StartRequest", id=task_id)
    parse_delete(caller.call("c1", "delete"))
    with pytest.raises(ttrpc.RpcError, match="NOT_FOUND"):
        task(client, "State", "StateRequest", id="c1")
    assert task(client, "State", "StateRequest", id="c2").pid > 0


def test_delete_kills_a_shim_that_hangs(caller: Caller) -> None:
    caller.bundle("c1")
    connect(caller.start("c1"))
    pid = caller.pid(caller.places[0])
    os.kill(pid, signal.SIGSTOP)
    parse_delete(caller.call("c1", "delete"))
    assert not os.path.exists(caller.places[0].folder)
    assert caller.pid(caller.places[0]) == 0


class Pod:
    """A pod of one container, made by a shim with a pool beside it."""

    def __init__(self, caller: Caller, task_id: str, **linux: object) -> None:
        self.caller = caller
        self.bundle = caller.bundle(task_id, f"pod-{task_id}", **linux)
        self.place = caller.places[-1]
        self._log = os.open(self.bundle / "log", os.O_RDONLY | os.O_NONBLOCK)
        caller.at_end.callback(os.close, self._log)
        self.id = task_id

    def create(self, *, wrap: Sequence[str] = (), address: str = "") -> str:
        """Make it and start it; what the shim has logged of its machine."""
        self.client = connect(address or self.caller.start(self.id, wrap=wrap))
        task(self.client, "Create", "CreateTaskRequest", id=self.id, bundle=str(self.bundle))
        task(self.client, "Start", "StartRequest", id=self.id)
        assert task(self.client, "Connect", "ConnectRequest", id=self.id).shim_pid == self.caller.pid(self.place)
        return os.read(self._log, 1 << 16).decode()

    @property
    def parent(self) -> int:
        """That of its shim."""
        return parent_of(self.caller.pid(self.place))

    def remove(self) -> None:
        task(self.client, "Kill", "KillRequest", id=self.id, signal=9)
        assert task(self.client, "Wait", "WaitRequest", id=self.id).exit_status == 137
        task(self.client, "Delete", "DeleteRequest", id=self.id)
        task(self.client, "Shutdown", "ShutdownRequest", id=self.id)
        eventually(lambda: not os.path.exists(self.place.folder), "the shim leaves something")


@pytest.fixture
def pods(caller: Caller) -> Pods:
    caller.pods = Pods(caller.folder)
    caller.pods.wait_until_full()
    return caller.pods


def test_pods_have_machines_of_the_pool(caller: Caller, pods: Pods) -> None:
    first, second = Pod(caller, "c1"), Pod(caller, "c2")
    for pod in (first, second):
        pods.wait_until_full()
        assert "its machine is of the pool" in pod.create()
        assert pod.parent == pods.process.pid
    assert pods.figures()["given"] == 2
    bundle = caller.bundle("c3", "pod-c1")
    assert connect(caller.start("c3")) is not None
    task(first.client, "Create", "CreateTaskRequest", id="c3", bundle=str(bundle))
    task(first.client, "Start", "StartRequest", id="c3")
    pods.wait_until_full()
    pods.kill()
    eventually(lambda: len(pods.left) == 2, "the machine that was ready is left")
    assert task(first.client, "State", "StateRequest", id="c3").pid > 0, "it ended with the pool"
    task(first.client, "Kill", "KillRequest", id="c3", signal=9)
    task(first.client, "Wait", "WaitRequest", id="c3")
    task(first.client, "Delete", "DeleteRequest", id="c3")
    first.remove()
    second.place.kill()
    parse_delete(caller.call("c2", "delete"))
    assert not os.path.exists(second.place.folder)
    assert pods.left == [], "the state of a machine is left"
    assert "its machine has booted" in Pod(caller, "c4").create(), "there is no pool any more"


def test_a_trace_of_a_machine_of_the_pool(caller: Caller, pods: Pods) -> None:
    """What was done before the pod is no part of its start."""
    collector = Collector()
    with pods.settings.open("a") as file:
        file.write(f'traces = "{collector.url}"\n')
    pod = Pod(caller, "c1")
    config = pod.bundle / "config.json"
    spec = json.loads(config.read_text())
    spec["annotations"]["io.kubernetes.cri.sandbox-name"] = "web"
    config.write_text(json.dumps(spec))
    assert "its machine is of the pool" in pod.create()
    spans = collector.spans()
    assert [span.name for span in spans] == ["pod start", "sandbox", "container", "started"]
    assert {one.key: one.value.string_value for one in spans[0].attributes} == {
        "container.id": "c1",
        "k8s.pod.name": "web",
    }
    pod.remove()
    collector.close()


def test_pods_that_need_another_machine(caller: Caller, pods: Pods) -> None:
    """It is made, and no machine of the pool is wasted; or one is, and ends."""
    big = Pod(caller, "c1", resources={"memory": {"limit": 1 << 30}})
    assert "no machine is like that" in (log := big.create()) and "its machine has booted" in log
    big.remove()
    asks = Pod(caller, "c2")
    client = connect(caller.start("c2"))
    assert task(client, "Connect", "ConnectRequest", id="c2").shim_pid > 0, "a call that is not the first Create"
    assert "its machine has booted" in asks.create()
    asks.remove()
    assert pods.figures()["given"] == 0
    pods.process.send_signal(signal.SIGSTOP)
    assert "its machine has booted" in Pod(caller, "c3").create(), "a pool that does not answer"
    pods.process.send_signal(signal.SIGCONT)
    pods.wait_until_full()
    unseen = Pod(caller, "c4", namespaces=[{"type": "network", "path": "/mnt/net"}])
    mount = "mount -t tmpfs none /mnt && touch /mnt/net && mount --bind /proc/self/ns/net /mnt/net"
    log = unseen.create(wrap=("unshare", "-mn", "sh", "-c", f'{mount} && exec "$@"', "sh"))
    assert "is another one here" in log and "its machine has booted" in log
    unseen.remove()
    pods.wait_until_full()
    assert len(pods.left) == 1, "the machine that was not fit is left"
    assert "its machine is of the pool" in Pod(caller, "c5").create()


def test_the_small_program_has_a_shim_made_by_the_pool(caller: Caller) -> None:
    os.makedirs("/run/pyvmm", exist_ok=True)
    mount = f'mount --bind {caller.folder} /run/pyvmm && exec "$@"'  # the socket's place is not to be chosen
    pods = caller.pods = Pods(caller.folder, ("unshare", "-m", "sh", "-c", mount, "sh"))
    pods.wait_until_full()

    def small_in(task_id: str) -> tuple[int, str]:
        words = f"-namespace test -address {caller.address} -id {task_id} start".split()
        inside = [
            "sh",
            "-c",
            f'cd {caller.folder / task_id} && exec "$@"',
            "sh",
            str(SHIM_CLIENT),
            "",
            "/bin/false",
            "",
            "--",
        ]
        command = ["nsenter", "-t", str(pods.process.pid), "-m", *inside, *words]
        done = subprocess.run(command, env=pods.environment, stdin=-3, capture_output=True, text=True, timeout=PATIENCE)
        assert done.stderr == ""
        return done.returncode, done.stdout

    pod = Pod(caller, "c1")
    status, address = small_in("c1")
    assert (status, address) == (0, f"unix://{pod.place.socket}")
    assert (pod.bundle / "address").read_text() == address
    caller.bundle("c2", "pod-c1")
    assert small_in("c2") == (0, address), "the pod has its shim"
    inside = f"{caller.folder}/{pod.place.folder.removeprefix('/run/pyvmm/')}"
    pod.place.folder, pod.place.socket = inside, f"{inside}/shim.sock"
    assert "its machine is of the pool" in pod.create(address=pod.place.socket)
    assert pod.parent == pods.process.pid
    pods.wait_until_full()
    big = Pod(caller, "c3", resources={"memory": {"limit": 1 << 30}})
    address = small_in("c3")[1].replace("/run/pyvmm", str(caller.folder))
    big.place.folder = os.path.dirname(address.removeprefix("unix://"))
    assert "its machine has booted" in big.create(address=address)
    assert big.parent == pods.process.pid, "the process that took the command line makes the machine"
    big.remove()
    caller.bundle("c4")
    assert small(caller, "c4") == (1, ""), "the pool is elsewhere"
    pods.kill()
    pod.remove()


def test_delete_of_what_was_never_there(caller: Caller) -> None:
    caller.bundle("c1")
    assert parse_delete(caller.call("c1", "delete")).exit_status == 137


@pytest.mark.parametrize(
    "words, problem",
    [
        ([], "usage:"),
        (["-id"], "-id has no value"),
        (["-frobnicate", "x", "start"], "-frobnicate is not known"),
        (["-namespace", "n", "-id", "a/b", "start"], "not the id of a container"),
        (["-id", "a", "start"], "-namespace is missing"),
        (["-namespace", "n", "-id=a", "stop"], "'stop' is no action"),
        (["-namespace", "n", "-id", "a", "start", "more"], "'more' is too much"),
    ],
)
def test_wrong_command_lines(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert problem in said.err
    assert len(said.err.splitlines()) == 1


def test_the_program_finds_its_python_through_a_link(tmp_path: Path) -> None:
    folder, other = tmp_path / "prefix" / "bin", tmp_path / "local"
    packages = tmp_path / "prefix" / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    for path in (folder, other, packages):
        path.mkdir(parents=True)
    root = Path(__file__).resolve().parents[2]
    shutil.copy(root / "examples/kata/bin/containerd-shim-pyvmm-v2", folder)
    (folder / "python3").symlink_to(os.path.realpath(sys.executable))
    (packages / "vmm").symlink_to(root / "vmm")
    (packages / "pyvmm_kata").symlink_to(root / "examples/kata/pyvmm_kata")
    link = other / "containerd-shim-pyvmm-v2"
    link.symlink_to(folder / "containerd-shim-pyvmm-v2")
    (other / "python3").symlink_to("/bin/false")
    for program in (link, folder / "containerd-shim-pyvmm-v2"):
        done = subprocess.run([str(program), "-id"], capture_output=True, text=True)
        assert (done.returncode, "-id has no value" in done.stderr) == (1, True), done.stderr
