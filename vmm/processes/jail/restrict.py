"""What a process with a machine gives up if it cannot be jailed, because it continues to open files and to mount."""

from __future__ import annotations

import posix

from vmm.errors import ConfigError
from vmm.native import ffi, lib
from vmm.processes.jail.calls import Folders, check
from vmm.processes.jail.enter import Walls

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
"""The names of capabilities; the index is the number (linux/capability.h)."""

_STARTER = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "setgid", "setuid", "setpcap", "setfcap",
    "sys_admin",
)  # fmt: skip
"""Capabilities of the process that starts servers of shares: those that servers keep (``fs/fsd/fsd_isolate.c``), and
for their namespaces, mounts and bounding set."""
_STARTER_FILES = 64
_NEVER = (
    "linux_immutable", "sys_module", "sys_rawio", "sys_pacct", "sys_boot", "sys_time", "sys_tty_config", "lease",
    "audit_write", "audit_control", "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read",
    "perfmon", "bpf", "checkpoint_restore",
)  # fmt: skip
"""Capabilities that the start of no machine needs, nor that of its helpers."""
_FORKS = ("dac_override", "kill")
"""Capabilities of the process that makes forks: files beside disks, signals to children, which have other users."""


def restrict_process(capabilities: Iterable[str] = ()) -> Walls:
    """Restrict the calling thread, and all threads and processes that it makes later, for good.

    They cannot gain privileges, keep only the named capabilities, and get EPERM for the system calls of
    ``vmm/native/calls/forbidden.h``.  The process makes no core dump, no process of the same user can trace it, and it
    has an IPC and a UTS namespace of its own.  Call this on the first thread, before others exist: it does not change
    threads that are running.

    :param capabilities: those to keep, by their names in :data:`CAPABILITIES`
    :returns: the barriers that are in force
    :raises ConfigError: a name is unknown
    :raises HostError: the kernel refuses PR_SET_NO_NEW_PRIVS
    """
    kept = _bits(capabilities)
    walls = ffi.new("struct jail_walls *")
    check(lib.jail_reduce(kept, walls))
    standing, missing = int(walls.standing), ""
    if walls.missing:
        missing = posix.strerror(walls.first_errno)
    failed = lib.seccomp_forbid(lib.SECCOMP_FORBID_NEVER)
    if not failed:
        standing |= lib.JAIL_SECCOMP
    elif not missing:
        missing = posix.strerror(-failed)
    return Walls(standing, missing)


def seal_process(capabilities: Iterable[str] | None = None, *, programs: bool = False) -> None:
    """Forbid the calling thread, and all that it makes later, to run programs and to make processes or machines, for
    good. Call this when everything that the process needs is running.

    :param capabilities: keep only these, and only the system calls that docs/reference/system-calls.md lists for HOST
        and for a machine's threads: files, sockets, mounts, threads. Others fail with ENOSYS. The list also applies to
        running threads; they keep their capabilities. None: keep all capabilities and calls
    :param programs: with *capabilities*: programs can still be run, with the same list and the calls for SPAWN. They
        make no machine either
    :raises ConfigError: a name is unknown
    :raises HostError: the host's kernel has no seccomp filters; or a thread has a list of its own, which excludes this
        one
    """
    if capabilities is None:
        check(lib.seccomp_forbid(lib.SECCOMP_FORBID_SEALED))
    else:
        check(lib.seccomp_keep(_bits(capabilities), programs))


def keep_calls() -> None:
    """Allow the calling thread, and those that it starts, only the system calls that serving a control socket needs,
    for good; any other ends the process.  No code can be mapped afterwards, so import everything before.

    :raises HostError: the host's kernel has no seccomp filters
    """
    check(lib.seccomp_enter_process(lib.SECCOMP_SERVER))


def restrict_starter() -> None:
    """Restrict the calling process, for good, to starting servers of shares: it keeps the capabilities and system calls
    that these need before they drop their own. Any other call ends the process, or the server. No code can be mapped
    afterwards, so import everything before.

    :raises HostError: the host's kernel has no seccomp filters
    """
    import resource

    check(lib.jail_reduce(_bits(_STARTER), ffi.new("struct jail_walls *")))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A server raises its own limit again, as far as its guest may have files open
    few = _STARTER_FILES if most == resource.RLIM_INFINITY else min(_STARTER_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))
    check(lib.seccomp_enter_process(lib.SECCOMP_SHARES))


def restrict_helper() -> None:
    """Restrict the calling process and the programs that it runs, for good, as far as one that starts machines can be.
    They gain no privileges, keep no capability of :data:`_NEVER`, and get EPERM for the system calls of
    ``vmm/native/calls/forbidden.h``, except those that machines need while they start. The process makes no core dump,
    no process of the same user can trace it, and it has an IPC and a UTS namespace of its own.

    :raises HostError: the host's kernel has no seccomp filters
    """
    check(lib.jail_reduce(((1 << len(CAPABILITIES)) - 1) & ~_bits(_NEVER), ffi.new("struct jail_walls *")))
    check(lib.seccomp_forbid(lib.SECCOMP_FORBID_HELPER))


def restrict_server() -> None:
    """Restrict the calling thread of a program that serves others, and all threads and programs that it starts later,
    for good.  They gain no privileges, also not by set-user-ID programs, and get EPERM for the system calls of
    ``vmm/native/calls/forbidden.h``, except those that machines need while they start.

    A process of root also loses the capabilities that neither machines nor containers need, makes no core dump, cannot
    be traced by processes without capabilities, and gets an IPC and a UTS namespace of its own.  Call this on the first
    thread, before others exist.

    :raises HostError: the host's kernel has no seccomp filters
    """
    if posix.geteuid() == 0:  # another user's program that is not dumpable could make no user namespaces
        kept = ((1 << len(CAPABILITIES)) - 1) & ~_bits(name for name in _NEVER if name != "bpf")
        check(lib.jail_reduce(kept, ffi.new("struct jail_walls *")))
    check(lib.seccomp_forbid(lib.SECCOMP_FORBID_HELPER))


def restrict_forks(folders: Iterable[str]) -> None:
    """Restrict the calling process, for good, to making files for forks of a machine, and to requests to the machine
    and its children. It keeps two capabilities, and a list of system calls that runs no program. Any other call ends
    it. No code can be mapped afterwards, so import everything before.

    :param folders: where it makes and removes files, if the host's kernel has Landlock
    :raises HostError: the host's kernel has no seccomp filters
    """
    reachable = Folders({*folders})
    try:
        check(lib.jail_reduce(_bits(_FORKS), ffi.new("struct jail_walls *")))
        reachable.keep(writable=True)
    finally:
        reachable.close()
    check(lib.seccomp_enter_process(lib.SECCOMP_FORKS))


def _bits(capabilities: Iterable[str]) -> int:
    """The bit set of capabilities(7).

    :raises ConfigError: a name is unknown
    """
    kept = 0
    for name in capabilities:
        if name not in CAPABILITIES:
            raise ConfigError(f"{name!r} is no capability", code="jail-capability", hint="capabilities(7) lists them")
        kept |= 1 << CAPABILITIES.index(name)
    return kept
