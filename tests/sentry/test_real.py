"""Programs of the host's Debian, as they are, print and return the same on the Sentry as on Linux.

The host's root is the sandbox's, read-only; the programs write to /dev/shm, which each of both has its own of.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm_sentry import lwip
from tools.where import ROOT

REAL = Path(__file__).parent / "real"
PYTHON = "/usr/bin/python3"
NEEDS = {"build.sh": ("gcc", "make"), "history.sh": ("git",), "perl.sh": ("perl",)}
TIMEOUT = 240
SANDBOX = (sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "trap", "--memory", "1024", "--root", "/", "--")
PYTHONPATH = f"{ROOT / 'examples' / 'sentry'}:{ROOT}"
START = 'mkdir -p "$2" && cd "$2" && exec "$1" "$0"'


@pytest.fixture
def folder() -> Iterator[str]:
    """A name that is free in /dev/shm."""
    name = tempfile.mkdtemp(dir="/dev/shm")
    yield name
    shutil.rmtree(name)


def run(head: tuple[str, ...], name: str, folder: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script of real/ in a folder that it makes."""
    interpreter = PYTHON if name.endswith(".py") else "/bin/bash"
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": folder, "TMPDIR": folder}
    environment["XDG_CACHE_HOME"] = str(lwip.cache().parents[1])  # it has what the platform is built of
    if head:
        environment["PYTHONPATH"] = PYTHONPATH
    command = [*head, "/bin/sh", "-c", START, str(REAL / name), interpreter, f"{folder}/work"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, env=environment)


@pytest.mark.parametrize("name", sorted(path.name for path in REAL.iterdir()))
def test_a_program_behaves_as_on_linux(folder: str, name: str) -> None:
    for needed in NEEDS.get(name, ()):
        if not shutil.which(needed):
            pytest.skip(f"{needed} is not installed")
    native, ours = (run(head, name, folder) for head in ((), SANDBOX))
    assert len(native.stdout.splitlines()) > 5, native
    assert ours.stdout.decode() == native.stdout.decode()
    assert (ours.returncode, ours.stderr.decode()) == (native.returncode, native.stderr.decode())
