"""The jails of two processes that reach the host's network: the gateway of a sandbox, and its resolver of names."""

from __future__ import annotations

import posix

from vmm.errors import HostError
from vmm.native import ffi, lib
from vmm.processes.jail.calls import Folders, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NOBODY = 65534
_KEEPS_FILES = lib.JAIL_CAPABILITIES | lib.JAIL_NO_NEW_PRIVS | lib.JAIL_LIMITS
_NEEDED = _KEEPS_FILES | lib.JAIL_FILES
_SCRATCH_SIZE = 64 << 10
_SET_USER = 1 << 6 | 1 << 7
"""CAP_SETGID, CAP_SETUID (linux/capability.h)."""


def jail_gateway(files: int) -> int:
    """Give up, for good, everything but the host's network and descriptors that are open.  The only thread of a process
    of root calls this.

    The process gets a user of its own, no capabilities, and an empty root directory with one file, ``/scratch``, which
    it can read.  It listens on no TCP port, and the system calls that docs/reference/system-calls.md lists for GATEWAY
    stay allowed.  Any other ends it.  No code can be mapped afterwards, so import everything before.

    :param files: most descriptors
    :returns: a descriptor that writes the file, up to 64 KiB
    :raises HostError: the host refuses one of these, except Landlock; or the process has other threads
    """
    config = ffi.new("struct jail_config *")
    config.uid, config.files, config.threads = _user(), files, 1
    config.file_size, config.network, config.scratch = _SCRATCH_SIZE, 1, 1
    walls = ffi.new("struct jail_walls *")
    check(lib.jail_enter(config, walls))
    _check_walls(walls, _NEEDED | lib.JAIL_USER)
    check(lib.seccomp_enter_process(lib.SECCOMP_GATEWAY))
    return int(walls.scratch)


def jail_resolver(folders: Iterable[str]) -> None:
    """Give up, for good, everything but the host's network and reading files that all users may read.  The only thread
    of a process of root calls this.

    The process gets a user of its own and no capabilities.  The threads that it starts later call
    :func:`enter_resolver`.

    :param folders: where it reads files, if the host's kernel has Landlock
    :raises HostError: the host refuses, or the process has other threads
    """
    reachable = Folders(folders)
    try:
        user, walls = _user(), ffi.new("struct jail_walls *")
        check(lib.jail_reduce(_SET_USER, walls))
        check(lib.jail_become(user))
        check(lib.jail_reduce(0, walls))  # a process that becomes another user is dumpable again
        _check_walls(walls, _KEEPS_FILES)
        reachable.keep(writable=False)
    finally:
        reachable.close()


def enter_resolver() -> None:
    """Allow the calling thread, for good, only the system calls that docs/reference/system-calls.md lists for RESOLVER;
    any other ends the process.

    :raises HostError: the host's kernel has no seccomp filters
    """
    check(lib.seccomp_enter_process(lib.SECCOMP_RESOLVER))


def _user() -> int:
    """A user that no other process has; the descriptor that reserves it stays open."""
    from vmm.processes.jail import users

    try:
        return users.claim()[0]
    except HostError:
        return _NOBODY


def _check_walls(walls: object, needed: int) -> None:
    standing, number = int(walls.standing), int(walls.first_errno)  # type: ignore[attr-defined]
    if needed & ~standing:
        raise HostError(f"jail: {posix.strerror(number)}", code="jail", errno=number)
