"""The configuration of a sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.bundle.user_namespace import NO_MAPS, IdMaps

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata.bundle.guest_devices import Volume
    from pyvmm_kata.bundle.policy import Policy
    from pyvmm_kata.bundle.root_disks import RootDisk
    from pyvmm_kata.pod import templates
    from pyvmm_kata.pod.network import Network
    from pyvmm_kata.state import Json

MIB = 1 << 20


class Forked(NamedTuple):
    """What :func:`vmm.import_fork` takes, which closes the descriptors."""

    about: Json
    fds: list[int]


class SandboxConfig(NamedTuple):
    """The configuration of a sandbox.

    :ivar sandbox_id: its name
    :ivar state_dir: an existing directory of its own: sockets, the share, the console's log
    :ivar guest: the name of the guest's kind, see :mod:`pyvmm_kata.pod.guest_kind`
    :ivar kernel: path of the guest kernel
    :ivar image: path of the guest's root file system, with the agent (erofs): one copy in memory for all machines
    :ivar memory: bytes of guest RAM
    :ivar more_memory: bytes of RAM that it may get while it runs, see
        :meth:`pyvmm_kata.pod.machine_size.MachineSize.update`
    :ivar vcpus: number of CPUs
    :ivar more_cpus: how many more it may get while it runs
    :ivar hostname: of the guest
    :ivar cmdline: appended to the kernel's command line
    :ivar network: the network of the guest; None: none
    :ivar loopback: the guest answers connections to loopback addresses in the caller's network namespace
    :ivar shared_pids: all containers see each other's processes
    :ivar root: the disk with the root of its one container, or None
    :ivar volumes: the block devices of its only container
    :ivar more_disks: containers with disks may come and go while it runs
    :ivar seal: called when the machine is made and before it runs, with the template to build for the next one, if any:
        a builder has to be started there
    :ivar template: the machine may be a clone of a template, see :mod:`pyvmm_kata.pod.templates`
    :ivar policy: the requests that the agent serves; None: all
    :ivar checkpoint: the folder of a snapshot that the machine goes on from, see
        :meth:`pyvmm_kata.pod.sandbox.Sandbox.restore`; empty: none
    :ivar forked: instead, what a running machine has exported that it is a copy of, see :func:`vmm.import_fork`
    :ivar balloon: the machine of that snapshot has one
    :ivar users: of the user namespace that its containers share; of a guest that maps ids itself: none
    :ivar isolation: of the machine: ``process``, a jailed one of its own; ``thread``: this one
    """

    sandbox_id: str
    state_dir: str
    kernel: str
    image: str
    memory: int = 512 * MIB
    vcpus: int = 1
    hostname: str = ""
    cmdline: str = ""
    network: Network | None = None
    shared_pids: bool = False
    loopback: bool = False
    root: RootDisk | None = None
    volumes: tuple[Volume, ...] = ()
    more_disks: bool = False
    seal: Callable[[templates.Kind | None], None] | None = None
    template: bool = False
    policy: Policy | None = None
    isolation: str = "process"
    checkpoint: str = ""
    forked: Forked | None = None
    balloon: bool = True
    more_memory: int = 0
    more_cpus: int = 0
    guest: str = "linux"
    users: IdMaps = NO_MAPS

    @property
    def continues(self) -> bool:
        """Its machine is a copy of one with a container: it gets an identity of its own before anything else."""
        return bool(self.checkpoint) or self.forked is not None
