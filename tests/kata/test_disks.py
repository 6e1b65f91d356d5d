"""Root file systems on disks, without a guest: what is one, what the guest is told, when its power goes;
and the images that `pyvmm run` unpacks, by the real tools."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata import run
from pyvmm_kata.bundle.bundle import Bundle
from pyvmm_kata.bundle.checks import check_spec
from pyvmm_kata.bundle.default_spec import default_spec
from pyvmm_kata.bundle.guest_config import guest_config
from pyvmm_kata.bundle.guest_devices import Volume
from pyvmm_kata.bundle.guest_share import Nowhere
from pyvmm_kata.bundle.guest_spec import place
from pyvmm_kata.bundle.images import open_image
from pyvmm_kata.bundle.root_disks import RootDisk, open_disk
from pyvmm_kata.bundle.settings import NETWORK, PUBLISH
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host.mounts import enter_namespace, mounts_below
from pyvmm_kata.host.namespaces import Member
from pyvmm_kata.pod import sandbox
from pyvmm_kata.pod.sandbox import Sandbox
from pyvmm_kata.pod.sandbox_config import SandboxConfig
from pyvmm_kata.pod.stdio import Stdio
from pyvmm_kata.protocol import protobuf, ttrpc
from pyvmm_kata.protocol.protobuf import Message
from pyvmm_kata.run_spec import make_spec
from pyvmm_kata.shim.rootfs import as_disk, mount_rootfs
from tests.kata.containerd import need
from tests.kata.fake_agent import FakeAgent, FakeVm
from tests.kata.fake_guest import Shim, refused
from tests.kata.oci_runtime import Runtime, needs_namespaces

SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
PATIENCE = 60.0


def make(path: Path, kind: str) -> Path:
    """A disk with such a file system, empty."""
    if kind == "squashfs":
        path.write_bytes(b"hsqs" + bytes(4092))  # all that is looked at
        return path
    (path.parent / "tree").mkdir(exist_ok=True)
    name = "mkfs.erofs" if kind == "erofs" else "mke2fs"
    program = shutil.which(name, path=SEARCH)
    if program is None:
        pytest.skip(f"no {name} on this host")
    if kind == "erofs":
        command = [program, "--quiet", str(path), str(path.parent / "tree")]
    else:
        command = [program, "-q", "-F", "-t", kind, str(path), "4M"]
    subprocess.run(command, check=True)
    return path


def leave_mount_at(path: Path) -> None:
    """As if its machine had lost power: the journal has to be replayed (s_feature_incompat, EXT4_FEATURE_INCOMPAT)."""
    with path.open("r+b") as file:
        file.seek(0x460)
        features = int.from_bytes(file.read(4), "little")
        file.seek(0x460)
        file.write((features | 4).to_bytes(4, "little"))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make(tmp_path / "root.img", "ext4")


@pytest.mark.parametrize(
    ("kind", "found", "read_only"),
    [("ext2", "ext4", False), ("ext4", "ext4", False), ("erofs", "erofs", True), ("squashfs", "squashfs", True)],
)
def test_what_is_a_root(tmp_path: Path, kind: str, found: str, read_only: bool) -> None:
    path = make(tmp_path / "root.img", kind)
    assert open_disk(str(path)) == RootDisk(str(path), found, read_only)
    assert open_image(str(path), str(tmp_path)) == (str(path), {})
    assert open_disk(str(path), read_only=True).read_only


@pytest.fixture
def device(disk: Path) -> Iterator[str]:
    """A block device with that disk's content."""
    losetup = shutil.which("losetup", path=SEARCH) or "losetup"
    try:
        done = subprocess.run([losetup, "-f", "--show", disk], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop device: {error}")
    yield done.stdout.strip()
    subprocess.run([losetup, "-d", done.stdout.strip()], check=True)


def test_a_block_device(tmp_path: Path, disk: Path, device: str) -> None:
    assert open_image(device, str(tmp_path)) == (device, {})
    assert open_disk(device) == RootDisk(device, "ext4")
    disk.write_bytes(bytes(1 << 20))
    with pytest.raises(ConfigError, match=f"{device}: there is no file system"):
        open_disk(open_image(device, str(tmp_path))[0])


def with_device(folder: Path, major: int, minor: int, access: str = "rwm") -> Bundle:
    """A bundle of a container that gets a block device of the host, as engines write it."""
    (folder / "rootfs").mkdir(exist_ok=True)
    spec = default_spec(["sh"], terminal=False)
    number = {"type": "b", "major": major, "minor": minor}
    spec["linux"]["devices"] = [{"path": "/dev/xvda", **number, "fileMode": 0o600}]
    spec["linux"]["resources"]["devices"] = [{"allow": False, "access": "rwm"}]
    spec["linux"]["resources"]["devices"].append({"allow": True, **number, "access": access})
    return Bundle(str(folder), spec)


def test_a_block_device_as_a_volume(tmp_path: Path, device: str) -> None:
    """It is a disk of the container's machine, whose number only the guest knows."""
    status = os.stat(device)
    number = os.major(status.st_rdev), os.minor(status.st_rdev)
    bundle = with_device(tmp_path, *number)
    assert bundle.volumes == (Volume(device, False),)
    told = guest_config(place(bundle, "c1", Nowhere()))
    linux, mark = json.loads(told.text)["linux"], f"@{told.mark}"
    inside = {"type": "b", "major": f"{mark}:major:volume-0", "minor": f"{mark}:minor:volume-0"}
    assert linux["devices"] == [{"path": "/dev/xvda", **inside, "fileMode": 0o600}]
    assert linux["resources"]["devices"][1:] == [{"allow": True, **inside, "access": "rwm"}]
    assert with_device(tmp_path, *number, access="rm").volumes == (Volume(device, True),)
    with pytest.raises(ConfigError, match=r"linux\.devices: .* has the disks of its start"):
        place(bundle, "c2", Nowhere(), members=[Member("c1", os.getpid())])
    told = guest_config(place(bundle, "c2", Nowhere(), members=[Member("c1", os.getpid())], serials=["root-3"]))
    (late,) = json.loads(told.text)["linux"]["devices"]
    assert (late["major"], late["minor"]) == (f"@{told.mark}:major:root-3", f"@{told.mark}:minor:root-3")


def test_a_block_device_that_the_host_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"linux\.devices\[0\]: '/dev/xvda': the host has no block device 1:9999"):
        with_device(tmp_path, 1, 9999)


