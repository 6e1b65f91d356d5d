"""Writing a snapshot's directory: there is the old one or the new one, at any moment, whatever dies.

It is written under another name beside its place, synced, and moved there by one rename(2).
"""

from __future__ import annotations

import errno
import fcntl
import os

from vmm.errors import ConfigError, HostError
from vmm.saving.bases import carry_over, diffs_of, registry_of
from vmm.saving.directory import LEFT, OLD, lock, remove, remove_replaced
from vmm.saving.regular_files import DIFFS, MANIFEST, MEMORY, STATE, hint_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from vmm.saving.directory import Directory

_AT_FDCWD, _RENAME_NOREPLACE, _RENAME_EXCHANGE = -100, 1, 2
_FILES = (MANIFEST, STATE, MEMORY, DIFFS, "pages", "working-set")


class NewDirectory:
    """A context manager; :attr:`path` is where files are made. Left without an error, the directory is in place;
    otherwise it is removed.

    :param place: the path of the snapshot: a new name, or a snapshot that is replaced
    :param same: the replaced one, if the new one is the same in another form: diffs of it may need it
    :ivar place: the same path, without links in it
    :raises ConfigError: something else is there, or a snapshot that others need
    :raises HostError: the host cannot write there
    """

    def __init__(self, place: str, *, same: Directory | None = None) -> None:
        self.place = real_place(place)
        self.path = ""
        self._same = same
        self._done = False
        self._lock = -1
        self._afterwards: list[Callable[[bool], None]] = []

    def __enter__(self) -> NewDirectory:
        parent, name = os.path.split(self.place)
        try:
            _check_place(self.place, self._same)
            _remove_left(parent, name)
            self.path = os.path.join(parent, f"{name}{LEFT}{os.getpid()}-{os.urandom(4).hex()}")
            os.mkdir(self.path, 0o700)
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # Shared, so that readers can lock it as soon as it is in place, before this is released
            lock(self._lock, fcntl.LOCK_SH)
        except OSError as error:
            self._end()
            raise cannot_write(self.place, error) from error
        return self

    def file(self, name: str) -> str:
        """The path of the file *name*."""
        return os.path.join(self.path, name)

    def afterwards(self, call: Callable[[bool], None]) -> None:
        """Call this at the end, with whether the directory is in place."""
        self._afterwards.append(call)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as failure:
            raise cannot_write(self.place, failure) from failure
        finally:
            self._end()
        if isinstance(error, OSError):
            raise cannot_write(self.place, error) from error
        if isinstance(error, HostError) and error.code == "snapshot-write" and self.place not in error.message:
            # Who writes the files may not know what they are called
            why = error.message.removeprefix("cannot write the snapshot: ").removeprefix("cannot write ")
            raise HostError(
                f"cannot write the snapshot {self.place}: {why}", code=error.code, hint=error.hint, errno=error.errno
            ) from error

    def _end(self) -> None:
        if not self._done and self.path:
            remove(self.path)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        while self._afterwards:
            self._afterwards.pop()(self._done)

    def _finish(self) -> None:
        for name in os.listdir(self.path):
            _sync(self.file(name))
        _sync(self.path)
        if _rename_new(self.path, self.place):
            self._done = True
        else:
            self._replace()
        _sync(os.path.dirname(self.place))

    def _replace(self) -> None:
        old = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with registry_of(self.place):
                _check_place(self.place, self._same)
                if self._same is not None:
                    carry_over(self.place, self.path)
                _exchange(self.path, self.place)
                self._done = True
            parent, name = os.path.split(self.place)
            _sync(parent)  # before the old one is removed
            os.rename(self.path, os.path.join(parent, f"{name}{LEFT}{OLD}{os.urandom(4).hex()}"))
            remove_replaced(old)  # or the last reader removes it
        finally:
            os.close(old)


def real_place(path: str) -> str:
    """*path* without links, except a last part that leads to no directory.

    :raises ConfigError: it is no path
    """
    if "\0" in path:
        raise ConfigError(f"{path!r:.80} is not a path: it has a NUL byte", code="snapshot-place")
    if os.path.isdir(path):
        return os.path.realpath(path)
    parent, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(parent), name)


def _check_place(place: str, same: Directory | None) -> None:
    """
    :raises ConfigError: no snapshot may be written there
    """
    parent = os.path.dirname(place)
    if all(os.path.exists(os.path.join(parent, name)) for name in (MANIFEST, STATE, MEMORY)):
        raise ConfigError(
            f"{place}: lies in the snapshot {parent}", code="snapshot-place", hint="name a directory outside of it"
        )
    if not os.path.lexists(place):
        return
    if not is_snapshot(place):
        raise ConfigError(f"{place}: exists and is no snapshot", code="snapshot-place", hint="name a new directory")
    if others := sorted(name for name in os.listdir(place) if not _is_file(name)):
        raise ConfigError(
            f"{place}: the snapshot there cannot be replaced: {others[0]!r:.60} is not a file of a snapshot",
            code="snapshot-place",
            hint="move it away, or name a new directory",
        )
    if same is not None:
        if not same.is_at(place):
            raise ConfigError(
                f"{place}: was replaced by another snapshot meanwhile", code="snapshot-place", hint="look at that one"
            )
        return
    if needed := diffs_of(place):
        more = f" and {len(needed) - 1} more" if len(needed) > 1 else ""
        raise ConfigError(
            f"{place}: the snapshot there cannot be replaced: {needed[0]}{more} is a diff of it",
            code="snapshot-needed",
            hint="name a new directory; or make the diff independent first (pyvmm snapshots merge), or remove it",
        )


def _is_file(name: str) -> bool:
    """Whether a snapshot may contain a file of that name."""
    return name in _FILES or name.startswith("working-set.") or name.removeprefix("disk").isdecimal()


def is_snapshot(path: str) -> bool:
    """Whether a directory looks like a snapshot, or is empty."""
    return os.path.isdir(path) and (os.path.exists(os.path.join(path, MANIFEST)) or not os.listdir(path))


def _remove_left(parent: str, name: str) -> None:
    """Remove what a killed process has left."""
    for entry in os.listdir(parent):
        head, sign, rest = entry.rpartition(LEFT)
        number = rest.partition("-")[0]
        is_old = rest.startswith(OLD)
        if not sign or head != name or not (is_old or number.isdigit()):
            continue
        # In another namespace the process may have another number, but holds a lock
        if is_old or not os.path.exists(f"/proc/{number}"):
            path = os.path.join(parent, entry)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                if lock(fd, fcntl.LOCK_EX):
                    remove(path)
            finally:
                os.close(fd)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _rename_new(path: str, place: str) -> bool:
    """Rename *path* to *place*, unless something is there; returns whether that was done."""
    try:
        _rename(path, place, _RENAME_NOREPLACE)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return False
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        if os.path.lexists(place):  # a file system that cannot do both in one step
            return False
        os.rename(path, place)
    return True


def _exchange(first: str, second: str) -> None:
    """File systems without this operation cannot replace a directory in one step."""
    _rename(first, second, _RENAME_EXCHANGE)


def _rename(first: str, second: str, how: int) -> None:
    """renameat2(2)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), how) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), second)


def cannot_write(path: str, error: OSError) -> HostError:
    """The error for a snapshot in *path* that cannot be written; empty: the writer does not know its path."""
    number = error.errno or 0
    what = f"the snapshot {path}" if path else "the snapshot"
    return HostError(
        f"cannot write {what}: {error.strerror or error}", code="snapshot-write", hint=hint_for(number), errno=number
    )
