"""What of config.json the guest is told, what it has of its own, and what is refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.errors import ConfigError
from pyvmm_kata.host.namespaces import Member, owner
from pyvmm_kata.oci.spec import default_spec
from pyvmm_kata.sandbox.bundle import Bundle
from pyvmm_kata.sandbox.guest_config import guest_config
from pyvmm_kata.sandbox.guest_devices import ALL_DEVICES
from pyvmm_kata.sandbox.guest_share import Nowhere
from pyvmm_kata.sandbox.guest_spec import check, place

NULL = {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}
HOST_DEVICE = {"path": "/dev/cpu_dma_latency", "type": "c", "major": 10, "minor": 124}
EVERYTHING = {"allow": True, "access": "rwm"}


def bundle_with(folder: Path, mounts: list[dict[str, Any]] | None = None, **linux: Any) -> Bundle:
    (folder / "rootfs").mkdir(exist_ok=True)
    spec = default_spec(["sh"], terminal=False)
    if mounts is not None:
        spec["mounts"] = mounts
    spec["linux"].update(linux)
    if "uts" not in [entry["type"] for entry in spec["linux"]["namespaces"]]:
        del spec["hostname"]
    return Bundle(str(folder), spec)


def guest(bundle: Bundle, *members: Member) -> dict[str, Any]:
    made: dict[str, Any] = place(bundle, "c1", Nowhere(), members=members)
    guest_config(made).message.SerializeToString()
    return made


def mount(folder: Path, source: str, **fields: Any) -> dict[str, Any]:
    """What the guest is told of a volume."""
    volume = {"destination": "/x", "type": "bind", "source": source, "options": ["rbind"], **fields}
    made: dict[str, Any] = guest(bundle_with(folder, [volume]))["mounts"][0]
    return made


# -- volumes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["/sys", "//sys", "/sys/", "/proc/../sys", "LINK/sys", "/proc/self/root/sys"])
def test_the_hosts_kernel_is_not_shared_however_it_is_written(tmp_path: Path, source: str) -> None:
    (tmp_path / "link").symlink_to("/")
    assert mount(tmp_path, source.replace("LINK", str(tmp_path / "link")))["source"] == "/sys"


@pytest.mark.parametrize("source", ["/proc/sys/kernel", "/dev", "/dev/pts", "/sys/kernel"])
def test_the_guest_shows_its_own(tmp_path: Path, source: str) -> None:
    assert mount(tmp_path, source)["source"] == source


def test_a_folder_that_only_looks_so(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    assert mount(tmp_path, f"{tmp_path}/sys")["source"] == "c1/0-x"
    if os.stat("/dev/shm").st_dev != os.stat("/dev").st_dev:
        assert mount(tmp_path, "/dev/shm")["source"] == "c1/0-x", "a tmpfs of the host's with files of the user's"


def test_sysfs_in_a_user_namespace(tmp_path: Path) -> None:
    sysfs = {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}
    own, mapped = (
        guest(bundle_with(tmp_path, [sysfs], namespaces=[{"type": kind}]))["mounts"][0] for kind in ("pid", "user")
    )
    assert own == sysfs
    assert (mapped["type"], mapped["source"], mapped["options"]) == ("bind", "/sys", ["rbind", "ro"])


@pytest.fixture
def procfs(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "procfs"
    path.mkdir()
    if subprocess.run(["mount", "-t", "proc", "proc", str(path)], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_the_hosts_kernel_mounted_elsewhere(tmp_path: Path, procfs: Path) -> None:
    with pytest.raises(ConfigError, match="the host's kernel has this file"):
        mount(tmp_path, f"{procfs}/1")


def test_devices_are_told_by_their_number(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    assert mount(tmp_path, str(tmp_path / "link"))["source"] == "/dev/null"
    os.mkfifo(tmp_path / "null")
    with pytest.raises(ConfigError, match="no file, directory or socket"):
        mount(tmp_path, str(tmp_path / "null"))


def test_sockets_are_told_by_their_kind(tmp_path: Path) -> None:
    kinds = {"stream": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET, "datagram": socket.SOCK_DGRAM}
    made = {name: socket.socket(socket.AF_UNIX, kind) for name, kind in kinds.items()}
    os.symlink(tmp_path, link := f"/tmp/pyvmm-spec-{os.getpid()}")
    try:
        for name, sock in made.items():
            sock.bind(f"{link}/{name}")
            if name != "datagram":
                sock.listen(0)
        assert mount(tmp_path, str(tmp_path / "stream"))["source"] == "c1/0.sock"
        with pytest.raises(ConfigError, match="a socket of datagrams cannot be given"):
            mount(tmp_path, str(tmp_path / "datagram"))
        for _ in range(2):  # the second time with a connection in its backlog, which has no room for more
            with pytest.raises(ConfigError, match=r"a socket of packets \(SOCK_SEQPACKET\) cannot be given"):
                mount(tmp_path, str(tmp_path / "seqpacket"))
        made["stream"].settimeout(0)
        with pytest.raises(BlockingIOError):
            made["stream"].accept()  # nobody has connected to find it out
        made["stream"].close()
        assert mount(tmp_path, str(tmp_path / "stream"))["source"] == "c1/0.sock"
    finally:
        os.unlink(link)
        for sock in made.values():
            sock.close()


def test_shared_memory_is_the_guests(tmp_path: Path) -> None:
    first = mount(tmp_path, str(tmp_path), destination="/dev/shm")
    assert mount(tmp_path, f"{tmp_path}/.", destination="//dev/./shm/")["source"] == first["source"]
    (tmp_path / "other").mkdir()
    assert mount(tmp_path, str(tmp_path / "other"), destination="dev/shm")["source"] != first["source"]


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ({"options": ["rbind", "idmap"]}, "(idmap) cannot be given to a guest"),
        ({"options": ["bind", "ridmap=uids=0-1-2"]}, "(idmap) cannot be given to a guest"),
        ({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}, "(idmap) cannot be given to a guest"),
        ({"options": ["rbind", "rshared"]}, "what a guest mounts cannot appear on the host"),
        ({"options": ["shared", "bind", "ro"]}, "what a guest mounts cannot appear on the host"),
        ({"type": "overlay", "options": ["lowerdir=/no/such"]}, "mounts[0].options: /no/such: No such file"),
        ({"type": "overlay", "options": ["lowerdir=/tmp:/sys", "ro"]}, "mounts[0].options: /sys: a directory of the"),
        ({"type": "overlay", "options": ["lowerdir=a"]}, "mounts[0].options: 'a' is no absolute path"),
    ],
)
def test_volumes_that_cannot_be(tmp_path: Path, volume: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        mount(tmp_path, "/tmp", **volume)
    assert words in str(error.value)


# -- devices and privileges ------------------------------------------------------------------------------------------


def test_a_device_is_what_its_number_says(tmp_path: Path) -> None:
    assert guest(bundle_with(tmp_path, devices=[NULL]))["linux"]["devices"] == [NULL]
    for device in (HOST_DEVICE, {**HOST_DEVICE, "path": "/dev/null"}, {**NULL, "type": "b"}):
        with pytest.raises(ConfigError, match=r"linux\.devices\[0\]\.path: .* the guest has no such device"):
            check(bundle_with(tmp_path, devices=[device]))


def privileged(folder: Path, *rules: dict[str, Any], capabilities: tuple[str, ...] = ()) -> Bundle:
    bundle = bundle_with(folder, devices=[NULL, HOST_DEVICE], resources={"devices": list(rules)})
    bundle.spec["process"]["capabilities"]["bounding"] += capabilities
    return bundle


def test_who_may_do_everything_has_what_the_guest_has(tmp_path: Path) -> None:
    """`--privileged` of podman, ctr and CRI names all devices of the host."""
    everything = ("CAP_SYS_ADMIN", "CAP_SYS_RAWIO", "CAP_MKNOD")
    made = guest(privileged(tmp_path, EVERYTHING, capabilities=everything))
    assert made["linux"]["devices"] == [NULL, ALL_DEVICES]
    for bundle in (
        privileged(tmp_path, EVERYTHING),
        privileged(tmp_path, {"allow": False, "access": "rwm"}, capabilities=everything),
        privileged(tmp_path, {**EVERYTHING, "type": "c", "major": 10, "minor": 124}, capabilities=everything),
    ):
        with pytest.raises(ConfigError, match="cpu_dma_latency"):
            check(bundle)


def test_podmans_privileged(tmp_path: Path) -> None:
    """Of podman's file everything but what makes it privileged."""
    config = json.loads(Path(__file__).with_name("configs.json").read_text())["podman"]
    config["root"]["path"], config["mounts"] = str(tmp_path), []
    check(Bundle(str(tmp_path), config))


