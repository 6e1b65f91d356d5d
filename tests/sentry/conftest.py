"""Programs that run natively and on the Sentry."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm_sentry import program
from tests.sentry.containers import Sandbox

SRC = Path(__file__).parent / "src"
Compile = Callable[[str], Path]


@pytest.fixture(scope="session")
def compile_static(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compile a C program of src/ as a static one."""
    folder = tmp_path_factory.mktemp("sentry")

    def compile_it(name: str) -> Path:
        path = folder / name
        if not path.exists():
            command = ["gcc", "-std=gnu11", "-O1", "-static", "-o", str(path), str(SRC / f"{name}.c")]
            subprocess.run(command, check=True, capture_output=True)
        return path

    return compile_it


@pytest.fixture
def folder() -> Iterator[str]:
    """A name that is free in /dev/shm, a tmpfs of which the Sentry has its own; removed afterwards."""
    name = tempfile.mkdtemp(dir="/dev/shm")
    os.rmdir(name)
    yield name
    shutil.rmtree(name, ignore_errors=True)


@pytest.fixture(scope="session", params=["ptrace", "trap"])
def platform(request: pytest.FixtureRequest) -> Path:
    """The program of each platform that is a process of the host."""
    build = {"ptrace": program.ptrace, "trap": program.trap}[request.param]
    return build()


@pytest.fixture
def sandbox(platform: Path, tmp_path: Path) -> Iterator[Sandbox]:
    made = Sandbox(platform, tmp_path)
    try:
        made.begin()
        yield made
    finally:
        made.close()
