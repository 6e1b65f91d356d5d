"""The processes of a machine in a jail, as /proc shows them; for tests."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.command import Command, of_threads
from tools.where import PYVMM
from vmm.control.client import ask
from vmm.errors import ConfigError


def fields(status: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}


def status_of(folder: Path) -> dict[str, str]:
    return fields((folder / "status").read_text())


def threads(pid: int) -> list[dict[str, str]]:
    """The status of each."""
    return [fields(text) for text in of_threads("status", pid).values()]


def children(pid: int) -> list[int]:
    """The processes that it has started."""
    return [int(each) for text in of_threads("children", pid).values() for each in text.split()]


def descendants(pid: int) -> list[int]:
    """All processes that a process has started, and these, and so on."""
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def named(pids: list[int], name: str) -> list[int]:
    return [pid for pid in pids if status_of(Path(f"/proc/{pid}"))["Name"] == name]


def machines(pid: int) -> list[int]:
    """Processes with a vCPU, below *pid*."""
    return [each for each in descendants(pid) if any(one["Name"] == "vcpu0" for one in threads(each))]


def names(folder: Path) -> set[str]:
    return {name for name in os.listdir(folder) if not name.startswith(("tmp-", "stderr-"))}


def soon_none(look: Callable[[], list[str]]) -> list[str]:
    """What is there, once it is nothing: who sees a machine die by kill -9 ends next, and other tests have machines."""
    deadline = time.monotonic() + 60
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def serves(control: str) -> bool:
    """Whether somebody listens there."""
    try:
        ask(control, "status")
    except ConfigError:
        return False
    return True


def wait_until_it_serves(control: str, command: Command) -> None:
    while not serves(control):
        assert command.process.poll() is None, command.errors
        time.sleep(0.01)


AS_USER = 'mount --bind "$1" /dev/kvm; shift; exec setpriv --reuid 1000 --regid 1000 --clear-groups "$@"'


@contextlib.contextmanager
def in_pipes(folder: Path, uid: int, *options: str) -> Iterator[int]:
    """The process id of a machine of user *uid* with a control socket "c"; its stdout and stderr are pipes."""
    node = folder / "kvm"
    os.mknod(node, stat.S_IFCHR | 0o666, os.stat("/dev/kvm").st_rdev)
    os.chmod(node, 0o666)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid)
    boot = [sys.executable, str(PYVMM), "boot", "--memory", "32M", "--control", f"{folder}/c", "--jail", "on", *options]
    command = ["unshare", "--mount", "sh", "-e", "-c", AS_USER.replace("1000", str(uid)), "sh", str(node), *boot]
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdin=null, stdout=pipe, stderr=pipe) as process:
        try:
            while process.poll() is None and not serves(f"{folder}/c"):
                time.sleep(0.01)
            assert process.poll() is None, process.communicate()
            yield process.pid
            ask(f"{folder}/c", "stop")
            assert process.wait(60) == 20, process.communicate()
        finally:
            process.kill()
