"""Clients of Firecracker's API that others wrote, unchanged: each boots, saves and restores a machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.firecracker.program import Program
from tests.netns import ip, own_network

pytestmark = [
    pytest.mark.long,  # installs them from the package index
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here"),
]
CLIENTS = (
    "firecracker-python==0.0.5",
    "bandsox==3.5",
    "celesto==0.1.10",
    "celesto-core ~= 2026.10.25",
    "microheart==0.3.0",
)
NEEDS = ("requests >= 2.34", "requests-unixsocket >= 0.4")
# Modules of the clients alone: their packages' own modules import Docker's client and the like
BEGIN = """
import sys, sysconfig, types
first, second, kernel, disk, copy, folder = sys.argv[1:]
for name in ("firecracker", "bandsox", "celesto"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [sysconfig.get_path("purelib") + "/" + name]
"""
SCRIPTS = {
    "firecracker-python": """
from firecracker.api import Api, APIError
api = Api(first)
assert api.describe.get().json()["state"] == "Not started"
try:
    api.boot.put(kernel_image_path="/missing")
except APIError as error:
    assert "/missing" in str(error)
api.boot.put(kernel_image_path=kernel, boot_args="console=ttyS0 reboot=k panic=1")
api.drive.put(drive_id="rootfs", path_on_host=disk, is_root_device=True, is_read_only=False)
api.machine_config.put(vcpu_count=1, mem_size_mib=32)
api.actions.put(action_type="InstanceStart")
api.vm.patch(state="Paused")
api.create_snapshot.put(mem_file_path=folder + "/memory", snapshot_path=folder + "/state")
api.close()
other = Api(second)
other.load_snapshot.put(
    enable_diff_snapshots=True, resume_vm=False, snapshot_path=folder + "/state",
    mem_backend={"backend_type": "File", "backend_path": folder + "/memory"},
)
assert other.describe.get().json()["state"] == "Paused"
other.drive.patch(drive_id="rootfs", path_on_host=copy)
other.vm.patch(state="Resumed")
assert other.vm_config.get().json()["machine-config"]["mem_size_mib"] == 32
""",
    "bandsox": """
from bandsox.firecracker import FirecrackerClient
client = FirecrackerClient(first)
assert client.wait_for_socket()
client.put_machine_config(1, 32)
client.put_boot_source(kernel, "console=ttyS0 reboot=k panic=1 pci=off")
client.put_drives("rootfs", disk, is_root_device=True, rate_limit_iops=1000)
client.put_entropy()
client.instance_start()
client.pause_vm()
client.create_snapshot(folder + "/state", folder + "/memory")
other = FirecrackerClient(second)
other.load_snapshot(folder + "/state", folder + "/memory")
other.patch_drive("rootfs", copy)
other.resume_vm()
""",
    "celesto": """
from pathlib import Path
from celesto.api import FirecrackerClient
client = FirecrackerClient(Path(first))
client.wait_for_socket()
client.set_machine_config(1, 32)
client.set_boot_source(Path(kernel))
client.add_drive("rootfs", Path(disk))
client.start_instance()
client.pause_vm()
client.create_snapshot(Path(folder + "/state"), Path(folder + "/memory"))
other = FirecrackerClient(Path(second))
other.load_snapshot(Path(folder + "/state"), Path(folder + "/memory"), track_dirty_pages=False)
assert other.get_instance_info()["state"] == "Paused"
other._request("PATCH", "/drives/rootfs", json={"drive_id": "rootfs", "path_on_host": copy})
other.resume_vm()
assert other.get_instance_info()["state"] == "Running"
other.send_ctrl_alt_del()
""",
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the clients."""
    place = tmp_path_factory.mktemp("clients")
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [str(place / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", *CLIENTS], check=True)
    subprocess.run([*pip, *NEEDS], check=True)
    return place / "bin" / "python"


@pytest.mark.parametrize("name", SCRIPTS)
def test_clients_work_unchanged(start: Callable[..., Program], python: Path, tmp_path: Path, name: str) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    first, second = start("--enable-pci"), start("--enable-pci", name="two")
    kernel = tiny.make(tmp_path, tiny.say(">"), tiny.ECHO)
    (tmp_path / "copy").write_bytes(disk.read_bytes())
    words = [first.socket, second.socket, kernel, disk, tmp_path / "copy", tmp_path]
    subprocess.run([python, "-c", BEGIN + SCRIPTS[name], *map(str, words)], check=True)
    second.type(b"x")
    assert second.read(1) in (b"x", b">")


MICROHEART = """
import json, sys
from pathlib import Path
from microheart.vm import MicroVM
machine = MicroVM()
if len(sys.argv) > 2:
    machine.registry.create(machine.name)
    Path(sys.argv[2]).write_text(json.dumps(machine.config(Path(sys.argv[1]))))
else:
    machine.sock = sys.argv[1]
    config = machine.machine_config()
    assert (config["vcpu_count"], config["mem_size_mib"]) == (1, 256), config
"""


def test_microheart_boots_its_configuration(start: Callable[..., Program], python: Path, tmp_path: Path) -> None:
    """Its configuration file, its command line and its request. What it does by ssh needs a whole guest."""
    os.rename(tiny.make(tmp_path, tiny.say(">"), tiny.ECHO), tmp_path / "vmlinux-tiny")
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    env = {**os.environ, "MICROHEART_HOME": str(tmp_path)}
    subprocess.run([python, "-c", MICROHEART, tmp_path / "disk", tmp_path / "config"], env=env, check=True)
    with own_network():
        ip("tuntap add mh0 mode tap")
        program = start("--config-file", str(tmp_path / "config"), "--enable-pci")
        assert program.read(1) == b">"
        subprocess.run([python, "-c", MICROHEART, program.socket], env=env, check=True)
        program.type(b"x")
        assert program.read(1) == b"x"
