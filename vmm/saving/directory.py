"""Reading a snapshot's directory.

A reader holds a shared lock of the directory: another snapshot may take its place meanwhile, but its files stay until
they have been read.
"""

from __future__ import annotations

import errno
import fcntl
import os

from vmm.errors import ConfigError
from vmm.saving.regular_files import open_regular, read_regular

LEFT = ".pyvmm-"
"""Names of directories that are not finished begin with the snapshot's, and this and the number of the process that
makes them; of those that were replaced follows :data:`OLD`."""
OLD = "old-"
_TRIES = 100


def remove(path: str) -> None:
    """Remove a directory tree, as far as that can be done."""
    from shutil import rmtree  # who reads a snapshot needs none of what this imports

    rmtree(path, ignore_errors=True)


class Directory:
    """The directory of a snapshot that is being read. A context manager.

    :param folder: its path; :meth:`file` still refers to it when another snapshot has taken this path
    :raises ConfigError: there is none
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._fd = -1
        for _ in range(_TRIES):
            try:
                self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise ConfigError(
                    f"{folder} is no snapshot: {why}", code="snapshot-none", hint="pyvmm snapshot makes one"
                ) from error
            lock(self._fd, fcntl.LOCK_SH)
            if self.is_in_place():
                return
            self.close()  # replaced just now, and perhaps removed before it was locked
        raise ConfigError(f"{folder}: is replaced all the time", code="snapshot-none", hint="try it again")

    def file(self, name: str) -> str:
        """A path of the file *name*, valid until this is closed."""
        return f"/proc/self/fd/{self._fd}/{name}"

    def name(self, name: str) -> str:
        """What an error calls it."""
        return os.path.join(self.folder, name)

    def read(self, name: str, most: int) -> bytes:
        """See :func:`read_regular`."""
        return read_regular(self.file(name), most, self.name(name))

    def open(self, name: str) -> int:
        """See :func:`open_regular`."""
        return open_regular(self.file(name), self.name(name))

    def is_in_place(self) -> bool:
        """No other directory has the path."""
        return self.is_at(self.folder)

    def is_at(self, path: str) -> bool:
        """*path* is this directory, by whatever name."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._fd))
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        """Release it; it is removed if it was replaced meanwhile. A second call does nothing."""
        if self._fd < 0:
            return
        try:
            if not self.is_in_place():
                remove_replaced(self._fd)
        finally:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def lock(fd: int, how: int) -> bool:
    """Lock a file or directory, without waiting; whether it is locked. File systems without such locks (NFS has none
    for directories) count as locked."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno != errno.EWOULDBLOCK
    return True


def remove_replaced(fd: int) -> None:
    """Remove the directory that is open as *fd*, if it was replaced and no other process reads it."""
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if f"{LEFT}{OLD}" in os.path.basename(path) and lock(fd, fcntl.LOCK_EX):
            remove(path)
    except OSError:
        pass  # the next snapshot at its place removes it
