"""What a clone may have of its own, by every way to ask for it; everything else is refused by its name."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.tiny import Console
from tests.unit.snapshot.test_machine_snapshot import talk
from vmm import (
    AsyncMachine,
    BalloonConfig,
    BootConfig,
    ConfigError,
    HotplugMemoryConfig,
    Machine,
    MemoryConfig,
    VsockConfig,
    create_machine,
    restore_machine,
)
from vmm.faststart.record import replace

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
MIB = 1 << 20


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "memory": ({"memory": MemoryConfig(64 * MIB)}, "memory of a clone cannot be another: 64 MiB, and its guest has 32"),
    "less memory": ({"memory": MemoryConfig(16 * MIB)}, "memory of a clone cannot be another: 16 MiB"),
    "a number as memory": ({"memory": 512 * MIB}, "memory cannot be another in a clone"),
    "cpus": ({"cpus": 2}, "cpus cannot be another in a clone: its guest was started with 1"),
    "max_cpus": ({"max_cpus": 4}, "max_cpus cannot be another"),
    "cpu": ({"cpu": "host"}, "cpu cannot be another"),
    "transport": ({"transport": "pci"}, "transport cannot be another"),
    "virtqueues": ({"virtqueues": "packed"}, "virtqueues cannot be another"),
    "hotplug_memory": ({"hotplug_memory": HotplugMemoryConfig(128 * MIB)}, "hotplug_memory cannot be another"),
    "boot": ({"boot": BootConfig("/other")}, "boot cannot be another"),
    "no field": ({"rootfz": None}, "'rootfz': no field of a machine"),
    "vsock": ({"vsock": 5}, "vsock of a clone: int where VsockConfig is wanted"),
    "disks": ({"disks": "disk.img"}, "disks of a clone: str where tuple or list is wanted"),
}


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_field_that_the_guest_was_started_with_is_refused(tmp_path: Path, console: Console, isolation: str) -> None:
    warm = str(tmp_path / "warm")
    config = tiny.config(tiny.make(tmp_path, tiny.say(">"), tiny.ECHO), console=console.config)
    with create_machine(replace(config, isolation=isolation)) as machine:
        machine.start()
        assert console.read(1) == b">"
        machine.snapshot(warm)
        for changes, message in WRONG.values():
            found = []
            with pytest.raises(ConfigError, match=message) as caught:
                machine.fork(**changes)
            found.append(caught.value)
            with pytest.raises(ConfigError, match=message) as caught:
                restore_machine(warm, isolation=isolation, **changes)
            found.append(caught.value)
            if "of a clone: " not in message:
                assert all(each.hint for each in found), message
        with pytest.raises(ConfigError, match="cpus cannot be another"):
            asyncio.run(restored(warm, cpus=2))
        talk(machine, console, b"goes on")


async def restored(folder: str, **changes: Any) -> None:
    async with AsyncMachine.restore(folder, **changes):
        pass


def test_the_same_value_and_other_kinds_of_memory_are_taken(tmp_path: Path, console: Console) -> None:
    config = tiny.config(tiny.make(tmp_path, tiny.say(">"), tiny.ECHO), console=console.config)
    with Machine(replace(config, balloon=BalloonConfig(), vsock=VsockConfig(uds=str(tmp_path / "0")))) as machine:
        machine.start()
        assert console.read(1) == b">"
        machine.snapshot(str(tmp_path / "warm"))
        memory = MemoryConfig(32 * MIB, huge_pages="none", prefault=True)
        same: dict[str, Any] = {"cpus": 1, "max_cpus": 0, "transport": "mmio", "memory": memory, "disks": []}
        own = same | {"vsock": VsockConfig(uds=str(tmp_path / "1")), "console": console.config}
        with Machine.restore(str(tmp_path / "warm"), **own) as clone:
            talk(clone, console, b"clone")
            assert clone.config.memory == memory
        (child,) = machine.fork(**own)
        with child:
            talk(child, console, b"child")
