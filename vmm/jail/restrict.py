"""What a process gives up that has a machine and goes on serving its host: it opens disks, mounts, speaks to others."""

from __future__ import annotations

import posix

from vmm.errors import ConfigError, HostError
from vmm.jail.enter import Walls
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
"""Names by number (linux/capability.h)."""


def restrict_process(capabilities: Iterable[str] = ()) -> Walls:
    """For good: the calling thread, and all that it starts, gain no privileges, keep these capabilities and no other,
    and never make the system calls of vmm/native/calls/forbidden.h; no core, nobody of its user may look into the
    process, System V IPC and the host's name are its own.  So on the first thread, before there are others.

    :param capabilities: as :data:`CAPABILITIES` names them
    :returns: what stands
    :raises ConfigError: there is no such capability
    :raises HostError: not even new privileges can be given up
    """
    kept = 0
    for name in capabilities:
        if name not in CAPABILITIES:
            raise ConfigError(f"{name!r} is no capability", code="jail-capability")
        kept |= 1 << CAPABILITIES.index(name)
    walls = ffi.new("struct jail_walls *")
    _check(lib.jail_reduce(kept, walls))
    standing, missing = int(walls.standing), ""
    if walls.missing:
        missing = posix.strerror(walls.first_errno)
    failed = lib.seccomp_forbid(1)
    if not failed:
        standing |= lib.JAIL_SECCOMP
    elif not missing:
        missing = posix.strerror(-failed)
    return Walls(standing, missing)


def seal_process() -> None:
    """For good: the calling thread, and all that it starts, run no program, and make no process and no machine.  When
    those that there are to be are there.

    :raises HostError: the host's kernel has no filters of system calls
    """
    _check(lib.seccomp_forbid(0))


def keep_calls() -> None:
    """For good: the calling thread, and those that it starts, have no system calls but those that serving a control
    socket takes; another one ends the process.  All code is mapped by then.

    :raises HostError: the host's kernel has no filters of system calls
    """
    _check(lib.seccomp_enter_process(lib.SECCOMP_SERVER))


def _check(result: int) -> None:
    if result:
        raise HostError(f"jail: {posix.strerror(-result)}", code="jail", errno=-result)
