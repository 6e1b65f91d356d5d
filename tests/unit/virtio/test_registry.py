"""One line for each built-in device, from which the command line, its help and the library's names are made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vmm
from tests import tiny
from tests.sample_devices import Echo
from tests.unit.boot.images import MIB
from tools import exports
from tools.where import ROOT
from vmm import (
    BalloonConfig,
    BootConfig,
    ConsoleConfig,
    DeviceConfig,
    DiskConfig,
    HotplugMemoryConfig,
    Machine,
    MachineConfig,
    MemoryConfig,
    NetConfig,
    Opening,
    PmemConfig,
    RngConfig,
    ShareConfig,
    VirtioDevice,
    VsockConfig,
)
from vmm.cli.boot import config_from
from vmm.cli.boot import main as boot
from vmm.virtio.registry import BUILT_IN, BuiltIn

each = pytest.mark.parametrize("device", BUILT_IN, ids=lambda device: device.package)


def run_python(code: str) -> list[str]:
    """The words that a fresh interpreter prints."""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_every_package_of_a_device_has_its_line() -> None:
    folders = {path.parent.name for path in (ROOT / "vmm" / "virtio").glob("*/__init__.py")}
    assert folders == {device.package for device in BUILT_IN}


@each
def test_the_record_is_where_the_line_says(device: BuiltIn) -> None:
    record = device.load()
    assert issubclass(record, DeviceConfig)
    assert record.__module__ == f"vmm.virtio.{device.package}"
    value = getattr(MachineConfig(BootConfig("vmlinux")), device.field)
    assert device.one is (not isinstance(value, tuple))


@each
def test_nothing_of_a_device_is_forgotten(device: BuiltIn) -> None:
    """Tests, specification, reference, guide and changelog: see CONTRIBUTING.md, "A new built-in device"."""
    tests = [path for folder in ("unit", "hostile") for path in (ROOT / "tests" / folder).rglob("test_*.py")]
    assert any(f"vmm.virtio.{device.package}" in path.read_text() for path in tests), "no test imports it"
    for text, where in (
        (f"virtio/{device.package}/", "docs/reference/spec-map.md"),
        (f"vmm.virtio.{device.package}", "docs/reference/python.rst"),
        (device.flag, "CHANGELOG.md"),
    ):
        assert text in (ROOT / where).read_text(), where
    guides = "".join(path.read_text() for path in (ROOT / "docs" / "guide").glob("*.md"))
    assert device.flag in guides, "no page of docs/guide names its flag"


@each
def test_the_library_exports_its_names(device: BuiltIn) -> None:
    assert vmm.__getattr__(device.record) is device.load()
    for name in device.names:
        assert name in dir(vmm)
        assert run_python(f"from vmm import {name}; print({name}.__module__)") == [device.module]


def test_a_star_brings_every_name() -> None:
    names = run_python("from vmm import *; print(*globals())")
    assert {"Machine", *(name for device in BUILT_IN for name in device.names)} <= set(names)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchConfig"):
        vmm.__getattr__("NoSuchConfig")


def test_type_checkers_see_the_same_names() -> None:
    assert exports.shown(exports.PAGE.read_text()) == exports.imports(), "python -m tools.exports --write"


@each
def test_help_tells_of_its_flag_and_of_each_key(device: BuiltIn, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        boot(["--help"])
    assert caught.value.code == 0
    text = "".join(capsys.readouterr().out.split())
    syntax = device.syntax()
    for said in (
        f"{device.flag} {syntax.first or 'SPEC'} {syntax.text}",
        *(f"{key.shown()} {key.text}" for key in syntax.keys),
    ):
        assert said.replace(" ", "") in text


@pytest.mark.parametrize(
    ("record", "package"),
    [
        ("", ""),
        ("disks=(DiskConfig('d'),)", "blk"),
        ("vsock=VsockConfig(uds='s')", "vsock"),
        ("balloon=BalloonConfig()", "balloon"),
        ("hotplug_memory=HotplugMemoryConfig(128 << 20)", "mem"),
    ],
)
def test_code_is_imported_of_devices_alone_that_are_configured(record: str, package: str, tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(bytes(4096))
    words = run_python(
        f"import os, sys; sys.path.insert(0, os.getcwd()); os.chdir({str(tmp_path)!r})\n"
        "from vmm import *; from vmm.events import Loop; from vmm.board.owned import Owned\n"
        "from vmm.board.open_devices import open_devices; import vmm.cli.boot\n"
        f"config = MachineConfig(BootConfig('k'), {record})\n"
        "owned = Owned()\n"
        "open_devices(config.device_configs(), config, Loop(), owned, {}, False); owned.close()\n"
        "print(*sys.modules)"
    )
    names = [word.split(".") for word in words if word.startswith("vmm.virtio.")]
    code = {name[2] for name in names if len(name) == 4 and name[3] != "config"}
    assert code == ({package} if package else set())


def test_the_order_of_slots(tmp_path: Path) -> None:
    """Guests name disks by it, and network devices: vda is the root, eth0 the first of the nets."""
    config = MachineConfig(
        BootConfig("vmlinux"),
        rootfs=DiskConfig("root"),
        disks=(DiskConfig("a"), DiskConfig("b")),
        console=ConsoleConfig(device="virtio"),
        shares=(ShareConfig("x"), ShareConfig("y", tag="t")),
        vsock=VsockConfig(uds="s"),
        nets=(NetConfig("user"),),
        balloon=BalloonConfig(),
        pmems=(PmemConfig("p"),),
    )
    records = config.device_configs()
    assert [record.path for record in records if isinstance(record, DiskConfig)] == ["root", "a", "b"]
    assert [record.tag for record in records if isinstance(record, ShareConfig)] == ["share", "t"]
    kinds = [DiskConfig] * 3 + [ShareConfig] * 2
    kinds += [NetConfig, PmemConfig, BalloonConfig, VsockConfig, ConsoleConfig]  # type: ignore[list-item]
    assert [type(record) for record in records] == kinds


@pytest.mark.parametrize("transport", ["mmio", "pci"])
def test_what_a_machine_has_by_default_is_behind_all_others(tmp_path: Path, transport: str) -> None:
    (tmp_path / "disk").write_bytes(bytes(4096))
    for rng in (RngConfig(), None):
        config = MachineConfig(
            BootConfig(tiny.make(tmp_path, tiny.POWEROFF)),
            MemoryConfig(32 * MIB),
            disks=(DiskConfig(str(tmp_path / "disk")),),
            transport=transport,
            rng=rng,
        )
        with Machine(config, devices=(Echo(),)) as machine:
            names = [device.name for device in machine.devices]
        assert names == [f"disk {tmp_path}/disk", "echo", *(["rng"] if rng else [])]


class EchoConfig(DeviceConfig):
    """The record of a device that is not built in."""

    def __init__(self, places: list[int]) -> None:
        self.places = places

    def open(self, opening: Opening) -> VirtioDevice:
        self.places.append(opening.place)
        assert (opening.cpus, opening.ram) == (2, 32 * MIB)
        return Echo()


def test_a_record_of_ones_own_is_opened_like_the_built_in_ones(tmp_path: Path) -> None:
    places: list[int] = []
    kernel = tiny.make(tmp_path, tiny.POWEROFF)
    devices = (EchoConfig(places), EchoConfig(places))
    with Machine(MachineConfig(BootConfig(kernel), MemoryConfig(32 * MIB), 2, more_devices=devices)) as machine:
        assert [type(device) for device in machine.devices[:2]] == [Echo, Echo]
        assert places == [0, 1]
        assert machine.run(timeout=60).kind == "poweroff"


@pytest.mark.parametrize(
    ("typed", "field", "value"),
    [
        ({"disk": ["a", "b,ro"]}, "disks", (DiskConfig("a"), DiskConfig("b", read_only=True))),
        ({"net": ["none"]}, "nets", ()),
        ({"balloon": ["on", "size=4M"]}, "balloon", BalloonConfig(4 * MIB)),
        ({"hotplug-memory": ["size=1G,block=4M"]}, "hotplug_memory", HotplugMemoryConfig(1 << 30, 4 * MIB)),
        ({}, "vsock", None),
        ({"console-device": ["serial", "virtio"]}, "console", ConsoleConfig(device="virtio")),
        ({}, "console", ConsoleConfig()),
    ],
)
def test_what_users_type_becomes_the_field(typed: dict[str, list[str]], field: str, value: object) -> None:
    from vmm.cli.boot import OPTIONS
    from vmm.cli.options import parse_fast

    words = [word for flag, texts in typed.items() for text in texts for word in (f"--{flag}", text)]
    values = parse_fast(OPTIONS, ["--kernel", "vmlinux", *words])
    assert values is not None
    assert getattr(config_from(values, ConsoleConfig()), field) == value