def test_what_is_none(tmp_path: Path, disk: Path) -> None:
    (tmp_path / "zero").write_bytes(bytes(1 << 16))
    (tmp_path / "short").write_bytes(b"x")
    for name in ("zero", "short"):
        with pytest.raises(ConfigError, match=f"{name}: there is no file system") as error:
            open_disk(str(tmp_path / name))
        assert "mke2fs" in error.value.hint
    os.mkfifo(tmp_path / "fifo")
    for path, words in (("fifo", "neither a file"), ("gone", "No such file"), ("", "neither a file")):
        with pytest.raises(ConfigError, match=words):
            open_disk(str(tmp_path / path))
    leave_mount_at(disk)
    assert not open_disk(str(disk)).read_only
    with pytest.raises(ConfigError, match="journal") as error:
        open_disk(str(disk), read_only=True)
    assert "writable container" in error.value.hint


def test_a_bundle_says_read_only(tmp_path: Path, disk: Path) -> None:
    spec = default_spec(["true"], terminal=False, root="root.img")
    assert Bundle(str(tmp_path), spec).disk == RootDisk(str(disk), "ext4")
    spec["root"]["readonly"] = True
    assert Bundle(str(tmp_path), spec).disk == RootDisk(str(disk), "ext4", read_only=True)


# -- a sandbox with one ----------------------------------------------------------------------------------------------


class OrderedVm(FakeVm):
    """Notes when it ended, and when it was closed."""

    def __init__(self, agent: FakeAgent) -> None:
        super().__init__(agent)
        self.order: list[str] = []

    def watch(self, on_end: Callable[[str], None]) -> None:
        def ended(reason: str) -> None:
            self.order.append(reason)
            on_end(reason)

        super().watch(ended)

    def close(self) -> None:
        self.order.append("closed")
        super().close()


