"""Calls for files return on the Sentry what they return on Linux, for success and for each error."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.sentry.conftest import Compile
from tests.sentry.test_programs import run

SOURCES = ("files", "pipes", "events")


@pytest.mark.parametrize("name", SOURCES)
def test_calls_return_what_they_return_on_linux(platform: Path, compile_static: Compile, name: str) -> None:
    """Each program works in a new folder of a tmpfs, which has the same name natively and inside."""
    program = compile_static(name)
    folder = tempfile.mkdtemp(dir="/dev/shm")
    shutil.rmtree(folder)
    try:
        native = run(program, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ours = run(platform, "--", program, folder)
    assert native.returncode == ours.returncode == 42, ours.stderr
    rows = [each.stdout.decode().splitlines() for each in (native, ours)]
    assert len(rows[0]) > 100
    assert rows[1] == rows[0]
