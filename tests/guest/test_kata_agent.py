"""The agent of the container runtime's guest, spoken to as a host does: one pod, whose containers come and go."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.protocol.ttrpc import RpcError
from tests.guest.kata_pod import PATIENCE, SHARED, Pod, container_spec, make_root, process
from tests.netns import ip, own_network
from vmm import DiskConfig, NetConfig

MAC = "02:00:00:00:00:77"
MIB = 1 << 20


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """One machine for all tests of this file: each has containers of its own."""
    folder = tmp_path_factory.mktemp("pod")
    make_root(folder / "root")
    disk = folder / "disk"
    mke2fs = shutil.which("mke2fs", path=f"{os.environ['PATH']}:/usr/sbin") or "mke2fs"
    subprocess.run([mke2fs, "-q", "-t", "ext4", "-d", folder / "root", disk, "16M"], check=True)
    with own_network():
        ip("tuntap add tap0 mode tap; addr add 10.0.9.1/24 dev tap0; link set tap0 up")
        pod = Pod(folder, disks=(DiskConfig(str(disk), serial="root-1"),), nets=(NetConfig("tap", "tap0", mac=MAC),))
        try:
            pod.create_sandbox(sandbox_pidns=True)
            yield pod
        finally:
            print(pod.console())
            pod.close()


@pytest.fixture
def sleeper(pod: Pod) -> Iterator[str]:
    """A container that does nothing."""
    pod.run("sleeper", "sleep", "1000")
    yield "sleeper"
    pod.call("RemoveContainer", container_id="sleeper")


def execute(pod: Pod, name: str, script: str, exec_id: str = "x1") -> str:
    """What a script prints that runs beside the first process, and ends with 0."""
    pod.call("ExecProcess", container_id=name, exec_id=exec_id, process=process("sh", "-c", script))
    text = pod.read(name, exec_id)
    assert pod.wait(name, exec_id) == 0
    return text


def until(condition: Callable[[], Any]) -> Any:
    """Wait until it is true, and return it."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


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


def test_containers_share_the_network_and_have_their_own_processes(pod: Pod, sleeper: str) -> None:
    pod.run("other", "sleep", "1000")
    script = "hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; ls -d /proc/[0-9]*"
    inside = [execute(pod, name, script).split("\n") for name in (sleeper, "other")]
    pod.call("RemoveContainer", container_id="other")
    assert inside[0][:2] == inside[1][:2]
    assert inside[0][2] != inside[1][2], "each has an IPC namespace of its own"
    assert inside[0][0] == "pod"
    assert len([line for line in inside[0] if ":[" in line]) == 2
    assert "/proc/1" in inside[0] and len([line for line in inside[0] if line.startswith("/proc/")]) < 4


def test_containers_may_share_their_processes(pod: Pod) -> None:
    pod.run("one", "sleep", "1111", sandbox_pidns=True)
    assert "sleep 1111" in pod.output("two", "ps", sandbox_pidns=True)
    assert "sleep 1111" not in pod.output("two", "ps")
    pod.call("SignalProcess", container_id="one", exec_id="", signal=15)
    assert pod.wait("one") == 128 + 15
    pod.call("RemoveContainer", container_id="one")


def test_what_it_does_not_know(pod: Pod) -> None:
    with pytest.raises(RpcError) as error:
        pod.create("c2", spec=container_spec("env", root="../up"))
    assert error.value.code == "INVALID_ARGUMENT"
    with pytest.raises(RpcError, match=r"crun ended with status 1: \w"):
        pod.create("c2", spec=container_spec("env", root="/no/such"))
    with pytest.raises(RpcError) as error:
        pod.create("../c2", "env")
    assert error.value.code == "INVALID_ARGUMENT"
    assert pod.output("c2", "echo", "still there") == "still there\n"


def test_a_terminal(pod: Pod) -> None:
    spec = container_spec("sh", "-c", "stty size; read line; echo got $line; stty size", terminal=True)
    spec["Process"]["ConsoleSize"] = {"Height": 11, "Width": 22}
    pod.run("tty", spec=spec)
    text = b""
    while b"11 22" not in text:
        text += pod.call("ReadStdout", container_id="tty", len=100).data
    pod.call("TtyWinResize", container_id="tty", exec_id="tty", row=33, column=44)
    pod.call("WriteStdin", container_id="tty", data=b"words\r")
    rest = pod.read("tty")
    assert "got words\r\n" in rest and "33 44\r\n" in rest
    assert pod.wait("tty") == 0
    pod.call("RemoveContainer", container_id="tty")


