"""Guests with a Linux kernel of their own and our agent (``linux-guest/``), which runs containers by crun.

The kernel is a vmlinux that boots by PVH; the guest's root file system is an erofs image as persistent memory, of which
all machines of a host share the pages.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pyvmm_kata import timeline
from pyvmm_kata.bundle.guest_config import guest_config, process_text, resources_text, terminal_of
from pyvmm_kata.bundle.guest_devices import serial_of
from pyvmm_kata.bundle.root_disks import SERIAL
from pyvmm_kata.bundle.settings import FILE, most_cpus
from pyvmm_kata.entry import MACHINE, load
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.host.mounts import SOLE, TAG
from pyvmm_kata.pod import templates
from pyvmm_kata.pod.guest_kind import Capabilities
from vmm import (
    BalloonConfig,
    BootConfig,
    DiskConfig,
    HotplugMemoryConfig,
    MachineConfig,
    MemoryConfig,
    PmemConfig,
    ShareConfig,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyvmm_kata.bundle.guest_config import GuestConfig
    from pyvmm_kata.pod.guest_kind import Wiring
    from pyvmm_kata.pod.sandbox_config import SandboxConfig
    from pyvmm_kata.pod.vm import Vm
    from pyvmm_kata.state import Json

CMDLINE = "quiet oops=panic root=/dev/pmem0 rootfstype=erofs rootflags=dax ro"
"""A kernel that continues after an oops may have processes that nothing can kill: their container never ends."""
DEBUG = "agent.log=debug "
"""The agent logs how long its start took, at its end."""
SPARE = "agent.spare="
"""The agent hides the network devices with these MAC addresses, separated by commas, until they are configured."""


class LinuxGuest:
    """See :class:`pyvmm_kata.pod.guest_kind.GuestKind`."""

    name, spare = "linux", ""
    can = Capabilities(
        memory=True,
        cpus=True,
        disks=True,
        templates=True,
        checkpoints=True,
        network=True,
        networks=True,
        forwarding=True,
        policy=True,
        users=True,
        rereads=False,
        windows=True,
    )

    def prepare(self, cmdline: str) -> None:
        """See :class:`GuestKind`."""
        load(MACHINE)

    def has_machine(self, cmdline: str) -> bool:
        """See :class:`GuestKind`."""
        return True

    def check(self, config: SandboxConfig) -> None:
        """
        :raises ConfigError: the kernel, or the guest's image, is not where the settings say
        """
        for what, path in (("kernel", config.kernel), ("image", config.image)):
            if not os.path.exists(path):
                hint = f"name your own in {FILE} (make guest-kernel kata-image), or install the package pyvmm-guest"
                raise ConfigError(f"the guest's {what} {path} does not exist", code=f"{what}-file", hint=hint)

    def machine(self, config: SandboxConfig, wiring: Wiring) -> MachineConfig:
        """See :class:`GuestKind`."""
        network, root = config.network, config.root
        disks, pmems = [], []
        if root is not None and root.is_mappable:
            pmems.append(PmemConfig(root.path, read_only=True))
        elif root is not None:
            disks.append(DiskConfig(root.path, root.read_only, SERIAL))
        disks += [DiskConfig(each.path, each.read_only, serial_of(n)) for n, each in enumerate(config.volumes)]
        spares = network.spares if network is not None else ()
        kind = self._kind(config, spares, len(wiring.nets))
        return _machine(kind, wiring, disks, pmems)

    def start_process(self, config: SandboxConfig, folder: str, shared: str) -> Vm | None:
        """See :class:`GuestKind`."""
        return None

    def describe(self, spec: Json, hostname: str, *, shared_pids: bool) -> GuestConfig:
        """See :class:`GuestKind`."""
        return guest_config(spec, hostname, shared_pids=shared_pids)

    def describe_process(self, process: Json) -> tuple[Any, str]:
        """See :class:`GuestKind`."""
        return terminal_of(process), process_text(process)

    def describe_resources(self, resources: Json) -> tuple[Any, str]:
        """See :class:`GuestKind`."""
        return None, resources_text(resources)

    def template(self, config: SandboxConfig, nets: int) -> templates.Kind:
        """See :class:`GuestKind`.  All network devices of a template are spare ones."""
        return self._kind(config, [templates.mac_of(number) for number in range(nets)], nets)

    def template_machine(self, kind: templates.Kind, wiring: Wiring) -> MachineConfig:
        """See :class:`GuestKind`."""
        return _machine(kind, wiring)

    def _kind(self, config: SandboxConfig, spares: Iterable[str], nets: int) -> templates.Kind:
        debug = DEBUG if timeline.is_told() else ""
        hidden = ",".join(spares)
        return templates.Kind(
            config.kernel,
            config.image,
            f"{CMDLINE} {debug}{f'{SPARE}{hidden} ' if hidden else ''}{config.cmdline}".rstrip(),
            config.memory,
            config.vcpus,
            "pci" if config.more_disks else "mmio",
            nets,
            config.more_memory,
            config.more_cpus,
            self.name,
        )


LINUX = LinuxGuest()


def _share(path: str) -> ShareConfig:
    """The share with the files of all containers."""
    # A process that waits for a lock of the host cannot be killed, so locks are the guest's: pods that share a volume
    # do not see each other's.  The root of a user namespace may access files that its user on the host may not.
    return ShareConfig(path, tag=TAG, isolation="process", locks="guest", permissions="guest", sole=SOLE)


def _machine(
    kind: templates.Kind, wiring: Wiring, disks: Sequence[DiskConfig] = (), pmems: Sequence[PmemConfig] = ()
) -> MachineConfig:
    return MachineConfig(
        boot=BootConfig(kind.kernel, None, kind.cmdline),
        memory=MemoryConfig(kind.memory),
        cpus=kind.vcpus,
        max_cpus=most_cpus(kind.vcpus, kind.more_cpus),
        shares=(_share(wiring.share),),
        vsock=wiring.vsock,
        nets=tuple(wiring.nets),
        pmems=(PmemConfig(kind.image, read_only=True), *pmems),
        disks=tuple(disks),
        # Memory that programs have freed returns to the host
        balloon=BalloonConfig(free_page_reporting=True),
        console=wiring.console,
        transport=kind.transport,
        isolation=wiring.isolation,
        hotplug_memory=HotplugMemoryConfig(kind.more_memory) if kind.more_memory else None,
    )
