"""Guests whose kernel is the Sentry, this project's own (``examples/sentry``): it runs containers without Linux.

Its core answers the agent's calls itself, so the machine needs no image.  Without KVM, a process of the host takes the
place of the machine (:mod:`pyvmm_kata.pod.sentry_process`).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pyvmm_kata import timeline
from pyvmm_kata.bundle.guest_config import GuestConfig
from pyvmm_kata.bundle.guest_devices import ALL_DEVICES
from pyvmm_kata.bundle.guest_message import process_message, resources_message, spec_message
from pyvmm_kata.entry import MACHINE, load
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host.mounts import TAG
from pyvmm_kata.pod import sentry_checks
from pyvmm_kata.pod.guest_kind import Capabilities
from vmm import BalloonConfig, BootConfig, MachineConfig, MemoryConfig, ShareConfig, kvm_verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm_kata.bundle.user_namespace import IdMaps
    from pyvmm_kata.pod import templates
    from pyvmm_kata.pod.guest_kind import Wiring
    from pyvmm_kata.pod.sandbox_config import SandboxConfig
    from pyvmm_kata.pod.vm import Vm
    from pyvmm_kata.state import Json

CMDLINE = "quiet sentry.control sentry.zeroed"
"""The RAM of a machine is zeroed at each start."""
KERNEL = "sentry.elf"
NO_ID = 0xFFFFFFFF


_MODULES = (
    "pyvmm_sentry.controlled",
    "vmm.board.device_server",
    "vmm.virtio.fs.process",
    "vmm.virtio.vsock.client",
    "vmm.virtio.vsock.device",
)
"""What a Sentry without a machine needs."""


class SentryGuest:
    """See :class:`pyvmm_kata.pod.guest_kind.GuestKind`."""

    name, spare = "sentry", "sentry.touched"
    can = Capabilities(
        memory=False,
        cpus=False,
        disks=False,
        templates=False,
        checkpoints=True,
        network=True,
        networks=False,
        forwarding=False,
        policy=True,
        users=False,
        rereads=True,
        images=True,
    )

    def prepare(self, cmdline: str) -> None:
        """See :class:`GuestKind`."""
        if self.has_machine(cmdline):
            load(MACHINE)
            _kernel()
        else:
            from pyvmm_kata.pod.sentry_process import program_for

            load(_MODULES)
            program_for(sentry_checks.platform_of(cmdline))

    def check(self, config: SandboxConfig) -> None:
        """
        :raises ConfigError: the sandbox has what the Sentry does not have, or its package is missing
        """
        missing = [
            what
            for what, wanted in (
                ("disks", config.root is not None or config.volumes),
                ("second network interface", config.network is not None and len(config.network.nets) > 1),
            )
            if wanted
        ]
        if missing:
            raise ConfigError(
                f"a Sentry has no {' and no '.join(missing)}", code="guest-kind", hint="use --isolation vm"
            )
        _package()

    def machine(self, config: SandboxConfig, wiring: Wiring) -> MachineConfig:
        """See :class:`GuestKind`."""
        return MachineConfig(
            boot=BootConfig(_kernel(), None, f"{CMDLINE} {config.cmdline}".rstrip()),
            memory=MemoryConfig(config.memory),
            shares=(_share(wiring.share, config.users),),
            nets=tuple(wiring.nets),
            balloon=BalloonConfig(free_page_reporting=True),
            vsock=wiring.vsock,
            console=wiring.console,
            isolation=wiring.isolation,
        )

    def start_process(self, config: SandboxConfig, folder: str, shared: str) -> Vm | None:
        """See :class:`GuestKind`: where KVM cannot be used, and to continue one that was such a process."""
        is_core = bool(config.checkpoint) and _is_core(config.checkpoint)
        if self.has_machine(config.cmdline) and not is_core:
            timeline.note("the Sentry runs on kvm, in a machine")
            return None
        if config.continues and not is_core:
            raise ConfigError(
                "a checkpoint of a Sentry continues in a virtual machine, which cannot be made here",
                code="guest-kind",
                hint="pyvmm doctor reports why",
            )
        self.check(config)
        from pyvmm_kata.pod.sentry_process import SentryProcess

        platform = "trap" if is_core else sentry_checks.platform_of(config.cmdline)
        return SentryProcess(config, folder, _share(shared, config.users), platform)

    def has_machine(self, cmdline: str) -> bool:
        """See :class:`GuestKind`."""
        return sentry_checks.platform_of(cmdline) in ("auto", "kvm") and _is_kvm_usable()

    def describe(self, spec: Json, hostname: str, *, shared_pids: bool) -> GuestConfig:
        """See :class:`GuestKind`: as a message."""
        sentry_checks.check(spec)
        linux = {**spec["linux"]}
        linux["devices"] = [device for device in linux.get("devices") or () if device != ALL_DEVICES]
        linux["resources"] = sentry_checks.with_unified(linux.get("resources") or {})
        if domain := spec.get("domainname"):
            linux["sysctl"] = {**(linux.get("sysctl") or {}), "kernel.domainname": domain}
        if shared_pids:
            linux["namespaces"] = [each for each in linux.get("namespaces") or () if each["type"] != "pid"]
        made = {**spec, "linux": linux}
        if hostname and any(each["type"] == "uts" and not each.get("path") for each in linux.get("namespaces") or ()):
            made.setdefault("hostname", hostname)
        return GuestConfig("", "", spec_message(made), len(spec.get("mounts") or ()))

    def describe_process(self, process: Json) -> tuple[Any, str]:
        """See :class:`GuestKind`."""
        return process_message(process), ""

    def describe_resources(self, resources: Json) -> tuple[Any, str]:
        """See :class:`GuestKind`."""
        return resources_message(sentry_checks.with_unified(resources)), ""

    def template(self, config: SandboxConfig, nets: int) -> templates.Kind:
        """See :class:`GuestKind`: spares of a pool have the same, and boot."""
        from pyvmm_kata.pod.templates import Kind

        kernel = _kernel()
        return Kind(
            kernel, kernel, f"{CMDLINE} {config.cmdline}".rstrip(), config.memory, 1, "mmio", nets, guest=self.name
        )

    def template_machine(self, kind: templates.Kind, wiring: Wiring) -> MachineConfig:
        """See :class:`GuestKind`.

        :raises ConfigError: there are none
        """
        raise ConfigError("there are no templates of a Sentry", code="guest-kind")


SENTRY = SentryGuest()


def programs() -> Iterator[str]:
    """The paths of the Sentry's programs that work here.

    :raises ConfigError: its package is not installed
    :raises HostError: one cannot be built
    """
    if _is_kvm_usable():
        yield _kernel()
    from pyvmm_kata.pod.sentry_process import program_for

    yield program_for("auto")[1]


@functools.cache
def _is_kvm_usable() -> bool:
    """Tried once."""
    return kvm_verdict(remembered=True).usable


def _is_core(folder: str) -> bool:
    _package()
    from pyvmm_sentry import saved

    return saved.is_saved_in(folder)


def _package() -> Any:
    """The module that finds installed programs of the Sentry.

    :raises ConfigError: its package is not installed
    """
    try:
        from pyvmm_sentry import installed
    except ImportError as error:
        hint = "pip install ./examples/sentry, in a checkout"
        raise ConfigError("the Sentry is not installed", code="guest-kind", hint=hint) from error
    return installed


@functools.cache
def _kernel() -> str:
    """The path of the Sentry's kernel, found once. Only a checkout imports what builds it.

    :raises ConfigError: its package is not installed
    :raises HostError: it cannot be built
    """
    found: str = _package().program(KERNEL)
    if found:
        return found
    from pyvmm_sentry import program

    try:
        return str(program.kernel())
    except program.BuildError as error:
        raise HostError(f"the Sentry's kernel cannot be built: {error}", hint=error.hint) from error


def _share(path: str, users: IdMaps) -> ShareConfig:
    # No capability of a program holds over files of owners that the core sees as NO_ID (core/id_map.h).
    # Only the guest changes the root of a container.  Without that word, a start waits up to a second: the guest has
    # cached the share, in which the host made mount points a moment ago.
    return ShareConfig(
        path,
        tag=TAG,
        maps=users.users,
        group_maps=users.groups,
        unmapped=NO_ID,
        isolation="process",
        locks="guest",
        permissions="guest",
        queues=1,
        sole="rootfs",
    )
