"""A share next to something that the guest must not reach."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fs_driver import FsGuest
from vmm.memory import GuestMemory


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A share next to something that the guest must not reach."""
    (tmp_path / "secret").write_text("outside")
    folder = tmp_path / "share"
    (folder / "dir").mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * 10000)
    return folder


@pytest.fixture
def guest(share: Path) -> Iterator[FsGuest]:
    with FsGuest(share, memory=GuestMemory(32 << 20)) as made:
        yield made
        assert sorted(os.listdir(share.parent)) == ["secret", "share"]
        assert (share.parent / "secret").read_text() == "outside"
