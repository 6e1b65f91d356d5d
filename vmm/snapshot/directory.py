"""A snapshot's directory as a whole: there is the old one or the new one, at any moment, whatever dies.

It is written under another name beside its place, synced, and put there by one rename(2).
"""

from __future__ import annotations

import os

from vmm.errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

MANIFEST, STATE, MEMORY = "manifest.json", "state", "memory"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_LEFT = ".pyvmm-"
"""Names of directories that are not finished begin with the snapshot's, and this."""


def _remove(path: str) -> None:
    from shutil import rmtree  # who reads a snapshot needs none of what this imports

    rmtree(path, ignore_errors=True)


class NewDirectory:
    """A context manager; :attr:`path` is where files are made.  Left without an error the directory is in place, else
    it is gone.

    :param place: where the snapshot is to be: a new name, or a snapshot that is replaced
    :raises ConfigError: there is something that is no snapshot, or no directory for it
    :raises HostError: the host cannot write there
    """

    def __init__(self, place: str) -> None:
        self.place = os.path.abspath(place)
        self.path = ""

    def __enter__(self) -> NewDirectory:
        parent, name = os.path.split(self.place)
        if os.path.lexists(self.place) and not is_snapshot(self.place):
            raise ConfigError(
                f"{self.place}: exists and is no snapshot", code="snapshot-place", hint="name a new directory"
            )
        try:
            _remove_left(parent, name)
            self.path = os.path.join(parent, f"{name}{_LEFT}{os.getpid()}")
            os.mkdir(self.path, 0o700)
        except OSError as error:
            raise _cannot(parent, error) from error
        return self

    def file(self, name: str) -> str:
        """The path of the file *name*."""
        return os.path.join(self.path, name)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            _remove(self.path)
            return
        try:
            for name in os.listdir(self.path):
                _sync(self.file(name))
            _sync(self.path)
            self._put()
        except OSError as failure:
            _remove(self.path)
            raise _cannot(self.place, failure) from failure

    def _put(self) -> None:
        if os.path.lexists(self.place):
            _exchange(self.path, self.place)
            _remove(self.path)
        else:
            os.rename(self.path, self.place)
        _sync(os.path.dirname(self.place))


def is_snapshot(path: str) -> bool:
    """Whether a directory looks like one, or is empty."""
    return os.path.isdir(path) and (os.path.exists(os.path.join(path, MANIFEST)) or not os.listdir(path))


def _remove_left(parent: str, name: str) -> None:
    """What a process that was killed has left."""
    for entry in os.listdir(parent):
        head, sign, number = entry.rpartition(_LEFT)
        if sign and head == name and number.isdigit() and not os.path.exists(f"/proc/{number}"):
            _remove(os.path.join(parent, entry))


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _exchange(first: str, second: str) -> None:
    """renameat2(2) with RENAME_EXCHANGE: file systems without it do not replace a directory in one step."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), second)


def _cannot(path: str, error: OSError) -> HostError:
    return HostError(
        f"cannot write the snapshot {path}: {error.strerror or error}",
        code="snapshot-write",
        hint="it needs about as much room as the guest has used of its memory, and its disks",
        errno=error.errno or 0,
    )
