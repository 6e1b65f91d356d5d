"""The containerd shim as containerd uses it: its service over a real socket, with a guest that is none."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata import proto, ttrpc
from pyvmm_kata.bundle import Bundle
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.mounts import SharedDirectory
from pyvmm_kata.proto import Message
from pyvmm_kata.sandbox import Sandbox, SandboxConfig, SandboxEvent
from pyvmm_kata.shim.boot import pod_resources
from pyvmm_kata.shim.pod import Pod
from pyvmm_kata.shim.tasks import PACKAGES, TaskService
from tests.kata.fake_guest import PATIENCE, FakeGuest

PID = 4242


class PlainDirectory(SharedDirectory):
    """A share without mounts, which not everybody may make."""

    def make(self) -> None:
        os.makedirs(self.path, exist_ok=True)

    def bind(self, source: str, name: str, *, recursive: bool = True, read_only: bool = False) -> str:
        os.makedirs(os.path.join(self.path, name), exist_ok=True)
        return f"/guest/{name}"

    def unbind(self, name: str) -> None:
        pass

    def remove(self) -> None:
        pass


class Shim:
    """A pod, its service on a socket, and the events that it sent."""

    def __init__(self, folder: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pyvmm_kata.sandbox.SharedDirectory", PlainDirectory)
        self.folder = folder
        self.package = package
        self.events: list[Message] = []
        self.published = threading.Condition()
        self.guests: list[FakeGuest] = []
        self.ended = threading.Event()
        self.pod = Pod(self._sandbox, self._publish, PID)
        self.service = TaskService(package, self.pod, "2", self.ended.set)
        self.server = ttrpc.Server({self.service.name: self.service.handlers()})
        ours, theirs = socket.socketpair()
        self.server.serve_connection(theirs)
        self.client = ttrpc.Client(ours, "the shim")

    def _sandbox(self, bundle: Bundle, options: Message | None, listener: Callable[[SandboxEvent], None]) -> Sandbox:
        def boot(config: SandboxConfig, folder: str, shared: str) -> FakeGuest:
            self.guests.append(FakeGuest(config, folder, shared))
            return self.guests[-1]

        made = Sandbox(SandboxConfig("pod", str(self.folder), "kernel", "image"), boot)
        made.listen(listener)
        made.start()
        return made

    def _publish(self, content: Message) -> None:
        with self.published:
            self.events.append(content)
            self.published.notify_all()

    @property
    def guest(self) -> FakeGuest:
        return self.guests[-1]

    def bundle(self, task_id: str, args: list[str], **process: Any) -> str:
        path = self.folder / f"bundle-{task_id}"
        (path / "rootfs").mkdir(parents=True)
        spec = {
            "ociVersion": "1.1.0",
            "root": {"path": "rootfs"},
            "process": {"args": args, "cwd": "/", **process},
            "linux": {},
        }
        (path / "config.json").write_text(json.dumps(spec))
        return str(path)

    def call(self, method: str, kind: str, **fields: Any) -> Message:
        message = proto.message(f"{self.package}.{kind}")(**fields)
        return self.client.call(self.service.name, method, message, PATIENCE)

    def create(self, task_id: str, *args: str, **fields: Any) -> Message:
        bundle = self.bundle(task_id, list(args), terminal=fields.get("terminal", False))
        return self.call("Create", "CreateTaskRequest", id=task_id, bundle=bundle, **fields)

    def run(self, task_id: str, *args: str, **fields: Any) -> None:
        self.create(task_id, *args, **fields)
        self.call("Start", "StartRequest", id=task_id)

    def exec(self, task_id: str, exec_id: str, *args: str, **fields: Any) -> None:
        process = json.dumps({"args": list(args), "cwd": "/"}).encode()
        spec = proto.message("google.protobuf.Any")(type_url="x/Process", value=process)
        self.call("Exec", "ExecProcessRequest", id=task_id, exec_id=exec_id, spec=spec, **fields)

    def wait(self, task_id: str, exec_id: str = "") -> int:
        return int(self.call("Wait", "WaitRequest", id=task_id, exec_id=exec_id).exit_status)

    def delete(self, task_id: str, exec_id: str = "") -> Message:
        return self.call("Delete", "DeleteRequest", id=task_id, exec_id=exec_id)

    def state(self, task_id: str, exec_id: str = "") -> str:
        number = self.call("State", "StateRequest", id=task_id, exec_id=exec_id).status
        names = ("CREATED", "RUNNING", "STOPPED", "PAUSED")
        return {proto.enum_value("containerd.v1.types.Status", name): name for name in names}[number]

    def wait_for_events(self, count: int) -> list[str]:
        with self.published:
            assert self.published.wait_for(lambda: len(self.events) >= count, PATIENCE), self.names()
        return self.names()

    def names(self) -> list[str]:
        return [event.DESCRIPTOR.name for event in self.events]


@pytest.fixture(params=PACKAGES)
def shim(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shim]:
    made = Shim(tmp_path, request.param, monkeypatch)
    yield made
    made.client.close()
    made.server.close()
    made.pod.close()


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ttrpc.RpcError) as caught:
        call()
    return caught.value.code


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
    found = proto.parse(proto.message(packed.type_url), packed.value)
    assert (found.cpu.usage_usec, found.memory.usage, found.memory.anon) == (7000, 4096, 1024)
    assert (found.memory_events.oom_kill, found.pids.current) == (2, 3)
    assert [(one.major, one.minor, one.rbytes) for one in found.io.usage] == [(254, 1, 512)]


def test_processes_are_listed_with_the_number_they_have_on_the_host(shim: Shim) -> None:
    shim.run("c1", "sleep")
    shim.exec("c1", "e1", "sleep")
    shim.call("Start", "StartRequest", id="c1", exec_id="e1")
    listed = shim.call("Pids", "PidsRequest", id="c1").processes
    assert [one.pid for one in listed] == [PID, PID]
    details = proto.parse(proto.message(listed[1].info.type_url), listed[1].info.value)
    assert details.exec_id == "e1"


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
    monkeypatch.setattr("pyvmm_kata.shim.stdio.READER_S", 0.05)
    os.mkfifo(tmp_path / "out")
    with pytest.raises(ttrpc.RpcError, match="nobody reads it"):
        shim.create("c1", "print", "hello", stdout=str(tmp_path / "out"))
    assert shim.pod.is_empty


def test_a_terminal_has_a_size(shim: Shim) -> None:
    shim.run("c1", "sleep", terminal=True)
    shim.call("ResizePty", "ResizePtyRequest", id="c1", width=80, height=25)
    assert shim.guest.processes["c1", "c1"].size == (25, 80)


@pytest.mark.parametrize(
    "call, code",
    [
        (lambda shim: shim.state("no"), "NOT_FOUND"),
        (lambda shim: shim.state("c1", "no"), "NOT_FOUND"),
        (lambda shim: shim.delete("c1"), "FAILED_PRECONDITION"),
        (lambda shim: shim.call("Start", "StartRequest", id="c1"), "FAILED_PRECONDITION"),
        (lambda shim: shim.call("Create", "CreateTaskRequest", id="c1", bundle="/nowhere"), "ALREADY_EXISTS"),
        (lambda shim: shim.call("Create", "CreateTaskRequest", id="c2", bundle="/nowhere"), "INVALID_ARGUMENT"),
        (lambda shim: shim.call("Create", "CreateTaskRequest", id="c2", checkpoint="/x"), "UNIMPLEMENTED"),
        (lambda shim: shim.call("Checkpoint", "CheckpointTaskRequest", id="c1"), "UNIMPLEMENTED"),
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


def test_the_end_of_the_guest_is_the_end_of_its_containers(shim: Shim) -> None:
    shim.run("c1", "sleep")
    shim.exec("c1", "e1", "sleep")
    shim.call("Start", "StartRequest", id="c1", exec_id="e1")
    shim.guest.die()
    assert shim.wait("c1") == 255
    assert shim.wait("c1", "e1") == 255
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
