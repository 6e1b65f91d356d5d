"""Namespaces of a container in the guest: new, that of another container of the same machine, or the guest's own.

To share one, a spec names the host's file of it (``/proc/PID/ns/ipc``), where PID is the reported pid of a container.
The file itself is never joined: it identifies a container here, and the guest joins that one's.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import bad
from pyvmm_kata.state import Json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

JOIN = "container:"
"""Before an id, as a namespace's path: what the agent takes for the namespace of that container's first process."""
_FILES = {
    "network": "net",
    "pid": "pid",
    "ipc": "ipc",
    "uts": "uts",
    "mount": "mnt",
    "cgroup": "cgroup",
    "user": "user",
    "time": "time",
}
_OF_A_PROCESS = re.compile(r"/proc/(\d+)(?:/task/\d+)?/ns/\w+\Z")


class Member(NamedTuple):
    """A container of this machine, and the process of the host that stands for it.

    :ivar pid: what callers were told
    """

    container_id: str
    pid: int


def owner(path: str, kind: str, members: Iterable[Member]) -> str | None:
    """The container that the file of a namespace stands for; the first one if there are several, None: no container.

    It is found by the pid in its path, or, for a file that was bound elsewhere, by the namespace itself. Our own
    namespace is the host's and stands for no container.

    :param kind: of :data:`_FILES`
    """
    members = tuple(members)
    named = _OF_A_PROCESS.match(os.path.normpath("/" + path.lstrip("/")))
    for member in members:
        if named is not None and int(named[1]) == member.pid:
            return member.container_id
    wanted = _identity(path)
    if wanted is None or wanted == _identity(f"/proc/self/ns/{_FILES[kind]}"):
        return None
    for member in members:
        if _identity(f"/proc/{member.pid}/ns/{_FILES[kind]}") == wanted:
            return member.container_id
    return None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def in_guest(spec: Json, members: Sequence[Member]) -> list[Json]:
    """``linux.namespaces`` for the guest. The network is the machine's; missing namespaces are the guest's own.

    :raises ConfigError: it is a namespace of the host, or of a container of another machine
    """
    found: list[Json] = [{"type": "mount"}]
    seen = set()
    for index, entry in enumerate(spec.get("linux", {}).get("namespaces", ())):
        kind, path = entry["type"], entry.get("path", "")
        where = f"linux.namespaces[{index}]"
        if kind in seen:
            raise bad(f"{where}.type", f"{kind!r} is there twice")
        seen.add(kind)
        if kind == "network":
            continue
        if kind == "mount":
            if path:
                raise bad(f"{where}.path", f"{path}: a container's mounts are its own in a virtual machine")
            continue
        if not path:
            found.append({"type": kind})
            continue
        container_id = owner(path, kind, members)
        if container_id is None:
            raise bad(
                f"{where}.path",
                f"{path}: the {kind} namespace is the host's, or that of a container in another virtual machine",
                "containers of one pod can share it",
            )
        found.append({"type": kind, "path": JOIN + container_id})
    return found


def has(spec: Json, kind: str) -> bool:
    """Whether the container is in a namespace of that kind that is not the guest's own."""
    return any(entry["type"] == kind for entry in spec.get("linux", {}).get("namespaces", ()))
