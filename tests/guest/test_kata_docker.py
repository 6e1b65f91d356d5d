"""Containers of dockerd, each in a machine of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.kata_tools import BIN, leftovers, write_settings
from tests.kata import docker_checks as checks
from tests.kata.docker import Dockerd
from tests.kata.oci_runtime import eventually

pytestmark = [pytest.mark.guest, pytest.mark.long]


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    folder = tmp_path_factory.mktemp("dk")
    settings = write_settings(folder / "kata.toml")
    runtime = folder / "pyvmm-oci"
    runtime.write_text(f'#!/bin/sh\nexec {BIN}/pyvmm-oci --config {settings} --root {folder}/state "$@"\n')
    runtime.chmod(0o755)
    dockerd = Dockerd(folder, runtime)
    try:
        yield dockerd
    finally:
        dockerd.close()
    eventually(lambda: leftovers(folder) == [], "something is left")


def test_the_command_line(docker: Dockerd, tmp_path: Path) -> None:
    checks.check_command_line(docker, tmp_path)


def test_the_python_library(docker: Dockerd) -> None:
    checks.check_library(docker)


def test_compose(docker: Dockerd, tmp_path: Path) -> None:
    checks.check_compose(docker, tmp_path)


def test_testcontainers(docker: Dockerd, monkeypatch: pytest.MonkeyPatch) -> None:
    checks.check_testcontainers(docker, monkeypatch)
