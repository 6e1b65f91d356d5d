"""pyvmm as a library: virtual machines on KVM.

>>> from vmm import BootConfig, Machine, MachineConfig
>>> with Machine(MachineConfig(BootConfig("vmlinux"))) as machine:    # doctest: +SKIP
...     print(machine.run(timeout=60).kind)

The public names are here; they are imported when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.config.limit import LimitConfig
    from vmm.errors import ConfigError, GuestError, HostError, VmmError
    from vmm.machine.aio import AsyncMachine
    from vmm.machine.config import BootConfig, ConsoleConfig, MachineConfig, MemoryConfig
    from vmm.machine.lifecycle import EndEvent, Event
    from vmm.machine.machine import Machine
    from vmm.memory import GuestMemory
    from vmm.virtio.balloon.config import BalloonConfig
    from vmm.virtio.blk.config import DiskConfig
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.fs.config import ShareConfig
    from vmm.virtio.net.config import NetConfig, Publish
    from vmm.virtio.pmem.config import PmemConfig
    from vmm.virtio.queue import Chain, Queue
    from vmm.virtio.vsock.config import VsockConfig

_HOMES = {
    "AsyncMachine": "machine.aio",
    "BalloonConfig": "virtio.balloon.config",
    "PmemConfig": "virtio.pmem.config",
    "BootConfig": "machine.config",
    "ConsoleConfig": "machine.config",
    "DiskConfig": "virtio.blk.config",
    "MachineConfig": "machine.config",
    "MemoryConfig": "machine.config",
    "ShareConfig": "virtio.fs.config",
    "VsockConfig": "virtio.vsock.config",
    "LimitConfig": "config.limit",
    "NetConfig": "virtio.net.config",
    "Publish": "virtio.net.config",
    "ConfigError": "errors",
    "GuestError": "errors",
    "HostError": "errors",
    "VmmError": "errors",
    "EndEvent": "machine.lifecycle",
    "Event": "machine.lifecycle",
    "Machine": "machine.machine",
    "GuestMemory": "memory",
    "VirtioDevice": "virtio.device",
    "Chain": "virtio.queue",
    "Queue": "virtio.queue",
}

__all__ = [
    "AsyncMachine",
    "BalloonConfig",
    "BootConfig",
    "Chain",
    "ConfigError",
    "ConsoleConfig",
    "DiskConfig",
    "EndEvent",
    "Event",
    "GuestError",
    "GuestMemory",
    "HostError",
    "LimitConfig",
    "Machine",
    "MachineConfig",
    "MemoryConfig",
    "NetConfig",
    "PmemConfig",
    "Publish",
    "Queue",
    "ShareConfig",
    "VirtioDevice",
    "VmmError",
    "VsockConfig",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'vmm' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"vmm.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
