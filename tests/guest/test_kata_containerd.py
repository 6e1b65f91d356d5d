"""Debian's containerd with our shim: containers and pods in virtual machines."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kata import containerd_checks as checks
from tests.kata.containerd import IMAGE, Containerd, need
from tools import guest as recipes

BIN = str(Path(sys.executable).parent)
RUNTIME = "io.containerd.pyvmm.v2"
PROGRAMS = checks.Programs(
    hello=("echo", "hello"), exit_7=("sh", "-c", "exit 7"), sleep=("sleep", "100000"), cat=("cat",)
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """On tmpfs, with a short name; the settings' file for the shim is in it."""
    need("containerd", "ctr")
    with tempfile.TemporaryDirectory(prefix="ctd") as name:
        settings = Path(name) / "kata.toml"
        settings.write_text(
            f'kernel = "{recipes.kernel()}"\nimage = "{recipes.kata_image()}"\nmemory = "192M"\nannotations = true\n'
        )
        os.environ["PYVMM_KATA_CONFIG"] = str(settings)
        try:
            yield Path(name)
        finally:
            del os.environ["PYVMM_KATA_CONFIG"]


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[Containerd]:
    made = Containerd(folder, RUNTIME, BIN)
    try:
        made.start()
        made.import_image()
        yield made
    finally:
        made.stop()


def test_run(daemon: Containerd) -> None:
    checks.check_run(daemon, PROGRAMS)


def test_stdin(daemon: Containerd) -> None:
    checks.check_stdin(daemon, PROGRAMS)


def test_terminal(daemon: Containerd) -> None:
    ctr = ["ctr", "-a", daemon.address, "run", "--rm", "-t", "--runtime", RUNTIME, IMAGE, "t1"]
    program = ["sh", "-c", "tty; stty size; exit 5"]
    with_terminal = f"stty rows 33 cols 77; exec {shlex.join([*ctr, *program])}"
    done = subprocess.run(["script", "-qec", with_terminal, "/dev/null"], capture_output=True, text=True, timeout=180)
    assert done.returncode == 5, done.stdout + daemon.log()
    # script says that its own input has ended by a NUL, which the terminal echoes
    assert done.stdout.removeprefix("^@").split()[:3] == ["/dev/pts/0", "33", "77"]
    daemon.wait_until_clean([daemon.place("t1")])


def test_detached(daemon: Containerd) -> None:
    checks.check_detached(daemon, PROGRAMS)


def test_out_of_memory(daemon: Containerd) -> None:
    hog = "exec dd if=/dev/zero of=/dev/null bs=100M"
    done = daemon.ctr(
        "run", "--rm", "--memory-limit", str(32 << 20), "--runtime", RUNTIME, IMAGE, "o1", "sh", "-c", hog, check=False
    )
    assert done.returncode == 137, done.stderr + daemon.log()
    daemon.wait_until_clean([daemon.place("o1")])


def test_restart_of_containerd(daemon: Containerd) -> None:
    checks.check_restart_of_containerd(daemon, PROGRAMS)