class Bench:
    """A sandbox whose one container has its root on a disk."""

    def __init__(self, folder: Path, disk: Path, *, read_only: bool = False, **replace: ttrpc.Handler) -> None:
        self.agent = FakeAgent(replace)
        self.vm = OrderedVm(self.agent)
        spec = default_spec(["/bin/true"], terminal=False, root=str(disk))
        spec["root"]["readonly"] = read_only
        self.bundle = Bundle(str(folder), spec)
        state = folder / "sandbox"
        state.mkdir()
        config = SandboxConfig("s1", str(state), "kernel", "image", root=self.bundle.disk)
        self.sandbox = Sandbox(config, lambda *_: self.vm)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[list[Bench]]:
    benches: list[Bench] = []
    yield benches
    for bench in benches:
        bench.sandbox.stop()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(), "mounts were left"


@needs_namespaces
@pytest.mark.parametrize("read_only", [False, True])
def test_what_the_guest_mounts(tmp_path: Path, disk: Path, made: list[Bench], read_only: bool) -> None:
    bench = Bench(tmp_path, disk, read_only=read_only)
    made.append(bench)
    bench.sandbox.start()
    bench.sandbox.create_container("c1", bench.bundle, Stdio())
    root = bench.agent.specs["c1"]["root"]
    assert (root["path"], root.get("readonly", False)) == ("/run/kata-containers/c1/rootfs", read_only)
    storages = bench.agent.requests["CreateContainer"].storages
    kinds = [(one.driver, one.fstype, one.mount_point.rpartition("/")[2]) for one in storages]
    if read_only:
        assert kinds == [("blk", "ext4", "disk"), ("ephemeral", "tmpfs", "layer"), ("overlayfs", "overlay", "rootfs")]
        assert "ro" in storages[0].options
    else:
        assert kinds == [("blk", "ext4", "rootfs")]
        assert "ro" not in storages[0].options
    assert list(storages[0].driver_options) == ["serial=root"]
    with pytest.raises(ConfigError, match="c2: its root is on the disk") as error:
        bench.sandbox.create_container("c2", bench.bundle, Stdio())
    assert "more_disks" in error.value.hint
    bench.sandbox.containers["c1"].delete(force=True)
    bench.sandbox.create_container("c3", bench.bundle, Stdio())
    assert os.listdir(Path(bench.sandbox.config.state_dir, "shared")) == []


@needs_namespaces
def test_the_power_goes_when_the_guest_has_written_back(tmp_path: Path, disk: Path, made: list[Bench]) -> None:
    bench = Bench(tmp_path, disk)
    made.append(bench)
    bench.sandbox.start()
    bench.sandbox.stop()
    assert bench.vm.order[:2] == ["poweroff", "closed"]


@needs_namespaces
def test_a_guest_that_never_has(tmp_path: Path, disk: Path, made: list[Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "UNMOUNT_S", 0.1)
    bench = Bench(tmp_path, disk, DestroySandbox=lambda *_: protobuf.message("google.protobuf.Empty")())
    made.append(bench)
    bench.sandbox.start()
    bench.sandbox.stop()
    assert bench.vm.order[0] == "closed"


# -- pyvmm-oci -------------------------------------------------------------------------------------------------------


@needs_namespaces
def test_a_life_on_a_disk(runtime: Runtime, disk: Path) -> None:
    runtime.started("c1", "trap 'exit 7' TERM; while :; do sleep 0.05; done", root={"path": str(disk)})
    assert runtime.state("c1")["rootfs"] == str(disk)
    runtime.check("kill", "c1")
    runtime.wait("c1", "stopped")
    runtime.check("delete", "c1")
    runtime.created("c2", "sleep 600", root={"path": str(disk), "readonly": True})
    runtime.check("delete", "--force", "c2")


@needs_namespaces
def test_a_container_with_a_disk_is_not_checkpointed(runtime: Runtime, disk: Path, device: str, tmp_path: Path) -> None:
    """It could not go on, and would have ended."""
    (tmp_path / "other").mkdir()
    status = os.stat(device)
    linux = with_device(tmp_path / "other", os.major(status.st_rdev), os.minor(status.st_rdev)).spec["linux"]
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("root.path", {"root": {"path": str(disk)}}),
        ("linux", {"linux": linux}),
    )
    for field, changes in cases:
        runtime.started("c1", "sleep 600", **changes)
        done = runtime.run("checkpoint", "--image-path", str(tmp_path / "image"), "c1")
        assert done.returncode == 1 and field in done.stderr and "is a disk" in done.stderr
        assert runtime.state("c1")["status"] == "running"
        runtime.check("delete", "--force", "c1")