# -- namespaces ------------------------------------------------------------------------------------------------------


def kinds(spec: dict[str, Any]) -> dict[str, str]:
    return {entry["type"]: entry.get("path", "") for entry in spec["linux"]["namespaces"]}


def test_what_is_new_what_is_shared_and_what_is_the_guests(tmp_path: Path) -> None:
    wanted = [{"type": "network", "path": "/run/netns/x"}, {"type": "ipc"}, {"type": "pid", "path": "/proc/77/ns/pid"}]
    made = guest(bundle_with(tmp_path, namespaces=wanted), Member("first", 77), Member("second", 77))
    assert kinds(made) == {"mount": "", "ipc": "", "pid": "container:first"}
    assert "hostname" not in made, "it is the guest's: there is no namespace for one of its own"


@pytest.mark.parametrize(
    "path", ["/proc/1/ns/ipc", "/proc/77/ns/ipc", "/no/such", "/proc/self/ns/ipc", "//proc/1/ns/x"]
)
def test_namespaces_of_the_host_and_of_other_machines(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"linux\.namespaces\[0\]\.path: .* is the host's, or that of a container in"):
        check(bundle_with(tmp_path, namespaces=[{"type": "ipc", "path": path}]), [Member("c1", 1 << 30)])


def test_settings_of_ipc_go_where_its_namespace_is(tmp_path: Path) -> None:
    settings = {"kernel.shmmax": "1", "net/ipv4/conf/eth0.1/forwarding": "1", "kernel.domainname": "d"}
    own = guest_config(guest(bundle_with(tmp_path, sysctl=settings)))
    assert json.loads(own.text)["linux"]["sysctl"] == {"kernel.shmmax": "1", "kernel.domainname": "d"}
    assert dict(own.message.Linux.Sysctl) == {"net.ipv4.conf.eth0/1.forwarding": "1"}
    guests = guest_config(guest(bundle_with(tmp_path, sysctl=settings, namespaces=[{"type": "uts"}])))
    assert json.loads(guests.text)["linux"]["sysctl"] == {"kernel.domainname": "d"}
    assert set(guests.message.Linux.Sysctl) == {"net.ipv4.conf.eth0/1.forwarding", "kernel.shmmax"}


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"intelRdt": {"closID": "x"}}, "linux.intelRdt"),
        ({"resources": {"blockIO": {"weight": 100}}}, "linux.resources.blockIO.weight"),
        (
            {"resources": {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]}}},
            "linux.resources.blockIO.throttleReadBpsDevice",
        ),
    ],
)
def test_limits_of_the_hosts_disks_and_caches_are_refused(tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"config.json: {named}: "):
        check(bundle_with(tmp_path, **fields))


