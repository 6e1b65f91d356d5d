"""``pyvmm-oci delete [--force] ID``: removes the remains of a container."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.errors import ConfigError, HostError, VmmError
from pyvmm_kata.host import hooks
from pyvmm_kata.host.cgroups import Cgroup
from pyvmm_kata.oci.options import FLAG, one_id, parse
from pyvmm_kata.oci.shared_machine import folder_of, sweep
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.state import Json

END_S = 30.0
"""Seconds that a monitor may take to end on a busy host: the guest writes its disk back, and the kernel frees the
guest's memory."""


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options, rest = parse(arguments, {"force": FLAG}, {"f": "force"}, "delete")
    container_id = one_id(rest, "delete")
    folder = context.folder(container_id)
    if not os.path.isdir(folder):
        if options["force"]:
            return 0
        raise state.missing(container_id)
    delete(folder, force=options["force"])
    return 0


def delete(folder: str, *, force: bool) -> None:
    """Remove a container that has ended; with *force*, one in any state.

    :raises ConfigError: it has not ended
    """
    try:
        known = state.read(folder)
    except ConfigError:
        if not force:
            raise
        known = _end_unknown(folder)
    status = known.get("status", "stopped")
    if status != "stopped" and not force:
        raise ConfigError(
            f"cannot delete container {os.path.basename(folder)} that is not stopped: {status}",
            code="container-state",
            hint="kill it first, or delete it with --force",
        )
    if known:
        known["shared"] = known.get("shared", False) and _has_others(folder, known)
        _end(folder, known, kill=status != "stopped")
    clear(folder, state.read_cgroup(folder))
    if known.get("hooks"):
        known["status"] = "stopped"
        # The container is removed, and the other hooks run, whatever one of them does: the specification demands it
        hooks.run(known["hooks"], "poststop", state.public(known), _warn)


def _warn(why: str) -> None:
    sys.stderr.write(f"warning: {why}\n")


def _end_unknown(folder: str) -> Json:
    """End a container whose state cannot be read; returns what is known then. Its monitor, if there is one, has the
    state in memory and writes it again."""
    try:
        control.call(folder, "kill", 5.0, signal=signal.SIGKILL, all=True)
        control.call(folder, "released", END_S)
    except VmmError:
        pass
    try:
        return state.read(folder)
    except ConfigError:
        return {}


def _end(folder: str, known: Json, *, kill: bool) -> None:
    """End the container, and wait until its monitor has released it, or has ended.

    :param kill: it has not ended by itself
    """
    patience = END_S
    if kill:
        try:
            control.call(folder, "kill", 2.0, signal=signal.SIGKILL, all=True)
            patience = 5.0 if os.path.isdir(known["rootfs"]) else END_S
        except VmmError:
            patience = 0.0
    try:
        control.call(folder, "released", max(patience, 1.0))
    except VmmError:
        pass  # it has ended, or does not answer
    if not _wait_gone(known, patience):
        _kill(known)


def _kill(known: Json) -> None:
    """End everything that does not end by itself."""
    for pid, began in _processes(known):
        if state.is_alive(pid, began):
            _signal(pid, began)
    if not _wait_gone(known, END_S):
        raise HostError(
            f"container {known['id']}: its monitor, process {known.get('monitor', 0)}, does not end",
            code="oci-delete",
            hint="the host's kernel holds it: see /proc/PID/stack",
        )


def _signal(pid: int, began: int) -> None:
    """Kill a process, but not another one that has its pid now."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if state.is_alive(pid, began):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def _processes(known: Json) -> list[tuple[int, int]]:
    """Kill the container's proxy process; and its monitor, if that ends with this container."""
    found = [(known["pid"], known["startTime"])]
    if not known.get("shared"):
        found.append((known.get("monitor", 0), known.get("monitorStart", 0)))
    return found


def _has_others(folder: str, known: Json) -> bool:
    """Whether its monitor has other containers that have not ended."""
    root = os.path.dirname(folder)
    for name in os.listdir(root):
        try:
            other = state.read(os.path.join(root, name))
        except (ConfigError, OSError):
            continue  # not a container, or one that is being made or removed
        if other["id"] != known["id"] and other.get("monitor") == known.get("monitor") and other["status"] != "stopped":
            return True
    return False


def _wait_gone(known: Json, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    for pid, began in _processes(known):
        if not state.is_alive(pid, began):
            continue
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ended = select.poll()
            ended.register(fd, select.POLLIN)
            # Between the two it may have ended, and another process have its pid
            if state.is_alive(pid, began) and not ended.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return False
        finally:
            os.close(fd)
    return True


def wait_removed(folder: str) -> None:
    """Wait until a removed container has left nothing (:func:`pyvmm_kata.state.leave`); no effect for any other.

    :param folder: of a state: a new container's, or one that its monitor has not moved away yet
    :raises HostError: its monitor does not end
    """
    root, container_id = os.path.split(folder)
    machines = [os.path.join(root, name) for name in os.listdir(root) if name.startswith("@")]
    for place in (folder, *(state.left_in(machine, container_id) for machine in machines)):
        _wait_removed(place)


def _wait_removed(folder: str) -> None:
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # it has just been removed
    try:
        fcntl.flock(place, fcntl.LOCK_EX)  # others wait here for the same
        with open(os.open(state.REMOVED, os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)) as file:
            known = json.load(file)
        if not _wait_gone(known, END_S):
            _kill(known)
        # It was killed, unless the name is another container's now
        if os.path.exists(f"/proc/self/fd/{place}/{state.REMOVED}") and os.path.samestat(
            os.stat(folder), os.fstat(place)
        ):
            if os.path.basename(os.path.dirname(folder)).startswith("@"):
                Cgroup(known["cgroup"]).remove()
                state.remove_tree(folder)
            else:
                clear(folder, known["cgroup"])
    except (OSError, ValueError):
        pass
    finally:
        os.close(place)


def clear(folder: str, group: str) -> None:
    """Remove the remains of a container: its cgroup, and the state's folder, whose name is free at once."""
    import shutil

    Cgroup(group).remove()
    root, name = os.path.split(folder)
    place = folder_of(root, os.getpid())
    gone = state.left_in(place, name)
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
        os.rename(folder, gone)
    except OSError:
        gone = folder
    shutil.rmtree(gone, ignore_errors=True)
    try:
        os.rmdir(place)
    except OSError:
        pass  # it is the machine's, which is still there
    sweep(root)
