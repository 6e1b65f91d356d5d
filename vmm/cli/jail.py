"""``--jail``: what a process gives up that runs a machine from the command line."""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.jail.enter import Walls
    from vmm.machine.config import MachineConfig
    from vmm.machine.machine import Machine


def obstacle(config: MachineConfig, values: dict[str, Any]) -> str:
    """What of a machine needs more than a jail leaves, or empty."""
    if values["gdb"] is not None:
        return "gdb is served by a thread that is there before"
    if values.get("records"):
        return "the first clone with --prefetch writes into the snapshot"
    if values["control"] is not None:
        return "a control socket has files opened for snapshots"
    if any(share.isolation == "thread" for _, share in config.tagged_shares()):
        return "a share with isolation=thread opens files"
    if config.vsock is not None and config.vsock.backend == "unix":
        return "the guest's connections to the host open sockets"
    return ""


def has_terminal() -> bool:
    """Whether the console is a terminal: vmm/cli/terminal.py imports this module."""
    return "signal" in sys.modules


def can_confine(config: MachineConfig, values: dict[str, Any]) -> bool:
    """Whether the threads of a machine that cannot have a jail can have their lists all the same."""
    return values["gdb"] is None and all(share.isolation != "thread" for _, share in config.tagged_shares())


def import_the_rest(*, as_json: bool, stats: bool) -> None:
    """What a running machine may import, by the way that its guest takes: afterwards there are no files.

    Early enough for the file that :mod:`vmm.faststart.bundle` keeps.
    """
    from vmm.cli import trim_memory
    from vmm.jail import users
    from vmm.machine import confined

    confined.import_the_rest()
    assert trim_memory and users
    if as_json:
        import json

        assert json
    if stats:
        from vmm.machine import stats as counters

        assert counters


def _file_size(machine: Machine) -> int:
    """The most bytes that a file may have that the machine writes; 0: no limit, since one of them may grow."""
    import _stat

    for fd in {1, 2, machine.config.console.fd} - {None, -1}:
        if fd is not None and _stat.S_ISREG(posix.fstat(fd).st_mode):
            return 0
    most = 1 << 20
    for device in machine.devices:
        # By what is open: a clone's disk has no name any more
        fd = getattr(device, "image_fd", -1)
        if fd >= 0:
            info = posix.fstat(fd)
            if _stat.S_ISREG(info.st_mode):
                most = max(most, info.st_size)
    return most


def calls_of(config: MachineConfig, *, prefetch: bool = False) -> int:
    """The kinds of threads that the process of the machine will have."""
    from vmm.machine.confined import kinds_of
    from vmm.native import lib

    # The UART writes in the way of a console's worker
    terminal: int = lib.SECCOMP_TTY if has_terminal() else 0
    reading: int = lib.SECCOMP_PREFETCH if prefetch else 0
    return int(lib.SECCOMP_VMM | lib.SECCOMP_CONSOLE) | terminal | reading | kinds_of(config)


def enter(machine: Machine, values: dict[str, Any]) -> Walls:
    """Go in, before the guest runs.

    :raises HostError: ``on``, and a wall cannot be had
    """
    from vmm.cli import trim_memory
    from vmm.jail.enter import ON, JailLimits
    from vmm.jail.enter import enter as go_in

    trim_memory.open_maps()
    if has_terminal():  # it may come to the foreground
        import termios

        assert termios
    calls = calls_of(machine.config, prefetch=bool(values.get("prefetch")))
    return go_in(JailLimits(file_size=_file_size(machine), calls=calls), must=values["jail"] == ON)
