"""Requests of schemathesis to a sandbox: its daemon, its code interpreter, and what the page reads of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE
from tests.sandbox.test_network import rootfs  # noqa: F401  # a fixture
from tests.server import on_sentry
from tests.server.on_sentry import pytestmark as pytestmark
from tests.server.test_openapi import SECONDS

each = pytest.mark.parametrize("name", ["daemon", "interpreter", "page"])


def _check(rootfs: Path, place: Path, name: str, seconds: float) -> None:  # noqa: F811
    found, _ = on_sentry.run("sentry_schema.py", rootfs, place, name, f"{seconds:g}", patience=seconds + PATIENCE)
    print(name, found)
    assert found["failures"] == ""
    assert (found["log"], found["afterwards"]) == ([], "on\n")
    assert found["descriptors"] < 40


@each
def test_any_request_to_a_sandbox(rootfs: Path, tmp_path: Path, name: str) -> None:  # noqa: F811
    _check(rootfs, tmp_path, name, 5)


@pytest.mark.long  # 9 minutes
@each
def test_any_request_to_a_sandbox_for_long(rootfs: Path, tmp_path: Path, name: str) -> None:  # noqa: F811
    _check(rootfs, tmp_path, name, SECONDS)
