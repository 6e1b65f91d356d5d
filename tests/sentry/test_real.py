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

from tests.sentry.small_root import PYTHON
from tests.sentry.test_command import ENVIRONMENT

REAL = Path(__file__).parent / "real"
NEEDS = {
    "build.sh": ("gcc", "make"),
    "database.sh": ("sqlite3",),
    "history.sh": ("git",),
    "node.sh": ("node",),
    "perl.sh": ("perl",),
    "postgres.sh": ("setpriv", "/usr/lib/postgresql/*/bin/pgbench"),
    "redis.sh": ("redis-server", "redis-benchmark"),
    "web.sh": ("nginx", "curl"),
}
SERVERS = ("node.sh", "postgres.sh", "redis.sh", "web.sh")
"""They listen on fixed ports."""
LARGE = ("node.sh", "postgres.sh")
"""Their packages have more than 100 MB."""
TIMEOUT = 240
SANDBOX = (sys.executable, "-m", "pyvmm_sentry", "do", "--memory", "1024", "--root", "/")
START = 'mkdir -p "$2" && cd "$2" && exec "$1" "$0"'
LOOPBACK = 'ip link set lo up && exec "$0" "$@"'


def network() -> tuple[str, ...]:
    """The head of a command that runs natively, in a network of its own."""
    user = ("--map-current-user", "--keep-caps") if os.getuid() else ()
    return ("unshare", *user, "--net", "/bin/sh", "-c", LOOPBACK)


def run(head: tuple[str, ...], name: str, folder: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script of real/ in a folder that it makes."""
    interpreter = PYTHON if name.endswith(".py") else "/bin/bash"
    inner = ("PATH=/usr/bin:/bin", "LC_ALL=C", f"HOME={folder}", f"TMPDIR={folder}")
    command = [
        *head,
        "/usr/bin/env",
        "-i",
        *inner,
        "/bin/sh",
        "-c",
        START,
        str(REAL / name),
        interpreter,
        f"{folder}/work",
    ]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, env=ENVIRONMENT)


def check(folder: str, platform: str, name: str) -> None:
    """Compare what a script does on a platform with what it does on Linux."""
    for needed in NEEDS.get(name, ()):
        if not (glob.glob(needed) if "/" in needed else shutil.which(needed, path="/usr/bin:/usr/sbin")):
            pytest.skip(f"{needed} is not installed")
    native = run(network() if name in SERVERS else (), name, folder)
    ours = run((*SANDBOX, "--platform", platform, "--"), name, folder)
    assert len(native.stdout.splitlines()) > 5, native
    assert ours.stdout.decode() == native.stdout.decode()
    assert (ours.returncode, ours.stderr.decode()) == (native.returncode, native.stderr.decode())


NAMES = sorted(path.name for path in REAL.iterdir())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LARGE])
def test_a_program_behaves_as_on_linux(folder: str, name: str) -> None:
    check(folder, "trap", name)


@pytest.mark.long
@pytest.mark.parametrize("name", LARGE)
def test_a_program_of_a_large_package_behaves_as_on_linux(folder: str, name: str) -> None:
    """Daily tests do not install these packages."""
    check(folder, "trap", name)


@pytest.mark.parametrize("name", ["children.py", "shell.sh", "threads.py"])
def test_a_program_behaves_as_on_linux_when_it_is_traced(folder: str, name: str) -> None:
    """The scripts that depend most on the platform. The others would take twice as long as on trap."""
    check(folder, "ptrace", name)
