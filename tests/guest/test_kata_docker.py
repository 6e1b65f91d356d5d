"""Containers of dockerd, each in a machine of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guest.kata_tools import BIN, leftovers, write_settings
from tests.kata.docker import Dockerd
from tests.kata.docker_checks import test_compose as test_compose
from tests.kata.docker_checks import test_testcontainers as test_testcontainers
from tests.kata.docker_checks import test_the_command_line as test_the_command_line
from tests.kata.docker_checks import test_the_python_library as test_the_python_library
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