def test_limits_that_are_empty_are_none(tmp_path: Path) -> None:
    check(bundle_with(tmp_path, intelRdt={}, resources={"blockIO": {"weight": 0, "weightDevice": []}}))


PORTS, PING = "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"
MAPPED: dict[str, Any] = {
    "namespaces": [{"type": "user"}],
    "gidMappings": [
        {"containerID": 0, "hostID": 5000, "size": 10},
        {"containerID": 10, "hostID": 100, "size": 1},
    ],
}


def test_what_root_of_a_user_namespace_may_do_in_its_network(tmp_path: Path) -> None:
    """The network is the machine's, and so are the ids in its settings."""
    bundle = bundle_with(tmp_path, **MAPPED, sysctl={PING: "2 4"})
    capabilities = bundle.spec["process"]["capabilities"]["bounding"]
    assert "CAP_NET_BIND_SERVICE" in capabilities
    assert guest(bundle)["linux"]["sysctl"] == {PORTS: "0", PING: "5002 5004"}
    capabilities.remove("CAP_NET_BIND_SERVICE")
    assert guest(bundle)["linux"]["sysctl"] == {PING: "5002 5004"}
    assert guest(bundle_with(tmp_path, sysctl={PING: "2 4"}))["linux"]["sysctl"] == {PING: "2 4"}


