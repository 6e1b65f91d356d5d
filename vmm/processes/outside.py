"""``--jail``: what a process that runs a machine from the command line gives up."""

from __future__ import annotations

import posix
import sys

from vmm.errors import ConfigError, HostError
from vmm.lifecycle import NO_DESCRIPTOR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.config import MachineConfig
    from vmm.debug import GdbServer
    from vmm.machine.machine import Machine
    from vmm.processes.broker import Broker
    from vmm.processes.jail.enter import Walls
    from vmm.processes.jail_server import Requests
    from vmm.virtio.image import Below


_LOG = 1 << 30
"""By how many bytes a file may grow that is stderr: it may be a log of other programs, too."""

_RINGS = 8
"""Queues of disks that are plugged in which use io_uring at a time."""


class Outside:
    """The processes that a jailed machine has outside. A context manager, to be left when the machine is closed.

    :param config: of the machine, before it is made
    :ivar broker: see :mod:`vmm.processes.broker`; None where there is none
    :ivar below: directories from which disks may be plugged in, for a control socket that this process serves
    :ivar below_shares: the same for directories of shares
    :ivar control: the process that serves its control socket; None without one, or without a jail
    :ivar gdb: the stub for a debugger, which the process of the machine itself runs; None without one
    :raises ConfigError: the control socket cannot be made, or a directory for disks cannot be opened
    """

    def __init__(self, config: MachineConfig, values: dict[str, Any]) -> None:
        self.broker: Broker | None = None
        self.below: Below | None
        self.below_shares: Below | None
        self.control: Requests | None = None
        self.gdb: GdbServer | None = None
        self.below = self.below_shares = None
        try:
            self.below = _below(config, values, "disk")
            self.below_shares = _below(config, values, "share")
        except BaseException:
            self.__exit__()
            raise
        if values["control"] is not None and values["jail"] != "off" and not obstacle(config, values):
            from vmm.processes.control_process import ControlProcess

            self.control = ControlProcess(
                config,
                values["control"],
                self.below,
                self.below_shares,
                jail=values["jail"],
                until=values.get("until", -1),
            )

    def __enter__(self) -> Outside:
        return self

    def __exit__(self, *exc: object) -> None:
        for each in (self.broker, self.control, self.below, self.below_shares):
            if each is not None:
                each.close()


def _below(config: MachineConfig, values: dict[str, Any], kind: str) -> Below | None:
    paths, flag = values.get(f"{kind}s_from"), f"--{kind}s-from"
    if not paths:
        return None
    from vmm.virtio.image import Below

    if values["control"] is None:
        raise ConfigError(f"{flag}: nobody could ask for a {kind}", code=f"{kind}s-from", hint="give --control, too")
    if not config.has_pci():
        raise ConfigError(f"{flag}: {kind}s come and go only on PCI", code="hotplug", hint="give --transport pci")
    return Below(paths, kind)


def obstacle(config: MachineConfig, values: dict[str, Any]) -> str:
    """The part of a machine that needs more than a jail leaves, or empty."""
    if values.get("records"):
        return "the first clone with --prefetch writes into the snapshot"
    return config.opens_files()


def _has_sockets(config: MachineConfig) -> bool:
    return config.vsock is not None and config.vsock.backend == "unix"


def has_terminal() -> bool:
    """Whether the console is a terminal: vmm/cli/terminal.py imports this module."""
    return "signal" in sys.modules


def import_the_rest(*, as_json: bool, stats: bool) -> None:
    """Import everything that a running machine may import, for its way of running: afterwards no files can be opened.

    Early enough for the file that :mod:`vmm.faststart.bundle` keeps.
    """
    from vmm.machine import confined
    from vmm.processes import trim_memory
    from vmm.processes.jail import users

    confined.import_the_rest()
    assert trim_memory and users
    if as_json:
        import json

        assert json
    if stats:
        from vmm.machine import stats as counters

        assert counters