def test_a_root_that_cannot_be(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "zero").write_bytes(bytes(4096))
    for path, words in ((tmp_path / "zero", "no file system on it"), ("/dev/null", "no directory, image file or")):
        done = runtime.run("run", "--bundle", runtime.bundle("true", root={"path": str(path)}), "c1")
        assert done.returncode == 1
        assert words in done.stderr


# -- containerd's shim -----------------------------------------------------------------------------------------------


def mount(kind: str, source: object, *options: str) -> Any:
    return protobuf.message("containerd.types.Mount")(type=kind, source=str(source), options=options)


def test_mounts_that_are_disks(tmp_path: Path, disk: Path) -> None:
    assert as_disk([mount("ext4", disk, "loop", "rw", "discard")]) == RootDisk(str(disk), "ext4", False, ("discard",))
    assert as_disk([mount("ext4", disk, "loop", "ro")]) == RootDisk(str(disk), "ext4", True)
    erofs = make(tmp_path / "layer.erofs", "erofs")
    assert as_disk([mount("erofs", erofs, "ro", "loop")]) == RootDisk(str(erofs), "erofs", True)
    for others in (
        [mount("bind", tmp_path, "rbind")],
        [mount("xfs", disk)],
        [mount("ext4", tmp_path / "gone")],
        [mount("erofs", erofs, "ro", f"device={erofs}")],
        [mount("ext4", disk), mount("bind", tmp_path)],
        [],
    ):
        assert as_disk(others) is None


def test_disks_of_a_pod(shim: Shim, disk: Path, tmp_path: Path) -> None:
    """Each container has its own, from its creation to its removal."""
    other = make(tmp_path / "other.img", "ext4")
    shim.run("c1", "exit", "3", rootfs=[mount("ext4", disk, "loop", "rw")])
    shim.run("c2", "sleep", rootfs=[mount("ext4", other, "loop", "ro")])
    assert list(shim.guest.disks.values()) == [RootDisk(str(disk), "ext4"), RootDisk(str(other), "ext4", True)]
    found = [shim.guest.storages[name][0].driver_options for name in ("c1", "c2")]
    assert found == [[f"serial={serial}"] for serial in shim.guest.disks]
    assert shim.wait("c1") == 3
    shim.delete("c1")
    assert list(shim.guest.disks.values()) == [RootDisk(str(other), "ext4", True)]
    shim.guest.handlers["CreateContainer"] = refuse
    assert refused(lambda: shim.create("c3", "exit", "0", rootfs=[mount("ext4", disk, "loop")])) == "INTERNAL"
    assert list(shim.guest.disks.values()) == [RootDisk(str(other), "ext4", True)]
    shim.call("Kill", "KillRequest", id="c2", signal=9)
    assert shim.wait("c2") == 137
    shim.delete("c2")
    assert shim.guest.disks == {}


def refuse(_request: Any, _call: ttrpc.Call) -> Any:
    raise ttrpc.RpcError("INTERNAL", "no")


def test_a_disk_in_a_pod_of_folders(shim: Shim, disk: Path) -> None:
    shim.run("c1", "exit", "0")
    code = refused(lambda: shim.create("c2", "exit", "0", rootfs=[mount("ext4", disk, "loop")]))
    assert code == "INVALID_ARGUMENT"
    assert (shim.guest.disks, list(shim.guest.storages)) == ({}, ["c1"])


def test_a_disk_that_cannot_be(shim: Shim, tmp_path: Path) -> None:
    (tmp_path / "zero").write_bytes(bytes(4096))
    assert refused(lambda: shim.create("c1", "exit", "0", rootfs=[mount("ext4", tmp_path / "zero", "loop")]))
    assert shim.guests == []


# -- mounts that containerd's snapshotters describe, made for real in a mount namespace of the test's ----------------


def mount_at(kind: str, source: str, *options: str, target: str = "") -> Message:
    return protobuf.message("containerd.types.Mount")(type=kind, source=source, target=target, options=options)


