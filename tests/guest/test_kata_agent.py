"""The agent of the container runtime's guest, spoken to as a host does: one pod, whose containers come and go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm_kata.ttrpc import RpcError
from tests.guest.kata_pod import Pod, container_spec, process


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """One machine for all tests of this file: each has containers of its own."""
    pod = Pod(tmp_path_factory.mktemp("pod"))
    try:
        pod.create_sandbox(sandbox_pidns=True)
        yield pod
    finally:
        print(pod.console())
        pod.close()


def test_it_says_who_it_is(pod: Pod) -> None:
    assert pod.call("Check", service="grpc.Health").status == 1
    assert pod.call("Version", service="grpc.Health").agent_version
    details = pod.call("GetGuestDetails").agent_details
    assert details.init_daemon and details.supports_seccomp and "virtio-fs" in details.storage_handlers


def test_a_container_prints_and_ends(pod: Pod) -> None:
    pod.run("c1", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert pod.read("c1") == "out\n"
    assert pod.read("c1", method="ReadStderr") == "err\n"
    assert pod.wait("c1") == 7
    assert pod.wait("c1", "c1") == 7
    pod.call("RemoveContainer", container_id="c1")
    with pytest.raises(RpcError, match="no container c1"):
        pod.wait("c1")


def test_containers_share_the_network_and_have_their_own_processes(pod: Pod) -> None:
    pod.run("one", "sleep", "1000")
    pod.run("two", "sleep", "1000")
    try:
        script = "hostname; readlink /proc/self/ns/net /proc/self/ns/ipc; ls -d /proc/[0-9]*"
        inside = [pod_exec(pod, name, script).split("\n") for name in ("one", "two")]
        assert inside[0] == inside[1]
        assert inside[0][0] == "pod"
        assert len([line for line in inside[0] if ":[" in line]) == 2
        assert "/proc/1" in inside[0] and len([line for line in inside[0] if line.startswith("/proc/")]) < 4
    finally:
        for name in ("one", "two"):
            pod.call("RemoveContainer", container_id=name)


def pod_exec(pod: Pod, name: str, script: str, exec_id: str = "x1") -> str:
    pod.call("ExecProcess", container_id=name, exec_id=exec_id, process=process("sh", "-c", script))
    text = pod.read(name, exec_id)
    assert pod.wait(name, exec_id) == 0
    return text


def test_what_it_does_not_know(pod: Pod) -> None:
    with pytest.raises(RpcError) as error:
        pod.create("c2", spec={**container_spec("env"), "Root": {"Path": "../up"}})
    assert error.value.code == "INVALID_ARGUMENT"
    with pytest.raises(RpcError, match="no/such") as error:
        pod.create("c2", spec={**container_spec("env"), "Root": {"Path": "/no/such"}})
    with pytest.raises(RpcError) as error:
        pod.create("../c2", "env")
    assert error.value.code == "INVALID_ARGUMENT"
    assert pod.output("c2", "echo", "still there") == "still there\n"
