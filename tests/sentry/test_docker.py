"""Containers of dockerd on the Sentry, which needs no KVM."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kata import docker_checks as checks
from tests.kata.docker import Dockerd
from tests.kata.oci_runtime import eventually, needs_namespaces

pytestmark = [needs_namespaces, pytest.mark.long]  # dockerd takes 10 s to begin


@pytest.fixture(scope="module")
def docker() -> Iterator[Dockerd]:
    # Sockets need short paths
    with tempfile.TemporaryDirectory(prefix="dk-") as folder:
        runtime = Path(folder) / "pyvmm-runsc"
        program = Path(sys.executable).with_name("pyvmm-runsc")
        runtime.write_text(f'#!/bin/sh\nexec {program} --root {folder}/state "$@"\n')
        runtime.chmod(0o755)
        dockerd = Dockerd(Path(folder), runtime)
        try:
            yield dockerd
        finally:
            dockerd.close()
        eventually(lambda: checks.left_over(Path(folder)) == [], "a process is left")


def test_the_command_line(docker: Dockerd, tmp_path: Path) -> None:
    checks.check_command_line(docker, tmp_path)


def test_the_python_library(docker: Dockerd) -> None:
    checks.check_library(docker)


def test_compose(docker: Dockerd, tmp_path: Path) -> None:
    checks.check_compose(docker, tmp_path)


def test_testcontainers(docker: Dockerd, monkeypatch: pytest.MonkeyPatch) -> None:
    checks.check_testcontainers(docker, monkeypatch)
