"""The sources of the Sentry are read when one of them has changed, and compiled once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm_sentry import installed, program


def test_sources_are_read_when_one_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core, build = tmp_path / "core", tmp_path / "build"
    core.mkdir()
    build.mkdir()
    source = core / "main.c"
    source.write_text("int first;")
    monkeypatch.setattr(program, "CORE", core)
    monkeypatch.setattr(program, "BUILD", build)
    monkeypatch.setattr(installed, "FOLDER", str(tmp_path / "none"))
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


COMPILER = """#!/bin/sh
echo "$*" >>{log}
while [ $# -gt 0 ]; do [ "$1" != -o ] || : >"$2"; shift; done
"""
BUILD = """
import pathlib, sys
from pyvmm_sentry import program
program.BUILD = pathlib.Path(sys.argv[1])
program.hosted(sys.argv[2], [])
"""


def test_two_processes_compile_each_source_once(tmp_path: Path) -> None:
    """As two workers of the tests do that need a program of two platforms."""
    log, compiler = tmp_path / "log", tmp_path / "cc"
    compiler.write_text(COMPILER.format(log=log))
    compiler.chmod(0o755)
    words = [sys.executable, "-c", BUILD, str(tmp_path / "build")]
    environment = {**os.environ, "CC": str(compiler), "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen([*words, name], env=environment) for name in ("one", "other")]
    assert [each.wait(120) for each in both] == [0, 0]
    sources = [line.split()[-1] for line in log.read_text().splitlines() if " -c " in line]
    assert len(sources) == len(set(sources)) > 100
