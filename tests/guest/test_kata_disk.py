"""Containers whose root file system is on a disk, which only the guest mounts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.bundle.default_spec import default_spec
from pyvmm_kata.image_store.store import ImageStore
from pyvmm_kata.protocol import protobuf, ttrpc
from pyvmm_kata.shim.bootstrap import Arguments, Place
from tests.guest.kata_tools import BIN, PATIENCE, Oci, check_jail, eventually, leftovers
from tests.guest.shared import loop_device, tool
from tests.scripts import WAIT

TASK = "containerd.task.v2"


@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oci]:
    made = Oci(tmp_path_factory.mktemp("disk"))
    yield made
    made.close()


@pytest.fixture
def ext4(oci: Oci, tmp_path: Path) -> Path:
    tool("mke2fs", "-q", "-t", "ext4", "-d", str(oci.rootfs), str(tmp_path / "root.ext4"), "24M")
    return tmp_path / "root.ext4"


def pyvmm_run(oci: Oci, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYVMM_KATA_CONFIG": str(oci.settings)}
    command = [str(BIN / "pyvmm"), "run", "--network", "none", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_written_stays_on_the_disk(oci: Oci, ext4: Path) -> None:
    """Also when its container is deleted while it runs; meanwhile nobody else can have the disk."""
    script = "echo kept >>/root/file; dd if=/dev/zero of=/root/zeros bs=1M count=4 2>/dev/null; cat /root/file"
    oci.start("c1", f"{script}; {WAIT}", root={"path": str(ext4)})
    eventually(lambda: (oci.folder / "c1.out").read_text() == "kept\n", "it says nothing")
    done = pyvmm_run(oci, str(ext4), "true")
    assert done.returncode != 0
    assert f"disk {ext4}: in use by process" in done.stderr
    oci.check("delete", "--force", "c1")
    tool("e2fsck", "-fn", str(ext4))  # it was unmounted: nothing is to be mended
    done = pyvmm_run(oci, str(ext4), "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "kept\nkept\n"), done.stderr
    tool("e2fsck", "-fn", str(ext4))
    assert "Size: 4194304" in tool("debugfs", "-R", "stat /root/zeros", str(ext4))
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def test_nothing_is_written_that_must_not_be(oci: Oci, ext4: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("content\n")
    before = digest(ext4)
    arguments = ["--read-only", "-v", f"{tmp_path / 'data'}:/new/place/data", str(ext4)]
    done = pyvmm_run(oci, *arguments, "sh", "-c", "touch /root/x; cat /new/place/data; cat /proc/mounts")
    assert "Read-only file system" in done.stderr
    assert done.stdout.startswith("content\n")
    assert digest(ext4) == before
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


@pytest.mark.long  # half a minute
def test_a_disk_that_cannot_be_written_to(oci: Oci, tmp_path: Path) -> None:
    """What the container writes is in its machine's memory, and several containers can have the disk at a time."""
    image = tmp_path / "root.erofs"
    tool("mkfs.erofs", "--quiet", str(image), str(oci.rootfs))
    os.truncate(image, -(-image.stat().st_size // 4096) * 4096)
    before = digest(image)
    script = f"echo new >/root/file; cat /root/file; stat -c %a /; {WAIT}"
    oci.start("c1", script, root={"path": str(image)})
    done = pyvmm_run(oci, str(image), "sh", "-c", "ls /root; echo mine >/bin/new && cat /bin/new")
    assert (done.returncode, done.stdout) == (0, "mine\n"), done.stderr
    oci.check("delete", "--force", "c1")
    assert (oci.folder / "c1.out").read_text() == "new\n755\n"
    assert digest(image) == before
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def test_an_image_of_the_store_is_mapped_by_all_machines(oci: Oci, tmp_path: Path) -> None:
    """It is persistent memory in the guest: no disk, no copy of its pages in the guest's memory."""
    image = ImageStore(str(tmp_path / "store")).add(str(oci.rootfs), "box")
    before = digest(Path(image.path))
    oci.start("c1", f"echo mine >/new; cat /new; {WAIT}", root={"path": image.path})
    script = "ls /sys/class/block; cat /sys/class/block/pmem1/size; cat /new; exit 3"
    done = pyvmm_run(oci, "--store", str(tmp_path / "store"), "--pull", "never", "box", "sh", "-c", script)
    lines = done.stdout.splitlines()
    assert done.returncode == 3, done.stderr
    assert lines == ["pmem0", "pmem1", str(image.size // 512)]
    assert "can't open '/new'" in done.stderr
    oci.check("delete", "--force", "c1")
    assert (oci.folder / "c1.out").read_text() == "mine\n"
    assert digest(Path(image.path)) == before
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


# -- block devices of the host as volumes ------------------------------------------------------------------------------


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The backing file of a loop device of 4 MiB, and its number."""
    image = tmp_path / "volume.img"
    image.write_bytes(bytes(4 << 20))
    with loop_device(image) as path:
        status = os.stat(path)
        yield image, {"type": "b", "major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}


def test_a_block_device_as_a_volume(oci: Oci, device: tuple[Path, dict[str, Any]]) -> None:
    """The container has it under its own name; what it has written is on the host's device when it has ended."""
    image, number = device
    devices = [{"path": "/dev/xvda", **number, "fileMode": 0o640, "gid": 7}]

    def start(name: str, script: str, access: str) -> str:
        rules = {"devices": [{"allow": False, "access": "rwm"}, {"allow": True, **number, "access": access}]}
        oci.start(name, f"exec 2>&1; {script}; echo done", linux__devices=devices, linux__resources=rules)
        eventually(lambda: (oci.folder / f"{name}.out").read_text().endswith("done\n"), "it says nothing")
        oci.check("delete", "--force", name)
        return (oci.folder / f"{name}.out").read_text()

    show = "stat -c '%F %a %g' /dev/xvda; cat /sys/class/block/vda/size"
    text = start("v1", f"{show}; echo from the guest | dd of=/dev/xvda bs=512 seek=9 conv=notrunc 2>/dev/null", "rwm")
    assert text == "block special file 640 7\n8192\ndone\n"
    assert image.read_bytes()[9 * 512 :].startswith(b"from the guest\n")
    before = digest(image)
    text = start("v2", "dd if=/dev/xvda bs=512 skip=9 count=1 2>/dev/null | head -n 1; echo x >/dev/xvda", "r")
    assert text.startswith("from the guest\n") and "Operation not permitted" in text
    assert digest(image) == before
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


# -- containerd's shim, as containerd calls it with a snapshotter of disks ---------------------------------------------


class ShimOfDisks:
    """A shim, which containerd starts with the first container; all of them are in one pod."""

    def __init__(self, oci: Oci, folder: Path, pod: str = "") -> None:
        self.settings = oci.settings
        self.folder = folder
        self.annotations = {"io.kubernetes.cri.sandbox-id": pod} if pod else {}
        self.address = str(folder / "containerd.sock")
        self.client: ttrpc.Client | None = None

    def run(self, name: str, script: str, *rootfs: Any, linux: dict[str, Any] | None = None) -> None:
        """Create and start a container of such mounts; its output goes to a file."""
        bundle = self.folder / name
        bundle.mkdir(exist_ok=True)
        spec = {**default_spec(["sh", "-c", script], terminal=False), "annotations": self.annotations}
        spec["linux"] = {**spec["linux"], **(linux or {})}
        (bundle / "config.json").write_text(json.dumps(spec))
        if self.client is None:
            self.place = Place.of(Arguments(name, "test", self.address, str(bundle), "", 2))
            self.client = self._start(name, bundle)
        out = self.folder / f"{name}.out"
        out.write_text("")
        self.call("Create", "CreateTaskRequest", id=name, bundle=str(bundle), rootfs=rootfs, stdout=str(out))
        self.call("Start", "StartRequest", id=name)

    def _start(self, name: str, bundle: Path) -> ttrpc.Client:
        os.mkfifo(bundle / "log")
        command = [str(BIN / "containerd-shim-pyvmm-v2"), "-namespace", "test", "-address", self.address]
        environment = {**os.environ, "PYVMM_KATA_CONFIG": str(self.settings), "TTRPC_ADDRESS": ""}
        done = subprocess.run(
            [*command, "-publish-binary", "/bin/true", "-id", name, "start"],
            cwd=bundle, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(done.stdout.removeprefix("unix://"))
        return ttrpc.Client(sock, "the shim")

    def call(self, method: str, kind: str, **fields: Any) -> Any:
        assert self.client is not None
        return self.client.call(f"{TASK}.Task", method, protobuf.message(f"{TASK}.{kind}")(**fields), PATIENCE)

    def finish(self, name: str) -> tuple[int, str]:
        """Wait for a container's end, and remove it; its status and its output."""
        status = int(self.call("Wait", "WaitRequest", id=name).exit_status)
        self.call("Delete", "DeleteRequest", id=name)
        return status, (self.folder / f"{name}.out").read_text()

    def close(self, name: str) -> None:
        """As containerd does when no container is left."""
        try:
            self.call("Shutdown", "ShutdownRequest", id=name)
            eventually(lambda: not os.path.exists(self.place.folder), "the shim lives")
        finally:
            self.place.kill()


def loop(kind: str, path: Path, *options: str) -> Any:
    """A mount as containerd's snapshotters describe it that keep file systems in files."""
    return protobuf.message("containerd.types.Mount")(type=kind, source=str(path), options=["loop", *options])


def test_a_snapshot_that_is_a_disk(oci: Oci, ext4: Path, tmp_path: Path) -> None:
    shim = ShimOfDisks(oci, tmp_path)
    try:
        shim.run("c1", "echo kept >/root/file; grep -c ext4 /proc/mounts; exit 3", loop("ext4", ext4, "rw"))
        assert shim.finish("c1") == (3, "1\n")
    finally:
        shim.close("c1")
    tool("e2fsck", "-fn", str(ext4))
    assert "Size: 5\n" in tool("debugfs", "-R", "stat /root/file", str(ext4))
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


@pytest.mark.parametrize("first", ["disk", "folder"])
def test_disks_come_and_go_in_a_pod(
    oci: Oci, ext4: Path, tmp_path: Path, device: tuple[Path, dict[str, Any]], first: str
) -> None:
    """Roots of containers and block devices, whose machine is in a jail.  The first container, Kubernetes' pause, has a
    folder where the snapshotter makes no disks."""
    image, number = device
    rules = {"devices": [{"allow": False, "access": "rwm"}, {"allow": True, **number, "access": "rwm"}]}
    linux = {"devices": [{"path": "/dev/xvda", **number, "fileMode": 0o600}], "resources": rules}
    other = tmp_path / "other.ext4"
    shutil.copy(ext4, other)
    shim = ShimOfDisks(oci, tmp_path, "pod")
    root = loop("ext4", ext4, "ro")
    if first == "folder":
        shim.settings = tmp_path / "kata.toml"
        shim.settings.write_text(f"{oci.settings.read_text()}more_disks = true\n")
        root = protobuf.message("containerd.types.Mount")(type="bind", source=str(oci.rootfs), options=["rbind", "ro"])
    try:
        shim.run("pause", "sleep 100000", root)
        check_jail(shim.call("Connect", "ConnectRequest", id="pause").shim_pid)
        for count in (1, 2):
            script = "echo kept >>/root/file; cat /root/file; dd if=/dev/xvda bs=512 count=1 2>/dev/null; hostname"
            script += f"; echo written {count} | dd of=/dev/xvda conv=notrunc,fsync 2>/dev/null; exit 4"
            shim.run("c1", script, loop("ext4", other, "rw"), linux=linux)
            status, output = shim.finish("c1")
            assert (status, output.count("kept"), output.count("written 1")) == (4, count, count - 1)
            assert image.read_bytes().startswith(f"written {count}\n".encode())
            tool("e2fsck", "-fn", str(other))  # the host has it back, and nothing is to be mended
        check_jail(shim.call("Connect", "ConnectRequest", id="pause").shim_pid)
        shim.call("Kill", "KillRequest", id="pause", signal=9)
        assert shim.finish("pause")[0] == 137
    finally:
        shim.close("pause")
    eventually(lambda: leftovers(oci.folder) == [], "something is left")
