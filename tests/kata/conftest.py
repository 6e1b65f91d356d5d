"""A runtime for each test, which must leave nothing behind, and a shim's service of either version."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm_kata.shim.task_service import PACKAGES
from tests.kata.fake_guest import Shim
from tests.kata.oci_runtime import Runtime, eventually


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path)
    yield made
    made.program = Runtime(tmp_path).program
    for name in os.listdir(made.root) if made.root.exists() else ():
        made.run("delete", "--force", name)
    eventually(lambda: not made.root.exists() or os.listdir(made.root) == [], "something is left")
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(), "mounts were left"


@pytest.fixture(params=PACKAGES)
def shim(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shim]:
    made = Shim(tmp_path, request.param, monkeypatch)
    yield made
    made.client.close()
    made.server.close()
    made.pod.close()
