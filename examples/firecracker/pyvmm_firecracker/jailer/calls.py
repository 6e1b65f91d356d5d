"""System calls that Python 3.11 has no functions for."""

from __future__ import annotations

import ctypes
import os
import platform

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x0002_0000, 0x2000_0000, 0x4000_0000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155}
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move this process to new namespaces, see unshare(2).

    :raises OSError: the kernel refuses
    """
    _checked(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Move this thread to an existing namespace, see setns(2).

    :raises OSError: the kernel refuses
    """
    _checked(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount a file system, or change a mount, see mount(2).

    :raises OSError: the kernel refuses
    """
    words = [os.fsencode(word) if word else None for word in (source, target, kind)]
    done = _libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data) if data else None)
    _checked(done, f"mount {source or kind} on {target}")


def unmount(target: str) -> None:
    """Detach a mount, also one that is in use.

    :raises OSError: the kernel refuses
    """
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make a mount the root, and attach the old root at a directory below it, see pivot_root(2).

    :raises OSError: the kernel refuses
    """
    number = _PIVOT_ROOT[platform.machine()]
    _checked(_libc.syscall(number, os.fsencode(new), os.fsencode(old)), f"pivot_root {new}")
