"""The configuration of a machine: frozen records."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass, replace
from vmm.options.machine import BootConfig as BootConfig
from vmm.options.machine import MemoryConfig as MemoryConfig
from vmm.virtio.blk import DiskConfig
from vmm.virtio.console import ConsoleConfig
from vmm.virtio.device_config import DeviceConfig
from vmm.virtio.fs import ShareConfig
from vmm.virtio.rng import RngConfig
from vmm.virtio.vsock import VsockConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from vmm.options.cpu import CpuConfig
    from vmm.virtio.balloon import BalloonConfig
    from vmm.virtio.mem import HotplugMemoryConfig
    from vmm.virtio.net import NetConfig
    from vmm.virtio.pmem import PmemConfig

MAX_CPUS = 32
MMIO, PCI = "mmio", "pci"
TRANSPORTS = (MMIO, PCI)
CPUS = ("guest", "host")
SPLIT, PACKED = "split", "packed"
VIRTQUEUES = (SPLIT, PACKED)
THREAD, PROCESS, FORK = "thread", "process", "fork"
ISOLATIONS = (THREAD, PROCESS, FORK)
_INSTEAD = {
    "cpus": "boot the machine with max_cpus, and resize the clone's CPUs",
    "max_cpus": "boot the machine with it",
    "hotplug_memory": "boot the machine with it",
    "boot": "leave it out: a clone boots nothing",
}


@dataclass(frozen=True)
class MachineConfig:
    """A whole machine.

    :ivar rootfs: a disk that becomes ``/dev/vda`` and the root file system; or a directory, with the tag ``rootfs``
        unless it has one; or None
    :ivar disks: further disks, in the order of their letters
    :ivar shares: directories that the guest may mount
    :ivar vsock: a virtio-vsock device, or None
    :ivar pmems: images that the guest maps as memory, in the order of their numbers: ``/dev/pmem0``, ...
    :ivar balloon: a memory balloon, or None; not with hugetlb pages, which are reserved for the life of the machine
    :ivar hotplug_memory: memory that may be added while the guest runs, or None; not with hugetlb pages
    :ivar max_cpus: the largest number of vCPUs while the guest runs, its initial *cpus* included; 0: as many as those
    :ivar transport: how the guest finds its virtio devices: ``mmio``, or ``pci``, which every distribution's kernel has
    :ivar nets: network devices, in the order of their numbers
    :ivar virtqueues: the format of queues: ``split``; or ``packed``, for drivers that support it (Linux since 5.0)
    :ivar more_devices: further devices, by their records: those without a field of their own here
    :ivar rng: an entropy device, the guest's ``/dev/hwrng``, or None
    :ivar cpu: what the vCPUs are: ``guest``, as KVM offers them but without performance counters, VMX and SVM;
        ``host``: with all of that; or a :class:`~vmm.options.cpu.CpuConfig`: the same on every host that has it
    :ivar isolation: where it runs: ``thread``: threads of the caller's process; ``process``: a child process in a
        jail, see :mod:`vmm.processes.isolated`; ``fork``: the same, but the child is a fork of the caller's process.
        That takes a tenth of the time, and the child has what the caller has in its memory: for programs that have few
        threads and no secrets
    """

    boot: BootConfig
    memory: MemoryConfig = MemoryConfig()
    cpus: int = 1
    rootfs: DiskConfig | ShareConfig | None = None
    disks: tuple[DiskConfig, ...] = ()
    console: ConsoleConfig = ConsoleConfig()
    shares: tuple[ShareConfig, ...] = ()
    vsock: VsockConfig | None = None
    transport: str = MMIO
    nets: tuple[NetConfig, ...] = ()
    balloon: BalloonConfig | None = None
    pmems: tuple[PmemConfig, ...] = ()
    virtqueues: str = SPLIT
    more_devices: tuple[DeviceConfig, ...] = ()
    rng: RngConfig | None = RngConfig()
    cpu: str | CpuConfig = "guest"
    isolation: str = THREAD
    hotplug_memory: HotplugMemoryConfig | None = None
    max_cpus: int = 0

    def __post_init__(self) -> None:
        if self.virtqueues not in VIRTQUEUES:
            raise ConfigError(f"virtqueues {self.virtqueues!r}: not one of {', '.join(VIRTQUEUES)}", code="virtqueues")
        if self.transport not in TRANSPORTS:
            raise ConfigError(f"transport {self.transport!r}: not one of {', '.join(TRANSPORTS)}", code="transport")
        if isinstance(self.cpu, str) and self.cpu not in CPUS:
            raise ConfigError(f"cpu {self.cpu!r}: not one of {', '.join(CPUS)}", code="cpu")
        if self.isolation not in ISOLATIONS:
            raise ConfigError(f"isolation {self.isolation!r}: not one of {', '.join(ISOLATIONS)}", code="isolation")
        if not 1 <= self.cpus <= MAX_CPUS:
            raise ConfigError(f"{self.cpus} vCPUs: a machine has 1 to {MAX_CPUS}", code="cpus")
        if self.max_cpus and not self.cpus <= self.max_cpus <= MAX_CPUS:
            raise ConfigError(
                f"at most {self.max_cpus} vCPUs: not {self.cpus}, with which it starts, to {MAX_CPUS}",
                code="max-cpus",
            )
        for device in (*self.device_configs(), *self.last_configs()):
            device.check(self)
        tags = [tag for tag, _ in self.tagged_shares()]
        for tag in tags:
            if tags.count(tag) > 1:
                raise ConfigError(
                    f"two shares have the tag {tag!r}", code="share-tag", hint="give each its own: ,tag=TAG"
                )

    def device_configs(self) -> list[DeviceConfig]:
        """The records of devices in the order of their slots, by which a guest names some."""
        return [
            *self.disk_configs(),
            *(share if share.tag else replace(share, tag=tag) for tag, share in self.tagged_shares()),
            *self.nets,
            *self.pmems,
            *((self.balloon,) if self.balloon is not None else ()),
            *((self.hotplug_memory,) if self.hotplug_memory is not None else ()),
            *((self.vsock,) if self.vsock is not None else ()),
            *((self.console,) if self.console.device == "virtio" else ()),
            *self.more_devices,
        ]

    def disk_configs(self) -> tuple[DiskConfig, ...]:
        """All disks in the order of their letters; a root file system first."""
        return (self.rootfs, *self.disks) if isinstance(self.rootfs, DiskConfig) else self.disks

    def with_disks(self, disks: tuple[DiskConfig, ...]) -> MachineConfig:
        """The same machine with other disks, as many as :meth:`disk_configs` has, in that order."""
        if disks == self.disk_configs():
            return self
        if isinstance(self.rootfs, DiskConfig):
            return replace(self, rootfs=disks[0], disks=disks[1:])
        return replace(self, disks=disks)

    def with_shares(self, paths: Mapping[str, str]) -> MachineConfig:
        """The same machine with other directories for some of its shares, by their tags.

        :raises ConfigError: there is no such tag
        """
        tags = [tag for tag, _ in self.tagged_shares()]
        for tag in paths:
            if tag not in tags:
                hint = f"it has {', '.join(tags)}" if tags else "it has no shares"
                raise ConfigError(f"the machine has no share {tag!r:.60}", code="share-tag", hint=hint)
        shares = [replace(share, tag=tag, path=paths.get(tag, share.path)) for tag, share in self.tagged_shares()]
        if isinstance(self.rootfs, ShareConfig):
            return replace(self, rootfs=shares[0], shares=tuple(shares[1:]))
        return replace(self, shares=tuple(shares))

    def of_clone(self, changes: Mapping[str, Any]) -> MachineConfig:
        """The configuration of a clone of this machine, whose guest has the same devices.

        :param changes: fields that change; ``shares`` may be a dictionary, see :meth:`with_shares`; without ``console``
            there is none, else it must be of the kind that the guest has
        :raises ConfigError: an unknown field, or one that cannot change after the start
        """
        own = dict(changes)
        for name, value in own.items():
            self._check_change(name, value)
        console = replace(own.pop("console", None) or ConsoleConfig(), device=self.console.device)
        shares = own.pop("shares", None)
        config = self
        if isinstance(shares, dict):
            config = self.with_shares(shares)
        elif shares is not None:
            own["shares"] = tuple(shares)
        for name, value in own.items():
            own[name] = tuple(value) if isinstance(value, list) else value
        return replace(config, console=console, **own)

    def own_devices(self, number: int) -> dict[str, Any]:
        """The fields in which child *number* of a fork differs from this machine: records of devices whose paths or
        addresses must be unique."""
        from vmm.virtio.registry import BUILT_IN

        own: dict[str, Any] = {}
        for device in BUILT_IN:
            found = getattr(self, device.field)
            if isinstance(found, tuple):
                made: Any = tuple([each.of_child(number) for each in found])
            else:
                made = None if found is None else found.of_child(number)
            if made != found:
                own[device.field] = made
        return own

    def _check_change(self, name: str, value: Any) -> None:
        if name in OF_CLONE:
            types = OF_CLONE[name]
            if value is not None and not isinstance(value, types):
                wanted = " or ".join(each.__name__ for each in types)
                raise ConfigError(
                    f"{name} of a clone: {type(value).__name__} where {wanted} is wanted", code="clone-field"
                )
            return
        fields = type(self).__record_types__  # type: ignore[attr-defined]
        if name not in fields:
            raise ConfigError(
                f"{name!r:.60}: no field of a machine", code="clone-field", hint=f"a clone may have {_list(OF_CLONE)}"
            )
        now = getattr(self, name)
        if value == now or (name == "memory" and isinstance(value, MemoryConfig) and value.size == now.size):
            return
        if name == "memory" and isinstance(value, MemoryConfig):
            raise ConfigError(
                f"memory of a clone cannot be another: {value.size >> 20} MiB, and its guest has {now.size >> 20} MiB",
                code="clone-field",
                hint="boot the machine with hotplug_memory, and resize that of the clone",
            )
        raise ConfigError(
            f"{name} cannot be another in a clone: its guest was started with {_short(now)}",
            code="clone-field",
            hint=_INSTEAD.get(name, f"leave it out; a clone may have its own {_list(OF_CLONE)}"),
        )

    def last_configs(self) -> list[DeviceConfig]:
        """The devices that a machine has by default.

        They are attached after all others, including a program's own devices, so they do not change the order of those.
        """
        return [] if self.rng is None else [self.rng]

    def tagged_shares(self) -> list[tuple[str, ShareConfig]]:
        """All shares with their tags; a root file system first."""
        found = [(self.rootfs.tag or "rootfs", self.rootfs)] if isinstance(self.rootfs, ShareConfig) else []
        for index, share in enumerate(self.shares):
            found.append((share.tag or f"share{index or ''}", share))
        return found

    def root_tag(self) -> str:
        """The tag of the share that is the root file system, or empty."""
        return self.tagged_shares()[0][0] if isinstance(self.rootfs, ShareConfig) else ""

    def hotplug_size(self) -> int:
        """Bytes of memory that may be added."""
        return 0 if self.hotplug_memory is None else self.hotplug_memory.size

    def all_memory(self) -> int:
        """The largest number of bytes of memory that the guest can have, which is the length of a snapshot's memory
        file."""
        return self.memory.size + self.hotplug_size()

    def all_cpus(self) -> int:
        """The largest number of vCPUs."""
        return self.max_cpus or self.cpus

    def has_pci(self) -> bool:
        """There is a PCI bus."""
        return self.transport == PCI

    def shares_memory(self, devices: list[DeviceConfig] | None = None) -> bool:
        """Another process will map guest RAM: by the user's request, or because a device is served by one.

        :param devices: :meth:`device_configs`, where they are known
        """
        return self.memory.shared or any(each.shares_memory for each in devices or self.device_configs())

    def opens_files(self) -> str:
        """Why the machine cannot be jailed, by the first device that opens files while the guest runs; or empty."""
        return next((why for each in self.device_configs() if (why := each.opens_files)), "")

    def takes_memory_on_demand(self, devices: list[DeviceConfig] | None = None) -> bool:
        """Everything that maps guest RAM supports filling pages on demand.

        :param devices: :meth:`device_configs`, where they are known
        """
        if self.memory.shared:
            return False
        mapped = [each for each in devices or self.device_configs() if each.shares_memory]
        return all(each.takes_memory_on_demand for each in mapped)


def config_kinds() -> dict[str, type]:
    """The types of configuration records, by name, without those of a program's own devices."""
    from vmm.options.cpu import CpuConfig, CpuLeaf
    from vmm.options.limit import LimitConfig
    from vmm.virtio.registry import BUILT_IN

    own = (BootConfig, MemoryConfig, MachineConfig, DeviceConfig, LimitConfig, CpuConfig, CpuLeaf)
    kinds: dict[str, type] = {each.__name__: each for each in own}
    for device in BUILT_IN:
        module = __import__(device.module, fromlist=device.names)
        kinds.update({name: getattr(module, name) for name in device.names})
    return kinds


OF_CLONE: dict[str, tuple[type, ...]] = {
    "rootfs": (DiskConfig, ShareConfig),
    "disks": (tuple, list),
    "shares": (tuple, list, dict),
    "nets": (tuple, list),
    "vsock": (VsockConfig,),
    "pmems": (tuple, list),
    "more_devices": (tuple, list),
    "console": (ConsoleConfig,),
    "rng": (DeviceConfig,),
    "balloon": (DeviceConfig,),
    "isolation": (str,),
}
"""What a clone may have of its own: what the host's side of its devices is, and where it runs.  Beside that, memory of
the same size may be of another kind."""


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _short(value: object) -> str:
    return f"{value!r:.60}"
