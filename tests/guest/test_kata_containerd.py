"""Debian's containerd with our shim: containers and pods in virtual machines."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kata import containerd_checks as checks
from tests.kata.containerd import Containerd, need
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
