"""Differences between Linux and the Sentry that stay, each with its reason: tests/sentry/fuzz.py leaves them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sentry.fuzz import Difference


@dataclass
class Known:
    """A difference that stays.

    :ivar names: of calls
    :ivar native: errors of the host, 0 for success; ``*``: any
    :ivar ours: the same of the Sentry
    :ivar flag: number and bits of an argument that must be set
    """

    names: str
    native: str
    ours: str
    reason: str
    flag: tuple[int, int] = (0, 0)

    def fits(self, difference: Difference) -> bool:
        """It is this one."""
        call = difference.call
        if not call or call.name not in self.names.split():
            return False
        argument = call.arguments[self.flag[0]] if call.arguments else 0
        ends = [line.split()[2] if len(line.split()) > 2 else line for line in (difference.native, difference.ours)]
        fit = all(want == "*" or got in want.split() for want, got in zip((self.native, self.ours), ends, strict=True))
        return fit and (not self.flag[1] or (isinstance(argument, int) and bool(argument & self.flag[1])))


_XATTR = "setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr removexattr lremovexattr fremovexattr"
KNOWN = (
    Known("clock_gettime clock_getres", "0 EFAULT", "EINVAL", "there are no alarm clocks here", (0, 8)),
    Known(_XATTR, "E2BIG ERANGE EFAULT EINVAL", "*", "Linux checks names and values before files since 6.13"),
    Known(
        "fchmod fchown fchownat fchmodat2 utimensat",
        "EOPNOTSUPP",
        "0",
        "since 6.16, what has no name has no attributes to change",
    ),
    Known("flock", "EAGAIN", "0", "for Linux, all descriptors of its own without a file are the same file"),
    Known("epoll_wait epoll_pwait", "EBADF", "EINVAL EFAULT", "the number of events has been checked last since 6.15"),
    Known("mprotect pkey_mprotect", "0", "EINVAL", "no mapping grows down", (2, 0x0100_0000)),
    Known("msync", "0", "ENOMEM", "no mapping grows down"),
    Known("mremap", "0", "EFAULT", "several mappings move in one call since 6.17"),
    Known("lseek", "ENXIO", "0", "room that fallocate() made is data here", (2, 3)),
    Known("lseek", "0", "0", "room that fallocate() made is no hole here", (2, 4)),
    Known("fcntl", "EINVAL", "0", "a memfd takes O_DIRECT here, as all files of a tmpfs do", (1, 4)),
    Known("mremap", "EFAULT", "EINVAL", "places and sizes have been checked before the mapping since 6.17"),
    Known("memfd_create", "*", "EINVAL", "there are no huge pages", (1, 4)),
    Known("link linkat rename renameat renameat2 openat2", "*", "EXDEV", "/dev is a mount of its own here"),
    Known("setrlimit prlimit64", "EPERM", "0 EFAULT", "the host's root can lack CAP_SYS_RESOURCE"),
    Known("sendfile", "*", "0", "2 GiB are more memory than the sandbox has", (3, 0x2000_8000_0000)),
    Known("flistxattr", "ERANGE EFAULT 0", "0", "sockets have no attribute with their protocol"),
    Known("newfstatat", "0 EBADF", "EINVAL", "flags are not checked since 6.13 where the path is empty", (3, 0x1000)),
    Known("preadv2 pwritev2", "*", "EOPNOTSUPP", "RWF_DONTCACHE came with 6.14, RWF_NOSIGNAL with 6.18", (5, 0x180)),
    Known("getdents getdents64", "EINVAL 0", "0", "a position in a folder means what the file system likes"),
    Known("writev pwritev2", "EINVAL", "*", "Linux writes each vector by itself to an eventfd"),
    Known("renameat2", "*", "EINVAL", "there are no whiteouts", (4, 4)),
    Known("mmap", "EPERM", "*", "the folder of the native run can be mounted noexec"),
    Known("pipe2", "EINVAL", "ENOPKG", "the host's Linux can have queues of notifications", (1, 0x80)),
)
"""The oracle is the host's Linux, of another version than the one that the Sentry follows."""


def is_known(difference: Difference) -> bool:
    """It has a reason."""
    return any(each.fits(difference) for each in KNOWN)
