"""Control groups of a jail, of either version (``Documentation/admin-guide/cgroup-v1`` and ``cgroup-v2.rst``)."""

from __future__ import annotations

import os


class GroupError(Exception):
    """A group that cannot be made."""


def place(mounts: str, version: int, controller: str) -> str:
    """Where a controller's groups are.

    :param mounts: the text of ``/proc/mounts``
    :raises GroupError: nowhere
    """
    for line in mounts.splitlines():
        _, path, kind, options, *_ = [*line.split(), "", "", "", ""]
        if kind == "cgroup2" if version == 2 else kind == "cgroup" and controller in options.split(","):
            return path
    raise GroupError(f"no cgroup mount of version {version}" + (f" has {controller}" if version == 1 else ""))


class Groups:
    """The groups of a program.

    :param settings: values by the names of their files
    :param parent: a path below each mount
    :param mounts: the text of ``/proc/mounts``
    """

    def __init__(self, version: int, settings: list[tuple[str, str]], parent: str, name: str, mounts: str) -> None:
        self._version, self._settings = version, settings
        self._parent, self._name, self._mounts = parent, name, mounts

    def join(self, pid: int) -> None:
        """Make the groups, and put a process into them.

        :raises GroupError: it cannot be
        """
        try:
            if self._version == 2 and self._settings:
                self._join_unified(pid)
            elif self._version == 2 and self._parent:
                _write(f"{place(self._mounts, 2, '')}/{self._parent}/cgroup.procs", str(pid))
            else:
                self._join_each(pid)
        except OSError as error:
            raise GroupError(f"cgroup {error.filename or ''}: {error.strerror}") from error

    def _join_unified(self, pid: int) -> None:
        top = place(self._mounts, 2, "")
        with open(f"{top}/cgroup.controllers", encoding="ascii") as file:
            have = file.read().split()
        wanted = list(dict.fromkeys(name.partition(".")[0] for name, _ in self._settings))
        if missing := [name for name in wanted if name not in have and name != "cgroup"]:
            raise GroupError(f"the cgroup mount {top} has no controller {missing[0]}")
        path = top
        for part in f"{self._parent}/{self._name}".split("/"):
            for name in wanted:
                if name != "cgroup":
                    _write(f"{path}/cgroup.subtree_control", f"+{name}")
            path = f"{path}/{part}"
            os.makedirs(path, exist_ok=True)
        for name, value in self._settings:
            _write(f"{path}/{name}", value)
        _write(f"{path}/cgroup.procs", str(pid))

    def _join_each(self, pid: int) -> None:
        folders: dict[str, str] = {}
        for name, value in self._settings:
            controller = name.partition(".")[0]
            folder = folders.get(controller)
            if folder is None:
                folder = folders[controller] = self._make(place(self._mounts, 1, controller), controller)
            _write(f"{folder}/{name}", value)
        for folder in folders.values():
            _write(f"{folder}/tasks", str(pid))

    def _make(self, top: str, controller: str) -> str:
        path = top
        for part in f"{self._parent}/{self._name}".split("/"):
            above, path = path, f"{path}/{part}"
            os.makedirs(path, exist_ok=True)
            if controller == "cpuset":
                _inherit(above, path)
        return path


def _inherit(above: str, path: str) -> None:
    """A new group of this controller has no processors and no memory, so no process can join it."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        with open(f"{path}/{name}", encoding="ascii") as file:
            if file.read().strip():
                continue
        with open(f"{above}/{name}", encoding="ascii") as file:
            _write(f"{path}/{name}", file.read().strip())


def _write(path: str, value: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:  # that of a write has no name
        raise GroupError(f"cgroup {path}: {value} was refused: {error.strerror}") from error
