"""The cgroup on the host that contains a sandbox's processes (cgroup v2).

Limits of a container are set inside the guest; out here the total is bounded: guest, monitor, and the server of the
share. Without a writable cgroup v2 hierarchy (as for most unprivileged users) there is none.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING

from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.state import Json

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = "/sys/fs/cgroup"
OVERHEAD = 128 << 20
"""What the monitor, the share's server and the host's page tables need beside the guest's RAM."""
_CONTROLLERS = ("cpu", "memory", "pids")
_END_S = 30.0


def place(path: str, container_id: str, *, systemd: bool) -> str:
    """The directory of ``linux.cgroupsPath``.

    :param systemd: *path* is ``SLICE:PREFIX:NAME``, from callers with ``--systemd-cgroup``
    :raises ConfigError: it leads out of the hierarchy
    """
    if systemd and path.count(":") == 2:
        slices, prefix, name = path.split(":")
        path = f"{_slice_path(slices or 'system.slice')}/{prefix}-{name}.scope" if prefix else f"{slices}/{name}"
    path = (path or f"/pyvmm/{container_id}").strip("/")
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ConfigError(f"config.json: linux.cgroupsPath: {path!r} is not the path of a cgroup", code="oci-config")
    return f"{ROOT}/{path}"


def _slice_path(name: str) -> str:
    """``a-b.slice`` lies in ``a.slice`` (systemd.slice(5))."""
    stem, parts, folders = name.removesuffix(".slice"), [], []
    for part in stem.split("-"):
        parts.append(part)
        folders.append("-".join(parts) + ".slice")
    return "/".join(folders)


def can_leave() -> bool:
    """Whether a process can leave its group for the hierarchy's root, to remove the group. It can if that is the host's
    own root, the only group with processes beside groups (cgroups(7), "no internal processes")."""
    return not os.path.exists(f"{ROOT}/cgroup.type") and os.access(f"{ROOT}/cgroup.procs", os.W_OK)


