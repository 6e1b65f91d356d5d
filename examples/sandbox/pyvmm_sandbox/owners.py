"""Sandboxes end with the process that has made them, however that ends, or at their time.

The name of such a sandbox has its owner's process number and start time. A small process waits for the end of the
owner, and then removes what the owner has not: this works for an owner that was killed, too.

A detached sandbox has a small process of its own that waits for the end of its time.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import threading
import time

from pyvmm_kata import Container
from pyvmm_kata.bundle import images
from pyvmm_kata.errors import VmmError
from pyvmm_kata.oci.context import default_root
from pyvmm_sandbox import connecting, guest, records
from pyvmm_sandbox.errors import SandboxError

BUNDLE = "pyvmm-sandbox-"
"""Begins the folder of a copy's bundle; that of others is one of Container.create() or has the sandbox's name."""
_FIRST_BUNDLE = "pyvmm-container-"
_REMOVE_S = 10.0
_NAME = re.compile(r"box-([0-9]+)-([0-9]+)-[0-9a-f]+")
_lock = threading.Lock()
_watched: set[tuple[int, str]] = set()


def new_name() -> str:
    """A name for a sandbox of this process."""
    return f"box-{own()}-{secrets.token_hex(6)}"


def own() -> str:
    """This process as an owner: its number and start time."""
    return f"{os.getpid()}-{_start_time(os.getpid())}"


def watch(root: str) -> None:
    """Start the process that removes this process's sandboxes at its end, once.

    :param root: where their states are
    """
    with _lock:
        if (os.getpid(), root) in _watched:
            return
        _spawn(["after", str(os.getpid())], "main", root, own())
        _watched.add((os.getpid(), root))


def watch_time(container: Container, root: str) -> None:
    """Start the process that removes a container at the time of :func:`records.write_expiry`, which can change.

    :raises SandboxError: it cannot be started
    """
    waits = ["expire", str(container.pid), container.folder, os.path.join(container.folder, records.EXPIRES)]
    status = _spawn(waits, "expire", root, container.id).wait()
    if status:
        raise SandboxError(f"the time limit of {container.id} cannot be watched: {os.strerror(status)}")


def _spawn(waits: list[str], name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A process that waits, and then runs a function of this module."""
    code = f"from pyvmm_sandbox.owners import {name}; {name}()"
    return subprocess.Popen(
        [guest.program(), *waits, sys.executable, "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def sweep(root: str = "") -> list[str]:
    """Remove sandboxes whose owners have ended; their names."""
    gone = []
    try:
        names = os.listdir(root or default_root())
    except OSError:
        return []
    for name in names:
        found = _NAME.fullmatch(name)
        if found and _start_time(int(found[1])) != found[2]:
            try:
                remove(Container(name, root=root))
                gone.append(name)
            except VmmError:
                pass  # another process removes it at the same time
    return gone


def remove(container: Container) -> None:
    """End a sandbox's container in whatever state it is, and remove its bundle, which nobody else uses.

    :raises VmmError: it cannot be removed
    """
    bundle, gateway = container.bundle, connecting.gateway_of(container.folder)
    deadline = time.monotonic() + _REMOVE_S
    try:
        while True:
            try:
                return container.remove()
            except VmmError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)  # it is ending by itself, which reports nothing
    finally:
        name = os.path.basename(bundle)
        if name.startswith((BUNDLE, _FIRST_BUNDLE)) or name == container.id:
            images.remove(bundle)
        if gateway:
            connecting.remove_gateway(gateway)


def _start_time(pid: int) -> str:
    """When a process has started, in ticks since the boot; empty: it has ended (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return "" if fields[0] == b"Z" else fields[19].decode()
    except (OSError, IndexError):
        return ""


def main() -> None:
    """Of the process that has waited for an owner's end."""
    root, owner = sys.argv[1:]
    sweep(root)
    connecting.sweep_gateways(owner)


def expire() -> None:
    """Of the process that has waited for the end of a detached sandbox's time."""
    root, name = sys.argv[1:]
    try:
        container = Container(name, root=root)
    except (VmmError, OSError):
        return  # it has ended meanwhile
    at = records.read_expiry(container.folder)
    if at is None or at > time.time():  # it was changed at the last moment
        watch_time(container, root)
    else:
        remove(container)