def test_a_pause_stops_it(pod: Pod) -> None:
    def used() -> int:
        return int(pod.call("StatsContainer", container_id="busy").cgroup_stats.cpu_stats.cpu_usage.total_usage)

    def rests() -> bool:
        before = used()
        return used() == before and used() == before

    pod.run("busy", "sh", "-c", "while :; do :; done")
    pod.call("PauseContainer", container_id="busy")
    until(rests)
    before = used()
    pod.call("ResumeContainer", container_id="busy")
    until(lambda: used() > before)
    pod.call("RemoveContainer", container_id="busy")


def test_limits_and_what_is_used(pod: Pod) -> None:
    spec = container_spec("sleep", "1000", Memory={"Limit": 64 * MIB}, Pids={"Limit": 20})
    pod.run("small", spec=spec)
    pod.call("UpdateContainer", container_id="small", resources={"Memory": {"Limit": 32 * MIB}})
    stats = pod.call("StatsContainer", container_id="small")
    assert stats.cgroup_stats.memory_stats.usage.limit == 32 * MIB
    assert stats.cgroup_stats.memory_stats.usage.usage > 0
    assert stats.cgroup_stats.memory_stats.stats["anon"] > 0
    assert (stats.cgroup_stats.pids_stats.current, stats.cgroup_stats.pids_stats.limit) == (1, 20)
    assert [one.name for one in stats.network_stats] == ["eth0"]
    assert len(pod.call("ListProcesses", container_id="small").process_list.split(b",")) == 1
    pod.call("RemoveContainer", container_id="small")


def test_one_that_has_no_memory_left(pod: Pod) -> None:
    memory = {"Limit": 16 * MIB, "Swap": 16 * MIB}
    pod.run("greedy", spec=container_spec("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", Memory=memory))
    assert pod.wait("greedy") == 137
    assert pod.call("GetOOMEvent").container_id == "greedy"
    pod.call("RemoveContainer", container_id="greedy")


def test_the_walls_inside(pod: Pod) -> None:
    spec = container_spec("sh", "-c", "mknod /dev/k c 1 11; cat /dev/k; mkdir /tmp/x; cat /dev/null && id -u; id -G")
    rule = {"Names": ["mkdir"], "Action": "SCMP_ACT_ERRNO", "errnoret": 28}
    spec["Linux"]["Seccomp"] = {"DefaultAction": "SCMP_ACT_ALLOW", "Syscalls": [rule]}
    spec["Process"]["User"] = {"UID": 0, "GID": 0, "AdditionalGids": [7]}
    pod.run("wall", spec=spec)
    errors = pod.read("wall", method="ReadStderr")
    assert "/dev/k': Operation not permitted" in errors or "/dev/k: Operation not permitted" in errors  # the cgroup
    assert "No space left on device" in errors  # seccomp's errno
    assert pod.read("wall") == "0\n0 7\n"
    pod.call("RemoveContainer", container_id="wall")


def test_a_root_on_a_disk(pod: Pod) -> None:
    place = "/run/kata-containers/disk"
    storage = {"driver": "blk", "driver_options": ["serial=root-1"], "fstype": "ext4", "mount_point": place}
    scratch = {
        "driver": "ephemeral",
        "fstype": "tmpfs",
        "mount_point": "/run/kata-containers/e",
        "options": ["size=1M"],
    }
    spec = container_spec("sh", "-c", "echo kept >>/etc/file; cat /etc/file; ls -ld /tmp/e", root=place)
    bind = {"destination": "/tmp/e", "source": "/run/kata-containers/e", "type": "bind", "options": ["rbind", "rw"]}
    spec["Mounts"].append(bind)
    group = {"fs_group": {"group_id": 77}}
    texts = [pod.output("disk", spec=spec, storages=[storage, {**scratch, **group}]) for _ in range(2)]
    assert [text.count("kept") for text in texts] == [1, 2]
    assert " 77 " in texts[0] and "drwxrwsr" in texts[0]
    with pytest.raises(RpcError, match="no such disk"):
        pod.create("disk", "env", storages=[{**storage, "driver_options": ["serial=other"]}])