class Cgroup:
    """One group; *path* is its directory, empty for none."""

    def __init__(self, path: str) -> None:
        self.path = path

    def make(self) -> bool:
        """Create it; False where we may not create any."""
        if not self.path or not os.path.exists(f"{ROOT}/cgroup.controllers"):
            return False
        try:
            os.makedirs(self.path, exist_ok=True)
        except OSError:
            return False
        above = ROOT
        for part in self.path.removeprefix(f"{ROOT}/").split("/"):
            for controller in _CONTROLLERS:
                self._try_write(f"{above}/cgroup.subtree_control", f"+{controller}")
            above = f"{above}/{part}"
        return True

    def hold(self, *pids: int) -> bool:
        """Create it, and move processes there. False where we may not: a user without a delegated hierarchy, or in a
        group that processes may not leave (cgroups(7), "Delegation").

        :param pids: 0: this one
        :raises HostError: they cannot be moved there, for another reason
        """
        if not self.make():
            return False
        try:
            for pid in pids:
                self.enter(pid)
        except HostError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                raise
            try:
                os.rmdir(self.path)
            except OSError:
                pass  # it is not ours
            return False
        return True

    def enter(self, pid: int = 0) -> None:
        """Move a process there, together with its future children.

        :param pid: 0: this one
        :raises HostError: it cannot be put there
        """
        try:
            _write(f"{self.path}/cgroup.procs", str(pid))
        except OSError as error:
            raise HostError(f"{self.path}: {error.strerror}", code="cgroup", errno=error.errno or 0) from error

    def take_meanwhile(self, group: Cgroup, *pids: int) -> Callable[[], None]:
        """Start a thread that creates it, moves all processes of another group and *pids* there, and removes that
        group.

        The kernel waits for a grace period of RCU before it moves a process: some ten milliseconds, in which other work
        is possible, but none with cgroups.

        :returns: waits until it is done; raises HostError if they cannot be moved there
        """
        errors: list[OSError | HostError] = []

        def take() -> None:
            try:
                if not self.hold(*group.pids(), *pids):
                    raise HostError(f"{self.path} cannot be entered", code="cgroup")
                group.remove()
            except (OSError, HostError) as error:
                errors.append(error)

        thread = threading.Thread(target=take, name="cgroup")
        thread.start()

        def wait() -> None:
            thread.join()
            if errors:
                raise HostError(f"{self.path}: {errors[0]}", code="cgroup") from errors[0]

        return wait

    def pids(self) -> list[int]:
        """The processes in it.

        :raises OSError: there is no such group
        """
        with open(f"{self.path}/cgroup.procs") as lines:
            return [int(line) for line in lines]

    def limit_memory(self, memory: int, resources: Json) -> None:
        """Set its limits: *memory* is the guest's RAM, *resources* is ``linux.resources``. Limits without a controller
        on the host are skipped."""
        wanted = (resources.get("memory") or {}).get("limit") or 0
        self._try_write(f"{self.path}/memory.max", str(memory + OVERHEAD) if wanted > 0 else "max")

    def shared_memory(self) -> int:
        """Bytes of memory files, as guest RAM is, that its processes have filled; 0 where nobody counts them."""
        return _figures(f"{self.path}/memory.stat").get("shmem", 0)

    def has_room(self, more: int) -> bool:
        """Whether its limit, and those of the groups above, allow so many more bytes of memory."""
        path = self.path
        while path.startswith(f"{ROOT}/"):
            limit = _figures(f"{path}/memory.max").get("", 0)
            figures = _figures(f"{path}/memory.stat")
            cached = figures.get("active_file", 0) + figures.get("inactive_file", 0)
            if limit and _figures(f"{path}/memory.current").get("", 0) - cached + more > limit:
                return False
            path = os.path.dirname(path)
        return True

    def limit_cpu(self, resources: Json) -> None:
        """Bound how much it computes. Call it when the machine has started: with a tenth of a CPU the start would take
        ten times as long, and runc's containers have no such start."""
        cpu = resources.get("cpu") or {}
        quota, period = cpu.get("quota") or 0, cpu.get("period") or 100_000
        self._try_write(f"{self.path}/cpu.max", f"{quota if quota > 0 else 'max'} {period}")
        if shares := cpu.get("shares"):
            # 2 to 262144 in cgroup v1 are 1 to 10000 in v2 (the conversion of crun and systemd)
            weight = 1 + (max(2, min(shares, 262144)) - 2) * 9999 // 262142
            self._try_write(f"{self.path}/cpu.weight", str(weight))

    @staticmethod
    def _try_write(path: str, text: str) -> None:
        try:
            _write(path, text)
        except OSError:
            pass  # no such controller here, or a group above has processes of its own

    def remove(self) -> None:
        """Kill its processes, and remove it. Nothing there: nothing to do.

        :raises HostError: it is not empty after a while
        """
        if not self.path or not os.path.isdir(self.path):
            return
        self._try_write(f"{self.path}/cgroup.kill", "1")
        deadline = time.monotonic() + _END_S
        while True:
            try:
                for folder, _, _ in os.walk(self.path, topdown=False):
                    os.rmdir(folder)
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise HostError(f"{self.path}: {error.strerror}", code="cgroup", errno=error.errno or 0) from error
                time.sleep(0.01)
        if os.path.dirname(self.path) == f"{ROOT}/pyvmm":
            try:
                os.rmdir(f"{ROOT}/pyvmm")
            except OSError:
                pass  # others are in it


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _figures(path: str) -> dict[str, int]:
    """The numbers of a file by their names; one without a name by an empty one. Others, as ``max``, are missing."""
    try:
        with open(path) as lines:
            rows = [line.split() for line in lines]
    except OSError:
        return {}  # no such controller here
    return {" ".join(row[:-1]): int(row[-1]) for row in rows if row and row[-1].isdigit()}
