"""``pyvmm-oci delete [--force] ID``: takes away what is left of a container."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from pyvmm_kata import hooks, mounts, state
from pyvmm_kata.cgroups import Cgroup
from pyvmm_kata.errors import ConfigError, HostError, VmmError
from pyvmm_kata.oci import control
from pyvmm_kata.oci.options import FLAG, one_id, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.state import Json

END_S = 30.0
"""How long a monitor may take to end on a busy host: the kernel frees the guest's memory first, and a guest writes back
what belongs on its disk."""


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
    """Remove a container that has ended; with *force*, any, in whatever state it is.

    :raises ConfigError: it runs
    """
    try:
        known = state.read(folder)
    except ConfigError:
        if not force:
            raise
        known = {}
    status = known.get("status", "stopped")
    if status not in ("stopped", "created") and not force:
        raise ConfigError(
            f"cannot delete container {os.path.basename(folder)} that is not stopped: {status}", code="container-state"
        )
    if status != "stopped":
        _end(folder, known)
    elif known and not _wait_gone(known, END_S):  # it is on its way out, and its status is its parent's to know
        _kill(known)
    clear(folder)
    if known.get("hooks"):
        known["status"] = "stopped"
        try:
            hooks.run(known["hooks"], "poststop", state.public(known))
        except VmmError as error:  # the container is gone all the same, and the specification wants it so
            sys.stderr.write(f"warning: {error}\n")


def _end(folder: str, known: Json) -> None:
    """End the monitor, and everything with it: asked by a signal to its container, or not."""
    try:
        control.call(folder, "kill", 2.0, signal=signal.SIGKILL, all=True)
        patience = 5.0 if os.path.isdir(known["rootfs"]) else END_S
    except VmmError:
        patience = 0.0
    if not _wait_gone(known, patience):
        _kill(known)


def _kill(known: Json) -> None:
    """End the monitor that does not end by itself."""
    try:
        os.kill(known["pid"], signal.SIGKILL)
    except ProcessLookupError:
        pass
    if not _wait_gone(known, END_S):
        raise HostError(
            f"container {known['id']}: its monitor, process {known['pid']}, does not end",
            code="oci-delete",
            hint="the host's kernel holds it: see /proc/PID/stack",
        )


def _wait_gone(known: Json, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while state.is_alive(known["pid"], known["startTime"]):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)
    return True


def clear(folder: str) -> None:
    """Remove what a monitor that is gone has left: its control group, and the state's folder."""
    try:
        cgroup = state.read(folder).get("cgroup", "")
    except ConfigError:
        cgroup = ""
    import shutil

    Cgroup(cgroup).remove()
    mounts.SharedDirectory(folder).remove()
    shutil.rmtree(folder, ignore_errors=True)
