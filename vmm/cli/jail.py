"""``--jail``: what a process gives up that runs a machine from the command line."""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.jail.enter import Walls
    from vmm.machine.config import MachineConfig


def obstacle(config: MachineConfig, *, gdb: bool, control: bool) -> str:
    """What of a machine needs more than a jail leaves, or empty."""
    if gdb:
        return "gdb is served by a thread that is there before"
    if control:
        return "a control socket has files opened for snapshots"
    for _, share in config.tagged_shares():
        if share.isolation == "thread":
            return "a share with isolation=thread opens files"
    if config.vsock is not None and config.vsock.backend == "unix":
        return "the guest's connections to the host open sockets"
    return ""


def import_the_rest(*, as_json: bool, stats: bool) -> None:
    """What a running machine may import, by the way that its guest takes: afterwards there are no files.

    Early enough for the file that :mod:`vmm.faststart.bundle` keeps.
    """
    from vmm.cli import trim_memory
    from vmm.jail import users
    from vmm.kvm import diagnose, structs_debug, structs_state

    assert trim_memory and users and diagnose and structs_debug and structs_state
    if as_json:
        import json

        assert json
    if stats:
        from vmm.machine import stats as counters

        assert counters


def _file_size(config: MachineConfig) -> int:
    """The most bytes that a file may have that the machine writes; 0: no limit, since one of them may grow."""
    import _stat

    for fd in {1, 2, config.console.fd} - {None, -1}:
        if fd is not None and _stat.S_ISREG(posix.fstat(fd).st_mode):
            return 0
    most = 1 << 20
    for path in (*(disk.path for disk in config.disk_configs()), *(pmem.path for pmem in config.pmems)):
        info = posix.stat(path)
        if _stat.S_ISREG(info.st_mode):
            most = max(most, info.st_size)
    return most


def calls_of(config: MachineConfig) -> int:
    """The kinds of threads that the machine will have."""
    from vmm.native import lib

    kinds: int = lib.SECCOMP_VMM
    share = config.tagged_shares()
    for kind, wanted in (
        (lib.SECCOMP_BLK | lib.SECCOMP_DISK, config.disk_configs()),
        (lib.SECCOMP_NET, config.nets),
        (lib.SECCOMP_PMEM, config.pmems),
        (lib.SECCOMP_CONSOLE, True),  # the UART writes in the same way
        (lib.SECCOMP_DAX, share),
        (lib.SECCOMP_CHILD, share or any(net.kind != "tap" for net in config.nets)),
        (lib.SECCOMP_VHOST, config.vsock),
        (lib.SECCOMP_TTY, "signal" in sys.modules),  # which vmm/cli/terminal.py imports
    ):
        kinds |= kind if wanted else 0
    return kinds


def enter(config: MachineConfig, values: dict[str, Any]) -> Walls:
    """Go in, before the guest runs.

    :raises HostError: ``on``, and a wall cannot be had
    """
    from vmm.cli import trim_memory
    from vmm.jail.enter import ON, JailLimits
    from vmm.jail.enter import enter as go_in

    trim_memory.open_maps()
    if "signal" in sys.modules:  # the console is a terminal, which may come to the foreground
        import termios

        assert termios
    return go_in(JailLimits(file_size=_file_size(config), calls=calls_of(config)), must=values["jail"] == ON)
