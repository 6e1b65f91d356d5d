"""The relation between bases and diffs, so that nothing replaces a snapshot that another needs.

The directory ``diffs`` of a base has an entry for each of its diffs. The entry is named by the diff's id, and holds the
diff's path, relative to the base, as JSON. It is written before the diff is in place, and locked while the diff is
being made. So there may be entries of diffs that were never completed, but no diff without one. The folders of a base
and of its diffs are also searched: for renamed diffs, and for those of older versions, which have no entries.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat

from vmm.errors import ConfigError, HostError
from vmm.saving.regular_files import DIFFS, MANIFEST, hint_for, open_regular, read_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.saving.directory import Directory

_MOST = 1 << 20
"""Bytes of a manifest or of an entry."""


class registry_of:
    """A context in which no other process changes ``diffs`` of the snapshot in *folder*, or replaces it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._fd = -1

    def __enter__(self) -> None:
        try:
            self._fd = open_regular(os.path.join(self._folder, MANIFEST))
        except ConfigError:
            return  # an empty directory
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Entry:
    """Record in *base* that the snapshot which will be in *place* is a diff of it.

    :param base: it is read
    :param number: the id of the diff
    :raises ConfigError: another snapshot has replaced the base
    :raises HostError: the host cannot write there
    """

    def __init__(self, base: Directory, place: str, number: str) -> None:
        self._fd = -1
        self._path = os.path.join(os.path.realpath(base.folder), DIFFS, number)
        try:
            with registry_of(base.folder):
                if not base.is_in_place():
                    raise ConfigError(
                        f"{base.folder}: was replaced by another snapshot meanwhile",
                        code="snapshot-base",
                        hint="take the diff again: it may be larger than before",
                    )
                self._make(os.path.realpath(base.folder), place)
        except OSError as error:
            self._remove()
            if error.errno == errno.EROFS:
                return  # nobody replaces it there, either
            raise HostError(
                f"cannot record in {base.folder} that {place} will be a diff of it: {error.strerror}",
                code="snapshot-write",
                hint=_hint(error),
                errno=error.errno or 0,
            ) from error

    def _make(self, base: str, place: str) -> None:
        folder = os.path.dirname(self._path)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        near = os.stat(os.path.dirname(place)).st_dev == os.stat(base).st_dev
        os.write(self._fd, json.dumps({"path": os.path.relpath(place, base), "near": near}).encode())
        os.fsync(self._fd)
        for each in (folder, base):
            _sync(each)

    def end(self, done: bool) -> None:
        """The diff is in place, or will not be."""
        if not done:
            self._remove()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _remove(self) -> None:
        if self._fd >= 0:
            try:
                os.unlink(self._path)
            except OSError:
                pass


def _hint(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "get the right to write in the base's directory, or take a full snapshot"
    return hint_for(error.errno or 0) or "take a full snapshot"


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def carry_over(old: str, new: str) -> None:
    """Copy ``diffs`` to another form of the same snapshot, which will have the same path.

    :raises OSError: the host cannot
    """
    for number, raw in _entries(old):
        folder = os.path.join(new, DIFFS)
        os.makedirs(folder, 0o700, exist_ok=True)
        fd = os.open(os.path.join(folder, number), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, raw)
            os.fsync(fd)
        finally:
            os.close(fd)
        _sync(folder)


def forget(base: str, number: str) -> None:
    """Remove the entry of the diff with that id from *base*."""
    try:
        os.unlink(os.path.join(base, DIFFS, number))
    except OSError:
        pass  # diffs_of() looks at the diff itself, too


def _entries(folder: str) -> list[tuple[str, bytes]]:
    try:
        names = sorted(os.listdir(os.path.join(folder, DIFFS)))
    except OSError:
        return []
    found = []
    for name in names:
        try:
            found.append((name, read_regular(os.path.join(folder, DIFFS, name), _MOST)))
        except ConfigError:
            found.append((name, b""))
    return found


def diffs_of(folder: str) -> list[str]:
    """Paths of the known diffs of the snapshot in *folder*: those that exist or are being made, and those whose
    existence cannot be determined."""
    base = os.path.realpath(folder)
    own = _about(base)
    number = own.get("id") if isinstance(own, dict) else None
    found, near = [], {os.path.dirname(base)}
    for name, raw in _entries(base):
        try:
            entry = json.loads(raw)
            place = os.path.normpath(os.path.join(base, entry["path"]))
            is_near = entry["near"] is True
        except (ValueError, KeyError, TypeError, RecursionError):
            found.append(os.path.join(base, DIFFS, name))
            continue
        near.add(os.path.dirname(place))
        if _may_be_needed(base, number, name, place, is_near=is_near):
            found.append(place)
    for parent in near:
        found += [place for place in _folders(parent) if place != base and _is_diff(place, base, number)]
    return sorted(set(found))


def _folders(parent: str) -> list[str]:
    try:
        with os.scandir(parent) as entries:
            return [os.path.join(parent, each.name) for each in entries if each.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _about(folder: str) -> dict[str, Any] | None:
    """The manifest in *folder*, whatever its content; empty: it cannot be read; None: there is none."""
    path = os.path.join(folder, MANIFEST)
    if not os.path.lexists(path):
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return {}
    try:
        value = json.loads(read_regular(path, _MOST))
    except (ConfigError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_diff(place: str, base: str, number: object) -> bool:
    """Whether the snapshot in *place*, if there is one, needs that in *base*, which has the id *number* (None: not
    known)."""
    about = _about(place)
    below = about.get("base") if about else None
    if not about or not isinstance(below, str) or not below:
        return False
    if isinstance(number, str) and about.get("base_id") != number:
        return False
    try:
        return os.path.samefile(os.path.join(place, below), base)
    except (OSError, ValueError):
        return False


def _may_be_needed(base: str, number: object, name: str, place: str, *, is_near: bool) -> bool:
    about = _about(place)
    if about is not None:
        return not about or (about.get("id") == name and _is_diff(place, base, number))
    if _is_being_made(os.path.join(base, DIFFS, name)):
        return True
    try:
        # It was removed, or its file system is not mounted
        return not is_near and os.stat(os.path.dirname(place)).st_dev == os.stat(base).st_dev
    except OSError:
        return True


def _is_being_made(entry: str) -> bool:
    try:
        fd = open_regular(entry)
    except ConfigError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    finally:
        os.close(fd)
    return False
