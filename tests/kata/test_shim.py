"""The service of the containerd shim: tasks, execs, pods, events, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata import protobuf, ttrpc
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.protobuf import Message
from pyvmm_kata.sandbox.bundle import Bundle
from pyvmm_kata.shim.boot import pod_resources
from tests.kata.fake_guest import PATIENCE
from tests.kata.shim_rig import PID, Shim, refused


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
