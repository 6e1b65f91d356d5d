"""Containers of dockerd on the Sentry, which needs no KVM."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kata.docker import Dockerd
from tests.kata.docker_checks import left_over
from tests.kata.docker_checks import test_compose as test_compose
from tests.kata.docker_checks import test_testcontainers as test_testcontainers
from tests.kata.docker_checks import test_the_command_line as test_the_command_line
from tests.kata.docker_checks import test_the_python_library as test_the_python_library
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
        eventually(lambda: left_over(Path(folder)) == [], "a process is left")
