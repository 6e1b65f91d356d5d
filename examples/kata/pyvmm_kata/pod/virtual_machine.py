"""The virtual machine of a sandbox."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from pyvmm_kata import timeline
from pyvmm_kata.errors import GuestError, HostError
from pyvmm_kata.host.mounts import TAG
from pyvmm_kata.pod.console_log import ConsoleLog
from pyvmm_kata.pod.guest_kind import AGENT_PORT, FORWARD_PORT
from pyvmm_kata.pod.guest_kinds import kind_named
from pyvmm_kata.pod.machine_source import MachineSource, isolation_of, wiring_of
from vmm import DiskConfig, allow_open_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata.bundle.root_disks import RootDisk
    from pyvmm_kata.pod import templates
    from pyvmm_kata.pod.sandbox_config import SandboxConfig
    from pyvmm_kata.pod.vm import Vm
    from vmm import AnyMachine, EndEvent, Event

FILES = 4096
ROOM = 256
_BLOCK = 512
"""Bytes of a block in st_blocks, see stat(2)."""
DIAL_S = 10.0
WORDS_S = 0.5
COUNTERS = (
    *("exits", "halt_exits", "irq_injections", "io_exits", "mmio_exits", "insn_emulation", "signal_exits"),
    *("c", "python"),
)


class PyvmmVm:
    """A machine of pyvmm's, started: a :class:`pyvmm_kata.pod.vm.Vm`.

    :param config: what it is made from
    :param folder: where its socket and its console's file are made
    :param shared: the directory of the share
    :param template: a template's folder that it must be a clone of; empty: as *config* says
    :raises VmmError: it cannot be made
    """

    def __init__(self, config: SandboxConfig, folder: str, shared: str, template: str = "") -> None:
        self._name = config.sandbox_id
        _allow_files()
        # Through the descriptor, since a unix socket's path must be short and the state's may not be
        self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._console: ConsoleLog | None = ConsoleLog(self._folder)
        self._machine: AnyMachine | None = None
        self._counting = threading.Lock()  # what is closed counts no more
        self.template = self.why = ""
        self._checkpoint, self._memory = config.checkpoint, config.memory
        forked = config.forked
        self._forked_size = os.fstat(forked.fds[0]).st_blocks * _BLOCK if forked is not None else 0
        self.wanted: templates.Kind | None = None
        self._plugged: dict[str, Any] = {}
        # What notes with the template what it touches is in no jail
        wiring = wiring_of(
            f"/proc/self/fd/{self._folder}",
            shared,
            config.network.nets if config.network is not None else (),
            self._console.fileno(),
            "thread" if template else isolation_of(config),
        )
        try:
            made = MachineSource(kind_named(config.guest), config, wiring).make(template)
            self._machine, self.template, self.why, self.wanted = made
            seal = config.seal
            self._machine.start(None if seal is None else lambda: seal(self.wanted), confined=True)
        except BaseException:
            self.close()
            raise

    def connect(self, timeout: float) -> socket.socket:
        """See :class:`Vm`."""
        machine = self._running()
        sock = connect_to(machine, self._name, timeout)
        if timeline.is_told():
            _note_phases(machine)
        return sock

    def dial(self) -> socket.socket:
        """See :class:`Vm`."""
        return self._running().vsock.connect(FORWARD_PORT, timeout=DIAL_S)

    def watch(self, on_end: Callable[[str], None]) -> None:
        """See :class:`Vm`."""
        machine, console = self._running(), self._console

        def tell(event: Event | EndEvent) -> None:
            # The root and the volumes of all containers are in this share
            if event.kind == "device-lost" and event.detail.startswith(f"share {TAG}: "):
                machine.stop("error", event.detail.partition(";")[0])

        machine.listen(tell)

        def wait() -> None:
            try:
                end = machine.wait()
                reason = f"{end.kind} {end.detail}".strip() if end is not None else ""
                words = _last_words(console) if end is not None and end.kind == "panic" and console is not None else ""
                on_end(f"{reason}: {words}" if words else reason)
            except Exception as error:
                on_end(str(error))

        threading.Thread(target=wait, name="vm", daemon=True).start()

    def plug(self, disk: RootDisk, serial: str) -> None:
        """See :class:`Vm`."""
        self._plugged[serial] = self._running().plug(DiskConfig(disk.path, disk.read_only, serial))

    def unplug(self, serial: str) -> None:
        """See :class:`Vm`."""
        # An agent that works has unmounted it before: there is nothing to wait for
        with self._counting:
            self._running().unplug(self._plugged.pop(serial), 0, force=True)

    def readdress(self, number: int, mac: str) -> None:
        """See :class:`Vm`."""
        self._running().nets[number].set_mac(bytes.fromhex(mac.replace(":", "")))

    def refresh(self) -> None:
        """See :class:`Vm`."""
        self._running().refresh_shares()

    def save(self, folder: str) -> None:
        """See :class:`Vm`."""
        self._running().snapshot(folder)

    @property
    def base_size(self) -> int:
        """See :class:`Vm`."""
        folder = self._checkpoint or self.template
        try:
            return os.stat(f"{folder}/memory").st_blocks * _BLOCK if folder else self._forked_size
        except OSError:
            return self._memory  # it was removed: at most so much

    def fork(self, count: int) -> tuple[dict[str, Any], list[int]]:
        """See :class:`Vm`."""
        return self._running().export_fork(count)

    def write_touched(self, fd: int) -> None:
        """See :class:`Vm`."""
        self._running().write_touched(fd)

    def resize_memory(self, size: int) -> None:
        """See :class:`Vm`."""
        self._running().resize_memory(size)

    @property
    def cpus(self) -> int:
        """See :class:`Vm`."""
        return self._running().cpus

    def resize_cpus(self, count: int) -> None:
        """See :class:`Vm`."""
        self._running().resize_cpus(count)

    def figures(self) -> dict[str, Any]:
        """See :class:`Vm`."""
        with self._counting:
            told = self._running().figures()
        for vcpu in told["vcpus"]:
            for name in [name for name in vcpu if name not in COUNTERS]:
                del vcpu[name]
        return told

    def _running(self) -> AnyMachine:
        if self._machine is None:
            raise HostError(f"sandbox {self._name}: its virtual machine is closed", code="sandbox-state")
        return self._machine

    def close(self) -> None:
        """See :class:`Vm`."""
        with self._counting:
            machine, self._machine = self._machine, None
        if machine is not None:
            machine.close()
        console, self._console = self._console, None
        if console is not None:
            console.close()
        if self._folder >= 0:
            os.close(self._folder)
        self._folder = -1


def start_vm(config: SandboxConfig, folder: str, shared: str) -> Vm:
    """The machine of a sandbox, or the process that takes its place, started; see :class:`PyvmmVm`.

    :raises VmmError: it cannot be made
    """
    return kind_named(config.guest).start_process(config, folder, shared) or PyvmmVm(config, folder, shared)


def _last_words(console: ConsoleLog) -> str:
    """Why the guest's kernel panicked. Its output may still be in transit."""
    deadline = time.monotonic() + WORDS_S
    while "panic" not in (words := console.last_words()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return words


def connect_to(machine: AnyMachine, name: str, timeout: float) -> socket.socket:
    """A connection to the agent of sandbox *name*, once it listens.

    :raises GuestError: it does not listen in time
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return machine.vsock.connect(AGENT_PORT, timeout=max(0.1, deadline - time.monotonic()))
        except ConnectionRefusedError:
            pass  # the guest's driver is there, its agent not yet
        except TimeoutError:
            pass
        end = machine.end
        if end is not None:
            words = f"{end.kind} {end.detail}".strip()
            raise GuestError(
                f"sandbox {name}: the virtual machine ended before its agent was there ({words})",
                code="guest-start",
                hint="pyvmm-oci --debug --log FILE notes what the guest printed",
            )
        if time.monotonic() > deadline:
            raise GuestError(
                f"sandbox {name}: the agent did not listen on vsock port {AGENT_PORT} within {timeout:g} s",
                code="guest-start",
                hint="pyvmm-oci --debug --log FILE notes what the guest printed",
            )
        time.sleep(0.005)


def _allow_files() -> None:
    """Raise the limit of open files, for the descriptors of all connections, and reserve room for those of a machine:
    the kernel grows the table at once while a process has one thread, and later waits for a grace period of RCU."""
    allow_open_files(FILES)
    try:
        with open(os.devnull) as null:
            os.close(fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, ROOM - 1))
    except OSError:
        pass  # so many are not allowed


def _note_phases(machine: AnyMachine) -> None:
    """Record the times of the machine's start."""
    for name, at in machine.phases_within():
        timeline.note(f"machine: {name}", at)
