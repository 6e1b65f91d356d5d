"""Enter the jail: the steps for the process of a machine, and what each of them is called."""

from __future__ import annotations

import posix

from vmm.errors import ConfigError, HostError
from vmm.faststart.record import dataclass
from vmm.native import ffi, lib

TYPE_CHECKING = False

OFF, AUTO, ON = "off", "auto", "on"

WALLS = (
    ("user", lib.JAIL_USER, "a user of its own"),
    ("user-ns", lib.JAIL_USER_NS, "a user namespace of its own"),
    ("capabilities", lib.JAIL_CAPABILITIES, "no capabilities"),
    ("no-new-privs", lib.JAIL_NO_NEW_PRIVS, "no new privileges"),
    ("files", lib.JAIL_FILES, "an empty, read-only root directory"),
    ("net-ns", lib.JAIL_NET_NS, "an empty network namespace"),
    ("ipc-ns", lib.JAIL_IPC_NS, "an IPC namespace of its own"),
    ("uts-ns", lib.JAIL_UTS_NS, "a UTS namespace of its own (host name)"),
    ("cgroup-ns", lib.JAIL_CGROUP_NS, "a cgroup namespace of its own"),
    ("landlock", lib.JAIL_LANDLOCK, "a Landlock domain without a rule"),
    ("limits", lib.JAIL_LIMITS, "limits on open files, threads, file sizes and core dumps"),
    ("seccomp", lib.JAIL_SECCOMP, "a seccomp filter that allows only listed system calls"),
    ("undumpable", lib.JAIL_UNDUMPABLE, "not dumpable: no process of the same user can trace it"),
)
"""Each wall: its name, its bit, and a description for messages."""

NEEDED = lib.JAIL_CAPABILITIES | lib.JAIL_NO_NEW_PRIVS | lib.JAIL_FILES | lib.JAIL_NET_NS | lib.JAIL_LIMITS
"""The walls that ``--jail on`` requires."""


@dataclass(frozen=True)
class JailLimits:
    """Limits of the jailed process.

    :ivar files: most open descriptors (RLIMIT_NOFILE); 0: unchanged
    :ivar threads: most threads of its user (RLIMIT_NPROC); only if it gets a user of its own
    :ivar file_size: largest offset at which it may write a file, in bytes (RLIMIT_FSIZE); 0: unchanged
    :ivar file_size_grows: another process can raise that later: :func:`raise_file_size`
    :ivar calls: the kinds of threads that it will have (``SECCOMP_*`` bits): their system calls stay allowed; 0: no
        filter, all system calls stay allowed
    """

    files: int = 1024
    threads: int = 1024
    file_size: int = 0
    file_size_grows: bool = False
    calls: int = 0


@dataclass(frozen=True)
class Walls:
    """The walls of this process.

    :ivar standing: bits of :data:`WALLS` that are in force
    :ivar missing: a message about the first barrier that the host refused, and why; empty if there is none
    :ivar user: the process's own user id; 0 if it has none of its own
    """

    standing: int
    missing: str = ""
    user: int = 0

    def names(self) -> list[str]:
        """The names of the barriers that are in force."""
        return [name for name, bit, _ in WALLS if self.standing & bit]


def parse(text: str) -> str:
    """Check an argument of ``--jail``, and return it.

    :raises ConfigError: it is not ``auto``, ``on`` or ``off``
    """
    if text not in (AUTO, ON, OFF):
        raise ConfigError(f"--jail {text!r}: unknown mode", code="jail-syntax", hint="--jail auto|on|off")
    return text


def enter_cgroup(path: str) -> None:
    """Move this process, and all processes that it starts later, into a control group (cgroups(7)): the group's limits
    apply to them, and memory that they touch later is counted there.

    :raises HostError: it is not a control group, or this process may not enter it
    """
    try:
        file = posix.open(f"{path}/cgroup.procs", posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(file, b"0")
        finally:
            posix.close(file)
    except OSError as error:
        raise HostError(
            f"--cgroup {path}: {error.strerror}",
            code="cgroup",
            errno=error.errno or 0,
            hint="make the group before, and write its limits into memory.max, cpu.max and pids.max: see cgroups(7)",
        ) from error


def enter(limits: JailLimits, *, must: bool = False) -> Walls:
    """Give up, for good, everything that this process no longer needs.  Its only thread calls this.

    A process of root gets a user of its own; any other process gets a user namespace, if the host allows that.

    :param must: fail if the host refuses one of :data:`NEEDED`
    :raises HostError: the process has other threads; or the host refused a needed barrier and *must* is true
    """
    from vmm.processes.jail import users

    user, claimed, problem = 0, -1, ""
    if posix.geteuid() == 0:
        try:
            user, claimed = users.claim()
        except HostError as error:
            problem = f"a user of its own: {error}"
    config = ffi.new("struct jail_config *")
    config.uid, config.files, config.threads, config.file_size = user, limits.files, limits.threads, limits.file_size
    config.grows = limits.file_size_grows
    walls = ffi.new("struct jail_walls *")
    failed = -lib.jail_enter(config, walls)
    if failed:
        if claimed >= 0:
            posix.close(claimed)
        raise HostError(
            f"jail: {posix.strerror(failed)}",
            code="jail",
            errno=failed,
            hint="--jail=off runs the machine without a jail",
        )
    if walls.missing:
        text = next(text for _, bit, text in WALLS if bit == walls.missing)
        problem = f"{text}: {posix.strerror(walls.first_errno)}"
    standing = int(walls.standing)
    if limits.calls:
        failed = -lib.seccomp_enter_process(limits.calls)
        if not failed:
            standing |= lib.JAIL_SECCOMP
        elif not problem:
            problem = f"a seccomp filter: {posix.strerror(failed)}"
    if must and NEEDED & ~standing:
        raise HostError(
            f"jail: {problem}", code="jail", errno=int(walls.first_errno), hint="--jail=auto continues without it"
        )
    return Walls(standing, problem, user if standing & lib.JAIL_USER else 0)


def raise_file_size(pid: int, size: int, user: int = 0) -> None:
    """Let a process in a jail write files of *size* bytes.  Its filter does not let it do so itself.

    :param user: its user, whose real ids this thread takes for the call; 0: this process has them, or CAP_SYS_RESOURCE
    :raises OSError: the kernel refuses
    """
    failed = -lib.jail_raise_file_size(pid, user, size)
    if failed:
        raise OSError(failed, posix.strerror(failed))
