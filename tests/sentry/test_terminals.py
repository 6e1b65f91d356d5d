"""Terminals behave as on Linux: lines and modes, pseudo terminals, sessions and job control."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sentry.conftest import Compile
from tests.sentry.test_programs import run


@pytest.mark.parametrize(("name", "least"), [("tty", 450), ("pty", 190)])
def test_terminals_do_what_they_do_on_linux(platform: Path, compile_static: Compile, name: str, least: int) -> None:
    """What is typed, echoed and read in each mode; opens, hangups, signals, and processes in the background."""
    program = compile_static(name)
    native, ours = (run(*head, program) for head in ((), (platform, "--")))
    assert native.returncode == ours.returncode == 42, ours.stderr
    rows = [each.stdout.decode().splitlines() for each in (native, ours)]
    assert len(rows[0]) > least
    assert rows[1] == rows[0]
