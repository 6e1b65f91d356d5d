"""pyvmm as a library: virtual machines on KVM.

>>> from vmm import BootConfig, Machine, MachineConfig
>>> with Machine(MachineConfig(BootConfig("vmlinux"))) as machine:    # doctest: +SKIP
...     print(machine.run(timeout=60).kind)

The public names are here; each is imported when it is first used. Those of the built-in devices come from
:mod:`vmm.virtio.registry`.  ``vmm.__version__`` is that of the installed package, empty when it is not installed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    __version__: str

    from vmm.aio import AsyncMachine as AsyncMachine
    from vmm.board.device_server import DeviceServer as DeviceServer
    from vmm.board.device_server import SavedServer as SavedServer
    from vmm.cli.doctor import KvmVerdict as KvmVerdict
    from vmm.cli.doctor import kvm_verdict as kvm_verdict
    from vmm.config import BootConfig as BootConfig
    from vmm.config import MachineConfig as MachineConfig
    from vmm.config import MemoryConfig as MemoryConfig
    from vmm.errors import ConfigError as ConfigError
    from vmm.errors import GuestError as GuestError
    from vmm.errors import HostError as HostError
    from vmm.errors import VmmError as VmmError
    from vmm.faststart.warm import warm_start as warm_start
    from vmm.kvm.probe import host_cpu as host_cpu
    from vmm.lifecycle import EndEvent as EndEvent
    from vmm.lifecycle import Event as Event
    from vmm.machine.interface import AnyMachine as AnyMachine
    from vmm.machine.machine import Machine as Machine
    from vmm.memory import GuestMemory as GuestMemory
    from vmm.open_files import allow_open_files as allow_open_files
    from vmm.options.cpu import CpuConfig as CpuConfig
    from vmm.options.limit import LimitConfig as LimitConfig
    from vmm.processes.factory import create_machine as create_machine
    from vmm.processes.factory import import_fork as import_fork
    from vmm.processes.factory import restore_machine as restore_machine
    from vmm.processes.isolated import IsolatedMachine as IsolatedMachine
    from vmm.processes.jail.outward import enter_resolver as enter_resolver
    from vmm.processes.jail.outward import jail_gateway as jail_gateway
    from vmm.processes.jail.outward import jail_resolver as jail_resolver
    from vmm.processes.jail.restrict import restrict_process as restrict_process
    from vmm.processes.jail.restrict import restrict_server as restrict_server
    from vmm.processes.jail.restrict import seal_process as seal_process
    from vmm.processes.trim_memory import warm_settle as warm_settle
    from vmm.processes.trim_memory import warm_wait as warm_wait
    from vmm.saving.verify import verify_snapshot as verify_snapshot
    from vmm.virtio.device import VirtioDevice as VirtioDevice
    from vmm.virtio.device_config import DeviceConfig as DeviceConfig
    from vmm.virtio.device_config import Opening as Opening
    from vmm.virtio.queue import Chain as Chain
    from vmm.virtio.queue import Queue as Queue

# The records of the built-in devices, for type checkers: python -m tools.exports --write
if TYPE_CHECKING:
    from vmm.virtio.balloon import BalloonConfig as BalloonConfig
    from vmm.virtio.blk import DiskConfig as DiskConfig
    from vmm.virtio.console import ConsoleConfig as ConsoleConfig
    from vmm.virtio.fs import ShareConfig as ShareConfig
    from vmm.virtio.mem import HotplugMemoryConfig as HotplugMemoryConfig
    from vmm.virtio.net import NetConfig as NetConfig
    from vmm.virtio.net import Publish as Publish
    from vmm.virtio.pmem import PmemConfig as PmemConfig
    from vmm.virtio.rng import RngConfig as RngConfig
    from vmm.virtio.vsock import VsockConfig as VsockConfig
# End of the built-in devices

_HOMES = {
    "AnyMachine": "vmm.machine.interface",
    "AsyncMachine": "vmm.aio",
    "BootConfig": "vmm.config",
    "Chain": "vmm.virtio.queue",
    "ConfigError": "vmm.errors",
    "CpuConfig": "vmm.options.cpu",
    "DeviceConfig": "vmm.virtio.device_config",
    "DeviceServer": "vmm.board.device_server",
    "SavedServer": "vmm.board.device_server",
    "EndEvent": "vmm.lifecycle",
    "Event": "vmm.lifecycle",
    "GuestError": "vmm.errors",
    "GuestMemory": "vmm.memory",
    "IsolatedMachine": "vmm.processes.isolated",
    "HostError": "vmm.errors",
    "KvmVerdict": "vmm.cli.doctor",
    "LimitConfig": "vmm.options.limit",
    "Machine": "vmm.machine.machine",
    "MachineConfig": "vmm.config",
    "MemoryConfig": "vmm.config",
    "Opening": "vmm.virtio.device_config",
    "Queue": "vmm.virtio.queue",
    "VirtioDevice": "vmm.virtio.device",
    "VmmError": "vmm.errors",
    "allow_open_files": "vmm.open_files",
    "enter_resolver": "vmm.processes.jail.outward",
    "host_cpu": "vmm.kvm.probe",
    "create_machine": "vmm.processes.factory",
    "jail_gateway": "vmm.processes.jail.outward",
    "jail_resolver": "vmm.processes.jail.outward",
    "kvm_verdict": "vmm.cli.doctor",
    "import_fork": "vmm.processes.factory",
    "restore_machine": "vmm.processes.factory",
    "restrict_process": "vmm.processes.jail.restrict",
    "restrict_server": "vmm.processes.jail.restrict",
    "seal_process": "vmm.processes.jail.restrict",
    "verify_snapshot": "vmm.saving.verify",
    "warm_settle": "vmm.processes.trim_memory",
    "warm_start": "vmm.faststart.warm",
    "warm_wait": "vmm.processes.trim_memory",
}


def _public() -> list[str]:
    from vmm.virtio.registry import BUILT_IN

    return sorted([*_HOMES, *[name for device in BUILT_IN for name in device.names]])


def __getattr__(name: str) -> object:
    if name == "__all__":
        return _public()
    if name == "__version__":
        from vmm.version import version

        return version()
    home = _HOMES.get(name)
    if home is None and not name.startswith("_"):
        from vmm.virtio.registry import home_of

        home = home_of(name)
    if not home:
        raise AttributeError(f"module 'vmm' has no attribute {name!r}")
    value: object = getattr(__import__(home, fromlist=(name,)), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_public()})
