"""Users that belong to nobody: one for each machine, so that no two can touch each other."""

from __future__ import annotations

import posix

from vmm.errors import HostError

TYPE_CHECKING = False

FIRST, COUNT = 0x7000_0000, 4096
"""Above what distributions, containers' ranges and systemd use (systemd's UIDS-GIDS.md), below 2^31."""
FOLDER = "/run/pyvmm"
_FILE = "users"


def claim(folder: str = FOLDER, first: int = FIRST, count: int = COUNT) -> tuple[int, int]:
    """A user that no other machine of this host has.

    Each user is a byte of a file, which is locked as long as the descriptor is open: the end of a process, whatever its
    kind, gives the user back.

    :returns: the user, and the descriptor
    :raises HostError: the file cannot be had, or all users are taken
    """
    import fcntl

    path = f"{folder}/{_FILE}"
    try:
        try:
            posix.mkdir(folder, 0o755)
        except FileExistsError:
            pass
        fd = posix.open(path, posix.O_RDWR | posix.O_CREAT | posix.O_NOFOLLOW | posix.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", code="jail-users", errno=error.errno or 0) from error
    # Not where the last one began: a machine that has just ended may have left something with its user's name on it
    start = (posix.getpid() * 31) % count
    for index in range(count):
        offset = (start + index) % count
        # struct flock (fcntl.h): l_type F_WRLCK, l_whence SEEK_SET, l_start, l_len, l_pid 0
        lock = b"\1\0\0\0\0\0\0\0" + offset.to_bytes(8, "little") + (1).to_bytes(8, "little") + bytes(8)
        try:
            fcntl.fcntl(fd, _F_OFD_SETLK, lock)
        except OSError:
            continue
        return first + offset, fd
    posix.close(fd)
    raise HostError(f"all {count} users of {path} are taken", code="jail-users", hint="end machines, or --jail=off")


_F_OFD_SETLK = 37
"""Not the classic lock, which belongs to a process and goes when it closes any descriptor of the file."""
