"""Where the machine of a sandbox comes from: a checkpoint, a template, or a boot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_kata import timeline
from pyvmm_kata.errors import HostError, VmmError
from pyvmm_kata.host.mounts import VSOCK
from pyvmm_kata.pod import templates, working_set
from pyvmm_kata.pod.guest_kind import Wiring
from pyvmm_kata.pod.guest_kinds import kind_named
from pyvmm_kata.pod.sandbox_config import SandboxConfig
from vmm import ConsoleConfig, RngConfig, VsockConfig, create_machine, import_fork, restore_machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.bundle.settings import Settings
    from pyvmm_kata.pod.guest_kind import GuestKind
    from pyvmm_kata.pod.sandbox_config import Forked
    from vmm import AnyMachine, MachineConfig, NetConfig

CID = 3
CONNECTIONS = 1024
"""Of the socket device, in both directions: each takes a descriptor of this process, and the guest opens them."""


class Made(NamedTuple):
    """A machine, not yet started.

    :ivar template: the folder of the template that it is a clone of; empty: none
    :ivar why: the reason why it is not a clone although there are templates
    :ivar wanted: the template to build for the next one like it; None: there is nothing to build
    """

    machine: AnyMachine
    template: str = ""
    why: str = ""
    wanted: templates.Kind | None = None


class MachineSource:
    """Makes the machine of one sandbox.

    :param guest: what runs in it
    """

    def __init__(self, guest: GuestKind, config: SandboxConfig, wiring: Wiring) -> None:
        self._guest = guest
        self._config = config
        self._wiring = wiring

    def make(self, template: str = "") -> Made:
        """The machine, not yet started.

        :param template: a template's folder that it must be a clone of; empty: as the configuration says
        :raises VmmError: it cannot be made
        """
        if self._config.forked is not None:
            return Made(self._forked(self._config.forked))
        if self._config.checkpoint:
            return Made(self._restored())
        if template:
            return self._clone(template)
        if not self._config.template or not self._guest.can.templates:
            return self._booted()
        return self._from_template()

    def _from_template(self) -> Made:
        """A clone of the template for such a machine; without one, a machine that boots."""
        config = self._config
        if config.root is not None or config.volumes:
            return self._booted("it has disks that are there from the start")
        nets = len(config.network.nets) if config.network is not None else 0
        kind = self._guest.template(config, nets)
        try:
            key = kind.key()
            found = templates.find(key)
        except OSError as error:
            return self._booted(str(error))
        except HostError as error:
            if templates.has_failed(key):
                return self._booted(f"{error}, and none could be made lately")
            return self._booted(str(error), kind)
        try:
            return self._clone(found)
        except VmmError as error:
            templates.forget(found)
            return self._booted(str(error), kind)

    def _clone(self, template: str) -> Made:
        machine = restore_machine(
            template,
            start=False,
            clock="resume",  # the agent sets the date, and CLOCK_MONOTONIC does not jump
            prefetch=True,
            **_connections(self._guest.machine(self._config, self._wiring)),
        )
        timeline.note(f"clone of {template}")
        return Made(machine, template)

    def _forked(self, forked: Forked) -> AnyMachine:
        """A copy of another monitor's machine, not yet started, with the files and connections of this one."""
        own = self._guest.machine(self._config, self._wiring)
        return import_fork(forked.about, forked.fds, start=False, **_connections(own))

    def _restored(self) -> AnyMachine:
        """A machine that continues from a checkpoint, not yet started. All of its configuration is ours: the author of
        the checkpoint could have named any file of the host."""
        own = self._guest.machine(self._config, self._wiring)
        return restore_machine(
            self._config.checkpoint,
            start=False,
            clock="resume",
            prefetch=working_set.is_known(self._config.checkpoint),
            memory=own.memory,
            cpus=own.cpus,
            max_cpus=own.max_cpus,
            rootfs=None,
            disks=(),
            balloon=own.balloon if self._config.balloon else None,
            more_devices=(),
            rng=RngConfig(),
            cpu="guest",
            transport="mmio",
            virtqueues="split",
            hotplug_memory=own.hotplug_memory,
            **_connections(own),
        )

    def _booted(self, why: str = "", wanted: templates.Kind | None = None) -> Made:
        """A machine that will boot.

        :raises ConfigError: what the guest boots from is not where the settings say
        """
        if why:
            timeline.note(f"boots: {why}")
        self._guest.check(self._config)
        return Made(create_machine(self._guest.machine(self._config, self._wiring)), why=why, wanted=wanted)


def _connections(own: MachineConfig) -> dict[str, Any]:
    """The fields in which each copy of a machine differs from the others: what it shares with the host, and how."""
    return {
        "shares": own.shares,
        "vsock": own.vsock,
        "nets": own.nets,
        "pmems": own.pmems,
        "console": own.console,
        "isolation": own.isolation,
    }


def isolation_of(config: SandboxConfig) -> str:
    """A jailed process of its own, unless the settings name this one."""
    return "thread" if config.isolation == "thread" else "fork"


def kind_by(chosen: Settings, memory: int, vcpus: int, nets: int, *, more_disks: bool = False) -> templates.Kind:
    """The kind of machines that are made as the settings say, with so many network devices, all spare ones."""
    config = SandboxConfig(
        "template",
        "",
        chosen.kernel,
        chosen.image,
        memory,
        vcpus,
        cmdline=chosen.kernel_params,
        more_memory=chosen.more_memory,
        more_cpus=chosen.more_cpus,
        more_disks=more_disks,
        guest=chosen.guest,
    )
    return kind_named(config.guest).template(config, nets)


def wiring_of(folder: str, shared: str, nets: Sequence[NetConfig], console: int, isolation: str = "thread") -> Wiring:
    """What a machine is connected to.

    :param folder: where its socket is made
    :param console: a descriptor for its output
    """
    vsock = VsockConfig(CID, f"{folder}/{VSOCK}", connections=CONNECTIONS)
    return Wiring(shared, vsock, tuple(nets), ConsoleConfig("fd", console), isolation)


def machine_of_template(
    kind: templates.Kind, folder: str, shared: str, nets: Sequence[NetConfig], console: int
) -> AnyMachine:
    """The machine that becomes a template, not yet started.

    :param folder: where its socket is made
    :param shared: an empty directory
    :param console: a descriptor for its output
    """
    return create_machine(kind_named(kind.guest).template_machine(kind, wiring_of(folder, shared, nets, console)))
