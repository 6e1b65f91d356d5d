"""The service ``filesystem.Filesystem``: metadata and names; :mod:`pyvmm_server.transfers` serves contents."""

from __future__ import annotations

import errno
import posixpath
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pyvmm_server import bodies, threads
from pyvmm_server.errors import ClientError
from pyvmm_server.users import GROUP, PASSWD

if TYPE_CHECKING:
    from pyvmm_sandbox import Entry
    from pyvmm_sandbox.files import Files
    from pyvmm_server.session import Session
    from pyvmm_server.users import User, Users

TYPES = {"file": "FILE_TYPE_FILE", "directory": "FILE_TYPE_DIRECTORY", "link": "FILE_TYPE_SYMLINK"}
_FORMATS = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "link": stat.S_IFLNK}
MOST_DEPTH = 64
FIRST, LAST = -62135596800.0, 253402300799.0
"""The begin of the year 1 and the end of the year 9999: times in answers are between them."""


def describe(entry: Entry, users: Users) -> dict[str, Any]:
    """Convert an entry to the JSON of ``EntryInfo``."""
    modified = entry.modified if FIRST <= entry.modified <= LAST else 0.0  # the sandbox sends any number
    found: dict[str, Any] = {
        "name": entry.name,
        "type": TYPES.get(entry.type, "FILE_TYPE_UNSPECIFIED"),
        "path": entry.path,
        "size": str(entry.size),
        "mode": entry.mode,
        "permissions": stat.filemode(_FORMATS.get(entry.type, 0) | entry.mode),
        "owner": users.name_of(PASSWD, entry.uid),
        "group": users.name_of(GROUP, entry.gid),
        "modifiedTime": datetime.fromtimestamp(modified, UTC).isoformat().replace("+00:00", "Z"),
    }
    if entry.type == "link":
        found["symlinkTarget"] = entry.target
    return _utf8(found)


def _utf8(found: dict[str, Any]) -> dict[str, Any]:
    """Replace bytes that are not UTF-8: file names may contain them, JSON may not."""
    return {
        name: value.encode(errors="surrogateescape").decode(errors="replace") if isinstance(value, str) else value
        for name, value in found.items()
    }


def described(files: Files, users: Users, path: str) -> dict[str, Any]:
    """Look a path up, as ``EntryInfo``; a symbolic link gets the type of its target, unless it dangles."""
    entry = files.info(path)
    found = describe(entry, users)
    if entry.type == "link":
        try:
            # The last component is a link, and the kernel follows it when it is a directory.
            target = files.info(posixpath.normpath(posixpath.join(posixpath.dirname(path), entry.target)))
        except (OSError, ValueError):
            return found
        found["type"] = TYPES.get(target.type, found["type"])
        found["isSymlink"] = True
    return found


def _stat(files: Files, users: Users, user: User, message: dict[str, Any]) -> dict[str, Any]:
    path = user.path(bodies.take(message, "path", str))
    return {"entry": described(files, users, path)}


def _list(files: Files, users: Users, user: User, message: dict[str, Any]) -> dict[str, Any]:
    path = user.path(bodies.take(message, "path", str, ""))
    depth = bodies.take(message, "depth", int, 1) or 1
    if not 1 <= depth <= MOST_DEPTH:
        raise ClientError(400, f"depth {depth} is not 1 to {MOST_DEPTH}")
    return {"entries": [describe(each, users) for each in files.entries(path, depth=depth)]}


def _make(files: Files, users: Users, user: User, message: dict[str, Any]) -> dict[str, Any]:
    path = user.path(bodies.take(message, "path", str))
    if files.exists(path):
        kind = files.info(path).type
        code = "already_exists" if kind == "directory" else "invalid_argument"
        raise ClientError(409 if kind == "directory" else 400, f"{path} exists already and is a {kind}", code=code)
    files.mkdir(path)
    return {"entry": describe(files.info(path), users)}


def _move(files: Files, users: Users, user: User, message: dict[str, Any]) -> dict[str, Any]:
    target = user.path(bodies.take(message, "destination", str))
    files.move(user.path(bodies.take(message, "source", str)), target)
    return {"entry": described(files, users, target)}


def _remove(files: Files, users: Users, user: User, message: dict[str, Any]) -> dict[str, Any]:
    try:
        files.remove(user.path(bodies.take(message, "path", str)))
    except OSError as error:
        if error.errno != errno.ENOENT:  # a missing file counts as removed
            raise
    return {}


_CALLS = {"Stat": _stat, "ListDir": _list, "MakeDir": _make, "Move": _move, "Remove": _remove}


async def call(name: str, session: Session, message: dict[str, Any]) -> dict[str, Any]:
    """Answer a call of the service; *name* is one of :data:`NAMES`."""
    user = await session.user()
    users = session.users
    return await threads.call(_CALLS[name], users.files(user), users, user, message)


NAMES = frozenset(_CALLS)
