"""User ids that nothing else on the host uses: each machine gets one, so that machines cannot affect each other."""

from __future__ import annotations

import posix

from vmm.errors import HostError

TYPE_CHECKING = False

FIRST, COUNT = 0x7000_0000, 4096
"""The range of user ids: above those of distributions, containers and systemd (systemd's UIDS-GIDS.md), below 2^31."""
FOLDER = "/run/pyvmm"
_FILE = "users"


def claim(folder: str = FOLDER, first: int = FIRST, count: int = COUNT) -> tuple[int, int]:
    """Reserve a user id that no other machine of this host has.

    Each user id has a byte in a file. The byte is locked while the descriptor is open, so the end of the process
    releases the user id, even after SIGKILL. The descriptor is read-only: an attacker who takes over the machine's
    process has it, and must not fill the file system of /run.

    :returns: the user id, and the descriptor
    :raises HostError: the file cannot be opened, or all user ids are in use
    """
    import fcntl

    path = f"{folder}/{_FILE}"
    try:
        try:
            posix.mkdir(folder, 0o755)
        except FileExistsError:
            pass
        fd = posix.open(path, posix.O_RDWR | posix.O_CREAT | posix.O_NOFOLLOW | posix.O_CLOEXEC, 0o600)
        try:
            kept = posix.open(f"/proc/self/fd/{fd}", posix.O_RDONLY | posix.O_CLOEXEC)
        except BaseException:
            posix.close(fd)
            raise
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", code="jail-users", errno=error.errno or 0) from error
    # Begin elsewhere for each process: a machine that has just ended may have left files of its user behind
    start = (posix.getpid() * 31) % count
    for index in range(count):
        offset = (start + index) % count
        # struct flock (fcntl.h) after its l_type: l_whence SEEK_SET, l_start, l_len, l_pid 0
        byte = b"\0\0\0\0\0\0\0" + offset.to_bytes(8, "little") + (1).to_bytes(8, "little") + bytes(8)
        try:
            fcntl.fcntl(fd, _F_OFD_SETLK, _F_WRLCK + byte)
            # A lock for reading keeps others from this one, too, and needs no right to write.  There is one at any time
            fcntl.fcntl(fd, _F_OFD_SETLK, _F_RDLCK + byte)
            fcntl.fcntl(kept, _F_OFD_SETLK, _F_RDLCK + byte)
        except OSError:
            continue
        posix.close(fd)
        return first + offset, kept
    posix.close(fd)
    posix.close(kept)
    raise HostError(f"all {count} users of {path} are in use", code="jail-users", hint="end machines, or --jail=off")


_F_RDLCK, _F_WRLCK = b"\0", b"\1"
_F_OFD_SETLK = 37
"""fcntl.h.  An open file description lock: a classic one is lost when the process closes any descriptor of the file."""
