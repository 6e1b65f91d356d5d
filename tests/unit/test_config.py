"""What users type: sizes, disks, machines."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from vmm.config.sizes import parse_size
from vmm.errors import ConfigError
from vmm.faststart.record import replace
from vmm.machine.config import BootConfig, MachineConfig, MemoryConfig
from vmm.virtio.blk.config import DiskConfig
from vmm.virtio.vsock.config import VsockConfig


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1K", 1024),
        ("256M", 256 << 20),
        ("256MiB", 256 << 20),
        ("2g", 2 << 30),
        ("1T", 1 << 40),
        ("8B", 8),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1.5G", "12X", "1 M", "0x10", "١M", "9" * 30, "iB"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_size(text, "--memory")
    assert "--memory" in str(caught.value) and repr(text) in str(caught.value)
    assert caught.value.hint


def test_a_disk_with_everything() -> None:
    disk = DiskConfig.parse("a,,b.img,ro,serial=S1,direct,cache=writethrough,queues=3")
    assert disk == DiskConfig("a,b.img", True, "S1", True, "writethrough", 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",ro",
        "x,rw",
        "x,ro=1",
        "x,cache=none",
        "x,serial",
        f"x,serial={'s' * 21}",
        "x,queues=a",
        "x,queues=65",
        "x,serial=\n",
    ],
)
def test_a_disk_that_is_not_right_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        DiskConfig.parse(text)


@pytest.mark.parametrize("cpus", [0, -1, 33])
def test_the_number_of_vcpus_is_checked(cpus: int) -> None:
    with pytest.raises(ConfigError, match="vCPU"):
        MachineConfig(BootConfig("k"), cpus=cpus)


def test_configs_cannot_be_changed_but_replaced() -> None:
    config = MachineConfig(BootConfig("k"))
    with pytest.raises(AttributeError):
        config.cpus = 3  # type: ignore[misc]
    assert replace(config, cpus=3).cpus == 3
    assert config == MachineConfig(BootConfig("k")) != replace(config, cpus=3)
    assert hash(config) == hash(MachineConfig(BootConfig("k")))


def test_the_standard_librarys_dataclass_functions_work_on_configs() -> None:
    config = MachineConfig(BootConfig("k"), memory=MemoryConfig(1 << 30))
    assert dataclasses.is_dataclass(config)
    assert [field.name for field in dataclasses.fields(BootConfig)] == ["kernel", "initrd", "cmdline", "entry"]
    assert dataclasses.asdict(config)["memory"]["size"] == 1 << 30
    assert dataclasses.replace(config, cpus=2).cpus == 2


@pytest.mark.parametrize(
    "positional,named",
    [((), {}), (("k",), {"kernel": "k"}), (("k",), {"nothing": 1}), (("k", None, "", "auto", 5), {})],
)
def test_wrong_arguments_are_type_errors(positional: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        BootConfig(*positional, **named)


def test_vsock() -> None:
    assert VsockConfig.parse("cid=7,uds=/run/vm.sock") == VsockConfig(7, "/run/vm.sock")
    assert VsockConfig.parse("uds=/run/a,,b") == VsockConfig(3, "/run/a,b")
    assert VsockConfig.parse("cid=9,backend=vhost") == VsockConfig(9, "", "vhost")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cid=2,uds=a", "cid 2 is not 3 to"),
        ("cid=4294967295,uds=a", "cid 4294967295 is not 3 to"),
        ("cid=x,uds=a", "'cid=x' is not known"),
        ("cid=3", "needs uds=PATH"),
        ("cid=3,uds=", "needs uds=PATH"),
        ("cid=3,uds=a,backend=vhost", "has none"),
        ("cid=3,uds=a,backend=tcp", "backend='tcp' is not one of"),
        ("cid=3,uds=a,port=5", "'port=5' is not known"),
        ("", "'' is not known"),
    ],
)
def test_vsock_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        VsockConfig.parse(text)