def _file_size(machine: Machine, *, control: bool) -> int:
    """The largest size of a file that the machine writes; 0: no limit, since the console's may grow."""
    from vmm.faststart.builtin import stat

    def size(fd: int) -> int:
        info = posix.fstat(fd)
        return info.st_size if stat.S_ISREG(info.st_mode) else -1

    if any(size(fd) >= 0 for fd in {1, machine.config.console.fd} - {None, -1} if fd is not None):
        return 0
    most = 1 << 20
    log = size(2)
    if log >= 0:  # messages, beside those of others
        most = log + _LOG
    if control:  # what a snapshot's files have
        most = max(most, machine.config.all_memory(), 64 << 20)
    for device in machine.devices:
        # By what is open: a clone's disk has no name any more
        for fd in (getattr(device, "image_fd", -1), getattr(device, "overlay_fd", -1)):
            if fd >= 0:
                most = max(most, size(fd))
    return most


def _files(config: MachineConfig) -> int:
    """The largest number of descriptors of the process."""
    if config.vsock is None or not _has_sockets(config):
        return 1024
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1024 + config.vsock.connections
    return wanted if most == resource.RLIM_INFINITY else min(wanted, most)


def calls_of(
    config: MachineConfig,
    *,
    prefetch: bool = False,
    on_demand: bool = False,
    broker: bool = False,
    control: bool = False,
    disks: bool = False,
    gdb: bool = False,
    terminal: bool | None = None,
) -> int:
    """The kinds of threads that the process of the machine will have.

    :param disks: they may be added while it runs
    :param terminal: its console is a terminal; None: see :func:`has_terminal`
    """
    from vmm.machine.confined import kinds_of
    from vmm.native import lib

    # The UART writes in the way of a console's worker
    more: int = lib.SECCOMP_PREFETCH if prefetch else 0
    if has_terminal() if terminal is None else terminal:
        more |= lib.SECCOMP_TTY
    if on_demand:
        more |= lib.SECCOMP_FILL
    if broker or control:
        more |= lib.SECCOMP_OUTSIDE
    if control:
        more |= lib.SECCOMP_CONTROL
    if disks:
        more |= lib.SECCOMP_BLK | lib.SECCOMP_DISK
    if gdb:
        more |= lib.SECCOMP_GDB
    return int(lib.SECCOMP_VMM | lib.SECCOMP_CONSOLE) | more | kinds_of(config)


def enter(machine: Machine, values: dict[str, Any], outside: Outside) -> Walls:
    """Enter the jail, before the guest runs.

    :param outside: receives the broker, if something has to be done outside

    :raises HostError: ``on``, and a barrier is not available
    """
    from vmm.processes import trim_memory
    from vmm.processes.jail.enter import ON, JailLimits
    from vmm.processes.jail.enter import enter as go_in

    trim_memory.open_maps()
    terminal = values.get("terminal", has_terminal())
    if terminal:  # it may come to the foreground
        try:
            import termios
        except ImportError as error:  # of a file that is there: no descriptor is left
            raise HostError(f"cannot load termios: {error}", code="host-limit", hint=NO_DESCRIPTOR) from error
        assert termios
    vsock: Any = machine.vsock if _has_sockets(machine.config) else None
    names = []
    if outside.gdb is not None:
        from vmm.board import vcpu_gate

        assert vcpu_gate
        names = outside.gdb.give_name()
    if vsock is not None or names:
        from vmm.processes.broker import Broker

        outside.broker = Broker(vsock, names)
        outside.broker.watch(machine)
    control, disks = outside.control is not None, False
    if outside.control is not None:
        outside.control.hand_over(machine)
        disks = outside.control.takes_disks
    calls = calls_of(
        machine.config,
        prefetch=bool(values.get("prefetch")),
        on_demand=machine.memory.on_demand,
        broker=outside.broker is not None,
        control=control,
        disks=disks,
        gdb=outside.gdb is not None,
        terminal=terminal,
    )
    if disks:
        from vmm.virtio.blk.device import keep_rings

        keep_rings(_RINGS)
    most = _file_size(machine, control=control)
    limits = JailLimits(files=_files(machine.config), file_size=most, file_size_grows=disks, calls=calls)
    walls = go_in(limits, must=values["jail"] == ON)
    if outside.control is not None:
        outside.control.go(walls.user)
    return walls