@pytest.mark.parametrize("groups", ["0 10", "11 11", "1 0", "0 2147483647", "-1 0", "0", "x y"])
def test_groups_that_no_mapping_has_whole(tmp_path: Path, groups: str) -> None:
    bundle = bundle_with(tmp_path, **MAPPED, sysctl={PING: groups, PORTS: "80"})
    assert guest(bundle)["linux"]["sysctl"] == {PORTS: "80", PING: groups}


def test_no_field_is_lost(tmp_path: Path) -> None:
    """What the message has no field for: the guest's crun sees all of config.json."""
    bundle = bundle_with(
        tmp_path,
        resources={"unified": {"memory.high": "83886080"}, "devices": [{"allow": False, "access": "rwm"}]},
        personality={"domain": "LINUX32"},
        timeOffsets={"monotonic": {"secs": 100}},
    )
    bundle.spec["domainname"] = "example.org"
    bundle.spec["process"] |= {"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4}, "scheduler": {"nice": 5}}
    bundle.spec["process"]["user"]["umask"] = 0o27
    made = json.loads(guest_config(guest(bundle)).text)
    assert made["domainname"] == "example.org"
    assert made["process"] == {**bundle.spec["process"]}
    for key in ("personality", "timeOffsets", "seccomp", "maskedPaths", "rootfsPropagation"):
        assert made["linux"].get(key) == bundle.spec["linux"].get(key), key
    assert made["linux"]["resources"]["unified"] == {"memory.high": "83886080"}


def test_only_the_guest_knows(tmp_path: Path) -> None:
    """Its strings cannot be written by a user: the mark is another one each time."""
    entries = [{"type": "uts"}, {"type": "ipc", "path": "/proc/4711/ns/ipc"}]
    spec = guest(bundle_with(tmp_path, namespaces=entries), Member("other", 4711))
    one, two = guest_config(spec, "name"), guest_config(spec)
    made = json.loads(one.text)
    assert {"type": "ipc", "path": f"@{one.mark}:ns:ipc:other"} in made["linux"]["namespaces"]
    assert one.mark not in two.text
    assert made["hostname"] == spec.get("hostname", "name")


@pytest.fixture
def face() -> Iterator[int]:
    """A process with namespaces of its own."""
    command = ["unshare", "--ipc", "--uts", "cat"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(b"x")
        process.stdin.flush()
    except BrokenPipeError:
        pass
    if process.stdout.read(1) != b"x":
        pytest.skip("needs the right to make namespaces")
    yield process.pid
    process.stdin.close()
    process.wait()
    process.stdout.close()


def test_whose_namespace_it_is(face: int, tmp_path: Path) -> None:
    ours, its = Member("ours", os.getpid()), Member("its", face)
    assert owner(f"/proc/{face}/ns/ipc", "ipc", [ours, its]) == "its"
    assert owner(f"//proc/{face}/task/{face}/ns/uts", "uts", [ours, its]) == "its"
    assert owner(f"/proc/{os.getpid()}/ns/ipc", "ipc", [its]) is None
    assert owner(f"/proc/{os.getpid()}/ns/ipc", "ipc", [ours]) == "ours"
    (tmp_path / "ipc").touch()
    subprocess.run(["mount", "--bind", f"/proc/{face}/ns/ipc", str(tmp_path / "ipc")], check=True)
    try:
        assert owner(str(tmp_path / "ipc"), "ipc", [ours, its]) == "its", "the same one, bound elsewhere"
        assert owner(str(tmp_path / "ipc"), "ipc", [ours]) is None
    finally:
        subprocess.run(["umount", str(tmp_path / "ipc")], check=True)
    # The host's own, which every monitor is in: it is no container's, whatever number it has
    assert owner("/proc/1/ns/ipc", "ipc", [ours]) is None