def apart(work: Callable[[], None]) -> None:
    """Run a test in a thread that has a mount namespace of its own."""
    need()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            import ctypes

            ctypes.CDLL(None).unshare(0x200)  # a namespace is for threads that share no working directory
            enter_namespace()
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def test_a_folder_read_only(tmp_path: Path) -> None:
    def work() -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "file").write_text("content")
        (tmp_path / "target").mkdir()
        mount_rootfs([mount_at("bind", str(tmp_path / "source"), "rbind", "ro")], str(tmp_path / "target"))
        assert (tmp_path / "target" / "file").read_text() == "content"
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "target" / "new").write_text("")

    apart(work)


@pytest.mark.parametrize("layers", [2, 120])
def test_layers(tmp_path: Path, layers: int) -> None:
    """The kernel takes one page of options, which a hundred layers by their full paths do not fit in."""

    def work() -> None:
        base = tmp_path / ("snapshots-" + "x" * 60)
        for number in range(layers):
            (base / str(number) / "fs").mkdir(parents=True)
            (base / str(number) / "fs" / f"from-{number}").write_text("")
        for name in ("upper", "work", "target"):
            (tmp_path / name).mkdir()
        stack = ":".join(str(base / str(number) / "fs") for number in range(layers))
        options = [f"workdir={tmp_path}/work", f"upperdir={tmp_path}/upper", f"lowerdir={stack}"]
        before = os.getcwd()
        try:
            mount_rootfs([mount_at("overlay", "overlay", *options)], str(tmp_path / "target"))
        except HostError as error:
            pytest.skip(f"this kernel has no overlay here: {error}")
        assert os.getcwd() == before
        found = {path.name for path in (tmp_path / "target").iterdir()}
        assert found == {f"from-{number}" for number in range(layers)}
        (tmp_path / "target" / "new").write_text("written")
        assert (tmp_path / "upper" / "new").read_text() == "written"

    apart(work)


@pytest.mark.parametrize(
    "bad, problem",
    [
        (mount_at("bind", "/", "rbind", target="/etc"), "only mounts of the root itself"),
        (mount_at("ext4", "/image", "loop"), "loop device"),
        (
            mount_at("overlay", "overlay", "lowerdir=" + ":".join(f"/x/{n}" for n in range(2000))),
            "bytes of mount options",
        ),
    ],
)
def test_mounts_that_make_no_sense(tmp_path: Path, bad: Message, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        mount_rootfs([bad], str(tmp_path))


def test_nothing_is_mounted_when_one_of_several_fails(tmp_path: Path) -> None:
    def work() -> None:
        good, bad = mount_at("bind", "/usr", "rbind"), mount_at("bind", "/no/such/folder", "rbind")
        with pytest.raises(HostError, match="/no/such/folder"):
            mount_rootfs([good, bad], str(tmp_path))
        assert mounts_below(str(tmp_path)) == []

    apart(work)


# -- pyvmm run: what the user asks for, as config.json, and images -------------------------------------------------


def spec_of(tmp_path: Path, *arguments: str, process: dict[str, Any] | None = None) -> dict[str, Any]:
    options = run.parser().parse_args([*arguments])
    spec = make_spec(options, "/rootfs", process or {}, str(tmp_path), "c1")
    check_spec(spec)
    return spec


def test_options_become_config_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "k")
    monkeypatch.chdir(tmp_path)
    arguments = "-it -v site:/srv:ro -p 8080:80 -p 127.0.0.1:53:53/udp -e A=1 -e KEPT -e GONE -m 64M --cpus 1.5 -w /srv"
    spec = spec_of(tmp_path, *arguments.split(), "-u", "5:6", "--read-only", "image", "sh", "-c", "exit 3")
    process = spec["process"]
    assert (process["args"], process["cwd"], process["terminal"]) == (["sh", "-c", "exit 3"], "/srv", True)
    assert process["user"] == {"uid": 5, "gid": 6}
    assert {"A=1", "KEPT=k"} <= set(process["env"])
    assert not any(entry.startswith("GONE") for entry in process["env"])
    (volume,) = (mount for mount in spec["mounts"] if mount["destination"] == "/srv")
    assert volume["source"] == str(tmp_path / "site")
    assert "ro" in volume["options"]
    assert spec["root"] == {"path": "/rootfs", "readonly": True}
    assert spec["linux"]["resources"]["memory"] == {"limit": 64 << 20}
    assert spec["linux"]["resources"]["cpu"] == {"quota": 150_000, "period": 100_000}
    assert spec["annotations"] == {NETWORK: "user", PUBLISH: "8080:80 127.0.0.1:53:53/udp"}
    assert (tmp_path / "resolv.conf").read_text().startswith("nameserver ")


