"""Going in."""

from __future__ import annotations

import posix

from vmm.errors import ConfigError, HostError
from vmm.faststart.record import dataclass
from vmm.native import ffi, lib

TYPE_CHECKING = False

OFF, AUTO, ON = "off", "auto", "on"

WALLS = (
    ("user", lib.JAIL_USER, "a user of its own"),
    ("user-ns", lib.JAIL_USER_NS, "a user namespace"),
    ("capabilities", lib.JAIL_CAPABILITIES, "no capabilities"),
    ("no-new-privs", lib.JAIL_NO_NEW_PRIVS, "no new privileges"),
    ("files", lib.JAIL_FILES, "an empty root, read-only"),
    ("net-ns", lib.JAIL_NET_NS, "no network"),
    ("ipc-ns", lib.JAIL_IPC_NS, "no IPC of others"),
    ("uts-ns", lib.JAIL_UTS_NS, "a host's name of its own"),
    ("cgroup-ns", lib.JAIL_CGROUP_NS, "no view of control groups"),
    ("landlock", lib.JAIL_LANDLOCK, "a Landlock domain that allows nothing"),
    ("limits", lib.JAIL_LIMITS, "limits on files, threads and file sizes, no core"),
    ("seccomp", lib.JAIL_SECCOMP, "a list of system calls"),
    ("undumpable", lib.JAIL_UNDUMPABLE, "nobody of its user may look into it"),
)
"""Names of walls, their bits, and what they are."""

NEEDED = lib.JAIL_CAPABILITIES | lib.JAIL_NO_NEW_PRIVS | lib.JAIL_FILES | lib.JAIL_NET_NS | lib.JAIL_LIMITS
"""Without one of these ``on`` fails."""


@dataclass(frozen=True)
class JailLimits:
    """What the process may have at most.

    :ivar files: open descriptors; 0: as many as now
    :ivar threads: of its user
    :ivar file_size: bytes that a file may have to be written to; 0: no limit
    :ivar calls: kinds of threads that it will have (``SECCOMP_*``), whose system calls it keeps; 0: it keeps all
    """

    files: int = 1024
    threads: int = 1024
    file_size: int = 0
    calls: int = 0


@dataclass(frozen=True)
class Walls:
    """What stands.

    :ivar standing: bits of :data:`WALLS`
    :ivar missing: in words, the first that cannot be had here and why; may be empty
    :ivar user: the user id, 0 when there is none of its own
    """

    standing: int
    missing: str = ""
    user: int = 0

    def names(self) -> list[str]:
        """Of those that stand."""
        return [name for name, bit, _ in WALLS if self.standing & bit]


def parse(text: str) -> str:
    """``auto``, ``on`` or ``off``.

    :raises ConfigError: something else
    """
    if text not in (AUTO, ON, OFF):
        raise ConfigError(f"--jail {text!r}: no such way", code="jail-syntax", hint="--jail auto|on|off")
    return text


def enter(limits: JailLimits, *, must: bool = False) -> Walls:
    """Give up what this process does not need any more; there is no way back.  Called by its only thread.

    As root it gets a user of its own; others get a user namespace, where the host allows that.

    :param must: fail when one of :data:`NEEDED` cannot be had
    :raises HostError: there are other threads already, or *must*
    """
    from vmm.jail import users

    user, claimed, problem = 0, -1, ""
    if posix.geteuid() == 0:
        try:
            user, claimed = users.claim()
        except HostError as error:
            problem = f"a user of its own: {error}"
    config = ffi.new("struct jail_config *")
    config.uid, config.files, config.threads, config.file_size = user, limits.files, limits.threads, limits.file_size
    walls = ffi.new("struct jail_walls *")
    failed = -lib.jail_enter(config, walls)
    if failed:
        if claimed >= 0:
            posix.close(claimed)
        raise HostError(f"jail: {posix.strerror(failed)}", code="jail", errno=failed, hint="--jail=off does without")
    if walls.missing:
        text = next(text for _, bit, text in WALLS if bit == walls.missing)
        problem = f"{text}: {posix.strerror(walls.first_errno)}"
    standing = int(walls.standing)
    if limits.calls:
        failed = -lib.seccomp_enter_process(limits.calls)
        if not failed:
            standing |= lib.JAIL_SECCOMP
        elif not problem:
            problem = f"a list of system calls: {posix.strerror(failed)}"
    if must and NEEDED & ~standing:
        raise HostError(
            f"jail: {problem}", code="jail", errno=int(walls.first_errno), hint="--jail=auto goes on without"
        )
    return Walls(standing, problem, user if standing & lib.JAIL_USER else 0)
