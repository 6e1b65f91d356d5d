"""Ends the sandboxes of a node with the node: ``python -m pyvmm_server.fence FOLDER ROOT KEEPER``.

A sandbox outlives the process that has started it.  So a small process of its own waits for the end of the node's
main process, the keeper.  Then it kills the node's actor, whose requests nobody may answer any more, and ends all
sandboxes of the node: the server has reported them lost, or is about to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from typing import IO

from vmm import VmmError

_LOCK, _ACTOR = "fence.lock", "actor"
_TRIES, _AGAIN_S = 30, 1.0


def start(folder: str, root: str, keeper: int) -> None:
    """Fence a node, unless that is done already.

    :param folder: of the node's records
    :param keeper: the process with which the node ends
    """
    with open(os.path.join(folder, _ACTOR), "w", encoding="ascii") as file:
        file.write(f"{os.getpid()} {_started(os.getpid())}")
    lock = _locked(folder)
    if lock is None:
        return
    with lock:  # the process that is started keeps it
        command = [sys.executable, "-m", "pyvmm_server.fence", folder, root, str(keeper)]
        quiet = subprocess.DEVNULL
        subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, pass_fds=[lock.fileno()], check=True)


def sweep(folder: str, root: str) -> None:
    """End the sandboxes of nodes that have neither a keeper nor a fence any more."""
    for name in os.listdir(folder):
        node = os.path.join(folder, name)
        if os.path.exists(os.path.join(node, "server.db")) and (lock := _locked(node)) is not None:
            with lock:
                end(node, root)


def end(folder: str, root: str) -> bool:
    """Kill the actor of a node, and end all sandboxes.

    :returns: whether nothing is left
    """
    from pyvmm_server import leftovers

    _kill_actor(folder)
    path = os.path.join(folder, "server.db")
    if os.path.exists(path):
        with contextlib.closing(sqlite3.connect(path)) as db:
            for (sandbox_id,) in db.execute("SELECT id FROM sandboxes").fetchall():
                try:
                    leftovers.remove(root, f"e2b-{sandbox_id}")
                except (VmmError, OSError):
                    return False
    leftovers.remove_paths(leftovers.others(os.path.join(folder, "bundles"), set()))
    shutil.rmtree(folder, ignore_errors=True)
    return True


def main(folder: str, root: str, keeper: int) -> None:
    """Wait for the keeper's end, in the background."""
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # those that end the node end it too early
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(keeper)
        select.select([descriptor], [], [])
    for _ in range(_TRIES):
        if end(folder, root):
            return
        time.sleep(_AGAIN_S)


def _locked(folder: str) -> IO[bytes] | None:
    """A lock that a started process can keep; None: another one has it."""
    file = open(os.path.join(folder, _LOCK), "ab")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _kill_actor(folder: str) -> None:
    with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, _ACTOR), encoding="ascii") as file:
        pid, started = file.read().split()
        descriptor = os.pidfd_open(int(pid))
        try:
            if _started(int(pid)) == started and int(pid) != os.getpid():
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select.select([descriptor], [], [])
        finally:
            os.close(descriptor)


def _started(pid: int) -> str:
    """When a process has started: another one with its number has another time (proc(5), field 22)."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[19]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
