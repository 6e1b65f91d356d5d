"""Kinds of guests: what runs in the machine of a pod.

Every kind has an agent that speaks the protocol of ``proto/agent.proto`` (Kata's) over ttrpc, on port
:data:`AGENT_PORT` of the guest's vsock device, and sees the files of its containers in the share
:data:`pyvmm_kata.host.mounts.TAG`.  A sandbox needs no more than that of it: what it boots, which devices it has and
what its machine can do is the kind's to say.  :mod:`pyvmm_kata.pod.linux_guest` is one.

A new kind is a class with the methods of :class:`GuestKind` and a line in
:data:`pyvmm_kata.pod.guest_kinds.KINDS`.  Where a machine comes from, by what its kind can do, is in
:mod:`pyvmm_kata.pod.machine_source`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.bundle.guest_config import GuestConfig
    from pyvmm_kata.pod.sandbox_config import SandboxConfig
    from pyvmm_kata.pod.templates import Kind
    from pyvmm_kata.pod.vm import Vm
    from pyvmm_kata.state import Json
    from vmm import ConsoleConfig, MachineConfig, NetConfig, VsockConfig

AGENT_PORT, FORWARD_PORT = 1024, 1026
"""Of the agent's requests, and for connections from the host (``linux-guest/agent/relay.h``)."""


class Capabilities(NamedTuple):
    """What a machine with such a guest can do after its start.

    :ivar memory: get more memory, and give it back (``more_memory``)
    :ivar cpus: get more CPUs, and give them back (``more_cpus``)
    :ivar disks: have disks: the root of a container, block devices as volumes
    :ivar templates: be a clone of a machine that has booted
    :ivar checkpoints: be saved with its containers, and go on from there
    :ivar network: have interfaces, which the agent configures
    :ivar networks: have several of them
    :ivar forwarding: lead connections of the host to its containers
    :ivar policy: have a policy, by which the agent refuses requests
    :ivar windows: share memory with one of its processes
    :ivar users: have a user namespace for each container: otherwise, its containers share one
    :ivar images: mount a stored image that is a file of the share
    :ivar rereads: check the host's files again by themselves whenever the agent starts a process
    """

    memory: bool
    cpus: bool
    disks: bool
    templates: bool
    checkpoints: bool
    network: bool
    networks: bool
    forwarding: bool
    policy: bool
    users: bool
    rereads: bool
    images: bool = False
    windows: bool = False


class Wiring(NamedTuple):
    """What a machine is connected to on the host, whatever its guest is.

    :ivar share: the directory that the guest sees
    :ivar isolation: of the machine, as :class:`vmm.MachineConfig` has it
    """

    share: str
    vsock: VsockConfig
    nets: Sequence[NetConfig]
    console: ConsoleConfig
    isolation: str


class GuestKind(Protocol):
    """A kind of guest.  It has no state: one object serves all machines.

    :ivar name: by which :class:`~pyvmm_kata.pod.sandbox_config.SandboxConfig` names it
    :ivar can: what its machines can do
    :ivar spare: words for the command line of the kernel of a machine that waits for its container
    """

    name: str
    can: Capabilities
    spare: str

    def prepare(self, cmdline: str) -> None:
        """Load what a process needs that makes a machine: those that are forked later have it.

        :param cmdline: the settings' part of the kernel's command line
        :raises VmmError: something is missing, which :meth:`check` reports
        """

    def has_machine(self, cmdline: str) -> bool:
        """Whether such a guest gets a machine on this host, and no process takes its place (:meth:`start_process`).

        :param cmdline: the settings' part of the kernel's command line
        """

    def check(self, config: SandboxConfig) -> None:
        """
        :raises ConfigError: what it boots from is not there; or it cannot have what *config* asks for
        """

    def machine(self, config: SandboxConfig, wiring: Wiring) -> MachineConfig:
        """The machine that boots: which kernel with which command line, and which devices.  A clone or a restored
        machine opens the files of these devices: what is saved could name any file."""

    def start_process(self, config: SandboxConfig, folder: str, shared: str) -> Vm | None:
        """A process that takes the place of the machine, started; None: a machine is needed.

        :param folder: where its socket is made
        :param shared: the directory that the guest sees
        :raises VmmError: it cannot be made
        """

    def describe(self, spec: Json, hostname: str, *, shared_pids: bool) -> GuestConfig:
        """A container for the agent, see :func:`pyvmm_kata.bundle.guest_config.guest_config`."""

    def describe_process(self, process: Json) -> tuple[Any, str]:
        """A process for the agent, from the ``process`` of a config.json: a ``grpc.Process``, and text or nothing."""

    def describe_resources(self, resources: Json) -> tuple[Any, str]:
        """Changed limits for the agent, from the ``linux.resources`` of a config.json: a ``grpc.LinuxResources`` or
        None, and text or nothing.

        :raises ConfigError: a guest cannot enforce them
        """

    def template(self, config: SandboxConfig, nets: int) -> Kind:
        """What a template for such a machine is made of, and a spare of a pool: two configurations that one template
        or one spare can serve have the same.

        :param nets: how many network devices it has
        """

    def template_machine(self, kind: Kind, wiring: Wiring) -> MachineConfig:
        """The machine that becomes that template: all that its guest sees is what :meth:`machine` has."""
