"""The sources of the Sentry are read when one of them has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyvmm_sentry import program


def test_sources_are_read_when_one_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core, build = tmp_path / "core", tmp_path / "build"
    core.mkdir()
    build.mkdir()
    source = core / "main.c"
    source.write_text("int first;")
    monkeypatch.setattr(program, "CORE", core)
    monkeypatch.setattr(program, "BUILD", build)
    monkeypatch.setattr(program, "INSTALLED", tmp_path / "none")
    made: list[Path] = []

    def make() -> Path:
        path = build / f"program-{len(made)}"
        path.write_text(source.read_text())
        made.append(path)
        return path

    def found() -> str:
        return program._program("program", make).read_text()

    assert (found(), found(), len(made)) == ("int first;", "int first;", 1)
    source.write_text("int other;")
    assert (found(), found(), len(made)) == ("int other;", "int other;", 2)
    made[-1].unlink()
    assert (found(), len(made)) == ("int other;", 3), "somebody has removed it"
    os.utime(build / "program.known", (0, 0))
    assert (found(), len(made)) == ("int other;", 4), "lwIP may be a newer one"
    monkeypatch.setenv("CC", "other")
    assert (found(), len(made)) == ("int other;", 5)