def test_the_image_says_what_the_user_does_not(tmp_path: Path) -> None:
    wanted = {"args": ["/bin/serve"], "env": ["PATH=/bin", "A=1"], "cwd": "/data", "user": {"uid": 7, "gid": 8}}
    spec = spec_of(tmp_path, "-e", "A=2", "image", process=wanted)
    process = spec["process"]
    assert (process["args"], process["cwd"], process["user"]) == (["/bin/serve"], "/data", {"uid": 7, "gid": 8})
    assert process["env"] == ["PATH=/bin", "A=2"]


def test_no_network_and_that_of_a_namespace(tmp_path: Path) -> None:
    assert spec_of(tmp_path, "--network", "none", "image", "sh")["annotations"] == {}
    spec = spec_of(tmp_path, "--network", "/run/netns/x", "image", "sh")
    assert {"type": "network", "path": "/run/netns/x"} in spec["linux"]["namespaces"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["image"], "which program"),
        (["-v", "x", "image", "sh"], "is not DIR:PATH"),
        (["-v", "a:b", "image", "sh"], "is not DIR:PATH"),
        (["-m", "much", "image", "sh"], "is no size"),
        (["--cpus", "0.001", "image", "sh"], "is not 0.01"),
        (["-p", "http", "image", "sh"], "publish=http"),
        (["-p", "1:1", "--network", "none", "image", "sh"], "--publish is of --network user"),
        (["--network", "bridge", "image", "sh"], "is not user, none"),
        (["-u", "root", "image", "sh"], "is not UID"),
        (["-e", "=1", "image", "sh"], "has no name"),
    ],
)
def test_what_cannot_be(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        spec_of(tmp_path, *arguments)


def test_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder, disk, OCI layout or archive"):
        open_image(str(tmp_path / "none"), str(tmp_path))
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(ConfigError, match="no archive of an image"):
        open_image(str(tmp_path / "text"), str(tmp_path))
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("file"), io.BytesIO())
    with pytest.raises(ConfigError, match="of no image"):
        open_image(str(tmp_path / "other.tar"), str(tmp_path))
    (tmp_path / "rootfs").mkdir()
    assert open_image(str(tmp_path / "rootfs"), str(tmp_path)) == (str(tmp_path / "rootfs"), {})


needs_tools = pytest.mark.skipif(
    shutil.which("umoci") is None or shutil.which("skopeo") is None, reason="umoci and skopeo are not installed"
)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI layout with one image, made by umoci."""
    path = tmp_path / "layout"
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "hello").write_text("hello\n")
    for command in (
        ["init", "--layout", str(path)],
        ["new", "--image", f"{path}:one"],
        ["insert", "--image", f"{path}:one", str(tmp_path / "files"), "/data"],
        ["config", "--image", f"{path}:one", "--config.cmd", "/bin/serve", "--config.env", "A=1"],
    ):
        subprocess.run(["umoci", *command], check=True, capture_output=True)
    return path


@needs_tools
def test_an_oci_layout(layout: Path, tmp_path: Path) -> None:
    for number, name in enumerate((str(layout), f"{layout}:one", f"oci:{layout}:one")):
        folder = tmp_path / f"unpacked{number}"
        folder.mkdir()
        rootfs, process = open_image(name, str(folder))
        assert Path(rootfs, "data", "hello").read_text() == "hello\n"
        assert process["args"] == ["/bin/serve"]
        assert "A=1" in process["env"]


@needs_tools
def test_a_layout_with_several_images(layout: Path, tmp_path: Path) -> None:
    subprocess.run(["umoci", "tag", "--image", f"{layout}:one", "two"], check=True, capture_output=True)
    with pytest.raises(ConfigError, match="2 images with a name"):
        open_image(str(layout), str(tmp_path))


@needs_tools
def test_a_docker_archive(layout: Path, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    copy = ["skopeo", "copy", "--insecure-policy", f"oci:{layout}:one", f"docker-archive:{archive}:one:latest"]
    subprocess.run(copy, check=True, capture_output=True)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    rootfs, process = open_image(str(archive), str(folder))
    assert Path(rootfs, "data", "hello").read_text() == "hello\n"
    assert json.dumps(process["args"]) == '["/bin/serve"]'
