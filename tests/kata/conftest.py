"""A runtime for each test, which must leave nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kata.oci_runtime import Runtime


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path)
    yield made
    made.program = Runtime(tmp_path).program
    for name in os.listdir(made.root) if made.root.exists() else ():
        made.run("delete", "--force", name)
    assert not made.root.exists() or os.listdir(made.root) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(), "mounts were left"
