"""The folders of gateways.  Each is locked as long as a process needs it; one without a lock is removed.

While a gateway starts, the library's process locks the folder.  A file in it is locked as long as the gateway lives,
which has no descriptor of the folder: it could open the host's files by that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time

PREFIX = "pyvmm-gateway-"
_LOCK = "lock"


class Folder:
    """A new folder.

    :param owner: begins its name, after :data:`PREFIX`
    :ivar path: of it
    :ivar lock: a descriptor for the gateway, which keeps it
    """

    def __init__(self, owner: str) -> None:
        while True:
            self.path = tempfile.mkdtemp(prefix=f"{PREFIX}{owner}-")
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.isdir(self.path):
                    break
            os.close(self._fd)  # another process has taken it for one that was left
        self.lock = os.open(_LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def give(self) -> None:
        """Leave the lock of the file to the gateway."""
        os.close(self.lock)
        self.lock = -1

    def release(self) -> None:
        """From now on the folder lives as long as the gateway."""
        if self.lock >= 0:
            self.give()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Delete the folder, even if the gateway still uses it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()


def sweep(owner: str = "", seconds: float = 0.0) -> None:
    """Remove folders of gateways and processes that have ended.

    :param owner: only those whose names begin with that
    :param seconds: how long to wait for those that end now
    """
    deadline = time.monotonic() + seconds
    while _sweep(f"{PREFIX}{owner}-" if owner else PREFIX) and time.monotonic() < deadline:
        time.sleep(0.05)  # a lock reports no end of another process


def _sweep(prefix: str) -> bool:
    """Whether some are left."""
    base, left = tempfile.gettempdir(), False
    for name in os.listdir(base):
        if name.startswith(prefix):
            left = not _remove_unlocked(os.path.join(base, name)) or left
    return left


def _remove_unlocked(path: str) -> bool:
    """Whether the folder is gone."""
    fds: list[int] = []
    try:
        fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
        if os.fstat(fds[0]).st_uid != os.geteuid():
            return False
        with contextlib.suppress(FileNotFoundError):
            fds.append(os.open(_LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fds[0]))
        for fd in fds:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
    except FileNotFoundError:
        return True
    except OSError:  # it is locked, or another process removes it
        return False
    finally:
        for fd in fds:
            os.close(fd)
    return True
