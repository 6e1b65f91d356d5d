"""The virtual machine of a sandbox."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from pyvmm_kata import timeline
from pyvmm_kata.errors import GuestError, HostError
from pyvmm_kata.host.mounts import TAG, VSOCK
from pyvmm_kata.host.walls import seal
from pyvmm_kata.sandbox.console_log import ConsoleLog
from pyvmm_kata.sandbox.disks import SERIAL
from vmm import (
    BootConfig,
    ConsoleConfig,
    DiskConfig,
    Machine,
    MachineConfig,
    MemoryConfig,
    PmemConfig,
    ShareConfig,
    VsockConfig,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata.sandbox.disks import RootDisk
    from pyvmm_kata.sandbox.sandbox import SandboxConfig

AGENT_PORT, FORWARD_PORT = 1024, 1026
CMDLINE = "quiet oops=panic root=/dev/pmem0 rootfstype=erofs rootflags=dax ro"
"""A kernel that continues after an oops may have processes that nothing can kill: their container never ends."""
DEBUG = "agent.log=debug "
"""The agent logs how long its start took, at its end."""
SPARE = "agent.spare="
"""The agent hides the network devices with these MAC addresses, separated by commas, until they are configured."""
CID = 3
CONNECTIONS = 1024
"""Of the socket device, in both directions: each takes a descriptor of this process, and the guest opens them."""
FILES = 4096
DIAL_S = 10.0


class Vm(Protocol):
    """What a sandbox needs of a virtual machine; tests have one without KVM."""

    def connect(self, timeout: float) -> socket.socket:
        """A connection to the agent, once it listens.

        :raises GuestError: it does not, in time
        """

    def dial(self) -> socket.socket:
        """A connection to the agent's port for connections from the host (``agent/relay.h``).

        :raises OSError: there is none
        :raises VmmError: the machine does not run any more
        """

    def watch(self, on_end: Callable[[str], None]) -> None:
        """Call *on_end*, with a reason, when the machine has ended."""

    def plug(self, disk: RootDisk, serial: str) -> None:
        """Give the running guest a disk, which it knows by *serial*.

        :raises VmmError: it cannot be opened, or the machine has no room for it
        """

    def unplug(self, serial: str) -> None:
        """Unplug that disk and close it, whether the guest releases it or not.

        :raises VmmError: the machine does not run any more
        """

    def readdress(self, number: int, mac: str) -> None:
        """Give a network device, which has no driver in the guest, another MAC address.

        :param number: the index of the network's device
        :raises VmmError: the machine does not run any more
        """

    def close(self) -> None:
        """End it and release what it has."""


class PyvmmVm:
    """A machine of pyvmm's, started.

    :param config: what it is made of
    :param folder: where its socket and its console's file are made
    :param shared: the directory of the share
    :raises VmmError: it cannot be made
    """

    def __init__(self, config: SandboxConfig, folder: str, shared: str) -> None:
        self._name = config.sandbox_id
        _allow_files()
        # Through the descriptor, since a unix socket's path must be short and the state's may not be
        self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._console: ConsoleLog | None = ConsoleLog(self._folder)
        self._machine: Machine | None = None
        words = DEBUG if timeline.is_told() else ""
        if config.network is not None and config.network.spares:
            words += f"{SPARE}{','.join(config.network.spares)} "
        self._plugged: dict[str, Any] = {}
        root = config.root
        try:
            self._machine = Machine(
                MachineConfig(
                    boot=BootConfig(config.kernel, None, f"{CMDLINE} {words}{config.cmdline}".rstrip()),
                    memory=MemoryConfig(config.memory),
                    cpus=config.vcpus,
                    # A process that waits for a lock of the host cannot be killed, so locks are the guest's: pods that
                    # share a volume do not see each other's.  The root of a user namespace may access files that its
                    # user on the host may not.
                    shares=(ShareConfig(shared, tag=TAG, isolation="process", locks="guest", permissions="guest"),),
                    vsock=VsockConfig(CID, f"/proc/self/fd/{self._folder}/{VSOCK}", connections=CONNECTIONS),
                    nets=config.network.nets if config.network is not None else (),
                    pmems=(PmemConfig(config.image, read_only=True),),
                    disks=() if root is None else (DiskConfig(root.path, root.read_only, SERIAL),),
                    console=ConsoleConfig("fd", self._console.fileno()),
                    transport="pci" if config.more_disks else "mmio",
                )
            )
            self._machine.start(seal if config.sealed else None, confined=True)
        except BaseException:
            self.close()
            raise

    def connect(self, timeout: float) -> socket.socket:
        """See :class:`Vm`."""
        machine = self._running()
        deadline = time.monotonic() + timeout
        while True:
            try:
                sock = machine.vsock.connect(AGENT_PORT, timeout=max(0.1, deadline - time.monotonic()))
                if timeline.is_told():
                    _note_phases(machine)
                return sock
            except ConnectionRefusedError:
                pass  # the guest's driver is there, its agent not yet
            except TimeoutError:
                pass
            end = machine.end
            if end is not None:
                words = f"{end.kind} {end.detail}".strip()
                raise GuestError(
                    f"sandbox {self._name}: the virtual machine ended before its agent was there ({words})",
                    code="guest-start",
                    hint="pyvmm-oci --debug --log FILE notes what the guest printed",
                )
            if time.monotonic() > deadline:
                raise GuestError(
                    f"sandbox {self._name}: the agent did not listen on vsock port {AGENT_PORT} within {timeout:g} s",
                    code="guest-start",
                    hint="pyvmm-oci --debug --log FILE notes what the guest printed",
                )
            time.sleep(0.005)

    def dial(self) -> socket.socket:
        """See :class:`Vm`."""
        return self._running().vsock.connect(FORWARD_PORT, timeout=DIAL_S)

    def watch(self, on_end: Callable[[str], None]) -> None:
        """See :class:`Vm`."""
        machine = self._running()

        def wait() -> None:
            try:
                end = machine.wait()
                on_end(f"{end.kind} {end.detail}".strip() if end is not None else "")
            except Exception as error:
                on_end(str(error))

        threading.Thread(target=wait, name="vm", daemon=True).start()

    def plug(self, disk: RootDisk, serial: str) -> None:
        """See :class:`Vm`."""
        self._plugged[serial] = self._running().plug(DiskConfig(disk.path, disk.read_only, serial))

    def unplug(self, serial: str) -> None:
        """See :class:`Vm`."""
        # An agent that works has unmounted it before: there is nothing to wait for
        self._running().unplug(self._plugged.pop(serial), 0, force=True)

    def readdress(self, number: int, mac: str) -> None:
        """See :class:`Vm`."""
        self._running().nets[number].set_mac(bytes.fromhex(mac.replace(":", "")))

    def _running(self) -> Machine:
        if self._machine is None:
            raise HostError(f"sandbox {self._name}: its virtual machine is closed", code="sandbox-state")
        return self._machine

    def close(self) -> None:
        """See :class:`Vm`."""
        machine, self._machine = self._machine, None
        if machine is not None:
            machine.close()
        console, self._console = self._console, None
        if console is not None:
            console.close()
        if machine is not None and timeline.is_told():
            self._note_console()
        if self._folder >= 0:
            os.close(self._folder)
        self._folder = -1

    def _note_console(self) -> None:
        with open("console.log", opener=lambda path, flags: os.open(path, flags, dir_fd=self._folder)) as lines:
            for line in lines:
                timeline.note(f"guest: {line.rstrip()}")


def _allow_files() -> None:
    """Raise the limit of open files, for the descriptors of all connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _note_phases(machine: Machine) -> None:
    """Note the times of the machine's start."""
    for name, at in machine.phases:
        timeline.note(f"machine: {name}", at)
    timeline.note("machine: first-run", machine.vcpus[0].exit_counts()["first_run_ns"] / 1e9)