def test_the_network_is_what_the_host_says(pod: Pod, sleeper: str) -> None:
    address = {"address": "10.0.9.2", "mask": "24"}
    wanted: dict[str, Any] = {"name": "net0", "hwAddr": MAC, "mtu": 1400, "IPAddresses": [address]}
    pod.call("UpdateInterface", interface=wanted)
    pod.call("UpdateRoutes", routes={"Routes": [{"gateway": "10.0.9.1", "device": "net0"}]})
    neighbor = {"toIPAddress": {"address": "10.0.9.7"}, "device": "net0", "lladdr": "02:00:00:00:00:07", "state": 0x80}
    pod.call("AddARPNeighbors", neighbors={"ARPNeighbors": [neighbor]})
    (found,) = pod.call("ListInterfaces").Interfaces
    assert (found.name, found.hwAddr, found.mtu) == ("net0", MAC, 1400)
    assert ("10.0.9.2", "24") in [(one.address, one.mask) for one in found.IPAddresses]
    routes = [(one.dest, one.gateway) for one in pod.call("ListRoutes").Routes if one.family == 0]
    assert sorted(routes) == [("", "10.0.9.1"), ("10.0.9.0/24", "")]
    assert "02:00:00:00:00:07" in execute(pod, sleeper, "ip neigh")
    pod.run("web", "sh", "-c", "echo hello | nc -l -p 8080")

    def ask() -> bytes:
        try:
            with socket.create_connection(("10.0.9.2", 8080), 10) as sock:
                return sock.recv(100)
        except OSError:
            return b""

    assert until(ask) == b"hello\n"
    pod.call("RemoveContainer", container_id="web")
    # A second time: the same, not more
    pod.call("UpdateInterface", interface={**wanted, "name": "eth0"})
    (found,) = pod.call("ListInterfaces").Interfaces
    assert found.name == "eth0" and len([one for one in found.IPAddresses if one.family == 0]) == 1
    with pytest.raises(RpcError, match="No such device"):
        pod.call("UpdateInterface", interface={**wanted, "hwAddr": "02:00:00:00:00:78"})


def test_files_over_the_connection(pod: Pod) -> None:
    path = f"{SHARED}/box/rootfs/etc/deep/file"
    mode: dict[str, Any] = {"path": path, "file_size": 6, "file_mode": 0o100640, "dir_mode": 0o750, "uid": 5, "gid": 6}
    host = pod.shared / "box" / "rootfs" / "etc"
    pod.call("CopyFile", **mode, data=b"abc")
    assert not (host / "deep" / "file").exists()
    pod.call("CopyFile", **mode, offset=3, data=b"def")
    assert (host / "deep" / "file").read_bytes() == b"abcdef"
    assert (host / "deep" / "file").stat().st_mode & 0o777 == 0o640
    link: dict[str, Any] = {"path": f"{SHARED}/box/rootfs/etc/link", "file_mode": 0o120777, "data": b"/sbin"}
    pod.call("CopyFile", **link)
    assert (host / "link").readlink() == Path("/sbin")
    for wrong in (f"{SHARED}/box/rootfs/etc/link/init", "/etc/passwd", "/run/kata-containers/../x"):
        with pytest.raises(RpcError):
            pod.call("CopyFile", **{**mode, "path": wrong}, data=b"abcdef")


def test_the_machine(pod: Pod, sleeper: str) -> None:
    pod.call("SetGuestDateTime", Sec=2_000_000_000, Usec=5)
    assert 2_000_000_000 <= int(execute(pod, sleeper, "date +%s")) < 2_000_100_000
    pod.call("ReseedRandomDev", data=bytes(64))
    pod.call("OnlineCPUMem", nb_cpus=1, cpu_only=True)
    pod.call("OnlineCPUMem", cpus=1)
    with pytest.raises(RpcError, match="online: No such device"):
        pod.call("OnlineCPUMem", cpus=1000)
    with pytest.raises(RpcError) as error:
        pod.call("ReseedRandomDev", data=bytes(1000))
    assert error.value.code == "INVALID_ARGUMENT"


def test_the_end_of_the_sandbox_is_that_of_the_machine(pod: Pod) -> None:
    pod.call("DestroySandbox")
    end = pod.machine.wait(PATIENCE)
    assert end is not None and end.kind == "poweroff"
