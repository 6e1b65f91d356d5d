"""What confines a process of the host: descriptors, namespaces, a root directory, limits and a list of system calls.

:mod:`pyvmm_kata.host.jailed_call` confines a function in this way, :mod:`pyvmm_kata.host.jailed_program` a program.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import HostError
from pyvmm_kata.host import mounts
from pyvmm_kata.host.mounts import libc

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NEWNS, _NEWUSER, _NEWNET = 0x20000, 0x10000000, 0x40000000
_PR_SET_SECCOMP, _SECCOMP_FILTER = 22, 2
_PIVOT_ROOT = 155
_FILES = 512


class Limits(NamedTuple):
    """Limits of such a process.

    :ivar seconds: of its whole life
    :ivar file_size: most bytes of a file
    """

    seconds: float
    file_size: int


class Condition(NamedTuple):
    """Restricts an argument of a system call.

    :ivar number: of the system call
    :ivar argument: its index
    :ivar bits: tested in the lower half of the argument
    :ivar wanted: whether one of the bits must be set, or none may be
    """

    number: int
    argument: int
    bits: int
    wanted: bool


DATA_ONLY = (Condition(9, 2, 4, False), Condition(10, 2, 4, False))
"""mmap and mprotect, without PROT_EXEC."""


def keep_only(kept: Sequence[int]) -> list[int]:
    """Close all descriptors except *kept*, which get the numbers from 3; 0, 1 and 2 become ``/dev/null``."""
    null = os.open(os.devnull, os.O_RDWR)
    # Above all numbers first, so that none is overwritten that is still to be moved
    above = max(null, 2, *kept) + 1
    moved: list[int] = []
    for each in (null, null, null, *kept):
        os.dup2(each, above + len(moved))
        moved.append(above + len(moved))
    for number, each in enumerate(moved):
        os.dup2(each, number, inheritable=False)
    os.closerange(len(moved), above + len(moved))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(above + len(moved), min(most, 1 << 20))
    return list(range(3, len(moved)))


def enter_namespaces() -> None:
    """New mount and network namespaces; for an unprivileged user in a new user namespace that keeps the user id.

    :raises HostError: the host refuses
    """
    if libc.unshare(_NEWNS | _NEWNET):
        uid, gid = os.geteuid(), os.getegid()
        if libc.unshare(_NEWUSER | _NEWNS | _NEWNET):
            raise _refused("namespaces of its own")
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    mounts.mount("", "/", "", mounts.MS_REC | mounts.MS_PRIVATE)


def change_root(root: str) -> None:
    """Make a mount the root directory, and detach the host's.

    :raises HostError: the host refuses
    """
    os.chdir(root)
    if libc.syscall(_PIVOT_ROOT, b".", b".") or libc.umount2(b".", mounts.MNT_DETACH):
        raise _refused("its root directory")
    os.chdir("/")


def set_limits(memory: int, file_size: int) -> None:
    """
    :param memory: bytes of address space
    :param file_size: bytes of a file
    """
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (value, value))


def filter_calls(allowed: Iterable[int], conditions: Iterable[Condition]) -> None:
    """Answer all system calls except these with ENOSYS (seccomp(2)).

    :raises HostError: the host's kernel lacks seccomp filters
    """
    load, equal, masked, done = 0x20, 0x15, 0x45, 0x06  # linux/bpf_common.h: LD|W|ABS, JMP|JEQ|K, JMP|JSET|K, RET|K
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.ENOSYS
    program = [(load, 0, 0, 4), (equal, 1, 0, 0xC000003E), (done, 0, 0, refuse)]  # AUDIT_ARCH_X86_64
    program.append((load, 0, 0, 0))
    for number in allowed:
        program += [(equal, 0, 1, number), (done, 0, 0, allow)]
    for each in conditions:
        skip = (0, 1) if each.wanted else (1, 0)
        program += [(equal, 0, 4, each.number), (load, 0, 0, 16 + 8 * each.argument), (masked, *skip, each.bits)]
        program += [(done, 0, 0, allow), (done, 0, 0, refuse)]
    program.append((done, 0, 0, refuse))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, head):
        raise _refused("a list of system calls")


def _refused(what: str) -> HostError:
    number = ctypes.get_errno()
    return HostError(
        f"{what}: {os.strerror(number)}",
        code="sandboxed",
        errno=number,
        hint="do it as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone)",
    )
