"""What a guest may rely on of files that the host changes: for how long, and when that matters."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.fs_driver import FsGuest
from tests.mounts import bind, unmount

SECOND = 1.1
"""For so long a guest relies on what it was told, with what it takes to read an answer."""


@pytest.fixture(params=["thread", "process"])
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FsGuest]:
    (tmp_path / "file").write_text("old")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "inner").write_text("old")
    with FsGuest(tmp_path, isolation=request.param, max_fds=16) as made:
        yield made


def test_nothing_is_stale_that_nobody_has_changed(guest: FsGuest, tmp_path: Path) -> None:
    assert guest.share.stale() == 0
    guest.walk("dir/inner")
    guest.getattr(guest.lookup("file").node)
    guest.readdir(plus=True)
    assert guest.share.stale() == 0
    (tmp_path / "never looked at").write_text("new")  # but its directory has not been looked at, either
    assert guest.share.stale() == 0
    (tmp_path / "file").read_text()
    os.utime(tmp_path / "file", ns=(1, (tmp_path / "file").stat().st_mtime_ns))
    assert guest.share.stale() > 0, "utime(2) changes the time of change"


@pytest.mark.parametrize("change", ["write", "append", "chmod", "replace", "remove", "rename", "link"])
def test_what_the_host_changes_is_stale_until_it_has_expired(guest: FsGuest, tmp_path: Path, change: str) -> None:
    file = tmp_path / "file"
    node = guest.lookup("file").node
    if change == "write":
        file.write_text("new")
    elif change == "append":
        with file.open("a") as more:
            more.write("new")
    elif change == "chmod":
        file.chmod(0o600)
    elif change == "replace":
        (tmp_path / "new").write_text("old")
        (tmp_path / "new").replace(file)
    elif change == "remove":
        file.unlink()
    elif change == "rename":
        file.rename(tmp_path / "other")
    else:
        os.link(file, tmp_path / "other")
    stale = guest.share.stale()
    assert 0 < stale <= SECOND
    time.sleep(stale)  # how long it may take is what is tested
    assert guest.share.stale() == 0
    if change not in ("remove", "rename", "replace"):
        assert guest.lookup("file").node == node
        assert guest.share.stale() == 0, "it was told what the host has now"


def test_a_directory_that_the_host_replaces_is_stale(guest: FsGuest, tmp_path: Path) -> None:
    """As Kubernetes changes a ConfigMap: by another target of a symbolic link."""
    (tmp_path / "other").mkdir()
    (tmp_path / "..data").symlink_to("dir")
    guest.lookup("..data")
    assert guest.share.stale() == 0
    (tmp_path / "..tmp").symlink_to("other")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert 0 < guest.share.stale() <= SECOND


def test_what_the_guest_does_itself_is_not_stale(guest: FsGuest, tmp_path: Path) -> None:
    entry, fh = guest.create("own")
    directory = guest.mkdir("made")
    guest.getattr(f.ROOT)
    guest.call(f.WRITE, entry.node, *write_parts(fh, b"text"), room=8)
    guest.setattr(entry.node, f.FATTR_MODE, mode=0o600)
    guest.create("inner", node=directory.node)
    guest.call(f.RENAME, f.ROOT, struct.pack("<Q", directory.node), f.cstr("own"), f.cstr("moved"))
    guest.call(f.LINK, directory.node, struct.pack("<Q", entry.node), f.cstr("linked"))
    guest.call(f.UNLINK, directory.node, f.cstr("linked"))
    guest.open(entry.node, os.O_RDWR | os.O_TRUNC)
    assert guest.share.stale() == 0
    (tmp_path / "made" / "moved").write_text("the host's")
    assert guest.share.stale() > 0


def test_what_the_guest_has_forgotten_is_not_stale(guest: FsGuest, tmp_path: Path) -> None:
    guest.forget(guest.lookup("file").node)
    (tmp_path / "file").write_text("new")
    assert guest.share.stale() == 0


def test_more_than_can_be_remembered_is_stale_as_a_whole(tmp_path: Path) -> None:
    for number in range(4200):
        (tmp_path / str(number)).touch()
    with FsGuest(tmp_path) as guest:
        begin = time.monotonic()
        guest.readdir(plus=True, size=1 << 16)
        stale = guest.share.stale()
        assert stale > 0 or time.monotonic() - begin > SECOND
        for number in range(4200):
            os.utime(tmp_path / str(number), (1, 1))
        assert guest.share.stale() > 0 or time.monotonic() - begin > SECOND


@pytest.mark.parametrize("cache", ["none", "always"])
def test_a_guest_that_relies_on_nothing_or_for_good_waits_for_nothing(tmp_path: Path, cache: str) -> None:
    (tmp_path / "file").write_text("old")
    with FsGuest(tmp_path, cache=cache) as guest:
        assert guest.lookup("file").attr_valid == (0 if cache == "none" else 86400)
        (tmp_path / "file").write_text("new")
        assert guest.share.stale() == 0


def test_a_file_that_is_a_mount_is_relied_on_once_it_was_opened(tmp_path: Path) -> None:
    """The host writes a container's resolv.conf after the guest has bound it, and before it begins."""
    (tmp_path / "source").write_text("")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "hosts").touch()
    bind(tmp_path / "source", tmp_path / "shared" / "hosts")
    try:
        with FsGuest(tmp_path / "shared") as guest:
            entry = guest.lookup("hosts")
            assert (entry.entry_valid, entry.attr_valid, entry.attr.size) == (1, 0, 0)
            (tmp_path / "source").write_text("127.0.0.1 here\n")
            assert guest.share.stale() == 0
            assert guest.getattr(entry.node).size == 15
            fh = guest.open(entry.node)
            guest.getattr(entry.node)
            assert guest.lookup("hosts").attr_valid == 1
            (tmp_path / "source").write_text("")
            assert guest.share.stale() > 0
            guest.release(fh)
    finally:
        unmount(tmp_path / "shared" / "hosts")


def test_files_of_the_guest_alone_are_not_compared(tmp_path: Path) -> None:
    """The root of a container, and where only mount points are."""
    for name in ("source", "shared/one/rootfs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "source" / "file").write_text("old")
    bind(tmp_path / "source", tmp_path / "shared" / "one" / "rootfs")
    try:
        with FsGuest(tmp_path / "shared", sole="rootfs") as guest:
            guest.walk("one/rootfs/file")
            (tmp_path / "source" / "file").write_text("new")
            (tmp_path / "shared" / "two").mkdir()
            assert guest.share.stale() == 0
    finally:
        unmount(tmp_path / "shared" / "one" / "rootfs")


def write_parts(fh: int, data: bytes) -> tuple[bytes, bytes]:
    return struct.pack("<QQIIQII", fh, 0, len(data), 0, 0, 0, 0), data
