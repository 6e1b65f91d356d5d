"""Mounts below a share: as many as a pod has in its life, and many at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.fs_driver import FsGuest
from tests.mounts import bind, unmount


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    bind(source, target)
    try:
        yield
    finally:
        unmount(target)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """What is mounted, and a share to mount it in."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("text")
    (tmp_path / "shared").mkdir()
    return tmp_path / "source", tmp_path / "shared"


@pytest.mark.parametrize("handles", [False, True], ids=["names", "handles"])
@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.long)])
def test_mounts_come_and_go(places: tuple[Path, Path], count: int, handles: bool) -> None:
    source, shared = places
    with FsGuest(shared, handles=handles) as guest:
        at = shared / "mount"
        at.mkdir()
        old = []
        for number in range(count):
            with bound(source, at):
                top = guest.lookup("mount").node
                file = guest.lookup("file", top).node
                if number % 100 == 0:
                    assert guest.getattr(file).size == 4
                guest.forget(file)
                guest.forget(top)
            old.append(file)
        stats = guest.transport.stats()
        assert (stats["nodes"], stats["files"]) == (0, 0)
        assert len(set(old)) == len(old), "no id was given twice"
        assert {guest.errno_of(f.GETATTR, each, bytes(16)) for each in old[::97]} == {errno.ESTALE}


def test_1000_mounts_are_there_at_once(places: tuple[Path, Path]) -> None:
    source, shared = places
    count = 1000
    with FsGuest(shared) as guest:
        made = []
        try:
            for number in range(count):
                (shared / str(number)).touch()
                bind(source / "file", shared / str(number))
                made.append(shared / str(number))
            nodes = [guest.lookup(str(number)).node for number in range(count)]
            assert len(set(nodes)) == 1 or len(set(nodes)) == count
            for node in nodes[:: count // 50]:
                fh = guest.open(node)
                assert guest.read_file(fh) == b"text"
                guest.release(fh)
        finally:
            for path in made:
                unmount(path)


def test_nodes_of_a_mount_that_went_are_not_those_of_the_next(places: tuple[Path, Path]) -> None:
    """The guest has not forgotten them; the next mount is of another file system, whose inode numbers are the same."""
    source, shared = places
    (shared / "mount").mkdir()
    from tests.filesystems import filesystem

    with FsGuest(shared, max_fds=16) as guest:
        seen = {}
        for text in ("one", "two", "three"):
            with filesystem("tmpfs", source) as top:
                (top / "file").write_text(text)
                with bound(top, shared / "mount"):
                    file = guest.lookup("file", guest.lookup("mount").node).node
                    fh = guest.open(file)
                    assert guest.read_file(fh) == text.encode()
                    guest.release(fh)
                    assert file not in seen
                    seen[file] = text
        for node, text in seen.items():
            assert guest.errno_of(f.OPEN, node, bytes(8)) in (0, errno.ESTALE)
            if not guest.errno_of(f.OPEN, node, bytes(8)):
                assert guest.read_file(guest.open(node)) == text.encode()
        assert os.listdir(shared / "mount") == []
