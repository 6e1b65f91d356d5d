"""Unmodified Debian programs of the host print and return the same on the Sentry as on Linux.

The host's root is the sandbox's, read-only. The programs write to /dev/shm, where the Sentry has a tmpfs of its own.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm_sentry import lwip
from tests.sentry.small_root import PYTHON
from tests.sentry.test_command import ENVIRONMENT

REAL = Path(__file__).parent / "real"
NEEDS = {
    "build.sh": ("gcc", "make"),
    "database.sh": ("sqlite3",),
    "gdb.sh": ("gcc", "gdb"),
    "gdb_threads.sh": ("gcc", "gdb"),
    "history.sh": ("git",),
    "library.sh": ("cmake", "g++", "ninja", "make"),
    "node.sh": ("node",),
    "perl.sh": ("perl",),
    "postgres.sh": ("setpriv", "/usr/lib/postgresql/*/bin/pgbench"),
    "redis.sh": ("redis-server", "redis-benchmark"),
    "repository.sh": ("git",),
    "rsync.sh": ("rsync",),
    "strace.sh": ("gcc", "strace"),
    "tcl.sh": ("tclsh",),
    "web.sh": ("nginx", "curl"),
}
SERVERS = ("node.sh", "postgres.sh", "redis.sh", "web.sh")
"""They listen on fixed ports."""
TIMEOUT = 240
SANDBOX = (sys.executable, "-m", "pyvmm_sentry", "do", "--memory", "1024", "--root", "/")
DAILY = sorted(path.name for path in REAL.glob("*.*"))
LONG = sorted(path.name for path in (REAL / "long").iterdir())
START = 'mkdir -p "$2" && cd "$2" && exec "$1" "$0"'
LOOPBACK = 'ip link set lo up && exec "$0" "$@"'


def network() -> tuple[str, ...]:
    """The head of a command that runs natively, in a network of its own."""
    user = ("--map-current-user", "--keep-caps") if os.getuid() else ()
    return ("unshare", *user, "--net", "/bin/sh", "-c", LOOPBACK)


def run(head: tuple[str, ...], script: Path, folder: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script in a folder that it makes."""
    interpreter = PYTHON if script.suffix == ".py" else "/bin/bash"
    inner = ("PATH=/usr/bin:/bin", "LC_ALL=C", f"HOME={folder}", f"TMPDIR={folder}", f"LWIP={lwip.source()}")
    command = [
        *head,
        "/usr/bin/env",
        "-i",
        *inner,
        "/bin/sh",
        "-c",
        START,
        str(script),
        interpreter,
        f"{folder}/work",
    ]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, env=ENVIRONMENT)


def check(folder: str, platform: str, script: Path) -> None:
    """Compare what a script does on a platform with what it does on Linux."""
    for needed in NEEDS.get(script.name, ()):
        if not (glob.glob(needed) if "/" in needed else shutil.which(needed, path="/usr/bin:/usr/sbin")):
            pytest.skip(f"{needed} is not installed")
    native = run(network() if script.name in SERVERS else (), script, folder)
    ours = run((*SANDBOX, "--platform", platform, "--"), script, folder)
    assert len(native.stdout.splitlines()) > 5, native
    assert ours.stdout.decode() == native.stdout.decode()
    assert (ours.returncode, ours.stderr.decode()) == (native.returncode, native.stderr.decode())


@pytest.mark.parametrize("name", DAILY)
def test_a_program_behaves_as_on_linux(folder: str, name: str) -> None:
    check(folder, "trap", REAL / name)


@pytest.mark.parametrize("name", ["children.py", "shell.sh", "threads.py"])
def test_a_program_behaves_as_on_linux_when_it_is_traced(folder: str, name: str) -> None:
    """The scripts that depend most on the platform. The others would take twice as long as on trap."""
    check(folder, "ptrace", REAL / name)


@pytest.mark.long
@pytest.mark.parametrize("name", LONG)
def test_a_large_program_behaves_as_on_linux(folder: str, name: str) -> None:
    """Thousands of processes and files, minutes of compilation, or packages of more than 100 MB."""
    check(folder, "trap", REAL / "long" / name)
