"""Remembers that KVM runs guests, or emulates them instruction by instruction, until the next boot of the host.

To find that out takes a machine and thousands of emulated instructions, and the end of that machine waits for the
kernel. The entry is a small file of this user in ``$XDG_CACHE_HOME/pyvmm`` (or below ``~/.cache``). It is valid while
/dev/kvm is the same node, so a module that is loaded again is tried again. No failure here is an error.
"""

from __future__ import annotations

import os
import stat

_MOST = 4096
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def _place() -> str:
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "pyvmm", "kvm-verdict")


def _key(path: str) -> str:
    found = os.stat(path)
    with open(_BOOT_ID) as file:
        return f"{file.read().strip()} {path} {found.st_dev} {found.st_ino} {found.st_rdev} {found.st_ctime_ns}"


def recall(path: str) -> tuple[str, str] | None:
    """The cause and the detail of an earlier verdict on the device *path*; None: there is none."""
    try:
        fd = os.open(_place(), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                return None
            key, cause, detail = os.read(fd, _MOST).decode().split("\n", 2)
        finally:
            os.close(fd)
        return (cause, detail) if key == _key(path) and os.access(path, os.R_OK | os.W_OK) else None
    except (OSError, ValueError):
        return None


def keep(path: str, cause: str, detail: str) -> None:
    """Remember a verdict on the device *path*."""
    place = _place()
    new = f"{place}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{_key(path)}\n{cause}\n{detail}".encode())
        finally:
            os.close(fd)
        os.replace(new, place)
    except OSError:
        pass
