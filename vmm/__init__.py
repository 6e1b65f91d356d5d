"""pyvmm as a library: virtual machines on KVM.

>>> from vmm import BootConfig, Machine, MachineConfig
>>> with Machine(MachineConfig(BootConfig("vmlinux"))) as machine:    # doctest: +SKIP
...     print(machine.run(timeout=60).kind)

The public names are here; they are imported when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.aio import AsyncMachine
    from vmm.config import BootConfig, ConsoleConfig, DiskConfig, MachineConfig, MemoryConfig, ShareConfig, VsockConfig
    from vmm.config_devices import BalloonConfig, PmemConfig
    from vmm.config_limit import LimitConfig
    from vmm.config_net import NetConfig, Publish
    from vmm.errors import ConfigError, GuestError, HostError, VmmError
    from vmm.life import EndEvent, Event
    from vmm.machine import Machine
    from vmm.memory import GuestMemory
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.queue import Chain, Queue

_HOMES = {
    "AsyncMachine": "aio",
    "BalloonConfig": "config_devices",
    "PmemConfig": "config_devices",
    "BootConfig": "config",
    "ConsoleConfig": "config",
    "DiskConfig": "config",
    "MachineConfig": "config",
    "MemoryConfig": "config",
    "ShareConfig": "config",
    "VsockConfig": "config",
    "LimitConfig": "config_limit",
    "NetConfig": "config_net",
    "Publish": "config_net",
    "ConfigError": "errors",
    "GuestError": "errors",
    "HostError": "errors",
    "VmmError": "errors",
    "EndEvent": "life",
    "Event": "life",
    "Machine": "machine",
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
